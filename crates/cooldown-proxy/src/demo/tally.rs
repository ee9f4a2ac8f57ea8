//! What a run of the demo counts, and the figures that come of it.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::crowd::CLIENTS;
use crate::load::Shares;

/// The longest wait that is told from a longer one.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// The greedy client's number.
const GREEDY_CLIENT: usize = 0;

/// Counters of one run.
#[derive(Debug)]
pub(super) struct Tally {
    sent: u64,
    refused: u64,
    failed: u64,
    gave_up: u64,
    shares: Shares,
    modest_waits: Histogram<u64>,
    greedy_waits: Histogram<u64>,
}

/// The figures of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Requests that clients sent, tries included.
    pub sent: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Answers with status 429 that clients saw.
    pub refused: u64,
    /// Other errors that clients saw.
    pub failed: u64,
    /// Calls that clients gave up after their last try.
    pub gave_up: u64,
    /// Requests that the upstream refused for its limit.
    pub breaches: u64,
    /// Used part of what the upstream allowed, 0 to 1.
    pub used: f64,
    /// Jain's index over what the clients were answered after the first period: 1 when all got the same, 1/n when one
    /// got everything.
    pub fairness: f64,
    /// Answers of each client, the greedy one first.
    pub by_client: Vec<u64>,
    /// Median wait of all clients but the greedy one.
    pub wait_p50: Duration,
    /// 99th percentile of the same.
    pub wait_p99: Duration,
    /// 99th percentile of the greedy client's waits.
    pub greedy_wait_p99: Duration,
}

impl Tally {
    pub(super) fn new() -> Self {
        let waits = || {
            Histogram::new_with_max(LONGEST_WAIT.as_micros() as u64, 3).expect("three digits over an hour are allowed")
        };
        Self {
            sent: 0,
            refused: 0,
            failed: 0,
            gave_up: 0,
            shares: Shares::of(CLIENTS),
            modest_waits: waits(),
            greedy_waits: waits(),
        }
    }

    pub(super) fn sent(&mut self) {
        self.sent += 1;
    }

    pub(super) fn refused(&mut self) {
        self.refused += 1;
    }

    pub(super) fn failed(&mut self) {
        self.failed += 1;
    }

    pub(super) fn gave_up(&mut self) {
        self.gave_up += 1;
    }

    pub(super) fn answered(&mut self, client: usize, wait: Duration) {
        self.shares.answered(client);
        let waits = if client == GREEDY_CLIENT { &mut self.greedy_waits } else { &mut self.modest_waits };
        waits.saturating_record(wait.as_micros() as u64);
    }

    /// From now on fairness counts: the first burst goes to whoever asks first.
    pub(super) fn count_fairness_from_here(&mut self) {
        self.shares.count_from_here();
    }

    /// The figures so far, with what only the upstream knows: its breaches, and the used part of its quota.
    pub(super) fn figures(&self, breaches: u64, used: f64) -> Figures {
        let wait = |waits: &Histogram<u64>, quantile| Duration::from_micros(waits.value_at_quantile(quantile));
        Figures {
            sent: self.sent,
            answered: self.shares.total(),
            refused: self.refused,
            failed: self.failed,
            gave_up: self.gave_up,
            breaches,
            used,
            fairness: self.shares.fairness(),
            by_client: self.shares.by_client().to_vec(),
            wait_p50: wait(&self.modest_waits, 0.5),
            wait_p99: wait(&self.modest_waits, 0.99),
            greedy_wait_p99: wait(&self.greedy_waits, 0.99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_burst_does_not_count_for_fairness() {
        let mut tally = Tally::new();
        (0..20).for_each(|_| tally.answered(0, Duration::ZERO));
        tally.count_fairness_from_here();
        (0..CLIENTS).for_each(|client| tally.answered(client, Duration::from_millis(5)));
        let figures = tally.figures(0, 1.0);
        assert!((figures.fairness - 1.0).abs() < 1e-9);
        assert_eq!(figures.answered, 20 + CLIENTS as u64);
        assert!(figures.wait_p50 >= Duration::from_millis(5), "the greedy client's waits are kept apart");
    }
}
