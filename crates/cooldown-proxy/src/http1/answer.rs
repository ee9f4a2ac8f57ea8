//! Heads of answers to clients.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use http::header::CONTENT_LENGTH;
use http::{HeaderValue, StatusCode, Version};
use hyper::body::Body;
use hyper::ext::ReasonPhrase;

use super::{Coding, USUAL_HEAD, length_in};
use crate::fields::{Kind, write_field};
use crate::head::ResponseHead;

/// What an answer must fit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question {
    pub version: Version,
    /// It was a HEAD, whose answer has no body whatever it says.
    pub is_head: bool,
    pub takes_trailers: bool,
    /// The client would use the connection again.
    pub keeps: bool,
}

/// An answer that is ready to be written.
#[derive(Debug)]
pub(crate) struct Written<B> {
    pub head: Vec<u8>,
    pub body: Option<B>,
    pub coding: Coding,
    /// Whether another request may follow.
    pub keeps: bool,
}

/// What an answer's fields say that matters for how it is written.
#[derive(Debug, Default)]
struct Said {
    length: Option<u64>,
    closes: bool,
    date: bool,
}

/// An answer as it is written (RFC 9112 §4, §6). `tell` writes what the client is told beside its fields.
pub(crate) fn write_answer<B: Body>(
    question: Question,
    answer: &ResponseHead,
    tell: impl FnOnce(&mut Vec<u8>),
    body: B,
) -> Written<B> {
    let status = answer.status;
    let has_body = !question.is_head && !status.is_informational() && !matches!(status.as_u16(), 204 | 304);
    let body = Some(body).filter(|body| has_body && !body.is_end_stream());
    let mut head = Vec::with_capacity(USUAL_HEAD);
    write_status(question.version, answer, &mut head);
    let said = write_fields(answer, &mut head);
    tell(&mut head);
    let coding = if has_body {
        write_coding(question, answer, said.length, body.as_ref(), &mut head)
    } else {
        Coding::Length(0)
    };
    let is_whole = match coding {
        Coding::Close => false,
        // Less would come than was said.
        Coding::Length(length) => length == 0 || body.is_some(),
        Coding::Chunked(_) => true,
    };
    let is_switch = status == StatusCode::SWITCHING_PROTOCOLS;
    let keeps = question.keeps && is_whole && !said.closes && !is_switch;
    match question.version {
        _ if said.closes || is_switch => {}
        Version::HTTP_10 if keeps => head.extend_from_slice(b"connection: keep-alive\r\n"),
        _ if !keeps => head.extend_from_slice(b"connection: close\r\n"),
        _ => {}
    }
    if !said.date && !is_switch {
        write_date(&mut head);
    }
    head.extend_from_slice(b"\r\n");
    Written { head, body, coding, keeps }
}

/// Writes the fields, but for those of the framing that have no place in this answer.
fn write_fields(answer: &ResponseHead, head: &mut Vec<u8>) -> Said {
    let mut said = Said::default();
    let tells_length = !answer.status.is_informational() && answer.status != StatusCode::NO_CONTENT;
    answer.headers.write(head, |kind, value| {
        match kind {
            // How it comes on this connection is said by whoever frames it.
            Kind::TransferEncoding => return false,
            Kind::ContentLength => {
                said.length = length_in(value.as_bytes());
                return tells_length && said.length.is_some();
            }
            Kind::Connection => said.closes |= value.as_bytes().eq_ignore_ascii_case(b"close"),
            Kind::Date => said.date = true,
            _ => {}
        }
        true
    });
    said
}

/// How the client is told where the body ends. Says so where the fields do not.
fn write_coding<B: Body>(
    question: Question,
    answer: &ResponseHead,
    said: Option<u64>,
    body: Option<&B>,
    head: &mut Vec<u8>,
) -> Coding {
    if let Some(length) = said {
        return Coding::Length(length);
    }
    if let Some(length) = body.map_or(Some(0), |body| body.size_hint().exact()) {
        write_field(&CONTENT_LENGTH, &HeaderValue::from(length), head);
        return Coding::Length(length);
    }
    if question.version == Version::HTTP_10 {
        return Coding::Close;
    }
    head.extend_from_slice(b"transfer-encoding: chunked\r\n");
    if question.takes_trailers { Coding::chunked(&answer.headers) } else { Coding::Chunked(Vec::new()) }
}

