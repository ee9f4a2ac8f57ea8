//! Bursts after idling, even departures under load: the leaky bucket behind R2.

use std::collections::BTreeMap;

/// Credit that a limit has for leaving at once. See ADR 0002.
///
/// With nobody waiting, credit grows up to the burst. With a line, it grows only as far as the largest waiting request
/// costs, so that departures stay evenly spread and a pause is not followed by a herd, while a request that had to wait
/// for its window need not wait again for its credit.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    /// Units a nanosecond.
    rate: f64,
    amount: f64,
    burst: f64,
    /// Credit at [`at`](Pace::at); negative while a large or underestimated request is repaid.
    level: f64,
    at: u64,
    /// What those who wait cost, and how many of them cost that. Empty with nobody waiting.
    line: BTreeMap<u64, u32>,
}

impl Pace {
    /// A full one.
    pub(crate) fn new(amount: u64, period: u64, burst: u64, now: u64) -> Self {
        let (amount, burst) = (amount as f64, burst as f64);
        Self { rate: amount / period as f64, amount, burst, level: burst, at: now, line: BTreeMap::new() }
    }

    /// Credit that comes at so many units a nanosecond, whatever the period.
    pub(crate) fn smooth(rate: f64, burst: u64, now: u64) -> Self {
        let burst = burst as f64;
        Self { rate, amount: f64::INFINITY, burst, level: burst, at: now, line: BTreeMap::new() }
    }

    /// The same credit, that comes at another rate from now on.
    pub(crate) fn set_rate(&mut self, now: u64, rate: f64) {
        self.advance(now);
        self.rate = rate;
    }

    /// Debt from before is not repaid.
    pub(crate) fn forgive(&mut self, now: u64) {
        self.advance(now);
        self.level = self.level.max(0.0);
    }

    /// The same credit under another limit.
    pub(crate) fn retune(&mut self, now: u64, amount: u64, period: u64, burst: u64) {
        self.advance(now);
        self.amount = amount as f64;
        self.rate = self.amount / period as f64;
        self.burst = burst as f64;
        self.level = self.level.min(self.burst);
    }

    /// The same credit under a part of the limit. What was saved for a large request that waits stays saved.
    pub(crate) fn allow(&mut self, now: u64, amount: u64, period: u64, burst: u64) {
        self.advance(now);
        self.amount = amount as f64;
        self.rate = self.amount / period as f64;
        self.burst = burst as f64;
        self.level = self.level.min(self.burst.max(self.cap_of_growth()));
    }

    /// Credit as if `used` had left of a full one.
    pub(crate) fn start_over(&mut self, now: u64, used: u64) {
        self.advance(now);
        self.level = self.level.max(self.burst - used as f64);
    }

    /// No more credit than a full one has left when `used` has left of it; what is beyond is for the window to hold.
    pub(crate) fn owe(&mut self, now: u64, used: u64) {
        self.advance(now);
        self.level = self.level.min((self.burst - used as f64).max(0.0));
    }

    /// Nobody waits for it any more.
    pub(crate) fn forget_line(&mut self, now: u64) {
        self.advance(now);
        self.line.clear();
    }

    /// Nanoseconds that `cost` occupies at the limit's own rate.
    pub(crate) fn span(&self, cost: f64) -> f64 {
        cost / self.rate
    }

    /// Credit for `cost` is never more than the burst: a larger request goes on a full bucket and repays afterwards.
    fn need(&self, cost: u64) -> f64 {
        (cost as f64).min(self.burst)
    }

    /// So many start to wait for `cost` each. Credit that is due is not cut off by it: a timer may be late.
    pub(crate) fn line_up(&mut self, now: u64, cost: u64, count: u32) {
        if count == 0 {
            return;
        }
        if self.largest().is_none_or(|largest| cost > largest) {
            self.advance(now);
        }
        *self.line.entry(cost).or_default() += count;
    }

    /// Somebody who waited for `cost` has left the line.
    pub(crate) fn leave_line(&mut self, now: u64, cost: u64) {
        let Some(largest) = self.largest() else { return };
        // After a reload that brought this limit, the line is known by its average only.
        let counted = if self.line.contains_key(&cost) { cost } else { largest };
        let Some(count) = self.line.get_mut(&counted) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        if counted == largest {
            self.advance(now);
        }
        self.line.remove(&counted);
        if counted == largest {
            self.level = self.level.min(self.cap_of_growth().max(self.burst));
        }
    }

