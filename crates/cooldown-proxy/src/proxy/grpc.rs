//! Our own answers to callers of gRPC: they read a status in fields, and take any other answer for a broken transport.

use std::fmt::Write as _;

use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Response, Version};

use super::body::ResponseBody;
use super::error::ProxyError;
use crate::fields::Kind;
use crate::head::RequestHead;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// When a client that tries again by itself shall do so, in milliseconds.
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Whether a request is a call of gRPC. That is so only in HTTP/2.
pub(super) fn is_call(head: &RequestHead) -> bool {
    head.version == Version::HTTP_2
        && head.headers.first(Kind::ContentType).is_some_and(|kind| {
            let rest = kind.as_bytes().strip_prefix(b"application/grpc");
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
        })
}

/// An error as a response that is nothing but a head ("Trailers-Only"). `after_ms` says when to try again.
pub(super) fn response(error: &ProxyError, after_ms: Option<u64>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(None));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(STATUS, HeaderValue::from(code(error)));
    headers.insert(MESSAGE, message(&error.to_string()));
    if let Some(after_ms) = after_ms {
        headers.insert(PUSHBACK, HeaderValue::from(after_ms));
    }
    response
}

/// The status codes of gRPC. What a limit refuses is RESOURCE_EXHAUSTED, which clients do not try again unless they are told
/// to; what may work at once is UNAVAILABLE, which they do.
fn code(error: &ProxyError) -> u16 {
    match error {
        ProxyError::InvalidRequest(_) => 3,
        ProxyError::UpstreamTimeout(_) => 4,
        ProxyError::Refused(_) | ProxyError::TooManyBodies | ProxyError::BodyTooLarge(_) => 8,
        ProxyError::NoRoute { .. } | ProxyError::ConnectUnsupported => 12,
        ProxyError::Internal(_) => 13,
        ProxyError::Unauthorized => 16,
        ProxyError::Unreachable(_)
        | ProxyError::Broken
        | ProxyError::NotAccepted
        | ProxyError::UpstreamProtocol
        | ProxyError::Untold(_)
        | ProxyError::ShuttingDown => 14,
    }
}

/// Percent-encoded, as the protocol wants it.
fn message(text: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | ..b' ' | 0x7f.. => _ = write!(encoded, "%{byte:02X}"),
            plain => encoded.push(char::from(plain)),
        }
    }
    HeaderValue::from_str(&encoded).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_call_is_known_by_its_version_and_type() {
        for (version, kind, expected) in [
            (Version::HTTP_2, "application/grpc", true),
            (Version::HTTP_2, "application/grpc+proto", true),
            (Version::HTTP_2, "application/grpc-web", false),
            (Version::HTTP_2, "application/json", false),
            (Version::HTTP_11, "application/grpc", false),
        ] {
            let head = Request::builder().version(version).header(CONTENT_TYPE, kind).body(()).expect("a request");
            assert_eq!(is_call(&head.into_parts().0.into()), expected, "{version:?} {kind}");
        }
    }

    #[test]
    fn a_refusal_is_a_status_with_a_message_and_the_time_to_come_again() {
        let response = response(&ProxyError::ShuttingDown, Some(1000));
        assert_eq!(response.status(), 200);
        let field = |name: &str| response.headers()[name].to_str().expect("ASCII").to_owned();
        assert_eq!((field("grpc-status"), field("grpc-retry-pushback-ms")), ("14".into(), "1000".into()));
        assert_eq!(field("grpc-message"), "The proxy is shutting down. Try again.");
        assert_eq!(message("50 % of «a»\n"), "50 %25 of %C2%ABa%C2%BB%0A");
    }
}
