//! What an error body says, in any of the shapes that APIs use.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};
use smallvec::SmallVec;

use super::LONGEST_BODY;
use super::google::Violation;
use crate::fields::Fields;
use crate::provider::UnixTime;
use crate::provider::value::{self, Bare};

/// Longer messages are cut.
const LONGEST_MESSAGE: usize = 4096;
/// How many codes, violations and quoted fields are kept.
const MOST: usize = 16;

/// The facts of an error body. Empty for a body that is none of the known shapes.
#[derive(Debug, Default)]
pub(super) struct ErrorBody {
    /// Whether it says that something went wrong.
    is_error: bool,
    /// Every code and type in it, lower case: APIs disagree on which of their fields is the telling one.
    codes: SmallVec<[String; 6]>,
    /// The text for people, lower case.
    pub(super) message: String,
    /// The HTTP status that it names.
    status: Option<u16>,
    /// The wait that a field of it names: Discord's `retry_after`, Google's `RetryInfo`, the restore rate of GraphQL costs.
    pub(super) wait: Option<Duration>,
    /// Google's violated quotas.
    pub(super) violations: Vec<Violation>,
    /// OpenRouter: a provider behind it refused, not OpenRouter itself.
    pub(super) is_from_behind: bool,
    /// OpenRouter: the limit fields, told in the body.
    pub(super) quoted_fields: Option<Fields>,
}

