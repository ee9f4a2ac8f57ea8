//! What the text of an error says to people, read by a program: there is no other place for it.
//!
//! All texts are given in lower case.

use std::time::Duration;

use cooldown_pacer::Unit;

use crate::provider::limits::{Basis, Reset, Scope, Statement};
use crate::provider::value::{go_duration, span};

/// `Limit 200000, Used 199821, Requested 2295`, with `on tokens per min (TPM)` before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spoken {
    pub(super) axis: Option<Unit>,
    pub(super) window: Option<Duration>,
    pub(super) limit: Option<u64>,
    used: Option<u64>,
    requested: Option<u64>,
}

impl Spoken {
    /// Reads the text.
    pub(super) fn read(text: &str) -> Self {
        let (axis, window) = abbreviated(text).unwrap_or_else(|| spelled(text));
        let amount = |word| amount_after(text, word);
        Self { axis, window, limit: amount("limit"), used: amount("used"), requested: amount("requested") }
    }

    /// Whether the request alone is larger than the limit.
    pub(super) fn is_oversized(&self) -> bool {
        self.limit.zip(self.requested).is_some_and(|(limit, requested)| requested > limit)
    }

    /// The limit, if one is named. Those who name what is used refill steadily.
    pub(super) fn statement(&self, scope: Scope) -> Option<Statement> {
        let limit = self.limit.filter(|limit| *limit > 0)?;
        let used = self.used.filter(|used| *used > 0);
        Some(Statement {
            axis: self.axis?,
            scope,
            limit: Some(limit),
            window: self.window,
            basis: Basis::Stated,
            remaining: used.map(|used| limit.saturating_sub(used)),
            reset: used.zip(self.window).map(|(used, window)| Reset::ToFull(portion(window, used, limit))),
        })
    }

    /// The exact wait until what was requested fits: the deficit at the steady rate.
    pub(super) fn wait(&self) -> Option<Duration> {
        let (limit, used, requested) = (self.limit?, self.used?, self.requested?);
        let deficit = used.saturating_add(requested).checked_sub(limit)?;
        (limit > 0).then_some(())?;
        Some(portion(self.window?, deficit, limit))
    }
}

/// `window × part / whole`, at most what any wait is capped at.
fn portion(window: Duration, part: u64, whole: u64) -> Duration {
    span(window.as_secs_f64() * part as f64 / whole as f64).map_or(window, |told| told.wait)
}

/// The wait that a text asks for: `try again in 9m38.016s`, `retry after 26 seconds`, `replenished in 00:05:12`.
pub(super) fn wait(text: &str) -> Option<Duration> {
    const PHRASES: [&str; 6] =
        ["try again in ", "retry in ", "retry after ", "try again after ", "replenished in ", "wait "];
    PHRASES
        .iter()
        .find_map(|phrase| text.match_indices(phrase).find_map(|(at, _)| spoken_span(&text[at + phrase.len()..])))
}

/// A span at the start of a text.
fn spoken_span(text: &str) -> Option<Duration> {
    let mut words = text.split_whitespace().map(|word| word.trim_end_matches(['.', ',', ';', ')', '!', '"']));
    let first = words.next()?;
    let seconds = go_duration(first).or_else(|| clock(first)).or_else(|| {
        let number: f64 = first.parse().ok()?;
        let unit = match words.next() {
            Some("ms" | "millisecond" | "milliseconds") => 1e-3,
            Some("minute" | "minutes" | "min" | "mins") => 60.0,
            Some("hour" | "hours") => 3600.0,
            Some("day" | "days") => 86_400.0,
            _ => 1.0,
        };
        Some(number * unit)
    })?;
    span(seconds).map(|told| told.wait)
}

/// `hh:mm:ss`, in seconds.
fn clock(text: &str) -> Option<f64> {
    let mut parts = text.split(':').map(|part| part.parse::<u32>().ok());
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then(|| f64::from(hours) * 3600.0 + f64::from(minutes) * 60.0 + f64::from(seconds))
}

/// The number behind a word: `limit 200000`, `limit: 10,000`, `limit of 10,000`.
fn amount_after(text: &str, word: &str) -> Option<u64> {
    text.match_indices(word).find_map(|(at, _)| {
        let rest = text[at + word.len()..].trim_start_matches([' ', ':', '=']);
        let rest = rest.strip_prefix("of ").unwrap_or(rest);
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != ',').unwrap_or(rest.len());
        let (digits, after) = rest.split_at(end);
        // `40k` is no number that is known to mean thousands.
        let whole = !after.starts_with(|c: char| c.is_ascii_alphabetic());
        whole.then(|| digits.replace(',', "").parse().ok()).flatten()
    })
}

/// `(tpm)`, `(rpd)`, `(otpm)`: axis and window in one word.
fn abbreviated(text: &str) -> Option<(Option<Unit>, Option<Duration>)> {
    text.split(|c: char| !c.is_ascii_alphabetic()).find_map(|word| {
        let (axis, window) = word.split_once('p').filter(|(_, window)| window.len() == 1)?;
        let axis = match axis {
            "r" => Unit::Requests,
            "t" => Unit::Tokens,
            "it" => Unit::InputTokens,
            "ot" => Unit::OutputTokens,
            _ => return None,
        };
        let seconds = match window {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 24 * 3600,
            _ => return None,
        };
        Some((Some(axis), Some(Duration::from_secs(seconds))))
    })
}

