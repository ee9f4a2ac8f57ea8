//! What a crowd came to.

use std::time::Duration;

use cooldown_proxy::load::jain;
use hdrhistogram::Histogram;
use http::StatusCode;
use serde_json::{Value, json};

use crate::crowd::CLIENTS;

/// The longest wait that is told from a longer one.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Counters of one run, as the clients see it.
#[derive(Debug)]
pub(crate) struct Tally {
    sent: u64,
    refused: u64,
    failed: u64,
    /// What the first failure was.
    failure: Option<String>,
    gave_up: u64,
    answered: u64,
    /// What each client was given, in what is limited: requests or tokens.
    given: [u64; CLIENTS],
    /// What each client had been given when fairness began to count.
    head_start: [u64; CLIENTS],
    /// Times to the answer, of all but the greedy client.
    waits: Histogram<u64>,
    /// By how much the wait that was told missed the real one: times, and shares of the real one.
    misses: Vec<(Duration, f64)>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        let waits = Histogram::new_with_max(LONGEST_WAIT.as_micros() as u64, 3);
        Self {
            sent: 0,
            refused: 0,
            failed: 0,
            failure: None,
            gave_up: 0,
            answered: 0,
            given: [0; CLIENTS],
            head_start: [0; CLIENTS],
            waits: waits.expect("three digits over an hour are allowed"),
            misses: Vec::new(),
        }
    }

    pub(crate) fn sent(&mut self) {
        self.sent += 1;
    }

    /// An answer that is none. A 429 is told apart from other errors.
    pub(crate) fn refused(&mut self, status: StatusCode) {
        if status == StatusCode::TOO_MANY_REQUESTS {
            self.refused += 1;
        } else {
            self.failed(&format!("status {status}"));
        }
    }

    pub(crate) fn failed(&mut self, how: &str) {
        self.failed += 1;
        self.failure.get_or_insert_with(|| how.to_owned());
    }

    pub(crate) fn gave_up(&mut self) {
        self.gave_up += 1;
    }

    pub(crate) fn answered(&mut self, client: usize, after: Duration, cost: u64) {
        self.answered += 1;
        self.given[client] += cost;
        if client != 0 {
            self.waits.saturating_record(after.as_micros() as u64);
        }
    }

    /// A client that was told to come back after `told` was answered after `taken`.
    pub(crate) fn predicted(&mut self, told: Duration, taken: Duration) {
        let miss = told.abs_diff(taken);
        self.misses.push((miss, miss.as_secs_f64() / taken.as_secs_f64().max(f64::EPSILON)));
    }

    /// From now on fairness counts: the first burst goes to whoever asks first.
    pub(crate) fn count_fairness_from_here(&mut self) {
        self.head_start = self.given;
    }

    /// The figures so far.
    pub(crate) fn figures(&self) -> Value {
        let shares: Vec<u64> = self.given.iter().zip(self.head_start).map(|(all, before)| all - before).collect();
        let wait_ms = |quantile| self.waits.value_at_quantile(quantile) as f64 / 1000.0;
        let mut by_time: Vec<f64> = self.misses.iter().map(|(miss, _)| miss.as_secs_f64() * 1000.0).collect();
        let mut by_share: Vec<f64> = self.misses.iter().map(|(_, share)| share * 100.0).collect();
        by_time.sort_by(f64::total_cmp);
        by_share.sort_by(f64::total_cmp);
        json!({
            "sent": self.sent,
            "answered": self.answered,
            "refused": self.refused,
            "failed": self.failed,
            "failure": self.failure,
            "gave_up": self.gave_up,
            "jain": jain(&shares),
            "wait_p50_ms": wait_ms(0.5),
            "wait_p99_ms": wait_ms(0.99),
            "predictions": self.misses.len(),
            "miss_p50_ms": quantile(&by_time, 0.5),
            "miss_p95_ms": quantile(&by_time, 0.95),
            "miss_p50_percent": quantile(&by_share, 0.5),
        })
    }
}

/// Of sorted values; none of none.
pub(crate) fn quantile(sorted: &[f64], quantile: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[(quantile * last as f64).round() as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_burst_does_not_count_for_fairness() {
        let mut tally = Tally::new();
        (0..20).for_each(|_| tally.answered(0, Duration::ZERO, 1));
        tally.count_fairness_from_here();
        (0..CLIENTS).for_each(|client| tally.answered(client, Duration::from_millis(5), 1));
        let figures = tally.figures();
        assert_eq!((&figures["jain"], &figures["answered"]), (&json!(1.0), &json!(20 + CLIENTS)));
    }

    #[test]
    fn a_prediction_misses_by_what_it_is_off_either_way() {
        let mut tally = Tally::new();
        assert!(tally.figures()["miss_p50_ms"].is_null(), "none was told");
        tally.predicted(Duration::from_millis(90), Duration::from_millis(100));
        tally.predicted(Duration::from_millis(110), Duration::from_millis(100));
        let figures = tally.figures();
        assert_eq!(figures["miss_p50_ms"], json!(10.0));
        assert_eq!(figures["miss_p50_percent"], json!(10.0));
    }
}
