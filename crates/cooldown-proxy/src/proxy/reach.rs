//! Upstreams that could not be reached: left alone for a while by those who have another way.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use cooldown_pacer::Instant;

/// For how long, as nginx does it (`fail_timeout`).
const LEFT_ALONE: Duration = Duration::from_secs(10);

/// Whether an upstream could be reached lately. Says nothing to those who have no other way: they try.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Until when it is left alone, in the pacing clock's nanoseconds; 0 if it was reached.
    lost_until: AtomicU64,
}

impl Reach {
    /// It could not be reached.
    pub(super) fn lost(&self, now: Instant) {
        self.lost_until.store(now.after(LEFT_ALONE).as_nanos(), Relaxed);
    }

    /// It answered.
    pub(super) fn found(&self) {
        if self.lost_until.load(Relaxed) != 0 {
            self.lost_until.store(0, Relaxed);
        }
    }

    /// Whether it is left alone. When its time is over, the first who asks may try; all others still leave it alone.
    pub(super) fn is_lost(&self, now: Instant) -> bool {
        let until = self.lost_until.load(Relaxed);
        if until == 0 || until > now.as_nanos() {
            return until != 0;
        }
        let again = now.after(LEFT_ALONE).as_nanos();
        self.lost_until.compare_exchange(until, again, Relaxed, Relaxed).is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_that_was_lost_is_tried_by_one_at_a_time_until_it_is_found() {
        let (reach, start) = (Reach::default(), Instant::START.after(Duration::from_secs(1)));
        assert!(!reach.is_lost(start));
        reach.lost(start);
        assert!(reach.is_lost(start.after(LEFT_ALONE / 2)));
        let end = start.after(LEFT_ALONE);
        assert_eq!([reach.is_lost(end), reach.is_lost(end)], [false, true], "one tries");
        reach.found();
        assert!(!reach.is_lost(end));
    }
}