impl ErrorBody {
    /// Reads a body. What is no JSON, or too long to be read as such, is taken for a text for people.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let json = (bytes.len() <= LONGEST_BODY).then(|| serde_json::from_slice(bytes).ok()).flatten();
        let mut body = Self::default();
        match json {
            Some(Value::Object(fields)) => body.take_top(&fields),
            // Gemini's streams without SSE are arrays.
            Some(Value::Array(items)) => {
                if let Some(Value::Object(fields)) = items.first() {
                    body.take_top(fields);
                }
            }
            Some(_) => {}
            None => body.say(&String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST_MESSAGE)])),
        }
        body
    }

    /// Whether it has one of these codes, given in lower case.
    pub(super) fn has_code(&self, codes: &[&str]) -> bool {
        self.codes.iter().any(|code| codes.contains(&code.as_str()))
    }

    /// Whether one of its codes contains this.
    pub(super) fn has_code_like(&self, part: &str) -> bool {
        self.codes.iter().any(|code| code.contains(part))
    }

    /// The status that the same error has when it does not come with a 200; `None` when this is no error.
    pub(super) fn implied_status(&self) -> Option<u16> {
        const LIMIT: &[&str] = &[
            "rate_limit_exceeded",
            "rate_limit_error",
            "rate_limited",
            "rate_limit",
            "ratelimited",
            "too_many_requests",
            "too_many_requests_error",
            "tokens",
            "requests",
            "resource_exhausted",
        ];
        const CAPACITY: &[&str] =
            &["overloaded_error", "overloaded", "unavailable", "service_unavailable", "slow_down"];
        const CREDENTIALS: &[&str] = &["authentication_error", "invalid_api_key", "unauthenticated"];
        if !self.is_error {
            return None;
        }
        if self.has_code(LIMIT) || self.has_code_like("throttl") {
            return Some(429);
        }
        if self.has_code(CAPACITY) || self.has_code_like("overloaded") {
            return Some(503);
        }
        if self.has_code(CREDENTIALS) {
            return Some(401);
        }
        if self.status.is_none() && self.has_code_like("invalid") {
            return Some(400);
        }
        Some(self.status.unwrap_or(500))
    }

    fn take_top(&mut self, top: &Map<String, Value>) {
        let typed_error = ["type", "object"].iter().any(|key| text_of(top, key) == Some("error"));
        match top.get("error") {
            Some(Value::Object(error)) if !error.is_empty() => {
                self.is_error = true;
                self.take_error(error);
            }
            Some(Value::String(message)) if !message.is_empty() => {
                self.is_error = true;
                self.code(message);
                self.say(message);
            }
            _ => {}
        }
        if typed_error {
            self.is_error = true;
            self.take_error(top);
        }
        // The Responses API ends a failed stream with the whole response.
        if let Some(Value::Object(error)) = top.get("response").and_then(|response| response.get("error")) {
            self.is_error = true;
            self.take_error(error);
        }
        let speaks =
            !self.is_error && ["choices", "id", "data", "candidates"].iter().all(|key| !top.contains_key(*key));
        if speaks {
            self.take_plain(top);
        }
        self.take_graphql(top);
        if let Some(kind) = text_of(top, "error_type") {
            self.code(kind);
        }
        self.wait = self.wait.or_else(|| seconds(top.get("retry_after")?));
    }

    /// A body that is the error itself: GitHub, Mistral, Cerebras, Discord, API gateways. Whether it is one, the status says.
    fn take_plain(&mut self, top: &Map<String, Value>) {
        self.take_error(top);
        for key in ["detail", "title", "Message"] {
            match top.get(key) {
                Some(Value::String(text)) => self.say(text),
                Some(Value::Object(detail)) => self.take_error(detail),
                _ => {}
            }
        }
    }

    fn take_error(&mut self, error: &Map<String, Value>) {
        for key in ["code", "type", "status", "reason", "__type"] {
            match error.get(key) {
                Some(Value::String(text)) => self.code(text),
                Some(Value::Number(number)) => {
                    self.status = self.status.or_else(|| u16::try_from(number.as_u64()?).ok().filter(is_error_status));
                    self.code(&number.to_string());
                }
                _ => {}
            }
        }
        match error.get("message") {
            Some(Value::String(text)) => self.say(text),
            Some(Value::Object(message)) => {
                if let Some(text) = text_of(message, "detail").or_else(|| text_of(message, "message")) {
                    self.say(text);
                }
            }
            _ => {}
        }
        match error.get("details") {
            Some(Value::Object(details)) => {
                if let Some(code) = text_of(details, "error_code") {
                    self.code(code);
                }
            }
            Some(Value::Array(details)) => details.iter().take(MOST).for_each(|detail| self.take_google_detail(detail)),
            _ => {}
        }
        if let Some(Value::Object(metadata)) = error.get("metadata") {
            self.take_metadata(metadata);
        }
    }

    /// `google.rpc.QuotaFailure`, `RetryInfo` and `ErrorInfo`.
    fn take_google_detail(&mut self, detail: &Value) {
        if let Some(Value::Array(violations)) = detail.get("violations") {
            let room = MOST.saturating_sub(self.violations.len());
            self.violations.extend(violations.iter().filter_map(Violation::read).take(room));
        }
        if let Some(reason) = detail.get("reason").and_then(Value::as_str) {
            self.code(reason);
        }
        self.wait = self.wait.or_else(|| seconds(detail.get("retryDelay")?));
    }

    fn take_metadata(&mut self, metadata: &Map<String, Value>) {
        self.is_from_behind = metadata.get("provider_name").is_some_and(|name| name.as_str().is_some());
        let Some(Value::Object(fields)) = metadata.get("headers") else { return };
        let mut quoted = Fields::default();
        for (name, value) in fields.iter().take(MOST) {
            let value = value.as_str().and_then(|value| HeaderValue::from_str(value).ok());
            if let (Ok(name), Some(value)) = (HeaderName::from_bytes(name.as_bytes()), value) {
                quoted.insert(name, value);
            }
        }
        self.quoted_fields = Some(quoted);
    }

    /// GraphQL: `errors`, with GitHub's `type` or Shopify's `extensions.code`, and what the query would have cost. Other
    /// errors come with data and concern nobody but the caller.
    fn take_graphql(&mut self, top: &Map<String, Value>) {
        let Some(Value::Array(errors)) = top.get("errors") else { return };
        let codes = errors.iter().take(MOST).flat_map(|error| [error.get("type"), error.pointer("/extensions/code")]);
        for code in codes.flatten().filter_map(Value::as_str) {
            if ["RATE_LIMITED", "THROTTLED"].contains(&code) {
                self.is_error = true;
                self.code(code);
            }
        }
        let cost = |pointer| top.get("extensions")?.pointer(pointer)?.as_f64();
        let missing = cost("/cost/requestedQueryCost").zip(cost("/cost/throttleStatus/currentlyAvailable"));
        let rate = cost("/cost/throttleStatus/restoreRate").filter(|rate| *rate > 0.0);
        self.wait = self.wait.or_else(|| {
            let (requested, available) = missing?;
            Some(value::span((requested - available).max(0.0) / rate?)?.wait)
        });
    }

    fn code(&mut self, code: &str) {
        // Problem types (RFC 9457) are URLs; their last part is the name.
        let name = code.rsplit(['/', '#', ':']).next().unwrap_or(code);
        if self.codes.len() < MOST && !name.is_empty() && name.len() <= 64 {
            self.codes.push(name.to_ascii_lowercase());
        }
    }

    fn say(&mut self, text: &str) {
        let end = text.floor_char_boundary(LONGEST_MESSAGE.saturating_sub(self.message.len()));
        self.message.push_str(&text[..end].to_ascii_lowercase());
        self.message.push(' ');
    }
}

fn is_error_status(status: &u16) -> bool {
    (400..600).contains(status)
}

fn text_of<'a>(fields: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    fields.get(key)?.as_str()
}

/// A span in seconds, as a number or as a text (`34.4s`).
fn seconds(value: &Value) -> Option<Duration> {
    let told = match value {
        Value::Number(number) => value::span(number.as_f64()?),
        // Spans only: nothing is measured against the time given here.
        Value::String(text) => value::read_time(text, Bare::Seconds, UnixTime::from_secs(0)),
        _ => None,
    };
    told.map(|told| told.wait)
}