    /// What the largest request that waits costs.
    pub(crate) fn largest(&self) -> Option<u64> {
        self.line.keys().next_back().copied()
    }

    /// How far credit grows.
    fn cap_of_growth(&self) -> f64 {
        self.largest().map_or(self.burst, |largest| (largest as f64).min(self.amount))
    }

    fn cap(&self) -> f64 {
        self.cap_of_growth().max(self.level)
    }

    fn advance(&mut self, now: u64) {
        if now > self.at {
            self.level = (self.level + (now - self.at) as f64 * self.rate).min(self.cap());
            self.at = now;
        }
    }

    /// The credit at `now`.
    pub(crate) fn level(&self, now: u64) -> f64 {
        (self.level + now.saturating_sub(self.at) as f64 * self.rate).min(self.cap())
    }

    /// When there is credit for `cost`. Never before the last change.
    pub(crate) fn earliest(&self, cost: u64) -> u64 {
        self.at.saturating_add(self.time_for(self.need(cost) - self.level))
    }

    /// When there is credit for `cost` if `taken` leaves at `now`.
    pub(crate) fn earliest_after(&self, now: u64, cost: u64, taken: u64) -> u64 {
        let missing = self.need(cost) - self.left_after(self.level(now), taken);
        if missing <= 0.0 { self.earliest(cost) } else { now.saturating_add(self.time_for(missing)) }
    }

    /// What a departure leaves of the credit. Credit beyond the burst that grew while a larger request waits is for
    /// that one, and for nobody else.
    fn left_after(&self, level: f64, cost: u64) -> f64 {
        let is_for_another = self.largest().is_some_and(|largest| largest > cost);
        let cost = cost as f64;
        if is_for_another { level.min(self.burst.max(cost)) - cost } else { level - cost }
    }

    fn time_for(&self, missing: f64) -> u64 {
        (missing.max(0.0) / self.rate).ceil() as u64
    }

    /// Takes credit at the instant at which it was there, which a late timer may call later: lateness does not add up.
    pub(crate) fn take(&mut self, at: u64, cost: u64) {
        self.advance(at);
        self.level = self.left_after(self.level, cost);
    }

    /// The actual cost was another one than the estimate. What returns to a line returns whole: it was taken from it.
    pub(crate) fn change(&mut self, now: u64, from: u64, to: u64) {
        self.advance(now);
        let changed = self.level + from as f64 - to as f64;
        self.level = if to < from && self.line.is_empty() { changed.min(self.cap()) } else { changed };
    }

    /// Whether the credit is all there.
    pub(crate) fn is_full(&self, now: u64) -> bool {
        self.level(now) >= self.burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_leaves_at_once_and_the_rest_evenly() {
        let mut pace = Pace::new(10, SECOND, 3, 0);
        for _ in 0..3 {
            assert_eq!(pace.earliest(1), 0);
            pace.take(0, 1);
        }
        pace.line_up(0, 1, 1);
        for nth in 1..=20 {
            let due = nth * SECOND / 10;
            assert_eq!(pace.earliest(1), due);
            pace.take(due, 1);
        }
    }

    #[test]
    fn credit_does_not_grow_while_somebody_waits() {
        let mut pace = Pace::new(10, SECOND, 10, 0);
        pace.take(0, 10);
        pace.line_up(0, 1, 1);
        pace.take(5 * SECOND, 1);
        assert_eq!(pace.earliest(1), 5 * SECOND + SECOND / 10, "the pause left no credit for a herd");
        pace.leave_line(5 * SECOND, 1);
        assert_eq!(pace.level(7 * SECOND), 10.0, "with nobody waiting it grows again");
    }

    #[test]
    fn lateness_does_not_add_up() {
        let mut pace = Pace::new(10, SECOND, 1, 0);
        pace.take(0, 1);
        pace.line_up(0, 1, 1);
        let due = pace.earliest(1);
        pace.take(due, 1);
        assert_eq!(pace.earliest(1), due + SECOND / 10, "counted from when it could go, not from when it went");
    }

    #[test]
    fn a_request_above_the_burst_goes_on_full_credit_and_repays() {
        let mut pace = Pace::new(1000, SECOND, 100, 0);
        assert_eq!(pace.earliest(500), 0);
        pace.take(0, 500);
        assert_eq!(pace.earliest(100), SECOND / 2);
    }
}
