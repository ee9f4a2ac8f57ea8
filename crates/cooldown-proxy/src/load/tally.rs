//! What a run counts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use http::StatusCode;

use super::shares::Shares;
use super::wire::Answer;

/// The longest wait that is told from a longer one.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Counters of one run.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) statuses: BTreeMap<u16, u64>,
    pub(super) failures: BTreeMap<String, u64>,
    pub(super) shares: Shares,
    /// From the instant at which a request was due to the last byte of its answer.
    pub(super) waits: Histogram<u64>,
    /// The same to the first byte.
    pub(super) first_bytes: Histogram<u64>,
    /// In the proxy's line.
    pub(super) in_line: Histogram<u64>,
    pub(super) tokens: Option<u64>,
    /// What was there when shares began to count.
    tokens_before: u64,
    /// When the requests under way were due, and how many for each instant.
    under_way: BTreeMap<Instant, u64>,
}

impl Tally {
    pub(super) fn new(clients: usize) -> Self {
        Self {
            sent: 0,
            statuses: BTreeMap::new(),
            failures: BTreeMap::new(),
            shares: Shares::of(clients),
            waits: waits(),
            first_bytes: waits(),
            in_line: waits(),
            tokens: None,
            tokens_before: 0,
            under_way: BTreeMap::new(),
        }
    }

    pub(super) fn sent(&mut self, due: Instant) {
        self.sent += 1;
        *self.under_way.entry(due).or_default() += 1;
    }

    pub(super) fn answered(&mut self, client: usize, due: Instant, answer: &Answer) {
        self.over(due);
        *self.statuses.entry(answer.status.as_u16()).or_default() += 1;
        if answer.status.is_client_error() || answer.status.is_server_error() {
            return;
        }
        self.shares.answered(client);
        record(&mut self.waits, due.elapsed());
        record(&mut self.first_bytes, answer.first_byte.saturating_duration_since(due));
        if let Some(in_line) = answer.in_line {
            record(&mut self.in_line, in_line);
        }
        if let Some(tokens) = answer.tokens {
            *self.tokens.get_or_insert(0) += tokens;
        }
    }

    pub(super) fn failed(&mut self, due: Instant, why: &str) {
        self.over(due);
        *self.failures.entry(why.to_owned()).or_default() += 1;
    }

    /// From now on shares count.
    pub(super) fn mark(&mut self) {
        self.shares.count_from_here();
        self.tokens_before = self.tokens.unwrap_or(0);
    }

    /// Tokens since shares count.
    pub(super) fn counted_tokens(&self) -> u64 {
        self.tokens.unwrap_or(0) - self.tokens_before
    }

    /// How many answers had status 429.
    pub(super) fn refused(&self) -> u64 {
        self.statuses.get(&StatusCode::TOO_MANY_REQUESTS.as_u16()).copied().unwrap_or(0)
    }

    /// How many requests have no answer yet, and for how long the oldest of them has been due.
    pub(super) fn unanswered(&self) -> (u64, Duration) {
        let oldest = self.under_way.first_key_value().map_or(Duration::ZERO, |(due, _)| due.elapsed());
        (self.under_way.values().sum(), oldest)
    }

    fn over(&mut self, due: Instant) {
        if let Some(count) = self.under_way.get_mut(&due) {
            *count -= 1;
            if *count == 0 {
                self.under_way.remove(&due);
            }
        }
    }
}

fn waits() -> Histogram<u64> {
    Histogram::new_with_max(LONGEST_WAIT.as_micros() as u64, 3).expect("three digits over a day are allowed")
}

fn record(waits: &mut Histogram<u64>, wait: Duration) {
    waits.saturating_record(wait.as_micros() as u64);
}
