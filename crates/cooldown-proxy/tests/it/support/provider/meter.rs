//! The running state of one limit: what was taken from it, and when what is asked for fits. Exact to the microsecond.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use cooldown_proxy::demo::strict::Counting;

/// Times are microseconds since the provider's start. Amounts are requests or tokens.
#[derive(Debug)]
pub(super) struct Meter {
    amount: u64,
    period: u64,
    taken: Taken,
}

#[derive(Debug)]
enum Taken {
    /// What was taken in the last two periods, in order of arrival.
    Log(VecDeque<(u64, u64)>),
    /// When the first request came, and what was taken in the latest window and in the one before it.
    Windows { first: u64, latest: u64, count: u64, before: u64 },
    /// The level, where one unit weighs as much as the period has microseconds: so it stays a whole number.
    Level { level: u128, size: u64, at: u64 },
}

impl Meter {
    /// One from which nothing was taken, `now`.
    pub(super) fn new(amount: NonZeroU32, period: Duration, counting: Counting, now: u64) -> Self {
        let (amount, period) = (u64::from(amount.get()), (period.as_micros() as u64).max(1));
        let taken = match counting {
            Counting::SlidingWindow => Taken::Log(VecDeque::new()),
            Counting::FixedWindow => Taken::Windows { first: now, latest: 0, count: 0, before: 0 },
            Counting::TokenBucket(size) => {
                let size = u64::from(size.get());
                Taken::Level { level: u128::from(size) * u128::from(period), size, at: now }
            }
        };
        Self { amount, period, taken }
    }

    /// The most that can ever be taken at once.
    pub(super) fn whole(&self) -> u64 {
        if let Taken::Level { size, .. } = self.taken { size } else { self.amount }
    }

    /// How long after `now` this cost fits, if nothing else is taken; zero when it fits. A cost above the whole is taken
    /// for the whole.
    pub(super) fn wait(&mut self, now: u64, cost: u64) -> u64 {
        self.advance(now);
        let cost = cost.min(self.whole());
        let (amount, period) = (self.amount, self.period);
        match &self.taken {
            Taken::Log(log) => wait_in_log(log, now, cost, amount, period),
            Taken::Windows { first, latest, count, before } => {
                let passed = now.saturating_sub(*first);
                let used = if passed / period < *latest { before } else { count };
                if used + cost <= amount { 0 } else { period - passed % period }
            }
            Taken::Level { level, .. } => {
                let missing = (u128::from(cost) * u128::from(period)).saturating_sub(*level);
                missing.div_ceil(u128::from(amount)) as u64
            }
        }
    }

    /// Takes what fits, or more.
    pub(super) fn take(&mut self, now: u64, cost: u64) {
        self.advance(now);
        let period = self.period;
        match &mut self.taken {
            Taken::Log(log) => {
                let place = log.partition_point(|(at, _)| *at <= now);
                log.insert(place, (now, cost));
            }
            Taken::Windows { first, latest, count, before } => {
                let window = now.saturating_sub(*first) / period;
                *(if window < *latest { before } else { count }) += cost;
            }
            Taken::Level { level, .. } => *level = level.saturating_sub(u128::from(cost) * u128::from(period)),
        }
    }

    /// Returns a part of what was taken at `taken_at`, into the same window that it came from.
    pub(super) fn give_back(&mut self, taken_at: u64, now: u64, unused: u64) {
        self.advance(now);
        let period = self.period;
        match &mut self.taken {
            Taken::Log(log) => {
                if let Some((_, cost)) = log.iter_mut().find(|(at, cost)| *at == taken_at && *cost >= unused) {
                    *cost -= unused;
                }
            }
            Taken::Windows { first, latest, count, .. } => {
                if taken_at.saturating_sub(*first) / period == *latest {
                    *count = count.saturating_sub(unused);
                }
            }
            Taken::Level { level, size, .. } => {
                let full = u128::from(*size) * u128::from(period);
                *level = (*level + u128::from(unused) * u128::from(period)).min(full);
            }
        }
    }

    /// What could be taken at once.
    pub(super) fn remaining(&mut self, now: u64) -> u64 {
        self.advance(now);
        match &self.taken {
            Taken::Log(log) => self.amount.saturating_sub(trailing(log, now, self.period)),
            Taken::Windows { count, .. } => self.amount.saturating_sub(*count),
            Taken::Level { level, .. } => (*level / u128::from(self.period)) as u64,
        }
    }

    /// How long until everything has returned, in microseconds: for a fixed window, its end.
    pub(super) fn full_in(&mut self, now: u64) -> u64 {
        self.advance(now);
        match &self.taken {
            Taken::Log(log) => log.back().map_or(0, |(at, _)| (at + self.period).saturating_sub(now)),
            Taken::Windows { first, .. } => self.period - now.saturating_sub(*first) % self.period,
            Taken::Level { level, size, .. } => {
                let missing = (u128::from(*size) * u128::from(self.period)).saturating_sub(*level);
                missing.div_ceil(u128::from(self.amount)) as u64
            }
        }
    }

