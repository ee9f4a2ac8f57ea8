//! Failures on demand, in the words of those who fail like this.

use std::time::Duration;

use serde_json::{Value, json};

use super::ask::{Api, Ask};
use super::behaviour::Hint;
use super::refusal::{Reply, hint_fields};

/// How an attempt fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// 429 for a limit that nobody could know, with this wait told as the provider hints.
    RateLimited(Duration),
    /// 429 that is about a token limit, but claims that one second is enough: Azure's, where a minute is.
    AzureTokenMinute,
    /// 429: the money is spent, as OpenAI says it.
    InsufficientQuota,
    /// 429 without `retry-after`: a spending limit is reached, as Anthropic says it.
    SpendLimit,
    /// 402.
    PaymentRequired,
    /// 401.
    Unauthorized,
    /// 400.
    BadRequest,
    /// 403 for too many requests in a short time, as GitHub says it, with or without `retry-after`.
    SecondaryLimit(Option<Duration>),
    /// 403 with nothing remaining until this long from now: GitHub.
    PrimaryLimit(Duration),
    /// 403 until a long quota is replenished: an Azure gateway.
    QuotaForbidden(Duration),
    /// 429: this request is larger than the limit, as OpenAI says it.
    TooLarge,
    /// The same with 413, as Groq says it.
    TooLarge413,
    /// 503, with or without `retry-after`.
    Unavailable(Option<Duration>),
    /// 529: no capacity, as Anthropic says it.
    Overloaded,
    /// 429 for a quota of a minute, with a `retryDelay`: Gemini.
    MinuteQuota(Duration),
    /// 429 for a quota of a day, with a `retryDelay` that is no use: Gemini.
    DayQuota,
    /// Any other status, with a body that says little.
    Status(u16),
    /// 200, and an error where the answer should be.
    ErrorInBody,
    /// 200, and an error instead of the stream's rest, after so many tokens; 0 is its first event.
    StreamError { after: usize, error: StreamError },
    /// The connection is reset before the answer.
    Reset,
    /// The connection is closed after so many tokens.
    CloseAfter(usize),
    /// Nothing comes after so many tokens.
    StallAfter(usize),
    /// Not even the head of an answer comes.
    NoAnswer,
}

/// What an error within a stream is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamError {
    Limit,
    Capacity,
}

/// The answer of a failure that answers; the others begin to, or break the connection.
pub(super) fn reply(failure: Failure, ask: &Ask, hint: Hint) -> Option<Reply> {
    let (api, model) = (ask.api, &ask.model);
    let reply = match failure {
        Failure::RateLimited(wait) => {
            error(api, 429, "Rate limit reached. Please try again later.").with(hint_fields(hint, wait, false))
        }
        Failure::AzureTokenMinute => azure_token_minute(),
        Failure::InsufficientQuota => insufficient_quota(),
        Failure::SpendLimit => spend_limit(),
        Failure::PaymentRequired => error(api, 402, "Insufficient credits. Add more and try again."),
        Failure::Unauthorized => unauthorized(api),
        Failure::BadRequest => error(api, 400, "This request asks for something that cannot be."),
        Failure::SecondaryLimit(wait) => github(
            "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.",
            wait.map(seconds),
        ),
        Failure::PrimaryLimit(wait) => primary_limit(wait),
        Failure::QuotaForbidden(wait) => quota_forbidden(wait),
        Failure::TooLarge => too_large(429, model, "min (TPM): Limit 30000, Requested 45411"),
        Failure::TooLarge413 => too_large(413, model, "minute (TPM): Limit 8000, Requested 32979"),
        Failure::Unavailable(wait) => {
            error(api, 503, "The service is temporarily unavailable.").with(wait.map(seconds))
        }
        Failure::Overloaded => error(api, 529, "Overloaded"),
        Failure::MinuteQuota(delay) => {
            gemini_quota("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", model, 250, delay)
        }
        Failure::DayQuota => {
            gemini_quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier", model, 250, Duration::from_secs(22))
        }
        Failure::Status(status) => error(api, status, "Something went wrong."),
        Failure::ErrorInBody => in_body(api),
        Failure::StreamError { .. }
        | Failure::Reset
        | Failure::CloseAfter(_)
        | Failure::StallAfter(_)
        | Failure::NoAnswer => return None,
    };
    Some(reply)
}

/// The key is unknown.
pub(super) fn unauthorized(api: Api) -> Reply {
    match api {
        Api::Messages => error(api, 401, "invalid x-api-key"),
        Api::Rest => error(api, 401, "Bad credentials"),
        _ => openai(401, "invalid_request_error", Some("invalid_api_key"), "Incorrect API key provided."),
    }
}