fn write_status(version: Version, answer: &ResponseHead, head: &mut Vec<u8>) {
    head.extend_from_slice(if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    head.extend_from_slice(answer.status.as_str().as_bytes());
    head.push(b' ');
    let words = answer.reason.as_ref().map(ReasonPhrase::as_bytes);
    let words = words.unwrap_or_else(|| answer.status.canonical_reason().unwrap_or_default().as_bytes());
    head.extend_from_slice(words);
    head.extend_from_slice(b"\r\n");
}

/// The time of day (RFC 9110 §6.6.1), which is put into words once a second.
fn write_date(head: &mut Vec<u8>) {
    thread_local! {
        static LAST: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LAST.with_borrow_mut(|(second, words)| {
        if *second != now {
            (*second, *words) = (now, httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(now)));
        }
        head.extend_from_slice(b"date: ");
        head.extend_from_slice(words.as_bytes());
        head.extend_from_slice(b"\r\n");
    });
}

/// The answer to what is no request.
pub(crate) fn write_refusal(status: StatusCode) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n").into_bytes();
    write_date(&mut head);
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use http::Response;
    use http::header::DATE;
    use http_body_util::{Empty, Full, StreamBody};
    use hyper::body::{Bytes, Frame};
    use rstest::rstest;

    use super::*;

    const GET: Question = Question { version: Version::HTTP_11, is_head: false, takes_trailers: false, keeps: true };
    const OLD: Question = Question { version: Version::HTTP_10, ..GET };
    const HEAD: Question = Question { is_head: true, ..GET };

    fn response(status: u16, fields: &[(&'static str, &str)]) -> ResponseHead {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        response.header(DATE, "now").body(()).expect("a response").into_parts().0.into()
    }

    /// A body of which nobody knows how long it is.
    fn stream() -> impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin {
        StreamBody::new(futures_util::stream::empty::<Result<Frame<Bytes>, std::convert::Infallible>>())
    }

    fn head<B>(written: &Written<B>) -> String {
        String::from_utf8(written.head.clone()).expect("text")
    }

    #[rstest]
    #[case::a_known_length(GET, 200, "HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 5\r\n\r\n", true)]
    #[case::an_old_client(
        OLD,
        200,
        "HTTP/1.0 200 OK\r\ndate: now\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\n",
        true
    )]
    #[case::the_last_one(Question { keeps: false, ..GET }, 200, "HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 5\r\nconnection: close\r\n\r\n", false)]
    #[case::no_content(GET, 204, "HTTP/1.1 204 No Content\r\ndate: now\r\n\r\n", true)]
    #[case::a_status_without_a_name(GET, 529, "HTTP/1.1 529 \r\ndate: now\r\ncontent-length: 5\r\n\r\n", true)]
    fn an_answer_says_where_it_ends(
        #[case] question: Question,
        #[case] status: u16,
        #[case] said: &str,
        #[case] keeps: bool,
    ) {
        let written = write_answer(question, &response(status, &[]), |_| {}, Full::new(Bytes::from_static(b"hello")));
        assert_eq!((head(&written).as_str(), written.keeps), (said, keeps));
    }

    #[test]
    fn an_answer_of_unknown_length_comes_in_chunks_or_ends_with_the_connection() {
        let new = write_answer(GET, &response(200, &[]), |_| {}, stream());
        assert!(head(&new).ends_with("transfer-encoding: chunked\r\n\r\n") && new.keeps, "{}", head(&new));
        let old = write_answer(OLD, &response(200, &[]), |_| {}, stream());
        assert!(!head(&old).contains("transfer-encoding") && !old.keeps, "{}", head(&old));
    }

    #[test]
    fn the_answer_to_a_head_tells_the_length_and_sends_nothing() {
        let written = write_answer(HEAD, &response(200, &[("content-length", "5")]), |_| {}, Empty::<Bytes>::new());
        assert!(written.body.is_none() && written.keeps && head(&written).contains("content-length: 5\r\n"));
    }

    #[test]
    fn a_body_shorter_than_was_said_ends_the_connection() {
        let written = write_answer(GET, &response(200, &[("content-length", "5")]), |_| {}, Empty::<Bytes>::new());
        assert!(!written.keeps, "the client must not wait for the rest");
    }

    #[test]
    fn an_empty_answer_says_so() {
        let written = write_answer(GET, &response(200, &[]), |_| {}, Empty::<Bytes>::new());
        assert!(head(&written).contains("content-length: 0\r\n") && written.keeps);
    }

    #[test]
    fn trailers_are_sent_to_who_takes_them_if_they_were_announced() {
        let announced = [("trailer", "x-sum, content-length")];
        let question = Question { takes_trailers: true, ..GET };
        let names = |question| match write_answer(question, &response(200, &announced), |_| {}, stream()).coding {
            Coding::Chunked(names) => names,
            coding => panic!("{coding:?}"),
        };
        assert_eq!(names(question), ["x-sum"], "and nothing that frames a message");
        assert!(names(GET).is_empty());
    }

    #[test]
    fn whoever_is_refused_is_told_that_nothing_follows() {
        let said = String::from_utf8(write_refusal(StatusCode::BAD_REQUEST)).expect("text");
        assert!(
            said.starts_with("HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: "),
            "{said}"
        );
        let date = said.lines().find_map(|line| line.strip_prefix("date: "));
        assert!(date.is_some_and(|date| httpdate::parse_http_date(date).is_ok()), "{said}");
    }
}
