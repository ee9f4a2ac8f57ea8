//! What all instances know about a shared limit before they talk.

use std::time::Duration;

use crate::limit::{LARGEST_AMOUNT, Limit};

/// How long an instance may use its share after it sent the renewal that was answered: long enough that an outage of the
/// store is hardly felt, short enough that what a dead instance held is back soon.
pub(super) const LEASE: Duration = Duration::from_secs(3);
/// How much longer the store reckons with it: what clocks of different machines, and one that jumps, may differ by.
const SLACK: u64 = 600;
/// Clocks run this part faster or slower than others, at most.
const DRIFT: u64 = 1000;
/// How long an instance that is silent keeps its floor.
pub(super) const FORGET: Duration = Duration::from_secs(3600);
/// An amount for this many milliseconds is all that an instance holds beyond its use: it is lost when the instance is.
const SPARE: u64 = 10_000;
/// After losing its memory the store waits this much of a window for use that nobody tells.
const LONGEST_RECOVERY: u64 = 5000;
/// A turn is twice a window, so that a large request can save up for it, and twice this.
const TURN: u64 = 1000;

/// A shared limit: so much in every trailing window.
///
/// For a number in flight the window is how long a request may be in flight at the longest: so long after an instance was
/// heard of, the upstream may be busy with what it sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The amount, in units of the limit.
    pub(super) amount: u64,
    /// Milliseconds after which what an instance sent is over, by any clock.
    pub(super) hold: u64,
}

impl Terms {
    /// Terms of a limit; `in_flight` is how long a request may be in flight, and counts for a number in flight alone.
    pub fn new(limit: Limit, in_flight: Duration) -> Self {
        let (amount, window) = match limit {
            Limit::Rate(rate) => (rate.amount(), rate.period()),
            Limit::Concurrency(max) => (u64::from(max.get()).min(LARGEST_AMOUNT), in_flight),
        };
        let window = (window.as_millis() as u64).saturating_add(1);
        Self { amount, hold: window + window / DRIFT }
    }

    /// How much an instance may use that has never reached the store.
    pub(super) fn stranger(&self) -> u64 {
        stranger(self.amount)
    }

    /// How much one of so many instances may use that have all just become acquainted with the limit, and its floor.
    pub(super) fn claim(&self, instances: u64) -> (u64, u64) {
        let part = part(self.amount, instances);
        (part, part.min(floors(self.amount, instances) / instances.max(1)))
    }

    /// Milliseconds that the store reckons with a lease after it gave it.
    pub(super) fn lease(&self) -> u64 {
        lease_before(self.hold)
    }

    /// Milliseconds after a lease's end at which an instance is forgotten, and its floor free.
    pub(super) fn forget(&self) -> u64 {
        let forget = FORGET.as_millis() as u64;
        forget + forget / DRIFT + self.hold
    }

    /// Milliseconds that the store gives nothing when it has lost its memory.
    pub(super) fn recovery(&self) -> u64 {
        let window = self.hold.min(LONGEST_RECOVERY);
        lease_before(window) + window
    }

    /// The most that an instance is given beyond what it asks for.
    pub(super) fn spare(&self) -> u64 {
        if self.hold <= SPARE { self.amount } else { (self.amount * SPARE).div_ceil(self.hold) }
    }

    /// Milliseconds for which one instance is the first that is served.
    pub(super) fn turn(&self) -> u64 {
        2 * (self.hold + TURN)
    }
}

/// Milliseconds that the store reckons with a lease, so that it is over by any clock, and so much time after it as well.
fn lease_before(window: u64) -> u64 {
    let lease = LEASE.as_millis() as u64;
    lease + SLACK + (lease + window) / DRIFT
}

/// Kept for strangers, of a whole limit.
pub(super) fn reserve(amount: u64) -> u64 {
    amount / 50
}

/// What one stranger may use of a whole limit: the reserve is enough for four, or for as many as it has units.
pub(super) fn stranger(amount: u64) -> u64 {
    (amount / 200).max(1).min(reserve(amount))
}

/// An equal part for one of so many instances of what is not kept for strangers.
pub(super) fn part(amount: u64, instances: u64) -> u64 {
    ((amount - reserve(amount)) / instances.max(1)).max(1)
}

/// What all floors may be together: what goes on for ever when the store is gone.
pub(super) fn most_floors(amount: u64) -> u64 {
    amount * 310 / 1000
}

/// The same where there are so many instances. A floor is lost for an hour with the instance that has it: of three, the
/// others shall have more than nine tenths then; of two, the other one cannot.
pub(super) fn floors(amount: u64, instances: u64) -> u64 {
    match instances {
        0..=2 => amount * 290 / 1000,
        3 => amount * 210 / 1000,
        _ => most_floors(amount),
    }
}

/// The same of instances that have nothing to do.
pub(super) fn idle_floors(amount: u64) -> u64 {
    amount / 20
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Rate, Unit};

    #[test]
    fn a_store_that_lost_its_memory_gives_again_within_10_s_whatever_the_window() {
        for seconds in [1, 60, 3600, 31 * 86_400] {
            let rate = Rate::new(Unit::Requests, 1000, Duration::from_secs(seconds)).expect("a rate");
            let terms = Terms::new(rate.into(), Duration::ZERO);
            assert!(terms.recovery() <= 9000, "{} ms for {seconds} s", terms.recovery());
            assert!(terms.recovery() > LEASE.as_millis() as u64 + SLACK + terms.hold.min(LONGEST_RECOVERY));
        }
    }
}
