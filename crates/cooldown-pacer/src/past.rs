//! What a ledger says of the time before: entries as they were written, and when what they speak of left at the latest.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::{Instant, nanos};

/// One entry of a ledger, about one unit of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Noted {
    /// For how long what left matters, and for how long what is written ahead is good.
    pub keep: Duration,
    /// Nothing that was written before counts any more.
    pub afresh: bool,
    /// So much more may leave than was written before.
    pub more: u64,
    /// How much of all that had not left yet at that moment.
    pub left: u64,
    /// So much of what had left came back.
    pub less: u64,
    /// How long before the entry the first of that had left.
    pub ago: Duration,
}

/// What left in an earlier process by one key, in one unit: never less than what did, and none of it earlier.
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// Instants and amounts, oldest first.
    left: VecDeque<(u64, u64)>,
    /// What may have left since the last entry.
    open: u64,
    since: u64,
    keep: u64,
}

impl Past {
    /// Reads an entry that was written at `at`. Entries are read in the order in which they were written.
    pub fn note(&mut self, at: Instant, noted: &Noted) {
        let at = at.as_nanos().max(self.since);
        if noted.afresh {
            (self.left, self.open) = (VecDeque::new(), 0);
        }
        let closes = self.since.saturating_add(self.keep);
        if closes < at {
            self.push(closes, self.open);
            self.open = 0;
        }
        let used = self.open.saturating_add(noted.more).saturating_sub(noted.left);
        self.take_back(at.saturating_sub(nanos(noted.ago)), noted.less, at, used);
        (self.open, self.since, self.keep) = (noted.left, at, nanos(noted.keep).max(self.keep));
        self.forget(at);
    }

    /// What left, oldest first; what may still have left since the last entry has done so at the last instant possible.
    pub(crate) fn departures(&self, now: u64) -> Vec<(u64, u64)> {
        let open = (now.min(self.since.saturating_add(self.keep)), self.open);
        let all = self.left.iter().copied().chain([open]);
        all.filter(|&(at, amount)| amount > 0 && at.saturating_add(self.keep) > now).collect()
    }

    /// How much still matters at `now`.
    pub fn used(&self, now: Instant) -> u64 {
        self.departures(now.as_nanos()).iter().fold(0, |sum, (_, amount)| sum.saturating_add(*amount))
    }

    fn push(&mut self, at: u64, amount: u64) {
        if amount > 0 {
            self.left.push_back((at, amount));
        }
    }

    /// Takes `less` back from what left at `from` or later, the oldest first: what stays is no older than what did; and
    /// lets `used` leave at `at`.
    fn take_back(&mut self, from: u64, mut less: u64, at: u64, used: u64) {
        for (_, amount) in self.left.iter_mut().filter(|(at, _)| *at >= from) {
            let back = less.min(*amount);
            (*amount, less) = (*amount - back, less - back);
        }
        self.left.retain(|(_, amount)| *amount > 0);
        self.push(at, used.saturating_sub(less));
    }

    fn forget(&mut self, now: u64) {
        while self.left.front().is_some_and(|(at, _)| at.saturating_add(self.keep) <= now) {
            self.left.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn note(past: &mut Past, at: u64, noted: Noted) {
        past.note(Instant::from_nanos(at * SECOND), &Noted { keep: Duration::from_secs(60), ..noted });
    }

    #[test]
    fn what_was_written_ahead_counts_as_used_at_the_last_instant_possible() {
        let mut past = Past::default();
        note(&mut past, 10, Noted { more: 5, left: 4, ..Noted::default() });
        assert_eq!(past.departures(20 * SECOND), [(10 * SECOND, 1), (20 * SECOND, 4)]);
        note(&mut past, 30, Noted { more: 5, left: 4, ..Noted::default() });
        assert_eq!(past.departures(40 * SECOND), [(10 * SECOND, 1), (30 * SECOND, 5), (40 * SECOND, 4)]);
        assert_eq!(past.departures(95 * SECOND), [(90 * SECOND, 4)], "a portion is good for as long as it matters");
    }

    #[test]
    fn amounts_that_no_limit_has_are_as_much_as_can_be_counted() {
        let mut past = Past::default();
        note(&mut past, 1, Noted { more: u64::MAX, ..Noted::default() });
        note(&mut past, 2, Noted { more: u64::MAX, less: u64::MAX, ..Noted::default() });
        note(&mut past, 3, Noted { more: u64::MAX, left: u64::MAX, ..Noted::default() });
        assert_eq!(past.used(Instant::from_nanos(4 * SECOND)), u64::MAX);
    }

    #[test]
    fn what_came_back_is_taken_from_what_left_no_earlier() {
        let mut past = Past::default();
        note(&mut past, 1, Noted { more: 3, ..Noted::default() });
        note(&mut past, 5, Noted { more: 3, ..Noted::default() });
        note(&mut past, 9, Noted { less: 2, ago: Duration::from_secs(5), ..Noted::default() });
        assert_eq!(past.departures(10 * SECOND), [(SECOND, 3), (5 * SECOND, 1)]);
        note(&mut past, 11, Noted { more: 7, afresh: true, ..Noted::default() });
        assert_eq!(past.departures(12 * SECOND), [(11 * SECOND, 7)]);
    }
}