/// An error as the API words it.
pub(super) fn error(api: Api, status: u16, message: &str) -> Reply {
    match api {
        Api::Messages => {
            let kind = match status {
                400 => "invalid_request_error",
                401 => "authentication_error",
                402 => "billing_error",
                403 => "permission_error",
                404 => "not_found_error",
                413 => "request_too_large",
                429 => "rate_limit_error",
                529 => "overloaded_error",
                _ => "api_error",
            };
            Reply::new(status, json!({"type": "error", "error": {"type": kind, "message": message}}))
        }
        Api::Gemini => {
            let name = match status {
                400 => "INVALID_ARGUMENT",
                401 => "UNAUTHENTICATED",
                403 => "PERMISSION_DENIED",
                404 => "NOT_FOUND",
                429 => "RESOURCE_EXHAUSTED",
                503 => "UNAVAILABLE",
                _ => "INTERNAL",
            };
            Reply::new(status, json!({"error": {"code": status, "message": message, "status": name}}))
        }
        Api::Rest => {
            Reply::new(status, json!({"message": message, "documentation_url": "https://docs.github.com/rest"}))
        }
        _ if status == 429 => openai(429, "requests", Some("rate_limit_exceeded"), message),
        _ => openai(status, if status < 500 { "invalid_request_error" } else { "server_error" }, None, message),
    }
}

/// An error in OpenAI's shape.
pub(super) fn openai(status: u16, kind: &str, code: Option<&str>, message: &str) -> Reply {
    Reply::new(status, json!({"error": {"message": message, "type": kind, "param": null, "code": code}}))
}

/// A 429 of Gemini's for one of its quotas, and how much that allows.
pub(super) fn gemini_quota(quota: &str, model: &str, allowed: u64, delay: Duration) -> Reply {
    let delay = format!("{}s", delay.as_secs_f64());
    let message = format!("You exceeded your current quota, please check your plan. Please retry in {delay}.");
    Reply::new(
        429,
        json!({"error": {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": [
            {
                "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                "violations": [{
                    "quotaMetric": "generativelanguage.googleapis.com/generate_content_requests",
                    "quotaId": quota,
                    "quotaDimensions": {"location": "global", "model": model},
                    "quotaValue": allowed.to_string(),
                }],
            },
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay},
        ]}}),
    )
}

fn insufficient_quota() -> Reply {
    let text = "You exceeded your current quota, please check your plan and billing details.";
    openai(429, "insufficient_quota", Some("insufficient_quota"), text)
}

fn spend_limit() -> Reply {
    let details = json!({"error_code": "enforced_spend_limit_reached"});
    let error = json!({"type": "rate_limit_error", "message": "Spend limit reached", "details": details});
    Reply::new(429, json!({"type": "error", "error": error}))
}

fn too_large(status: u16, model: &str, limit: &str) -> Reply {
    let text = format!(
        "Request too large for {model} in organization org-mock on tokens per {limit}. The input or output tokens must be \
         reduced in order to run successfully."
    );
    openai(status, "tokens", Some("rate_limit_exceeded"), &text)
}

/// 200, although it is an error; an API without models answers as GraphQL does.
fn in_body(api: Api) -> Reply {
    match api {
        Api::Rest => {
            let error = json!({"type": "RATE_LIMITED", "message": "API rate limit exceeded"});
            Reply::new(200, json!({"data": null, "errors": [error]}))
        }
        _ => Reply { status: 200, ..error(api, 429, "Rate limit reached.") },
    }
}

fn azure_token_minute() -> Reply {
    let text = "Requests to the ChatCompletions_Create Operation have exceeded token rate limit of your current pricing \
                tier. Please retry after 1 second.";
    let fields = [
        ("retry-after", "1"),
        ("retry-after-ms", "0"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "0"),
        ("x-ratelimit-renewalperiod-tokens", "60"),
    ];
    let reply = Reply::new(429, json!({"error": {"code": "429", "message": text}}));
    reply.with(fields.map(|(name, value)| (name, value.to_owned())))
}

fn primary_limit(wait: Duration) -> Reply {
    let reset = jiff::Timestamp::now().as_second() + wait.as_secs_f64().ceil() as i64;
    let fields = [("x-ratelimit-remaining", "0".to_owned()), ("x-ratelimit-reset", reset.to_string())];
    github("API rate limit exceeded for user ID 1.", fields)
}

fn quota_forbidden(wait: Duration) -> Reply {
    let whole = wait.as_secs_f64().ceil() as u64;
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    let text = format!("Out of call volume quota. Quota will be replenished in {hours:02}:{minutes:02}:{rest:02}.");
    Reply::new(403, json!({"statusCode": 403, "message": text})).with([seconds(wait)])
}

fn github(message: &str, fields: impl IntoIterator<Item = (&'static str, String)>) -> Reply {
    let body: Value = json!({"message": message, "documentation_url": "https://docs.github.com/rest"});
    Reply::new(403, body).with(fields)
}

fn seconds(wait: Duration) -> (&'static str, String) {
    ("retry-after", wait.as_secs_f64().ceil().to_string())
}
