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
