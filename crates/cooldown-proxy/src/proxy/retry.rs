//! What is tried again, how often, and after which pause.

use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::time::Duration;

use http::StatusCode;

use crate::config::model::{Retry, RetryOn};

/// The pause before the first further attempt; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// What a further attempt takes from the budget, and what a request brings: one in five may be tried again.
const PRICE: i32 = 5;
/// The budget of an upstream that is seldom asked, in prices: ten attempts.
const MOST: i32 = 10 * PRICE;

/// `retry`, ready to be asked.
#[derive(Debug)]
pub(super) struct RetryRules {
    pub attempts: u32,
    pub hold_stream: Duration,
    statuses: Vec<u16>,
    connect: bool,
}

/// Keeps further attempts at an upstream that is in trouble in proportion to the requests that it gets. Refusals by a
/// limit need none: the line keeps those in proportion.
#[derive(Debug)]
pub(super) struct RetryBudget(AtomicI32);

impl RetryRules {
    /// The rules as configured.
    pub(super) fn new(retry: &Retry) -> Self {
        let status = |on: &RetryOn| if let RetryOn::Status(status) = on { Some(*status) } else { None };
        Self {
            attempts: retry.attempts,
            hold_stream: retry.hold_stream,
            statuses: retry.on.iter().filter_map(status).collect(),
            connect: retry.on.contains(&RetryOn::Connect),
        }
    }

    /// Whether a response with this status may be tried again.
    pub(super) fn includes(&self, status: StatusCode) -> bool {
        self.statuses.contains(&status.as_u16())
    }

    /// Whether a refusal by a limit may be: 429, and what else means the same.
    pub(super) fn includes_limits(&self, status: StatusCode) -> bool {
        self.includes(status) || self.includes(StatusCode::TOO_MANY_REQUESTS)
    }

    /// Whether a connection that could not be made may be.
    pub(super) fn includes_connect(&self) -> bool {
        self.connect
    }
}

impl RetryBudget {
    /// A request arrived.
    pub(super) fn earn(&self) {
        if self.0.load(Relaxed) < MOST {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// Takes what one further attempt costs, if that is there.
    pub(super) fn spend(&self) -> bool {
        let spend = |left: i32| left.checked_sub(PRICE).filter(|left| *left >= 0);
        self.0.fetch_update(Relaxed, Relaxed, spend).is_ok()
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self(AtomicI32::new(MOST))
    }
}

/// The pause before attempt number `attempt` (the second is 2): doubled each time, and shortened by up to half by `random`
/// so that those who failed together do not try together.
pub(super) fn pause(attempt: u32, random: u64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << attempt.saturating_sub(2).min(16)).min(LONGEST_PAUSE);
    doubled.mul_f64(1.0 - (random % 512) as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_in_trouble_gets_a_fifth_more_at_most() {
        let budget = RetryBudget::default();
        while budget.spend() {}
        let mut again = 0;
        for _ in 0..100 {
            budget.earn();
            again += u32::from(budget.spend());
        }
        assert_eq!(again, 20);
    }

    #[test]
    fn pauses_double_and_are_spread() {
        assert_eq!(pause(2, 0), Duration::from_millis(50));
        assert_eq!(pause(4, 0), Duration::from_millis(200));
        assert!(pause(4, 511) > Duration::from_millis(100));
        assert_eq!(pause(100, 0), LONGEST_PAUSE);
    }
}
