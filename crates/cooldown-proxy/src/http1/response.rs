//! Heads of answers.

use std::mem::MaybeUninit;

use http::header::CONTENT_LENGTH;
use http::{HeaderValue, StatusCode, Version};
use httparse::Status;
use hyper::ext::ReasonPhrase;

use super::decoder::Decoder;
use super::stated::{Length, Stated, Transfer};
use super::{LONGEST_HEAD, MOST_FIELDS, MessageError, Reader};
use crate::fields::{Fields, Lines};
use crate::head::ResponseHead;

/// An answer whose head has come.
#[derive(Debug)]
pub(crate) struct Answer {
    pub head: ResponseHead,
    /// Its body.
    pub body: Decoder,
    /// Whether another request may follow on the connection.
    pub keeps: bool,
}

/// Reads the head of an answer to a request with this method, behind whatever was said in between; `None` if more must come.
///
/// # Errors
/// When it is no answer.
pub(crate) fn read_answer(reader: &mut Reader, has_body: bool) -> Result<Option<Answer>, MessageError> {
    loop {
        let Some(head) = read_head(reader)? else { return Ok(None) };
        if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
            return answer(head, has_body).map(Some);
        }
    }
}

fn read_head(reader: &mut Reader) -> Result<Option<ResponseHead>, MessageError> {
    if !reader.has_line() {
        return if reader.bytes().len() > LONGEST_HEAD { Err(MessageError::TooLong) } else { Ok(None) };
    }
    let bytes = reader.bytes();
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let Status::Complete(length) = config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut fields)? else {
        let is_too_long = bytes.len() > LONGEST_HEAD;
        return if is_too_long { Err(MessageError::TooLong) } else { Ok(None) };
    };
    if length > LONGEST_HEAD {
        return Err(MessageError::TooLong);
    }
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(MessageError::Malformed("its status"))?;
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let reason = parsed.reason.filter(|reason| status.canonical_reason() != Some(reason));
    let reason = reason.and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());
    let lines = Lines::of(parsed.headers, bytes);
    let headers = Fields::of_head(reader.take_head(length), lines);
    Ok(Some(ResponseHead { status, version, reason, headers }))
}

fn answer(mut head: ResponseHead, has_body: bool) -> Result<Answer, MessageError> {
    let stated = Stated::by(&head.headers);
    let body = body(&mut head, &stated, has_body)?;
    let is_switch = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let stays = if head.version == Version::HTTP_10 { stated.keeps } else { !stated.closes };
    let keeps = stays && !is_switch && !body.ends_connection();
    Ok(Answer { head, body, keeps })
}

