//! Bodies as they come.

use std::task::{Context, Poll, ready};

use hyper::body::{Bytes, Frame, SizeHint};

use super::chunks::Chunks;
use super::{MessageError, Reader};
use crate::stream::Stream;

/// How far a body has been read, and how it ends (RFC 9112 §6.3).
#[derive(Debug, Default)]
pub struct Decoder(Ending);

#[derive(Debug, Default)]
enum Ending {
    /// It is over.
    #[default]
    Over,
    /// So many bytes are left.
    After(u64),
    /// Behind its last chunk. Boxed, since few need the room.
    Chunked(Box<Chunks>),
    /// With the connection.
    Closed,
}

impl Decoder {
    /// A body of a known length.
    pub(super) fn of_length(length: u64) -> Self {
        Self(if length == 0 { Ending::Over } else { Ending::After(length) })
    }

    /// A body in chunks.
    pub(super) fn of_chunks() -> Self {
        Self(Ending::Chunked(Box::default()))
    }

    /// A body that ends with its connection.
    pub(super) fn until_closed() -> Self {
        Self(Ending::Closed)
    }

    /// Whether all of it has been read.
    pub fn is_over(&self) -> bool {
        matches!(self.0, Ending::Over)
    }

    /// Whether the connection cannot be used after it.
    pub fn ends_connection(&self) -> bool {
        matches!(self.0, Ending::Closed)
    }

    /// How much is left of it, as far as that is known.
    pub fn size_hint(&self) -> SizeHint {
        match self.0 {
            Ending::Over => SizeHint::with_exact(0),
            Ending::After(left) => SizeHint::with_exact(left),
            Ending::Chunked(_) | Ending::Closed => SizeHint::default(),
        }
    }

    /// The next piece of it, or its trailers; `None` when it is over.
    pub fn poll_frame(
        &mut self,
        reader: &mut Reader,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, MessageError>>> {
        loop {
            if let Some(frame) = self.decode(reader).transpose() {
                return Poll::Ready(Some(frame));
            }
            if self.is_over() {
                return Poll::Ready(None);
            }
            match ready!(reader.poll_read(stream, cx)) {
                Ok(0) if self.ends_connection() => self.0 = Ending::Over,
                Ok(0) => return Poll::Ready(Some(Err(MessageError::Ended))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// What has come of it already.
    fn decode(&mut self, reader: &mut Reader) -> Result<Option<Frame<Bytes>>, MessageError> {
        let frame = match &mut self.0 {
            Ending::Over => return Ok(None),
            Ending::After(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(reader.bytes().len());
                *left -= count as u64;
                if *left == 0 {
                    self.0 = Ending::Over;
                } else {
                    reader.expects(*left);
                }
                (count > 0).then(|| Frame::data(reader.take(count)))
            }
            Ending::Chunked(chunks) => {
                let frame = chunks.decode(reader)?;
                if chunks.is_over() {
                    self.0 = Ending::Over;
                }
                frame
            }
            Ending::Closed => {
                let count = reader.bytes().len();
                (count > 0).then(|| Frame::data(reader.take(count)))
            }
        };
        if self.is_over() {
            reader.rests();
        }
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a body is read as that comes in these pieces: its data, its trailers, and what is left behind it; or how it fails.
    fn read(mut body: Decoder, pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, bool, Vec<u8>), MessageError> {
        let (mut reader, mut data, mut trailers) = (Reader::default(), Vec::new(), 0);
        for piece in pieces {
            reader.add(piece);
            while let Some(frame) = body.decode(&mut reader)? {
                match frame.into_data() {
                    Ok(piece) => data.extend_from_slice(&piece),
                    Err(frame) => trailers += frame.into_trailers().map_or(0, |trailers| trailers.len()),
                }
            }
        }
        Ok((data, trailers, body.is_over(), reader.bytes().to_vec()))
    }

    /// The same bytes in pieces that end at these places.
    fn cut<'a>(bytes: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
        let mut ends: Vec<usize> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
        ends.extend([0, bytes.len()]);
        ends.sort_unstable();
        ends.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
    }

    proptest! {
        #[test]
        fn chunks_are_the_same_body_however_they_come(
            body in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
            behind in prop::collection::vec(any::<u8>(), 0..20),
            places in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
            trailers in 0..3_usize,
        ) {
            let mut bytes = Vec::new();
            for chunk in &body {
                bytes.extend_from_slice(format!("{:x};a=b\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n");
            bytes.extend_from_slice("x-sum: 1\r\n".repeat(trailers).as_bytes());
            bytes.extend_from_slice(b"\r\n");
            bytes.extend_from_slice(&behind);
            let (data, found, is_over, left) = read(Decoder::of_chunks(), &cut(&bytes, &places)).expect("a body");
            prop_assert!(is_over);
            prop_assert_eq!(data, body.concat());
            prop_assert_eq!(found, trailers);
            prop_assert_eq!(left, behind);
        }

        #[test]
        fn a_length_is_kept_to_the_byte(
            body in prop::collection::vec(any::<u8>(), 0..500),
            behind in prop::collection::vec(any::<u8>(), 0..20),
            places in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let bytes = [&body[..], &behind].concat();
            let body_length = Decoder::of_length(body.len() as u64);
            let (data, _, is_over, left) = read(body_length, &cut(&bytes, &places)).expect("a body");
            prop_assert!(is_over);
            prop_assert_eq!(data, body);
            prop_assert_eq!(left, behind);
        }

        #[test]
        fn nothing_that_comes_as_chunks_does_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = read(Decoder::of_chunks(), &[&bytes]);
        }
    }

    #[test]
    fn a_chunk_that_could_end_elsewhere_for_others_is_none() {
        let long = format!("1;{}\r\na\r\n", "x".repeat(9000)).repeat(2);
        let endless = format!("1;{}", "x".repeat(20_000));
        // All of them at once, and longer than places in a head can be.
        let trailers = format!("0\r\n{}\r\n", format!("x-sum: {}\r\n", "y".repeat(1000)).repeat(70));
        let cases = [
            "5\r\nhello!\r\n0\r\n\r\n",
            "5\r\nhell\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5;a\nb\r\nhello\r\n0\r\n\r\n",
            "zz\r\n",
            "-1\r\n",
            "+5\r\nhello\r\n",
            "0x5\r\nhello\r\n",
            "ffffffffffffffffff\r\n",
            "\r\n",
            " 5\r\nhello\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "0\r\nx y: 1\r\n\r\n",
            &long,
            &endless,
            &trailers,
        ];
        for bytes in cases {
            let read = read(Decoder::of_chunks(), &[bytes.as_bytes()]);
            assert!(matches!(read, Err(MessageError::Malformed(_))), "{:?}: {read:?}", &bytes[..bytes.len().min(40)]);
        }
    }
}
