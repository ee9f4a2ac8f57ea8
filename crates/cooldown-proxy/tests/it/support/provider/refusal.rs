//! What a provider says of a breach: status, fields and words, as its dialect has them.

use std::time::Duration;

use cooldown_pacer::Unit;
use serde_json::{Value, json};

use super::ask::Ask;
use super::behaviour::{Behaviour, Dialect, Hint};
use super::failure::{error, gemini_quota, openai};
use super::fields::go_duration;
use super::limiter::{Breach, Reading};

/// An answer that is no completion.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) fields: Vec<(&'static str, String)>,
    pub(super) body: Value,
}

impl Reply {
    pub(super) fn new(status: u16, body: Value) -> Self {
        Self { status, fields: Vec::new(), body }
    }

    pub(super) fn with(mut self, fields: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        self.fields.extend(fields);
        self
    }
}

/// The fields that tell when to try again.
pub(super) fn hint_fields(hint: Hint, wait: Duration, fraction: bool) -> Option<(&'static str, String)> {
    let seconds = wait.as_secs_f64();
    match hint {
        Hint::RetryAfter if fraction => Some(("retry-after", format!("{}", (seconds * 100.0).ceil() / 100.0))),
        Hint::RetryAfter => Some(("retry-after", seconds.ceil().to_string())),
        Hint::RetryAfterMs => Some(("retry-after-ms", (seconds * 1000.0).ceil().to_string())),
        Hint::Nothing => None,
    }
}

/// The answer to a breach.
pub(super) fn over(behaviour: &Behaviour, ask: &Ask, breach: Breach) -> Reply {
    let Breach::Limit { reading, requested, wait } = breach else {
        // Nobody can say when a place will be free.
        return error(ask.api, 429, "Too many concurrent requests. Try again when one of them has ended.");
    };
    let dialect = behaviour.dialect;
    let reply = match dialect {
        Dialect::OpenAi => openai_over("", ask, reading, requested, wait),
        Dialect::Groq => openai_over("model ", ask, reading, requested, wait),
        Dialect::Azure => azure_over(reading, wait),
        Dialect::Anthropic => anthropic_over(reading),
        Dialect::Cerebras => cerebras_over(reading),
        Dialect::Mistral => Reply::new(
            429,
            json!({"object": "error", "message": "Rate limit exceeded", "type": "rate_limited", "param": null, "code": "1300"}),
        ),
        Dialect::OpenRouter => openrouter_over(reading),
        Dialect::Gemini => return gemini_quota(gemini_name(reading), &ask.model, reading.limit, wait),
        Dialect::GitHub => error(ask.api, 403, "API rate limit exceeded for user ID 1."),
        Dialect::Silent => Reply::new(429, json!({"error": "Too many requests"})),
    };
    reply.with(hint_fields(behaviour.hint, wait, dialect == Dialect::Groq))
}

/// The answer to a request that is larger than a whole limit.
pub(super) fn impossible(behaviour: &Behaviour, ask: &Ask, breach: Breach) -> Reply {
    let Breach::Limit { reading, requested, .. } = breach else {
        return error(ask.api, 413, "Request too large.");
    };
    let status = if behaviour.dialect == Dialect::Groq { 413 } else { 429 };
    let text = format!(
        "Request too large for {} in organization org-mock{}: Limit {}, Requested {requested}. The input or output \
         tokens must be reduced in order to run successfully.",
        ask.model,
        axis(reading).unwrap_or_default(),
        reading.limit,
    );
    openai(status, kind(reading.unit), Some("rate_limit_exceeded"), &text)
}

fn openai_over(before: &str, ask: &Ask, reading: Reading, requested: u64, wait: Duration) -> Reply {
    let Reading { unit, limit, remaining, .. } = reading;
    let (model, used) = (&ask.model, limit - remaining);
    let known = match axis(reading) {
        Some(axis) => format!("{axis}: Limit {limit}, Used {used}, Requested {requested}"),
        None => String::new(),
    };
    let text = format!(
        "Rate limit reached for {before}{model} in organization org-mock{known}. Please try again in {}.",
        go_duration(wait)
    );
    openai(429, kind(unit), Some("rate_limit_exceeded"), &text)
}

