//! What a head's fields say of the message's end and of the connection behind it.

use crate::fields::{Fields, Kind, Value};

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

impl Stated {
    /// What these fields say.
    pub(super) fn by(fields: &Fields) -> Self {
        let mut stated = Self::default();
        fields.by_kind().for_each(|(kind, value)| stated.hear(kind, value));
        stated
    }

    fn hear(&mut self, kind: Kind, value: Value<'_>) {
        match kind {
            Kind::ContentLength => tokens(value).for_each(|token| self.length = self.length.and(token)),
            Kind::TransferEncoding => tokens(value).for_each(|token| self.coding = self.coding.and(token)),
            // As nearly every message has it.
            Kind::Connection if value == "keep-alive" => self.keeps = true,
            Kind::Connection => {
                for token in tokens(value) {
                    self.closes |= token.eq_ignore_ascii_case(b"close");
                    self.keeps |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            Kind::Te => tokens(value).for_each(|token| self.trailers |= token.eq_ignore_ascii_case(b"trailers")),
            Kind::Expect | Kind::Upgrade => self.others = true,
            _ => {}
        }
    }
}

impl Length {
    fn and(self, token: &[u8]) -> Self {
        match (self, length_in(token)) {
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

/// A length is digits only (RFC 9110 §8.6), although numbers may be written in other ways elsewhere.
pub(crate) fn length_in(token: &[u8]) -> Option<u64> {
    let and = |sum: u64, digit: &u8| match digit {
        b'0'..=b'9' => sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    };
    token.iter().try_fold(0, and).filter(|_| !token.is_empty())
}

/// The members of a list (RFC 9110 §5.6.1). An empty field has one, which is empty.
fn tokens(value: Value<'_>) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn stated(lines: &str) -> Stated {
        Stated::by(&Fields::read(&format!("{lines}\r\n")))
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
