//! What an upstream said is left of a limit, brought forward: what left since is gone, what comes back is there again.

use std::time::Duration;

use crate::observation::Refill;
use crate::time::nanos;

const SECOND: u64 = 1_000_000_000;
/// What comes back at an unknown time is not waited for any longer than this at once.
const LONGEST_BLIND_WAIT: u64 = SECOND;
/// And is not believed for longer than this.
const LONGEST_BLIND_BELIEF: u64 = 60 * SECOND;
/// A remainder that an upstream says is full again in no time comes back as fast as this.
const FASTEST: u64 = 1_000_000;

/// A remainder.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    /// What was left at `at`; negative where more left than was there.
    level: f64,
    at: u64,
    returns: Returns,
    expires: u64,
}

/// How it comes back, per nanosecond where it does so steadily.
#[derive(Debug, Clone, Copy)]
enum Returns {
    Steadily { rate: f64, cap: f64 },
    AtOnce(u64),
    Unknown,
}

/// What a response said, checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remainder {
    pub(crate) left: u64,
    pub(crate) amount: Option<u64>,
    pub(crate) period: Option<u64>,
    pub(crate) refill: Option<Refill>,
    /// Time against jitter on the way to the upstream.
    pub(crate) guard: u64,
}

impl Reading {
    /// A response that was heard at `now` to a request that left at `at`; `after` it others left.
    ///
    /// Times that it tells count from `at`: the upstream told them when the request came, and who leaves as long after
    /// that one comes as long after it.
    pub(crate) fn new(now: u64, at: u64, after: impl Iterator<Item = (u64, u64)>, told: &Remainder) -> Self {
        let returns = told.returns(at);
        let mut reading = Self { level: told.left as f64, at, returns, expires: told.expires(now, returns) };
        after.for_each(|(at, share)| reading.take(at.max(reading.at), share));
        reading
    }

    /// What is believed of a newer one: less at once, more by a quarter of the difference.
    pub(crate) fn follow(&mut self, now: u64, newer: Self) {
        let (believed, told) = (self.level_at(now), newer.level_at(now));
        let level = if told > believed { believed + (told - believed) / 4.0 } else { told };
        *self = Self { level, at: now, ..newer };
    }

    /// Nothing is left, whatever was said.
    pub(crate) fn empty(&mut self, now: u64) {
        self.level = self.level_at(now).min(0.0);
        self.at = now;
    }

    /// How it would be told at `now`: what is left, and when there is more.
    pub(crate) fn tell(&self, now: u64) -> (u64, Option<Refill>) {
        let refill = match self.returns {
            Returns::Steadily { rate, cap } => {
                Some(Refill::Steadily(Duration::from_nanos(time((cap - self.level_at(now)).max(0.0), rate))))
            }
            Returns::AtOnce(instant) => Some(Refill::AtOnce(Duration::from_nanos(instant.saturating_sub(now)))),
            Returns::Unknown => None,
        };
        (self.level_at(now).max(0.0) as u64, refill)
    }

    pub(crate) fn is_over(&self, now: u64) -> bool {
        now >= self.expires
    }

    /// What is left at `now`.
    pub(crate) fn level_at(&self, now: u64) -> f64 {
        match self.returns {
            Returns::Steadily { rate, cap } => (self.level + now.saturating_sub(self.at) as f64 * rate).min(cap),
            _ => self.level,
        }
    }

    /// When `share` may leave, after `taken` has left at `now`. Zero = at once.
    pub(crate) fn earliest(&self, now: u64, share: u64, taken: u64) -> u64 {
        let missing = self.need(share) + taken as f64 - self.level;
        if share == 0 || missing <= 0.0 {
            return 0;
        }
        let earliest = match self.returns {
            Returns::Steadily { rate, .. } if taken == 0 => self.at.saturating_add(time(missing, rate)),
            Returns::Steadily { rate, .. } => {
                let missing = self.need(share) + taken as f64 - self.level_at(now);
                now.saturating_add(time(missing.max(0.0), rate))
            }
            Returns::AtOnce(instant) => instant,
            Returns::Unknown => self.at.saturating_add(LONGEST_BLIND_WAIT),
        };
        earliest.min(self.expires)
    }

    /// When `own` will leave, after `before` has left from `now` on.
    pub(crate) fn departure(&self, now: u64, before: u64, own: u64) -> u64 {
        let missing = before as f64 + self.need(own) - self.level_at(now);
        if own == 0 || missing <= 0.0 || self.is_over(now) {
            return now;
        }
        let departure = match self.returns {
            Returns::Steadily { rate, .. } => now.saturating_add(time(missing, rate)),
            Returns::AtOnce(instant) => instant,
            Returns::Unknown => now.saturating_add(LONGEST_BLIND_WAIT.saturating_mul(before + 1)),
        };
        departure.min(self.expires).max(now)
    }

    pub(crate) fn take(&mut self, now: u64, share: u64) {
        self.level = (self.level_at(now) - share as f64).max(self.floor());
        self.at = now;
    }