fn azure_over(reading: Reading, wait: Duration) -> Reply {
    let kind = if reading.unit == Unit::Requests { "call" } else { "token" };
    let seconds = wait.as_secs_f64().ceil();
    let text = format!(
        "Requests to the ChatCompletions_Create Operation have exceeded {kind} rate limit of your current pricing tier. \
         Please retry after {seconds} seconds."
    );
    Reply::new(429, json!({"error": {"code": "429", "message": text}}))
}

fn anthropic_over(reading: Reading) -> Reply {
    let unit = match reading.unit {
        Unit::Requests => "requests",
        Unit::Tokens => "tokens",
        Unit::InputTokens => "input tokens",
        Unit::OutputTokens => "output tokens",
    };
    let limit = match period_word(reading.period) {
        Some(word) => format!(" of {} {unit} per {word}", reading.limit),
        None => String::new(),
    };
    let text = format!("This request would exceed your organization's rate limit{limit}.");
    Reply::new(429, json!({"type": "error", "error": {"type": "rate_limit_error", "message": text}}))
}

fn cerebras_over(reading: Reading) -> Reply {
    let period = period_word(reading.period).unwrap_or("period");
    let (unit, code) = match reading.unit {
        Unit::Requests => ("Requests", "request_quota_exceeded"),
        _ => ("Tokens", "token_quota_exceeded"),
    };
    let text = format!("{unit} per {period} limit exceeded - too many {} processed.", unit.to_lowercase());
    let kind = "too_many_requests_error";
    Reply::new(429, json!({"message": text, "type": kind, "param": "quota", "code": code}))
}

fn openrouter_over(reading: Reading) -> Reply {
    let period = period_word(reading.period).unwrap_or("period");
    let text = format!("Rate limit exceeded: free-models-per-{period}.");
    Reply::new(429, json!({"error": {"message": text, "code": 429}}))
}

/// Its refusals tell no limit on output, and no window but these two.
fn gemini_name(reading: Reading) -> &'static str {
    match (reading.unit, period_word(reading.period)) {
        (Unit::Requests, Some("day")) => "GenerateRequestsPerDayPerProjectPerModel",
        (Unit::Requests, _) => "GenerateRequestsPerMinutePerProjectPerModel",
        _ => "GenerateContentInputTokensPerModelPerMinute",
    }
}

fn kind(unit: Unit) -> &'static str {
    if unit == Unit::Requests { "requests" } else { "tokens" }
}

/// ` on tokens per min (TPM)`; nothing for a period that has no name.
fn axis(reading: Reading) -> Option<String> {
    let (unit, letters) = match reading.unit {
        Unit::Requests => ("requests", "R"),
        Unit::Tokens => ("tokens", "T"),
        Unit::InputTokens => ("input tokens", "IT"),
        Unit::OutputTokens => ("output tokens", "OT"),
    };
    let (word, letter) = match period_word(reading.period)? {
        "second" => ("sec", 'S'),
        "minute" => ("min", 'M'),
        "hour" => ("hour", 'H'),
        _ => ("day", 'D'),
    };
    Some(format!(" on {unit} per {word} ({letters}P{letter})"))
}

/// The name of a period, if it is within a fiftieth of one that has a name: tests shorten theirs a little.
pub(super) fn period_word(period: Duration) -> Option<&'static str> {
    const NAMES: [(&str, f64); 4] = [("second", 1.0), ("minute", 60.0), ("hour", 3600.0), ("day", 86_400.0)];
    let seconds = period.as_secs_f64();
    NAMES.iter().find(|(_, length)| (seconds / length - 1.0).abs() < 0.02).map(|(name, _)| *name)
}
