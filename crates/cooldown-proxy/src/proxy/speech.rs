//! How callers are answered in the words of the API that they call: errors, signs of life, errors within a stream.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::error::ProxyError;
use super::grpc;
use crate::head::RequestHead;

/// The words of an API, as far as the proxy speaks them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// OpenAI's chat completions, and whatever else.
    Chat,
    /// OpenAI's responses.
    Responses,
    /// Anthropic's messages.
    Messages,
    /// Google's.
    Google,
    /// gRPC's, in fields.
    Grpc,
}

impl Speech {
    /// The words that the sender of a request expects.
    pub(super) fn of(head: &RequestHead) -> Self {
        if grpc::is_call(head) { Self::Grpc } else { Self::of_path(head.uri.path()) }
    }

    /// The same while nothing is known of what it asks for.
    pub(super) fn of_stranger(head: &RequestHead) -> Self {
        if grpc::is_call(head) { Self::Grpc } else { Self::Chat }
    }

    fn of_path(path: &str) -> Self {
        if path.ends_with("/messages") {
            Self::Messages
        } else if path.ends_with("/responses") {
            Self::Responses
        } else if path.contains(':')
            && [":generateContent", ":streamGenerateContent"].iter().any(|it| path.contains(it))
        {
            Self::Google
        } else {
            Self::Chat
        }
    }

    /// The body of an error. The usual one is read by the SDKs of OpenAI and of Anthropic.
    pub(super) fn error(self, error: &ProxyError) -> Value {
        match self {
            Self::Google => json!({"error": {
                "code": error.status().as_u16(),
                "message": error.to_string(),
                "status": google_status(error.status()),
                "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": error.code()}],
            }}),
            _ => json!({"type": "error", "error": {
                "type": error.kind(), "code": error.code(), "message": error.to_string(), "param": null,
            }}),
        }
    }

    /// What keeps a stream alive and is read by nobody.
    pub(super) fn sign_of_life(self) -> Bytes {
        Bytes::from_static(match self {
            Self::Messages => b"event: ping\ndata: {\"type\": \"ping\"}\n\n",
            _ => b": waiting\n\n",
        })
    }

    /// The same as [`error`](Self::error), as an event.
    pub(super) fn event_of(self, error: &ProxyError) -> Bytes {
        self.event(self.error(error))
    }

    /// An upstream's error as an event. What is no JSON object with an error becomes one.
    pub(super) fn event_of_upstream(self, status: StatusCode, body: &[u8]) -> Bytes {
        let told = serde_json::from_slice(body).ok().filter(|body: &Value| body.get("error").is_some());
        let message = || format!("The upstream answered with status {}.", status.as_u16());
        self.event(told.unwrap_or_else(|| {
            json!({"type": "error", "error": {
                "type": "api_error", "code": "upstream_error", "message": message(), "param": null,
            }})
        }))
    }

    /// An answer that is no stream, as one event. Anthropic's callers know events by their names.
    pub(super) fn event_of_answer(self, body: &[u8]) -> Bytes {
        let told: Option<Value> = if self == Self::Messages { serde_json::from_slice(body).ok() } else { None };
        let name = match told.as_ref().and_then(|told| told["type"].as_str()) {
            Some("error") => "event: error\n",
            Some(_) => "event: message\n",
            None => "",
        };
        let lines = body.split(|byte| matches!(byte, b'\n' | b'\r')).filter(|line| !line.is_empty());
        let data = lines.flat_map(|line| [b"data: ", line, b"\n"].concat());
        name.bytes().chain(data).chain(*b"\n").collect()
    }

    fn event(self, error: Value) -> Bytes {
        let text = match self {
            Self::Messages => format!("event: error\ndata: {error}\n\n"),
            // Responses have an error event whose fields are not nested.
            Self::Responses => {
                let field = |name: &str| error["error"].get(name).cloned().unwrap_or(Value::Null);
                let flat = json!({
                    "type": "error", "code": field("code"), "message": field("message"), "param": null,
                    "sequence_number": 0,
                });
                format!("event: error\ndata: {flat}\n\n")
            }
            Self::Chat | Self::Google | Self::Grpc => format!("data: {error}\n\n"),
        };
        Bytes::from(text)
    }
}

/// The word of `google.rpc.Code` for a status.
fn google_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 | 405 | 413 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "INTERNAL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_caller_is_answered_in_its_own_words() {
        for (path, speech) in [
            ("/openai/v1/chat/completions", Speech::Chat),
            ("/v1/responses", Speech::Responses),
            ("/anthropic/v1/messages", Speech::Messages),
            ("/gemini/v1beta/models/gemini-2.5-pro:generateContent", Speech::Google),
            ("/", Speech::Chat),
        ] {
            assert_eq!(Speech::of_path(path), speech, "{path}");
        }
        let error = Speech::Google.error(&ProxyError::ShuttingDown);
        assert_eq!((&error["error"]["code"], &error["error"]["status"]), (&json!(503), &json!("UNAVAILABLE")));
    }

    #[test]
    fn an_error_in_a_stream_is_one_event() {
        for speech in [Speech::Chat, Speech::Responses, Speech::Messages, Speech::Google] {
            let event = speech.event_of(&ProxyError::ShuttingDown);
            let text = std::str::from_utf8(&event).expect("text");
            assert!(text.ends_with("\n\n") && text.matches("data: ").count() == 1, "{text}");
            assert!(text.contains("shutting down"), "{text}");
        }
        let quoted = Speech::Chat.event_of_upstream(StatusCode::BAD_REQUEST, b"{\"error\":{\"message\":\"no\"}}");
        assert_eq!(&quoted[..], b"data: {\"error\":{\"message\":\"no\"}}\n\n");
        let unread = Speech::Chat.event_of_upstream(StatusCode::BAD_GATEWAY, b"<html>");
        assert!(unread.windows(3).any(|word| word == b"502"));
    }
}