    /// Forgets what no longer counts. Arrivals that are told late, after later ones, still count in their own window.
    fn advance(&mut self, now: u64) {
        let (amount, period) = (self.amount, self.period);
        match &mut self.taken {
            Taken::Log(log) => {
                while log.front().is_some_and(|(at, _)| now.saturating_sub(*at) >= 2 * period) {
                    log.pop_front();
                }
            }
            Taken::Windows { first, latest, count, before } => {
                let window = now.saturating_sub(*first) / period;
                if window > *latest {
                    *before = if window == *latest + 1 { *count } else { 0 };
                    (*latest, *count) = (window, 0);
                }
            }
            Taken::Level { level, size, at } => {
                let refilled = u128::from(now.saturating_sub(*at)) * u128::from(amount);
                *level = (*level + refilled).min(u128::from(*size) * u128::from(period));
                *at = now.max(*at);
            }
        }
    }
}

/// In every trailing window that holds `now` there must be room.
fn wait_in_log(log: &VecDeque<(u64, u64)>, now: u64, cost: u64, amount: u64, period: u64) -> u64 {
    let later = log.iter().map(|(at, _)| *at).filter(|at| (now..now + period).contains(at));
    if std::iter::once(now).chain(later).all(|end| trailing(log, end, period) + cost <= amount) {
        return 0;
    }
    let mut used: u64 = log.iter().filter(|(at, _)| at + period > now).map(|(_, cost)| cost).sum();
    for (at, returned) in log.iter().filter(|(at, _)| at + period > now) {
        used -= returned;
        if used + cost <= amount {
            return at + period - now;
        }
    }
    period
}

/// What was taken in the period up to `end`.
fn trailing(log: &VecDeque<(u64, u64)>, end: u64, period: u64) -> u64 {
    log.iter().filter(|(at, _)| *at <= end && at + period > end).map(|(_, cost)| cost).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn meter(amount: u32, counting: Counting) -> Meter {
        Meter::new(NonZeroU32::new(amount).expect("not zero"), Duration::from_secs(1), counting, 0)
    }

    fn bucket(size: u32) -> Counting {
        Counting::TokenBucket(NonZeroU32::new(size).expect("not zero"))
    }

    #[test]
    fn a_sliding_window_returns_each_cost_after_exactly_one_period() {
        let mut meter = meter(100, Counting::SlidingWindow);
        meter.take(0, 60);
        meter.take(SECOND / 2, 40);
        assert_eq!((meter.remaining(SECOND / 2), meter.full_in(SECOND / 2)), (0, SECOND));
        assert_eq!(meter.wait(SECOND / 2, 60), SECOND / 2);
        assert_eq!(meter.wait(SECOND / 2, 61), SECOND, "the second cost must have gone too");
        assert_eq!((meter.wait(SECOND - 1, 1), meter.wait(SECOND, 60)), (1, 0));
    }

    #[test]
    fn a_sliding_window_counts_late_news_where_it_belongs() {
        let mut meter = meter(2, Counting::SlidingWindow);
        meter.take(SECOND, 1);
        assert_eq!(meter.wait(SECOND / 2, 1), 0, "told late, but there was room");
        meter.take(SECOND / 2, 1);
        assert!(meter.wait(SECOND * 3 / 4, 1) > 0, "it would be the third within a second");
        assert_eq!(meter.wait(SECOND * 3 / 2, 1), 0);
    }

    #[test]
    fn a_fixed_window_starts_with_the_first_request_and_keeps_its_phase() {
        let mut meter = meter(10, Counting::FixedWindow);
        meter.take(SECOND - 1, 10);
        assert_eq!(meter.wait(SECOND - 1, 1), 1);
        assert_eq!(meter.wait(SECOND, 10), 0, "the next window is whole");
        meter.take(SECOND, 10);
        assert_eq!((meter.wait(SECOND * 3 / 2, 1), meter.full_in(SECOND * 3 / 2)), (SECOND / 2, SECOND / 2));
    }

    #[test]
    fn a_bucket_holds_its_size_and_refills_evenly() {
        let mut meter = meter(10, bucket(3));
        meter.take(0, 3);
        assert_eq!((meter.wait(0, 3), meter.full_in(0)), (300_000, 300_000));
        assert_eq!((meter.wait(40_000, 1), meter.full_in(40_000)), (60_000, 260_000));
        assert_eq!(meter.remaining(SECOND * 60), 3, "it never holds more than its size");
    }

    #[test]
    fn what_is_given_back_returns_to_the_window_that_it_came_from() {
        for counting in [Counting::SlidingWindow, Counting::FixedWindow, bucket(10)] {
            let mut meter = meter(10, counting);
            meter.take(0, 10);
            meter.give_back(0, 1, 4);
            assert_eq!(meter.remaining(1), 4, "{counting:?}");
            meter.take(SECOND * 5, 10);
            meter.give_back(0, SECOND * 5, 6);
            let expected = if matches!(counting, Counting::TokenBucket(_)) { 6 } else { 0 };
            assert_eq!(meter.remaining(SECOND * 5), expected, "{counting:?}");
        }
    }

    #[test]
    fn a_cost_above_the_whole_waits_for_the_whole() {
        let mut meter = meter(10, Counting::SlidingWindow);
        assert_eq!(meter.wait(0, 50), 0);
        meter.take(0, 1);
        assert_eq!(meter.wait(0, 50), SECOND);
    }
}
