//! How many may be under way without an answer while it is not known what an upstream bears.

use std::collections::VecDeque;

/// From here on it does not matter any more.
const ENOUGH: u64 = 64;

/// A number of requests that may be under way unanswered. Every answer makes it one more: twice as many with each round
/// trip.
#[derive(Debug, Clone)]
pub(crate) struct Ramp {
    allowed: u64,
    /// Who has waited this long for its answer counts as answered: refusals come fast, answers of models do not.
    patience: u64,
    /// Permits by number, and when they were granted.
    unanswered: VecDeque<(u64, u64)>,
    /// When room was last made.
    changed: u64,
}

impl Ramp {
    pub(crate) fn new(now: u64, allowed: u64, patience: u64) -> Self {
        Self { allowed, patience, unanswered: VecDeque::new(), changed: now }
    }

    /// When `wanted` more may leave, if the first of them leaves at `now`.
    pub(crate) fn earliest(&self, now: u64, wanted: u64) -> u64 {
        let missing = (self.unanswered.len() as u64 + wanted).saturating_sub(self.allowed);
        // Each that has waited long enough makes room twice: its place, and one more.
        let Some(last) = missing.div_ceil(2).checked_sub(1) else { return self.changed };
        let granted = self.unanswered.get(last as usize).map_or(now, |&(_, granted)| granted);
        granted.saturating_add(self.patience)
    }

    pub(crate) fn take(&mut self, now: u64, nth: u64) {
        self.expire(now);
        self.unanswered.push_back((nth, now));
    }

    /// The upstream took a request.
    pub(crate) fn accepted(&mut self, now: u64, nth: u64) {
        if self.leave(now, nth) {
            self.allowed += 1;
        }
    }

    /// A request is over without saying anything about the upstream.
    pub(crate) fn leave(&mut self, now: u64, nth: u64) -> bool {
        let Ok(index) = self.unanswered.binary_search_by_key(&nth, |&(nth, _)| nth) else { return false };
        self.unanswered.remove(index);
        self.changed = now;
        true
    }

    pub(crate) fn expire(&mut self, now: u64) {
        while let Some(&(_, granted)) = self.unanswered.front()
            && granted.saturating_add(self.patience) <= now
        {
            self.unanswered.pop_front();
            self.allowed += 1;
        }
    }

    /// Whether it no longer holds anybody up.
    pub(crate) fn is_over(&self) -> bool {
        self.allowed >= ENOUGH
    }

    /// The most that passes before it is over.
    pub(crate) fn longest(&self) -> u64 {
        self.patience.saturating_mul(u64::from(ENOUGH.ilog2()) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: u64 = 1000;

    #[test]
    fn every_answer_lets_two_more_go() {
        let mut ramp = Ramp::new(0, 1, PATIENCE);
        assert_eq!(ramp.earliest(0, 1), 0);
        ramp.take(0, 1);
        assert_eq!(ramp.earliest(5, 1), PATIENCE, "the answer is awaited");
        ramp.accepted(10, 1);
        assert_eq!(ramp.earliest(10, 2), 10);
        ramp.take(10, 2);
        ramp.take(10, 3);
        assert_eq!(ramp.earliest(10, 1), 10 + PATIENCE);
    }

    #[test]
    fn a_place_that_was_given_back_is_free_but_lets_nobody_else_go() {
        let mut ramp = Ramp::new(0, 1, PATIENCE);
        ramp.take(0, 1);
        assert!(ramp.leave(7, 1));
        assert_eq!(ramp.earliest(7, 1), 7);
        assert!(ramp.earliest(7, 2) > 7);
        assert!(!ramp.leave(8, 1), "only once");
    }

    #[test]
    fn a_slow_answer_counts_as_one() {
        let mut ramp = Ramp::new(0, 1, PATIENCE);
        ramp.take(0, 1);
        ramp.take(PATIENCE, 2);
        assert!(ramp.earliest(PATIENCE, 1) <= PATIENCE, "two may be under way, and one of them is");
        ramp.take(PATIENCE, 3);
        assert_eq!(ramp.earliest(PATIENCE, 1), 2 * PATIENCE);
    }
}
