//! Heads of requests.

use std::mem::MaybeUninit;
use std::rc::Rc;

use http::{Method, Uri, Version};
use httparse::Status;

use super::decoder::Decoder;
use super::stated::{Length, Stated, Transfer};
use super::{LONGEST_HEAD, MOST_FIELDS, MessageError, Reader};
use crate::fields::{Fields, Kind, Lines, within};
use crate::head::RequestHead;

/// A request whose head has come.
#[derive(Debug)]
pub(crate) struct Asked {
    pub head: Rc<RequestHead>,
    /// Its body.
    pub body: Decoder,
    /// Whether another one may follow on the connection.
    pub keeps: bool,
    /// Whether it can be read in two ways (RFC 9112 §6.3, §11.2): its length is stated more than once. Whoever sent it may be
    /// smuggling past something that stands in front of us.
    pub is_ambiguous: bool,
    /// Whether the client waits for a `100 Continue` before it sends the body.
    pub wants_continue: bool,
    /// Whether it asks for another protocol.
    pub wants_upgrade: bool,
    /// Whether it takes trailers.
    pub takes_trailers: bool,
}

/// Reads the head of a request; `None` if more must come.
///
/// # Errors
/// When it is no request.
pub(crate) fn read_request(reader: &mut Reader) -> Result<Option<Asked>, MessageError> {
    if !reader.has_line() {
        return if reader.bytes().len() > LONGEST_HEAD { Err(MessageError::TooLong) } else { Ok(None) };
    }
    let bytes = reader.bytes();
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let Status::Complete(length) = parsed.parse_with_uninit_headers(bytes, &mut fields)? else {
        return if bytes.len() > LONGEST_HEAD { Err(MessageError::TooLong) } else { Ok(None) };
    };
    if length > LONGEST_HEAD {
        return Err(MessageError::TooLong);
    }
    let method = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes());
    let method = method.map_err(|_| MessageError::Malformed("its method"))?;
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let target = within(bytes, parsed.path.unwrap_or_default().as_bytes());
    let uri = Uri::try_from(&bytes[target]).map_err(|_| MessageError::Malformed("its target"))?;
    let lines = Lines::of(parsed.headers, bytes);
    let headers = Fields::of_head(reader.take_head(length), lines);
    asked(RequestHead { method, uri, version, headers }).map(Some)
}

