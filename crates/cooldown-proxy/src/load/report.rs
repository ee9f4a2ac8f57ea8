//! What is told of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use cooldown_pacer::{Limit, Unit};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::tally::Tally;
use super::{Load, Pace, Seconds};

/// The figures of one run. Its JSON is what `load --json` prints: names stay, new ones may come.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Method, host and path.
    pub target: String,
    /// `open` or `closed`.
    pub pace: &'static str,
    /// How many clients there were.
    pub clients: usize,
    /// How long it took.
    pub seconds: f64,
    /// Requests that were sent.
    pub sent: u64,
    /// Requests that were answered with a status below 400.
    pub answered: u64,
    /// The same per second.
    pub answered_per_second: f64,
    /// Answers with status 429.
    pub refused: u64,
    /// Answers with another status from 400 on.
    pub errors: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, by what went wrong.
    pub failures: BTreeMap<String, u64>,
    /// Requests that had no answer yet at the end.
    pub unanswered: u64,
    /// For how long the oldest of those had been due, in seconds.
    pub oldest_unanswered_seconds: f64,
    /// The limit that was stated.
    pub limit: Option<String>,
    /// The used part of it, from the end of its first period on: 1 is all.
    pub used: Option<f64>,
    /// Jain's index over what the clients were answered: 1 when all got the same.
    pub fairness: f64,
    /// Answers of each client.
    pub by_client: Vec<u64>,
    /// From the instant at which a request was due to the last byte of its answer.
    pub waits: Percentiles,
    /// The same to the first byte of the body.
    pub first_byte: Percentiles,
    /// In the proxy's line, as it says; `None` when nobody said it.
    pub in_line: Option<Percentiles>,
    /// Tokens that the answers took, as they say; `None` when none said it.
    pub tokens: Option<u64>,
}

/// How long things took, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half took at most this.
    pub p50: f64,
    /// Nine of ten.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// All.
    pub max: f64,
}

impl Report {
    pub(super) fn new(load: &Load, tally: &Tally, took: Duration) -> Self {
        let answered = tally.shares.total();
        let errors: u64 = tally.statuses.range(400..).map(|(_, count)| count).sum();
        let (unanswered, oldest) = tally.unanswered();
        Self {
            target: load.call.target(),
            pace: if matches!(load.pace, Pace::Open { .. }) { "open" } else { "closed" },
            clients: load.clients,
            seconds: took.as_secs_f64(),
            sent: tally.sent,
            answered,
            answered_per_second: answered as f64 / took.as_secs_f64().max(1e-9),
            refused: tally.refused(),
            errors: errors - tally.refused(),
            statuses: tally.statuses.clone(),
            failures: tally.failures.clone(),
            unanswered,
            oldest_unanswered_seconds: oldest.as_secs_f64(),
            limit: load.limit.as_ref().map(|(text, _)| text.clone()),
            used: used(load, tally, took),
            fairness: tally.shares.fairness(),
            by_client: tally.shares.by_client().to_vec(),
            waits: Percentiles::of(&tally.waits),
            first_byte: Percentiles::of(&tally.first_bytes),
            in_line: (!tally.in_line.is_empty()).then(|| Percentiles::of(&tally.in_line)),
            tokens: tally.tokens,
        }
    }

    /// How many answers there were, whatever they said.
    pub fn answers(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// As JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("texts and numbers are JSON")
    }
}

/// The used part of the stated limit. Its first period does not count where there are at least two: a burst belongs to it.
fn used(load: &Load, tally: &Tally, took: Duration) -> Option<f64> {
    let Limit::Rate(rate) = load.limit.as_ref()?.1 else { return None };
    let taken = match rate.unit() {
        Unit::Requests => tally.shares.counted(),
        Unit::Tokens => tally.tokens.map(|_| tally.counted_tokens())?,
        Unit::InputTokens | Unit::OutputTokens => return None,
    };
    let periods = took.saturating_sub(load.warm_up()).as_secs_f64() / rate.period().as_secs_f64();
    Some(taken as f64 / (rate.amount() as f64 * periods.max(1.0)))
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) }
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p90, p99, max] =
            [self.p50, self.p90, self.p99, self.max].map(|millis| Seconds(Duration::from_secs_f64(millis / 1e3)));
        write!(f, "{p50:>10}{p90:>10}{p99:>10}{max:>10}")
    }
}

/// For people: the three promises first.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {:.1} s, {} loop, clients: {}", self.target, self.seconds, self.pace, self.clients)?;
        writeln!(f)?;
        writeln!(f, "  {:<38}{:>12}", "429s seen by clients", self.refused)?;
        if let Some(limit) = &self.limit {
            let used = self.used.map_or_else(|| "not told".to_owned(), |used| format!("{:.1} %", used * 100.0));
            writeln!(f, "  {:<38}{used:>12}", format!("share of {limit} that was used"))?;
        }
        writeln!(f, "  {:<38}{:>12.3}", "fairness between clients (Jain index)", self.fairness)?;
        writeln!(f)?;
        writeln!(f, "  {:<38}{:>12}", "requests sent", self.sent)?;
        writeln!(f, "  {:<38}{:>12}{:>10.1} a second", "answered", self.answered, self.answered_per_second)?;
        for (status, count) in self.statuses.range(400..) {
            writeln!(f, "  {:<38}{count:>12}", format!("status {status}"))?;
        }
        for (why, count) in &self.failures {
            writeln!(f, "  {why:<38}{count:>12}")?;
        }
        if self.unanswered > 0 {
            let oldest = Seconds(Duration::from_secs_f64(self.oldest_unanswered_seconds)).to_string();
            writeln!(f, "  {:<38}{:>12}{oldest:>10} at most", "not answered yet", self.unanswered)?;
        }
        if let Some(tokens) = self.tokens {
            writeln!(f, "  {:<38}{tokens:>12}", "tokens")?;
        }
        writeln!(f)?;
        writeln!(f, "  {:<24}{:>10}{:>10}{:>10}{:>10}", "", "p50", "p90", "p99", "longest")?;
        writeln!(f, "  {:<24}{}", "to the last byte", self.waits)?;
        writeln!(f, "  {:<24}{}", "to the first byte", self.first_byte)?;
        if let Some(in_line) = &self.in_line {
            writeln!(f, "  {:<24}{in_line}", "in the proxy's line")?;
        }
        if self.pace == "open" {
            writeln!(f, "  counted from the instant at which each request was due")?;
        }
        Ok(())
    }
}
