//! Heads of answers.

use std::mem::MaybeUninit;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};
use httparse::Status;
use hyper::ext::ReasonPhrase;

use super::decoder::Decoder;
use super::fields::{Length, Places, Stated, Transfer};
use super::{LONGEST_HEAD, MOST_FIELDS, MessageError, Reader};

/// An answer whose head has come.
#[derive(Debug)]
pub(crate) struct Answer {
    pub response: Response<()>,
    /// Its body.
    pub body: Decoder,
    /// Whether another request may follow on the connection.
    pub keeps: bool,
}

/// Reads the head of an answer to a request with this method, behind whatever was said in between; `None` if more must come.
/// `headers` are empty, and become its fields.
///
/// # Errors
/// When it is no answer.
pub(crate) fn read_answer(
    reader: &mut Reader,
    has_body: bool,
    headers: &mut HeaderMap,
) -> Result<Option<Answer>, MessageError> {
    loop {
        let Some(head) = read_head(reader, headers)? else { return Ok(None) };
        let status = head.status;
        if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
            return head.answer(has_body, std::mem::take(headers)).map(Some);
        }
        headers.clear();
    }
}

struct Head {
    status: StatusCode,
    version: Version,
    /// Its words, if they are not the usual ones.
    reason: Option<ReasonPhrase>,
    stated: Stated,
}

fn read_head(reader: &mut Reader, headers: &mut HeaderMap) -> Result<Option<Head>, MessageError> {
    let bytes = reader.bytes();
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let Status::Complete(length) = config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut fields)? else {
        let is_too_long = bytes.len() > LONGEST_HEAD;
        return if is_too_long { Err(MessageError::Malformed("its head is too long")) } else { Ok(None) };
    };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(MessageError::Malformed("its status"))?;
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let reason = parsed.reason.filter(|reason| status.canonical_reason() != Some(reason));
    let reason = reason.and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());
    let places = Places::of(parsed.headers, bytes);
    let stated = places.read(&reader.take(length), headers)?;
    Ok(Some(Head { status, version, reason, stated }))
}

impl Head {
    fn answer(self, has_body: bool, headers: HeaderMap) -> Result<Answer, MessageError> {
        let mut response = Response::new(());
        *response.status_mut() = self.status;
        *response.version_mut() = self.version;
        *response.headers_mut() = headers;
        let body = self.body(has_body, response.headers_mut())?;
        let is_switch = self.status == StatusCode::SWITCHING_PROTOCOLS;
        let stays = if self.version == Version::HTTP_10 { self.stated.keeps } else { !self.stated.closes };
        let keeps = stays && !is_switch && !body.ends_connection();
        self.reason.into_iter().for_each(|reason| _ = response.extensions_mut().insert(reason));
        Ok(Answer { response, body, keeps })
    }

    /// How the body ends (RFC 9112 §6.3).
    fn body(&self, has_body: bool, headers: &mut HeaderMap) -> Result<Decoder, MessageError> {
        let is_empty = matches!(self.status.as_u16(), 101 | 204 | 304);
        if !has_body || is_empty {
            return Ok(Decoder::default());
        }
        match (self.stated.coding, self.stated.length) {
            (Transfer::Unstated, Length::Unstated) => Ok(Decoder::until_closed()),
            (Transfer::Unstated, Length::Bytes(length)) => Ok(Decoder::of_length(length)),
            (Transfer::Unstated, Length::Repeated(length)) => {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
                Ok(Decoder::of_length(length))
            }
            (Transfer::Unstated, Length::Invalid) => Err(MessageError::Malformed("its content-length")),
            _ if self.version == Version::HTTP_10 => Err(MessageError::Malformed("a transfer-encoding in HTTP/1.0")),
            (coding, length) => {
                // The coding overrides what else was said.
                if length != Length::Unstated {
                    headers.remove(CONTENT_LENGTH);
                }
                Ok(if coding == Transfer::Chunked { Decoder::of_chunks() } else { Decoder::until_closed() })
            }
        }
    }
}