    /// A request that it had not accounted for cost `actual` instead of `share`.
    pub(crate) fn settle(&mut self, share: u64, actual: u64) {
        let level = self.level + share as f64 - actual as f64;
        self.level = level.max(self.floor());
    }

    /// An oversized request leaves when all is there.
    fn need(&self, share: u64) -> f64 {
        match self.returns {
            Returns::Steadily { cap, .. } => cap.min(share as f64),
            _ => share as f64,
        }
    }

    /// No debt is larger than the limit.
    fn floor(&self) -> f64 {
        match self.returns {
            Returns::Steadily { cap, .. } => -cap,
            _ => 0.0,
        }
    }
}

impl Remainder {
    fn returns(&self, at: u64) -> Returns {
        let all_at = |after: u64| Returns::AtOnce(at.saturating_add(after).saturating_add(self.guard));
        match (self.refill, self.amount, self.period) {
            (Some(Refill::AtOnce(after)), ..) => all_at(nanos(after)),
            (Some(Refill::Steadily(after)), Some(amount), period) => {
                let missing = amount.saturating_sub(self.left).max(1) as f64;
                // Coarse resets make a rate that is too low; the period knows better.
                let stated = period.map_or(0.0, |period| amount as f64 / period as f64);
                Returns::Steadily { rate: (missing / nanos(after).max(FASTEST) as f64).max(stated), cap: amount as f64 }
            }
            (Some(Refill::Steadily(after)), None, _) => all_at(nanos(after)),
            (None, Some(amount), Some(period)) => {
                Returns::Steadily { rate: amount as f64 / period as f64, cap: amount as f64 }
            }
            (None, None, Some(period)) => all_at(period),
            (None, _, None) => Returns::Unknown,
        }
    }

    fn expires(&self, now: u64, returns: Returns) -> u64 {
        let after = match (returns, self.period, self.refill) {
            (Returns::AtOnce(instant), ..) => return instant,
            (Returns::Unknown, ..) => LONGEST_BLIND_BELIEF,
            (_, Some(period), _) => period.saturating_mul(2),
            (_, None, Some(Refill::Steadily(after) | Refill::AtOnce(after))) => {
                nanos(after).saturating_mul(2).max(SECOND)
            }
            (_, None, None) => LONGEST_BLIND_BELIEF,
        };
        now.saturating_add(after)
    }
}

fn time(missing: f64, rate: f64) -> u64 {
    (missing / rate).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steadily(left: u64) -> Remainder {
        let refill = Some(Refill::Steadily(Duration::from_secs(1)));
        Remainder { left, amount: Some(20), period: None, refill, guard: 0 }
    }

    #[test]
    fn what_left_since_is_gone_and_what_came_back_since_is_there() {
        let reading = Reading::new(SECOND / 2, 0, [(SECOND / 2, 3)].into_iter(), &steadily(0));
        assert_eq!(reading.level_at(SECOND / 2), 10.0 - 3.0);
        assert_eq!(reading.earliest(SECOND / 2, 7, 0), 0);
        assert_eq!(reading.earliest(SECOND / 2, 8, 0), SECOND / 2 + SECOND / 20);
        assert_eq!(reading.earliest(SECOND / 2, 7, 1), SECOND / 2 + SECOND / 20);
    }

    #[test]
    fn less_is_believed_at_once_and_more_by_a_quarter() {
        let mut reading = Reading::new(0, 0, std::iter::empty(), &steadily(8));
        reading.follow(0, Reading::new(0, 0, std::iter::empty(), &steadily(4)));
        assert_eq!(reading.level_at(0), 4.0);
        reading.follow(0, Reading::new(0, 0, std::iter::empty(), &steadily(12)));
        assert_eq!(reading.level_at(0), 6.0);
    }

    #[test]
    fn what_is_said_to_be_gone_without_saying_until_when_blocks_nobody_for_long() {
        let mut reading = Reading::new(
            0,
            0,
            std::iter::empty(),
            &Remainder { left: 0, amount: None, period: None, refill: None, guard: 0 },
        );
        assert_eq!(reading.earliest(0, 1, 0), LONGEST_BLIND_WAIT);
        reading.take(LONGEST_BLIND_WAIT, 1);
        assert_eq!(reading.earliest(LONGEST_BLIND_WAIT, 1, 0), 2 * LONGEST_BLIND_WAIT, "one at a time");
        assert!(reading.is_over(LONGEST_BLIND_BELIEF));
    }

    #[test]
    fn nothing_is_waited_for_beyond_the_instant_at_which_all_of_it_returns() {
        let told = Remainder {
            left: 2,
            refill: Some(Refill::AtOnce(Duration::from_secs(7))),
            amount: None,
            period: None,
            guard: 0,
        };
        let reading = Reading::new(0, 0, [(0, 1)].into_iter(), &told);
        assert_eq!(reading.earliest(0, 1, 0), 0);
        assert_eq!(reading.earliest(0, 2, 0), 7 * SECOND);
        assert!(reading.is_over(7 * SECOND));
    }
}
