//! Fields of a head, and what they say of the message's end and of the connection behind it.

use std::ops::Range;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::MessageError;

/// Where in a head a field's name and value lie: they begin within its first 64 KiB, and are shorter.
#[derive(Debug, Clone, Copy)]
struct Place {
    name: Part,
    value: Part,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    start: u16,
    length: u16,
}

/// Where in a head its fields lie: they are read before the head is cut off from what follows it.
#[derive(Debug, Default)]
pub(super) struct Places(SmallVec<[Place; 32]>);

/// What a head's fields say of how the message ends, and what comes after it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stated {
    /// `content-length`.
    pub length: Length,
    /// `transfer-encoding`.
    pub coding: Transfer,
    /// `connection: close`.
    pub closes: bool,
    /// `connection: keep-alive`, which says something in HTTP/1.0 only.
    pub keeps: bool,
    /// `te: trailers`.
    pub trailers: bool,
    /// There are `expect` or `upgrade`.
    pub others: bool,
}

/// What `content-length` says (RFC 9112 §6.3).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// Nothing.
    #[default]
    Unstated,
    /// So many bytes.
    Bytes(u64),
    /// The same several times.
    Repeated(u64),
    /// What is no length, or several of them.
    Invalid,
}

/// What `transfer-encoding` says (RFC 9112 §6.1).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// Nothing.
    #[default]
    Unstated,
    /// The body comes in chunks, whatever else was done to it before.
    Chunked,
    /// Its last coding is another one.
    Other,
}

impl Places {
    /// Where these fields lie within `head`, which they were read from and which is no longer than it may be.
    pub(super) fn of(fields: &[httparse::Header<'_>], head: &[u8]) -> Self {
        let place = |field: &httparse::Header<'_>| Place {
            name: Part::of(within(head, field.name.as_bytes())),
            value: Part::of(within(head, field.value)),
        };
        Self(fields.iter().map(place).collect())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The fields of `head` in `headers`, which are empty, and what they say.
    ///
    /// # Errors
    /// When one is none.
    pub(super) fn read(&self, head: &Bytes, headers: &mut HeaderMap) -> Result<Stated, MessageError> {
        let mut stated = Stated::default();
        headers.reserve(self.0.len());
        for Place { name, value } in &self.0 {
            let name = HeaderName::from_bytes(&head[name.range()]);
            let name = name.map_err(|_| MessageError::Malformed("the name of a field"))?;
            let value = HeaderValue::from_maybe_shared(head.slice(value.range()));
            let value = value.map_err(|_| MessageError::Malformed("the value of a field"))?;
            stated.hear(&name, &value);
            headers.append(name, value);
        }
        Ok(stated)
    }
}

impl Part {
    fn of(range: Range<usize>) -> Self {
        Self { start: range.start as u16, length: range.len() as u16 }
    }

