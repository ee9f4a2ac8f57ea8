//! The rate that an upstream bears although it says nothing about it: found by trying, one cut per round trip. See ADR 0009.

use std::time::Duration;

use crate::cost::Unit;
use crate::limit::{LARGEST_AMOUNT, Rate};
use crate::pace::Pace;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
/// A cut goes down to this part of what is aimed at.
const CUT: f64 = 0.9;
/// And is back at it after this.
const RETURN: f64 = 10.0 * SECOND as f64;
/// What is aimed at lies between what was accepted on average, which errs on the low side, and the rate at which the
/// upstream refused, which errs on the high side: this part of the way up.
const HOPE: f64 = 0.25;
/// What lies beyond is tried this much slower.
const CAUTION: f64 = 1.5;
/// As many may leave at once after a pause.
const BURST: u64 = 2;
/// Never slower than one request in this time.
const SLOWEST: f64 = 1.0 / (10.0 * MINUTE as f64);
/// Never faster than this many a second.
const FASTEST: f64 = 1e6 / SECOND as f64;
/// Without traffic for this long, it is forgotten.
const IDLE: u64 = 10 * MINUTE;
/// A rate this many times as high as any that was ever refused, for so long without a refusal: there is no limit.
const BEYOND: f64 = 4.0;
const CALM: u64 = 5 * MINUTE;
/// What is accepted is counted for at least this long before it is trusted to be a rate.
const LEAST_CYCLE: u64 = SECOND;

/// A rate of requests that is being found.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    /// What has been aimed at since the last cut, per nanosecond.
    aim: f64,
    /// The largest of these.
    highest: f64,
    /// How long the rate has held requests up since the last cut: it grows with use only.
    used_for: f64,
    /// When the request left that was refused at the last cut, and how many had been taken by then, and have been by now.
    cut_at: u64,
    taken_then: u64,
    taken: u64,
    taken_at: u64,
    pace: Pace,
}

impl Search {
    /// Starts from the rate a second at which requests were taken before one that left at `at` was refused. `taken` had
    /// been taken before it.
    pub(crate) fn new(now: u64, at: u64, rate: f64, taken: u64, waiting: u32) -> Self {
        let aim = (rate / SECOND as f64).clamp(1.0 / SECOND as f64, FASTEST);
        let mut pace = Pace::smooth(aim * CUT, BURST, now);
        pace.take(now, BURST);
        pace.line_up(now, 1, waiting);
        Self { aim, highest: aim, used_for: 0.0, cut_at: at, taken_then: taken, taken, taken_at: now, pace }
    }

    /// Requests a nanosecond.
    fn rate(&self, now: u64) -> f64 {
        let passed = self.used_for / RETURN - 1.0;
        let passed = if passed > 0.0 { passed / CAUTION } else { passed };
        let rate = self.aim * (1.0 + (1.0 - CUT) * passed * passed * passed);
        rate.min(2.0 * self.aim.max(self.accepted_rate(now))).clamp(SLOWEST, FASTEST)
    }

    /// What was taken since the last cut, per nanosecond, closed time included.
    fn accepted_rate(&self, now: u64) -> f64 {
        let cycle = now.saturating_sub(self.cut_at);
        let taken = self.taken.saturating_sub(self.taken_then);
        if cycle < LEAST_CYCLE { 0.0 } else { taken as f64 / cycle as f64 }
    }

    /// The upstream refused a request that left at `at`, before which `taken` had been taken: too much was tried.
    pub(crate) fn cut(&mut self, now: u64, at: u64, taken: u64) {
        let rate = self.rate(now);
        self.taken = taken;
        let accepted = self.accepted_rate(at);
        // A cut so soon after the last one says only that this is still too much.
        let accepted = if accepted > 0.0 { accepted.min(rate) } else { rate * CUT };
        self.aim = (accepted + (rate - accepted) * HOPE).clamp(SLOWEST, FASTEST);
        self.highest = self.highest.max(self.aim);
        (self.used_for, self.cut_at, self.taken_then) = (0.0, at, taken);
        self.pace.set_rate(now, self.rate(now));
    }

    pub(crate) fn earliest(&self) -> u64 {
        self.pace.earliest(1)
    }

    pub(crate) fn earliest_after(&self, now: u64) -> u64 {
        self.pace.earliest_after(now, 1, 1)
    }

    /// When a request leaves behind so many others.
    pub(crate) fn departure(&self, now: u64, before: f64) -> u64 {
        let missing = before + 1.0 - self.pace.level(now);
        now.saturating_add(self.pace.span(missing.max(0.0)) as u64)
    }

    /// A request leaves at `now`, which it could have done at `due`; the key was closed until `opened`, and `taken` that
    /// left before are not known to have been refused.
    pub(crate) fn take(&mut self, now: u64, due: u64, opened: u64, taken: u64) {
        self.taken = taken;
        if self.pace.level(now) < BURST as f64 {
            let longest = self.pace.span(BURST as f64).max(SECOND as f64);
            let since = self.taken_at.max(opened);
            self.used_for += (now.saturating_sub(since) as f64).min(longest);
        }
        self.taken_at = now;
        self.pace.set_rate(due, self.rate(now));
        self.pace.take(due, 1);
    }

    pub(crate) fn give_back(&mut self, now: u64) {
        self.pace.change(now, 1, 0);
    }

    pub(crate) fn line_up(&mut self, now: u64) {
        self.pace.line_up(now, 1, 1);
    }

    pub(crate) fn leave_line(&mut self, now: u64) {
        self.pace.leave_line(now, 1);
    }

    /// The time between two requests.
    pub(crate) fn spacing(&self) -> u64 {
        self.pace.span(1.0) as u64
    }

    /// How many may leave at once.
    pub(crate) fn left(&self, now: u64) -> i64 {
        self.pace.level(now).floor() as i64
    }

    /// Whether nothing is left to be found, or nobody asks any more.
    pub(crate) fn is_over(&self, now: u64) -> bool {
        let is_beyond = self.rate(now) >= BEYOND * self.highest && now.saturating_sub(self.cut_at) >= CALM;
        is_beyond || now.saturating_sub(self.taken_at) >= IDLE
    }

    /// The rate in whole requests a minute, or an hour where it is slow.
    pub(crate) fn found(&self, now: u64) -> Option<Rate> {
        let rate = self.rate(now);
        let period = if rate * MINUTE as f64 >= 1.0 { MINUTE } else { 60 * MINUTE };
        let amount = ((rate * period as f64).round() as u64).clamp(1, LARGEST_AMOUNT);
        let rate = Rate::new(Unit::Requests, amount, Duration::from_nanos(period)).ok()?;
        rate.with_burst(BURST.min(amount)).ok()
    }
}
