//! The fields that state limits, in each dialect, from the limits as they stand.

use std::time::Duration;

use cooldown_pacer::Unit;
use jiff::{SignedDuration, Timestamp};

use super::ask::Ask;
use super::behaviour::Dialect;
use super::limiter::Reading;
use super::refusal::period_word;

/// Anthropic rounds what remains of tokens to this.
const ROUNDED_TO: u64 = 1000;

type Fields = Vec<(String, String)>;

/// The fields of a response. `refused` is whether it says no.
pub(super) fn limit_fields(dialect: Dialect, readings: &[Reading], ask: &Ask, refused: bool) -> Fields {
    let of = |units: &[Unit]| readings.iter().find(|reading| units.contains(&reading.unit));
    let requests = of(&[Unit::Requests]);
    let tokens = of(&[Unit::Tokens, Unit::InputTokens]);
    let pair = requests.map(|reading| ("requests", reading)).into_iter();
    let pair = pair.chain(tokens.map(|reading| ("tokens", reading)));
    match dialect {
        Dialect::OpenAi => pair.flat_map(|(axis, reading)| plain(axis, reading, to_millis)).collect(),
        Dialect::Groq => pair.flat_map(|(axis, reading)| plain(axis, reading, go_duration)).collect(),
        Dialect::Azure => pair.flat_map(|(axis, reading)| azure(axis, reading)).collect(),
        Dialect::Cerebras => pair.flat_map(|(axis, reading)| cerebras(axis, reading)).collect(),
        Dialect::Mistral => mistral(requests, tokens, ask),
        Dialect::Anthropic => readings.iter().flat_map(anthropic).collect(),
        Dialect::OpenRouter if refused => requests.map(openrouter).unwrap_or_default(),
        Dialect::GitHub => requests.map(github).unwrap_or_default(),
        Dialect::OpenRouter | Dialect::Gemini | Dialect::Silent => Vec::new(),
    }
}

/// `x-ratelimit-remaining-tokens` and its kin.
fn plain(axis: &str, reading: &Reading, reset: fn(Duration) -> String) -> Fields {
    let field = |part: &str, value: String| (format!("x-ratelimit-{part}-{axis}"), value);
    vec![
        field("limit", reading.limit.to_string()),
        field("remaining", reading.remaining.to_string()),
        field("reset", reset(reading.full_in)),
    ]
}

fn azure(axis: &str, reading: &Reading) -> Fields {
    let mut fields = plain(axis, reading, |reset| reset.as_secs_f64().ceil().to_string());
    let period = reading.period.as_secs_f64().ceil();
    fields.push((format!("x-ratelimit-renewalperiod-{axis}"), period.to_string()));
    fields
}

/// The window stands in the name.
fn cerebras(axis: &str, reading: &Reading) -> Fields {
    let Some(period) = period_word(reading.period) else { return Vec::new() };
    plain(&format!("{axis}-{period}"), reading, |reset| reset.as_secs_f64().to_string())
}

/// The window stands in the name, and there is no reset.
fn mistral(requests: Option<&Reading>, tokens: Option<&Reading>, ask: &Ask) -> Fields {
    let named = |axis: &str, reading: &Reading| {
        let period = match period_word(reading.period) {
            Some(word) => word.to_owned(),
            None => format!("{}-second", reading.period.as_secs_f64().round()),
        };
        plain(&format!("{axis}-{period}"), reading, |_| String::new()).into_iter().take(2).collect::<Fields>()
    };
    let mut fields = requests.map(|reading| named("req", reading)).unwrap_or_default();
    if let Some(reading) = tokens {
        fields.extend(named("tokens", reading));
        fields.push(("x-ratelimit-tokens-query-cost".to_owned(), (ask.input + ask.output).to_string()));
    }
    fields
}

fn anthropic(reading: &Reading) -> Fields {
    let rounded = (reading.remaining + ROUNDED_TO / 2) / ROUNDED_TO * ROUNDED_TO;
    let (axis, remaining) = match reading.unit {
        Unit::Requests => ("requests", reading.remaining),
        Unit::Tokens => ("tokens", rounded),
        Unit::InputTokens => ("input-tokens", rounded),
        Unit::OutputTokens => ("output-tokens", rounded),
    };
    let field = |part: &str, value: String| (format!("anthropic-ratelimit-{axis}-{part}"), value);
    vec![
        field("limit", reading.limit.to_string()),
        field("remaining", remaining.min(reading.limit).to_string()),
        field("reset", Timestamp::from_second(epoch(reading.full_in)).unwrap_or_default().to_string()),
    ]
}

/// Milliseconds since 1970, on refusals only.
fn openrouter(reading: &Reading) -> Fields {
    vec![
        ("x-ratelimit-limit".to_owned(), reading.limit.to_string()),
        ("x-ratelimit-remaining".to_owned(), reading.remaining.to_string()),
        ("x-ratelimit-reset".to_owned(), (epoch(reading.full_in) * 1000).to_string()),
    ]
}

fn github(reading: &Reading) -> Fields {
    vec![
        ("x-ratelimit-limit".to_owned(), reading.limit.to_string()),
        ("x-ratelimit-remaining".to_owned(), reading.remaining.to_string()),
        ("x-ratelimit-used".to_owned(), (reading.limit - reading.remaining).to_string()),
        ("x-ratelimit-reset".to_owned(), epoch(reading.full_in).to_string()),
        ("x-ratelimit-resource".to_owned(), "core".to_owned()),
    ]
}

/// So far from now, in whole seconds since 1970, rounded up.
fn epoch(after: Duration) -> i64 {
    let after = SignedDuration::try_from(after).unwrap_or_default();
    let at = Timestamp::now().saturating_add(after).unwrap_or_default();
    at.as_second() + i64::from(at.subsec_nanosecond() > 0)
}

/// As OpenAI writes spans: `6m0s`, `1.5s`, `12ms`; nothing below a millisecond.
fn to_millis(span: Duration) -> String {
    go_duration(Duration::from_millis(span.as_millis() as u64))
}

/// As Go writes spans: `9m38.016s`, `7.66s`, `7.44ms`, `0s`.
pub(super) fn go_duration(span: Duration) -> String {
    if span.is_zero() {
        return "0s".to_owned();
    }
    if span < Duration::from_secs(1) {
        return format!("{}ms", span.as_micros() as f64 / 1000.0);
    }
    let (whole, rest) = (span.as_secs(), f64::from(span.subsec_micros()) / 1e6);
    let seconds = (whole % 60) as f64 + rest;
    match (whole / 3600, whole / 60 % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_go_writes_them() {
        for (micros, written) in
            [(12_000, "12ms"), (1_000_000, "1s"), (360_000_000, "6m0s"), (7_440, "7.44ms"), (578_016_000, "9m38.016s")]
        {
            assert_eq!(go_duration(Duration::from_micros(micros)), written);
        }
        assert_eq!(to_millis(Duration::from_micros(900)), "0s");
    }
}