    fn range(self) -> Range<usize> {
        let start = usize::from(self.start);
        start..start + usize::from(self.length)
    }
}

impl Stated {
    fn hear(&mut self, name: &HeaderName, value: &HeaderValue) {
        match *name {
            CONTENT_LENGTH => tokens(value).for_each(|token| self.length = self.length.and(token)),
            TRANSFER_ENCODING => tokens(value).for_each(|token| self.coding = self.coding.and(token)),
            CONNECTION => {
                for token in tokens(value) {
                    self.closes |= token.eq_ignore_ascii_case(b"close");
                    self.keeps |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            TE => tokens(value).for_each(|token| self.trailers |= token.eq_ignore_ascii_case(b"trailers")),
            EXPECT | UPGRADE => self.others = true,
            _ => {}
        }
    }
}

impl Length {
    fn and(self, token: &[u8]) -> Self {
        // Digits only, although numbers may be written in other ways elsewhere.
        let digits = std::str::from_utf8(token).ok().filter(|_| token.iter().all(u8::is_ascii_digit));
        match (self, digits.and_then(|digits| digits.parse().ok())) {
            (Self::Unstated, Some(length)) => Self::Bytes(length),
            (Self::Bytes(first) | Self::Repeated(first), Some(length)) if first == length => Self::Repeated(length),
            _ => Self::Invalid,
        }
    }
}

impl Transfer {
    fn and(self, token: &[u8]) -> Self {
        match self {
            // Nothing may be done to a body in chunks, not even that again.
            Self::Chunked => Self::Other,
            _ if token.eq_ignore_ascii_case(b"chunked") => Self::Chunked,
            _ => Self::Other,
        }
    }
}

/// Where a part of `head` lies in it.
pub(super) fn within(head: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - head.as_ptr() as usize;
    start..start + part.len()
}

/// The members of a list (RFC 9110 §5.6.1). An empty field has one, which is empty.
fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Writes fields as lines.
pub(crate) fn write_fields(headers: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in headers {
        write_field(name, value, out);
    }
}

/// Writes one as a line.
pub(crate) fn write_field(name: &HeaderName, value: &HeaderValue, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn stated(lines: &str) -> Stated {
        let head = Bytes::from(format!("{lines}\r\n"));
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let httparse::Status::Complete((_, fields)) = httparse::parse_headers(&head, &mut fields).expect("fields")
        else {
            panic!("they do not end: {lines:?}")
        };
        let mut headers = HeaderMap::new();
        Places::of(fields, &head).read(&head, &mut headers).expect("fields")
    }

    #[rstest]
    #[case("content-length: 5\r\n", Length::Bytes(5))]
    #[case("content-length:  5 \r\n", Length::Bytes(5))]
    #[case("content-length: 5\r\ncontent-length: 5\r\n", Length::Repeated(5))]
    #[case("content-length: 5, 5\r\n", Length::Repeated(5))]
    #[case("content-length: 5\r\ncontent-length: 6\r\n", Length::Invalid)]
    #[case("content-length: 5, 6\r\n", Length::Invalid)]
    #[case("content-length: +5\r\n", Length::Invalid)]
    #[case("content-length: -5\r\n", Length::Invalid)]
    #[case("content-length: 0x5\r\n", Length::Invalid)]
    #[case("content-length: 5,\r\n", Length::Invalid)]
    #[case("content-length:\r\n", Length::Invalid)]
    #[case("content-length: 18446744073709551616\r\n", Length::Invalid)]
    #[case("content-length: x\r\ncontent-length: 5\r\n", Length::Invalid)]
    fn a_length_is_digits_said_once(#[case] lines: &str, #[case] length: Length) {
        assert_eq!(stated(lines), Stated { length, ..Stated::default() });
    }

    #[rstest]
    #[case("transfer-encoding: chunked\r\n", Transfer::Chunked)]
    #[case("transfer-encoding: Chunked\r\n", Transfer::Chunked)]
    #[case("transfer-encoding: gzip, chunked\r\n", Transfer::Chunked)]
    #[case("transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n", Transfer::Chunked)]
    #[case("transfer-encoding: chunked, gzip\r\n", Transfer::Other)]
    #[case("transfer-encoding: chunked, chunked\r\n", Transfer::Other)]
    #[case("transfer-encoding: xchunked\r\n", Transfer::Other)]
    #[case("transfer-encoding:\r\n", Transfer::Other)]
    fn a_body_is_in_chunks_if_that_was_done_to_it_last(#[case] lines: &str, #[case] coding: Transfer) {
        assert_eq!(stated(lines), Stated { coding, ..Stated::default() });
    }

    #[test]
    fn what_is_said_of_the_connection_is_heard_in_lists() {
        let said = stated("connection: upgrade, Close\r\nconnection: keep-alive\r\nte: trailers\r\n");
        assert!(said.closes && said.keeps && said.trailers && !said.others);
        assert!(!stated("connection: closed\r\n").closes);
    }
}
