//! What the proxy answers itself: the one place that turns a "no" into HTTP.

use std::time::Duration;

use bytes::Bytes;
use cooldown_pacer::{Refusal, Why};
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};

use super::body::ResponseBody;
use super::grpc;
use super::headers::say_proxy;
pub use super::speech::Speech;
use crate::upstream::ConnectError;

const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Beyond this, SDKs are told not to try again by themselves: nobody waits for them that long.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Why a request is not answered by its upstream.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// What arrived is malformed, or could be read in two ways.
    #[error("The request is malformed: {0}.")]
    InvalidRequest(&'static str),
    /// Clients are configured, and this is none of them.
    #[error(
        "The client is unknown. Send the token of a configured client as `authorization: Bearer …` or `x-api-key`."
    )]
    Unauthorized,
    /// No route matches.
    #[error("{}", no_route_text(host, path, model.as_deref()))]
    NoRoute {
        /// The host that was asked for.
        host: String,
        /// The path that was asked for.
        path: String,
        /// The model that was asked for, if it was looked at.
        model: Option<String>,
    },
    /// A body that must be read is longer than `server.max_body`, in bytes.
    #[error(
        "The body is longer than the {0} bytes that are read to find its model and tokens. Raise `server.max_body`."
    )]
    BodyTooLarge(usize),
    /// Too many bodies are being held.
    #[error("Too many large bodies wait. Try again in a second.")]
    TooManyBodies,
    /// `CONNECT` would hide from the proxy what it is there to pace.
    #[error(
        "CONNECT is not supported: an encrypted tunnel cannot be paced. Use the proxy's address as the base URL \
         instead of configuring it as a proxy for https."
    )]
    ConnectUnsupported,
    /// The line is full, or the wait would be too long.
    #[error("{}", refusal_text(.0))]
    Refused(Refusal),
    /// A bug. What is known about it is in the log, under this id.
    #[error("The proxy failed on this request. Its log tells more under the id {0:016x}.")]
    Internal(u64),
    /// There is no connection to the upstream.
    #[error("The upstream cannot be reached: {}.", connect_text(.0))]
    Unreachable(ConnectError),
    /// The connection to the upstream broke before a response.
    #[error("The upstream closed the connection without a response.")]
    Broken,
    /// The upstream said that it has not looked at the request.
    #[error("The upstream does not accept the request at present.")]
    NotAccepted,
    /// What the upstream sent is no HTTP.
    #[error("The upstream's response is not valid HTTP.")]
    UpstreamProtocol,
    /// What the upstream answered does not fit a response that has begun already.
    #[error("The upstream's response cannot be passed on in the stream that has begun: {0}.")]
    Untold(&'static str),
    /// The upstream sent no response head in time.
    #[error("The upstream sent no response within {} s. The time that the request waited in line is not counted.", .0.as_secs_f64())]
    UpstreamTimeout(Duration),
    /// The proxy is about to end.
    #[error("The proxy is shutting down. Try again.")]
    ShuttingDown,
}

