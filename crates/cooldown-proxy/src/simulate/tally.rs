//! What became of one group of clients.

use std::time::Duration;

use cooldown_pacer::Why;
use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest wait that is told from a longer one.
const LONGEST_WAIT: Duration = Duration::from_secs(366 * 24 * 3600);

/// Counters of one group.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    asked: u64,
    answered: u64,
    gave_up: u64,
    refused_full: u64,
    refused_late: u64,
    unfinished: u64,
    waits: Histogram<u64>,
    ended: Duration,
}

/// The figures of one group, or of all together. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Requests that were made.
    pub requests: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that were refused as often as their client asks.
    pub gave_up: u64,
    /// Refusals because the line was full.
    pub refused_full: u64,
    /// Refusals because the wait would have been too long.
    pub refused_late: u64,
    /// Requests that were not over within a year.
    pub unfinished: u64,
    /// Half of those that left waited at most this long, refusals in between included.
    pub wait_p50: f64,
    /// Nine of ten.
    pub wait_p90: f64,
    /// 99 of 100.
    pub wait_p99: f64,
    /// All.
    pub wait_max: f64,
    /// When the last one was answered, from the start of the simulation.
    pub finished: f64,
}

impl Tally {
    pub(super) fn new() -> Self {
        let waits =
            Histogram::new_with_max(LONGEST_WAIT.as_micros() as u64, 3).expect("three digits over a year are allowed");
        Self {
            asked: 0,
            answered: 0,
            gave_up: 0,
            refused_full: 0,
            refused_late: 0,
            unfinished: 0,
            waits,
            ended: Duration::ZERO,
        }
    }

    pub(super) fn asked(&mut self) {
        self.asked += 1;
    }

    pub(super) fn left(&mut self, wait: Duration) {
        self.waits.saturating_record(wait.as_micros() as u64);
    }

    pub(super) fn refused(&mut self, why: Why) {
        match why {
            Why::LineFull => self.refused_full += 1,
            Why::WaitTooLong => self.refused_late += 1,
        }
    }

    pub(super) fn gave_up(&mut self) {
        self.gave_up += 1;
    }

    pub(super) fn over(&mut self, now: Duration) {
        self.answered += 1;
        self.ended = now;
    }

    pub(super) fn unfinished(&mut self) {
        self.unfinished += 1;
    }

    /// Adds what became of another group.
    pub(super) fn add(&mut self, other: &Self) {
        self.asked += other.asked;
        self.answered += other.answered;
        self.gave_up += other.gave_up;
        self.refused_full += other.refused_full;
        self.refused_late += other.refused_late;
        self.unfinished += other.unfinished;
        self.waits += &other.waits;
        self.ended = self.ended.max(other.ended);
    }

    pub(super) fn figures(&self) -> Figures {
        let wait = |quantile| self.waits.value_at_quantile(quantile) as f64 / 1e6;
        Figures {
            requests: self.asked,
            answered: self.answered,
            gave_up: self.gave_up,
            refused_full: self.refused_full,
            refused_late: self.refused_late,
            unfinished: self.unfinished,
            wait_p50: wait(0.5),
            wait_p90: wait(0.9),
            wait_p99: wait(0.99),
            wait_max: wait(1.0),
            finished: self.ended.as_secs_f64(),
        }
    }
}