/// `10,000 input tokens per minute`, `requests per day`, `free-models-per-day`.
fn spelled(text: &str) -> (Option<Unit>, Option<Duration>) {
    const WINDOWS: [(&str, u64); 5] =
        [("sec", 1), ("min", 60), ("hour", 3600), ("day", 24 * 3600), ("month", 30 * 24 * 3600)];
    let period = text.match_indices("per").find_map(|(at, _)| {
        let after = text[at + "per".len()..].strip_prefix([' ', '-'])?;
        let (_, seconds) = WINDOWS.iter().find(|(name, _)| after.starts_with(name))?;
        Some((at, Duration::from_secs(*seconds)))
    });
    let Some((at, window)) = period else { return (None, None) };
    let before = text[..at].trim_end_matches([' ', '-']);
    let axis = [
        ("input tokens", Unit::InputTokens),
        ("output tokens", Unit::OutputTokens),
        ("tokens", Unit::Tokens),
        ("requests", Unit::Requests),
        ("free-models", Unit::Requests),
    ];
    let axis = axis.iter().find(|(words, _)| before.ends_with(words)).map(|(_, axis)| *axis);
    (axis, Some(window))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    const OPENAI: &str = "rate limit reached for gpt-4o in organization org-x on tokens per min (tpm): limit 200000, used \
                          199821, requested 2295. please try again in 634ms. visit https://example.com to learn more.";

    #[rstest]
    #[case(OPENAI, 0.6348)]
    #[case("on tokens per day (tpd): limit 100000, used 97050, requested 3619.", 578.016)]
    #[case("on tokens per minute (tpm): limit 6000, used 5034, requested 1443", 4.77)]
    fn the_exact_wait_is_the_deficit_at_the_rate(#[case] text: &str, #[case] seconds: f64) {
        let told = Spoken::read(text);
        let wait = told.wait().expect("a wait").as_secs_f64();
        assert!((wait - seconds).abs() < 1e-6, "{wait}");
        let requested = told.requested.expect("an amount");
        let by_statement = told.statement(Scope::Model).and_then(|said| said.wait_for(requested)).expect("a wait");
        assert!((by_statement.as_secs_f64() - seconds).abs() < 1e-6, "{by_statement:?}");
    }

    #[rstest]
    #[case(OPENAI, Some(0.634))]
    #[case("please try again in 9m38.016s.", Some(578.016))]
    #[case("please retry in 53.016342224s.", Some(53.016_342_224))]
    #[case("please retry after 26 seconds.", Some(26.0))]
    #[case("try again in 30 seconds.", Some(30.0))]
    #[case("try again in 2 minutes", Some(120.0))]
    #[case("quota will be replenished in 00:05:12.", Some(312.0))]
    #[case("please wait a few minutes before you try again.", None)]
    #[case("please try again later.", None)]
    #[case("try again in nan seconds", None)]
    #[case("try again in -5s", Some(0.0))]
    #[case("try again in 1e30 seconds", None)]
    fn a_wait_is_read_out_of_a_sentence(#[case] text: &str, #[case] seconds: Option<f64>) {
        let wait = wait(text).map(|wait| wait.as_secs_f64());
        assert!(
            wait.zip(seconds).map_or(wait.is_none() && seconds.is_none(), |(a, b)| (a - b).abs() < 1e-6),
            "{wait:?}"
        );
    }

    #[rstest]
    #[case("(rpd): limit 200", Some(Unit::Requests), Some(86_400))]
    #[case("on output tokens per minute (otpm): limit 8000", Some(Unit::OutputTokens), Some(60))]
    #[case("your rate limit of 10,000 input tokens per minute", Some(Unit::InputTokens), Some(60))]
    #[case("rate limit exceeded: free-models-per-day.", Some(Unit::Requests), Some(86_400))]
    #[case("your per-minute rate limit", None, Some(60))]
    #[case("the experiment is over", None, None)]
    fn axis_and_window_are_read_out_of_a_sentence(
        #[case] text: &str,
        #[case] axis: Option<Unit>,
        #[case] window: Option<u64>,
    ) {
        let told = Spoken::read(text);
        assert_eq!((told.axis, told.window), (axis, window.map(Duration::from_secs)));
    }

    #[test]
    fn a_request_larger_than_the_limit_is_oversized() {
        assert!(Spoken::read("(tpm): limit 8000, requested 32979").is_oversized());
        assert!(!Spoken::read(OPENAI).is_oversized());
        assert_eq!(Spoken::read("rate limit of 10,000 input tokens").limit, Some(10_000));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(\\PC|limit|used|requested|try again in|wait|per[ -]| tpm |[0-9.:,smh ]){0,60}") {
            let told = Spoken::read(&text);
            let _ = (wait(&text), told.wait(), told.statement(Scope::Key), told.is_oversized());
        }
    }
}