/// How the body ends (RFC 9112 §6.3). Whatever it is, its length is told once: also where there is none, others will read
/// what is passed on.
fn body(head: &mut ResponseHead, stated: &Stated, has_body: bool) -> Result<Decoder, MessageError> {
    let is_empty = !has_body || matches!(head.status.as_u16(), 101 | 204 | 304);
    let body = match (stated.coding, stated.length) {
        (Transfer::Unstated, Length::Unstated) => Decoder::until_closed(),
        (Transfer::Unstated, Length::Bytes(length)) => Decoder::of_length(length),
        (Transfer::Unstated, Length::Repeated(length)) => {
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            Decoder::of_length(length)
        }
        (Transfer::Unstated, Length::Invalid) => return Err(MessageError::Malformed("its content-length")),
        _ if !is_empty && head.version == Version::HTTP_10 => {
            return Err(MessageError::Malformed("a transfer-encoding in HTTP/1.0"));
        }
        (coding, length) => {
            // The coding overrides what else was said.
            if length != Length::Unstated {
                head.headers.remove(CONTENT_LENGTH);
            }
            if coding == Transfer::Chunked { Decoder::of_chunks() } else { Decoder::until_closed() }
        }
    };
    Ok(if is_empty { Decoder::default() } else { body })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn read(head: &str, has_body: bool) -> Result<Option<Answer>, MessageError> {
        let mut reader = Reader::default();
        reader.add(head.as_bytes());
        read_answer(&mut reader, has_body)
    }

    fn whole(head: &str, has_body: bool) -> Answer {
        read(head, has_body).expect("an answer").expect("a whole head")
    }

    #[rstest]
    #[case("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Some(5), true)]
    #[case("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n", Some(5), true)]
    #[case("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", None, true)]
    #[case("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n", None, true)]
    #[case("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", None, false)]
    #[case("HTTP/1.1 200 OK\r\n\r\n", None, false)]
    #[case("HTTP/1.1 204 No Content\r\n\r\n", Some(0), true)]
    #[case("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", Some(0), true)]
    #[case("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n", Some(5), false)]
    #[case("HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\n", Some(5), true)]
    #[case("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\n", Some(5), false)]
    #[case("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", Some(0), false)]
    #[case(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        Some(0),
        true
    )]
    fn a_body_ends_as_its_head_says(#[case] head: &str, #[case] length: Option<u64>, #[case] keeps: bool) {
        let answer = whole(head, true);
        assert_eq!((answer.body.size_hint().exact(), answer.keeps), (length, keeps));
    }

    #[test]
    fn the_answer_to_a_head_has_no_body_whatever_it_says() {
        let answer = whole("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", false);
        assert!(answer.body.is_over() && answer.keeps);
        assert_eq!(answer.head.headers.get(CONTENT_LENGTH).expect("it is told"), "5", "it says what a GET would give");
    }

    #[test]
    fn what_a_head_says_twice_of_its_body_is_passed_on_once() {
        let both = whole("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n", true);
        assert!(!both.head.headers.contains_key(CONTENT_LENGTH));
        for (head, has_body) in [("200 OK", true), ("200 OK", false), ("304 Not Modified", true)] {
            let twice = whole(&format!("HTTP/1.1 {head}\r\ncontent-length: 5, 5\r\n\r\n"), has_body);
            assert_eq!(twice.head.headers.get_all(CONTENT_LENGTH).collect::<Vec<_>>(), ["5"]);
        }
    }

    #[test]
    fn the_words_of_a_status_are_passed_on_if_they_are_unusual() {
        let words = |head| whole(head, true).head.reason.map(|words| words.as_bytes().to_vec());
        assert_eq!(words("HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(words("HTTP/1.1 529 Site is overloaded\r\n\r\n").as_deref(), Some(&b"Site is overloaded"[..]));
    }

    #[rstest]
    #[case("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n")]
    #[case("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n")]
    #[case("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n")]
    #[case("HTTP/1.1 204 No Content\r\ncontent-length: x\r\n\r\n")]
    #[case("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")]
    #[case("HTTP/1.1 20 OK\r\n\r\n")]
    #[case("HTTP/2.0 200 OK\r\n\r\n")]
    #[case("HTTP/1.1 200 OK\r\nx : 1\r\n\r\n")]
    #[case("220 mail.example ESMTP\r\n\r\n")]
    fn what_is_no_answer_is_refused(#[case] head: &str) {
        assert!(matches!(read(head, true), Err(MessageError::Malformed(_))), "{head:?}");
    }

    #[test]
    fn an_endless_head_is_cut() {
        let fields = format!("HTTP/1.1 200 OK\r\n{}", "x: y\r\n".repeat(MOST_FIELDS + 1));
        assert!(matches!(read(&format!("{fields}\r\n"), true), Err(MessageError::TooLong)));
        let long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(LONGEST_HEAD));
        assert!(matches!(read(&long, true), Err(MessageError::TooLong)));
        assert!(matches!(read(&format!("{long}\r\n\r\n"), true), Err(MessageError::TooLong)), "also one that is whole");
        assert!(matches!(read("HTTP/1.1 200 OK\r\nx: y\r\n", true), Ok(None)), "more may come");
    }
}