fn asked(head: RequestHead) -> Result<Asked, MessageError> {
    let stated = Stated::by(&head.headers);
    let is_old = head.version == Version::HTTP_10;
    let (body, is_ambiguous) = match (stated.coding, stated.length) {
        (Transfer::Unstated, Length::Unstated) => (Decoder::default(), false),
        (Transfer::Unstated, Length::Bytes(length)) => (Decoder::of_length(length), false),
        (_, Length::Invalid) => return Err(MessageError::Malformed("its content-length")),
        (Transfer::Other, _) => return Err(MessageError::Malformed("its transfer-encoding")),
        (Transfer::Chunked, _) if is_old => return Err(MessageError::Malformed("a transfer-encoding in HTTP/1.0")),
        (Transfer::Chunked, Length::Unstated) => (Decoder::of_chunks(), false),
        (_, Length::Bytes(_) | Length::Repeated(_)) => (Decoder::default(), true),
    };
    let keeps = if is_old { stated.keeps } else { !stated.closes };
    let headers = &head.headers;
    let expects = stated.others
        && headers.first(Kind::Expect).is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    Ok(Asked {
        keeps: keeps && !is_ambiguous,
        is_ambiguous,
        wants_continue: expects && !is_old && !body.is_over(),
        wants_upgrade: stated.others && headers.has(Kind::Upgrade),
        takes_trailers: stated.trailers,
        body,
        head: Rc::new(head),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<Asked>, MessageError> {
        let mut reader = Reader::default();
        reader.add(bytes);
        read_request(&mut reader)
    }

    #[rstest]
    #[case("GET / HTTP/1.1\r\nhost: a\r\n\r\n", Some(0), true)]
    #[case("\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", Some(0), true)]
    #[case("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 7\r\n\r\n", Some(7), true)]
    #[case("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", None, true)]
    #[case("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", Some(0), false)]
    #[case("GET / HTTP/1.0\r\n\r\n", Some(0), false)]
    #[case("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", Some(0), true)]
    fn a_request_ends_as_its_head_says(#[case] head: &str, #[case] length: Option<u64>, #[case] keeps: bool) {
        let asked = read(head.as_bytes()).expect("a request").expect("a whole head");
        assert_eq!((asked.body.size_hint().exact(), asked.keeps, asked.is_ambiguous), (length, keeps, false));
    }

    #[rstest]
    #[case("content-length: 5\r\ncontent-length: 5\r\n")]
    #[case("content-length: 5, 5\r\n")]
    #[case("content-length: 5\r\ntransfer-encoding: chunked\r\n")]
    #[case("transfer-encoding: chunked\r\ncontent-length: 5\r\n")]
    fn a_length_that_is_stated_twice_is_told_and_nothing_follows(#[case] fields: &str) {
        let asked =
            read(format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n").as_bytes()).expect("a head").expect("all");
        assert!(asked.is_ambiguous && !asked.keeps && asked.body.is_over());
    }

    #[rstest]
    #[case("POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n")]
    #[case("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: x\r\n\r\n")]
    #[case("POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n")]
    #[case("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n")]
    #[case("GET / HTTP/2.0\r\n\r\n")]
    #[case("GET /a b HTTP/1.1\r\n\r\n")]
    #[case("GET / HTTP/1.1\r\nx: a\r\n b\r\n\r\n")]
    #[case("\x16\x03\x01\x02\n\r\n")]
    fn what_is_no_request_is_refused(#[case] head: &str) {
        assert!(matches!(read(head.as_bytes()), Err(MessageError::Malformed(_))), "{head:?}");
    }

    #[test]
    fn a_head_is_bounded_in_length_and_fields() {
        let head = |fields: &str| format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
        for fields in ["x: y\r\n".repeat(MOST_FIELDS), format!("x: {}\r\n", "y".repeat(LONGEST_HEAD))] {
            assert!(matches!(read(head(&fields).as_bytes()), Err(MessageError::TooLong)));
        }
        let endless = vec![b'x'; LONGEST_HEAD + 1];
        assert!(matches!(read(&endless), Err(MessageError::TooLong)), "also without the end of a line");
    }

    #[test]
    fn a_client_waits_for_a_continue_only_with_a_body() {
        let wants = |head: &str| read(head.as_bytes()).expect("a request").expect("all of it").wants_continue;
        assert!(wants("POST / HTTP/1.1\r\nexpect: 100-Continue\r\ncontent-length: 1\r\n\r\n"));
        assert!(!wants("POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 0\r\n\r\n"));
        assert!(!wants("POST / HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n"));
    }

    proptest! {
        #[test]
        fn a_head_is_the_same_however_it_comes(places in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let bytes = b"POST /a?b HTTP/1.1\r\nhost: a\r\nx-one: 1\r\nx-one: 2\r\ncontent-length: 3\r\n\r\nabc";
            let mut ends: Vec<usize> = places.iter().map(|place| place.index(bytes.len())).collect();
            ends.extend([0, bytes.len()]);
            ends.sort_unstable();
            let (mut reader, mut asked) = (Reader::default(), None);
            for pair in ends.windows(2) {
                reader.add(&bytes[pair[0]..pair[1]]);
                asked = asked.or(read_request(&mut reader).expect("a request"));
            }
            let asked = asked.expect("a whole head");
            prop_assert_eq!(asked.head.uri.to_string(), "/a?b");
            prop_assert_eq!(asked.head.headers.get_all("x-one").count(), 2);
            prop_assert_eq!(reader.bytes(), b"abc");
        }

        #[test]
        fn nothing_that_comes_as_a_head_does_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes);
            let _ = read(&[&b"GET / HTTP/1.1\r\n"[..], &bytes].concat());
        }
    }
}