impl ProxyError {
    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::InvalidRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NoRoute { .. } => StatusCode::NOT_FOUND,
            Self::ConnectUnsupported => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Refused(_) | Self::TooManyBodies => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unreachable(_) | Self::Broken | Self::NotAccepted | Self::UpstreamProtocol | Self::Untold(_) => {
                StatusCode::BAD_GATEWAY
            }
            Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamTimeout(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidRequest(_) => "invalid_request",
            Self::Unauthorized => "unauthorized",
            Self::NoRoute { .. } => "no_route",
            Self::ConnectUnsupported => "connect_unsupported",
            Self::BodyTooLarge(_) => "body_too_large",
            Self::Refused(Refusal { why: Why::LineFull, .. }) | Self::TooManyBodies => "queue_full",
            Self::Refused(Refusal { why: Why::WaitTooLong, .. }) => "wait_too_long",
            Self::Internal(_) => "internal",
            Self::Unreachable(_) | Self::Broken | Self::NotAccepted => "upstream_unreachable",
            Self::UpstreamProtocol | Self::Untold(_) => "upstream_protocol_error",
            Self::ShuttingDown => "shutting_down",
            Self::UpstreamTimeout(_) => "upstream_timeout",
        }
    }

    /// The kind of error in the words that the SDKs of OpenAI and Anthropic know.
    pub(super) fn kind(&self) -> &'static str {
        match self.status() {
            StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED => "invalid_request_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            _ => "api_error",
        }
    }

    /// Whether the upstream, and not the proxy, is why there is no response.
    pub(super) fn is_upstream(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_)
                | Self::Broken
                | Self::NotAccepted
                | Self::UpstreamProtocol
                | Self::Untold(_)
                | Self::UpstreamTimeout(_)
        )
    }

    /// Whether what else is on the client's connection can be trusted to begin where it seems to.
    fn closes_connection(&self) -> bool {
        matches!(self, Self::InvalidRequest(_) | Self::ConnectUnsupported | Self::ShuttingDown | Self::BodyTooLarge(_))
    }

    /// When to try again, if that makes sense: the true wait, plus up to a tenth so that those who are refused together
    /// do not return together. `random` chooses within that tenth.
    fn retry_after(&self, random: u64) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => {
                let millis = u64::try_from(refusal.retry_after.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
                Some(Duration::from_millis(millis.saturating_add(random % (millis / 10 + 1))))
            }
            Self::ShuttingDown | Self::TooManyBodies => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// The response, in the caller's words. `random` spreads the times at which refused clients return.
    pub fn into_response(self, random: u64, speech: Speech) -> Response<ResponseBody> {
        let after = self.retry_after(random);
        let mut response = match speech {
            Speech::Grpc => grpc::response(&self, after.map(|after| after.as_millis() as u64)),
            _ => self.json_response(speech),
        };
        let headers = response.headers_mut();
        say_proxy(headers);
        if self.closes_connection() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if matches!(self, Self::ConnectUnsupported) {
            headers
                .insert(http::header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
        }
        if matches!(self, Self::Unauthorized) {
            headers.insert(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(after) = after {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_millis().div_ceil(1000) as u64));
            headers.insert(RETRY_AFTER_MS, HeaderValue::from(after.as_millis() as u64));
            let retry = if after <= LONGEST_RETRY { "true" } else { "false" };
            headers.insert(SHOULD_RETRY, HeaderValue::from_static(retry));
        }
        response
    }

    fn json_response(&self, speech: Speech) -> Response<ResponseBody> {
        let body = Bytes::from(speech.error(self).to_string());
        let mut response = Response::new(ResponseBody::Whole(Some(body)));
        *response.status_mut() = self.status();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

fn no_route_text(host: &str, path: &str, model: Option<&str>) -> String {
    let model = model.map(|model| format!(", and no provider serves model `{model}`")).unwrap_or_default();
    format!("No route matches host `{host}` and path `{path}`{model}. Add one to `routes`, or correct the base URL.")
}

fn refusal_text(refusal: &Refusal) -> String {
    let seconds = refusal.retry_after.as_secs_f64();
    match refusal.why {
        Why::LineFull => format!("The line for this upstream is full. Try again in {seconds:.1} s."),
        Why::WaitTooLong => format!(
            "This request would have to wait {seconds:.1} s, longer than it may. Try again then, or allow a longer wait."
        ),
    }
}

/// What a client may know about a failed connection: no addresses, no internals.
fn connect_text(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::Resolve(_) => "its name does not resolve",
        ConnectError::Refused(_) => "it accepts no connection",
        ConnectError::Tls(_) => "the TLS handshake failed",
        ConnectError::Timeout(_) => "connecting took too long",
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;

    fn refused(why: Why, retry_after: Duration) -> ProxyError {
        ProxyError::Refused(Refusal { why, retry_after })
    }

    #[test]
    fn every_error_has_its_status_and_code() {
        let second = Duration::from_secs(1);
        let refused_connection = ConnectError::Refused(Arc::new(io::ErrorKind::ConnectionRefused.into()));
        let table = [
            (ProxyError::InvalidRequest("x"), 400, "invalid_request"),
            (ProxyError::Unauthorized, 401, "unauthorized"),
            (ProxyError::NoRoute { host: "h".to_owned(), path: "/p".to_owned(), model: None }, 404, "no_route"),
            (ProxyError::BodyTooLarge(7), 413, "body_too_large"),
            (ProxyError::TooManyBodies, 429, "queue_full"),
            (ProxyError::ConnectUnsupported, 405, "connect_unsupported"),
            (refused(Why::LineFull, second), 429, "queue_full"),
            (refused(Why::WaitTooLong, second), 429, "wait_too_long"),
            (ProxyError::Internal(7), 500, "internal"),
            (ProxyError::Unreachable(refused_connection), 502, "upstream_unreachable"),
            (ProxyError::Broken, 502, "upstream_unreachable"),
            (ProxyError::NotAccepted, 502, "upstream_unreachable"),
            (ProxyError::UpstreamProtocol, 502, "upstream_protocol_error"),
            (ProxyError::ShuttingDown, 503, "shutting_down"),
            (ProxyError::UpstreamTimeout(second), 504, "upstream_timeout"),
        ];
        for (error, status, code) in table {
            assert_eq!((error.status().as_u16(), error.code()), (status, code));
            let body = Speech::Chat.error(&error);
            assert_eq!(body["type"], "error");
            assert_eq!(body["error"]["code"], code);
            assert!(body["error"]["param"].is_null());
            assert!(body["error"]["message"].as_str().is_some_and(|text| text.ends_with('.')));
        }
    }

    #[test]
    fn a_refusal_tells_the_true_wait_and_never_less() {
        let headers = |after_ms: u64, random: u64| {
            let error = refused(Why::WaitTooLong, Duration::from_millis(after_ms));
            let response = error.into_response(random, Speech::Chat);
            ["retry-after", "retry-after-ms", "x-should-retry"]
                .map(|name| response.headers()[name].to_str().expect("text").to_owned())
        };
        assert_eq!(headers(1500, 0), ["2", "1501", "true"]);
        assert_eq!(headers(999, 99), ["2", "1099", "true"], "the jitter only adds");
        assert_eq!(headers(61_000, 0), ["62", "61001", "false"]);
    }

    #[test]
    fn what_follows_a_malformed_request_is_not_read() {
        let response = ProxyError::InvalidRequest("x").into_response(0, Speech::Chat);
        assert_eq!(response.headers()["connection"], "close");
        assert!(!ProxyError::Unauthorized.into_response(0, Speech::Chat).headers().contains_key("connection"));
    }
}
