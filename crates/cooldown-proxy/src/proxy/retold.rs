//! An upstream's answer for a client whose response began before there was one: plain, and in events, whatever comes.

use bytes::Bytes;

use super::error::{ProxyError, Speech};
use crate::fields::{Fields, Kind};
use crate::provider::Decoder;

/// A longer answer in one piece cannot be told as an event, in bytes.
const LONGEST_PIECE: usize = 1024 * 1024;

/// Turns the body of an answer into what fits the head that was committed.
pub(super) struct Retold {
    speech: Speech,
    /// The committed head names no content coding.
    decoder: Decoder,
    /// What has come of an answer in one piece; `None` if it comes in events.
    piece: Option<Vec<u8>>,
}

impl Retold {
    /// For an answer with these fields.
    ///
    /// # Errors
    /// When its content coding is not known.
    pub(super) fn of(speech: Speech, headers: &Fields) -> Result<Self, ProxyError> {
        let decoder = Decoder::of(headers).ok_or(ProxyError::Untold("its content coding is unknown"))?;
        Ok(Self { speech, decoder, piece: (!is_event_stream(headers)).then(Vec::new) })
    }

    /// What goes on to the client in the place of `data`; it may be empty.
    ///
    /// # Errors
    /// When it cannot be decoded, or is too long for one event.
    pub(super) fn pass(&mut self, data: Bytes) -> Result<Bytes, ProxyError> {
        let plain = if self.decoder.is_identity() { data } else { self.decoded(&data)? };
        let Some(piece) = &mut self.piece else { return Ok(plain) };
        if piece.len() + plain.len() > LONGEST_PIECE {
            return Err(ProxyError::Untold("it is no stream, and longer than 1 MiB"));
        }
        piece.extend_from_slice(&plain);
        Ok(Bytes::new())
    }

    fn decoded(&mut self, data: &[u8]) -> Result<Bytes, ProxyError> {
        let mut plain = Vec::new();
        self.decoder.read(data, &mut |piece| plain.extend_from_slice(piece));
        if self.decoder.is_damaged() {
            return Err(ProxyError::Untold("it cannot be decoded"));
        }
        Ok(plain.into())
    }

    /// What is left to be told when the answer has ended: one that came in one piece is quoted as one event.
    pub(super) fn rest(&mut self) -> Option<Bytes> {
        let piece = self.piece.take().filter(|piece| !piece.is_empty())?;
        Some(self.speech.event_of_answer(&piece))
    }
}

fn is_event_stream(headers: &Fields) -> bool {
    headers.first(Kind::ContentType).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::HeaderValue;
    use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

    use super::*;

    fn retold(kind: &'static str, coding: &'static str) -> Retold {
        let fields = [(CONTENT_TYPE, kind), (CONTENT_ENCODING, coding)];
        let headers = Fields::from_iter(fields.map(|(name, value)| (name, HeaderValue::from_static(value))));
        Retold::of(Speech::Messages, &headers).expect("a known coding")
    }

    #[test]
    fn an_answer_in_one_piece_is_one_event_however_it_arrives() {
        let mut retold = retold("application/json", "identity");
        for piece in ["{\"type\":", " \"message\",\r\n", "\"content\": []}\n"] {
            assert!(retold.pass(Bytes::from(piece)).expect("it is short").is_empty());
        }
        let event = retold.rest().expect("an event");
        assert_eq!(&event[..], b"event: message\ndata: {\"type\": \"message\",\ndata: \"content\": []}\n\n");
        assert!(retold.rest().is_none());
    }

    #[test]
    fn an_answer_in_one_piece_that_is_too_long_is_not_collected() {
        let mut retold = retold("application/json", "identity");
        assert!(retold.pass(Bytes::from(vec![b'x'; LONGEST_PIECE])).is_ok());
        assert!(matches!(retold.pass(Bytes::from_static(b"x")), Err(ProxyError::Untold(_))));
    }

    #[test]
    fn a_stream_that_is_compressed_goes_on_plain_and_at_once() {
        let (mut retold, mut gzip) =
            (retold("text/event-stream", "gzip"), GzEncoder::new(Vec::new(), Compression::fast()));
        for event in ["data: one\n\n", "data: two\n\n"] {
            gzip.write_all(event.as_bytes()).and_then(|()| gzip.flush()).expect("memory");
            let sent = Bytes::from(std::mem::take(gzip.get_mut()));
            assert_eq!(retold.pass(sent).expect("it is sound"), event);
        }
        let damaged = retold.pass(Bytes::from_static(&[0xff; 64]));
        assert!(matches!(damaged, Err(ProxyError::Untold(_))), "{damaged:?}");
    }

    #[test]
    fn a_coding_that_nobody_knows_cannot_be_told() {
        let headers = Fields::from_iter([(CONTENT_ENCODING, HeaderValue::from_static("gzip, br"))]);
        assert!(Retold::of(Speech::Chat, &headers).is_err());
    }
}
