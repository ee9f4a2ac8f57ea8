//! Callers that were refused and ask again: their SDKs say so, and they get their age back.

use std::collections::VecDeque;
use std::time::Duration;

use cooldown_pacer::{Flow, Instant};
use parking_lot::Mutex;

/// More refused requests than this are not remembered; the oldest make room.
const MOST: usize = 1024;
/// Who has not come back after this starts anew.
const REMEMBERED: Duration = Duration::from_secs(600);

/// What tells one request of a caller from its others, when it comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trace {
    pub flow: Flow,
    pub request: u64,
}

/// Requests that were refused or given up, and when they first asked.
#[derive(Debug, Default)]
pub(super) struct Returning(Mutex<VecDeque<(Trace, Instant, Instant)>>);

impl Returning {
    /// A request that first asked at `since` is sent away at `now`.
    pub(super) fn remember(&self, trace: Trace, since: Instant, now: Instant) {
        let mut gone = self.0.lock();
        if gone.len() >= MOST {
            gone.pop_front();
        }
        gone.push_back((trace, since, now));
    }

    /// When a request first asked that asks again. It is forgotten with that.
    pub(super) fn find(&self, trace: Trace, now: Instant) -> Option<Instant> {
        let mut gone = self.0.lock();
        let at = gone.iter().position(|(known, ..)| *known == trace)?;
        let (_, since, left) = gone.remove(at)?;
        (now.since(left) <= REMEMBERED).then_some(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(request: u64) -> Trace {
        Trace { flow: Flow(1), request }
    }

    fn at(seconds: u64) -> Instant {
        Instant::START.after(Duration::from_secs(seconds))
    }

    #[test]
    fn a_caller_gets_its_age_back_once() {
        let returning = Returning::default();
        returning.remember(trace(1), at(1), at(5));
        assert_eq!(returning.find(trace(2), at(6)), None);
        assert_eq!(returning.find(trace(1), at(6)), Some(at(1)));
        assert_eq!(returning.find(trace(1), at(6)), None);
        returning.remember(trace(1), at(1), at(5));
        assert_eq!(returning.find(trace(1), at(1000)), None, "that was too long ago");
    }

    #[test]
    fn only_so_many_are_remembered() {
        let returning = Returning::default();
        (0..2 * MOST as u64).for_each(|nth| returning.remember(trace(nth), at(0), at(0)));
        assert_eq!(returning.find(trace(0), at(1)), None);
        assert_eq!(returning.find(trace(2 * MOST as u64 - 1), at(1)), Some(at(0)));
    }
}
