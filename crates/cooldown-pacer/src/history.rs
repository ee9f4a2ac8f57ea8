//! What has left lately for one key: what a limit that becomes known must account for, and what left after an answered request.

use std::collections::VecDeque;

use crate::cost::{Cost, Unit};

/// How many departures are remembered.
const REMEMBERED: usize = 512;
const SECOND: u64 = 1_000_000_000;

/// The latest departures, in the order of their permits.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    departures: VecDeque<Departed>,
    /// How many have left, remembered or not.
    count: u64,
}

#[derive(Debug, Clone, Copy)]
struct Departed {
    /// The number of its permit.
    nth: u64,
    /// The instant that windows hold it under.
    at: u64,
    cost: Cost,
}

impl History {
    pub(crate) fn record(&mut self, now: u64, nth: u64, cost: &Cost) {
        if self.departures.len() == REMEMBERED {
            self.departures.pop_front();
        }
        self.count += 1;
        self.departures.push_back(Departed { nth, at: now, cost: *cost });
    }

    /// A request was really written at `now`.
    pub(crate) fn restamp(&mut self, nth: u64, now: u64) {
        if let Some(departed) = self.find(nth) {
            departed.at = now;
        }
    }

    /// A request cost something else than it was expected to.
    pub(crate) fn settle(&mut self, nth: u64, actual: Cost) {
        if let Some(departed) = self.find(nth) {
            departed.cost = actual;
        }
    }

    /// When and how much of a unit left after the request with this permit; `None` when that is too long ago.
    pub(crate) fn after(&self, nth: u64, unit: Unit) -> Option<impl Iterator<Item = (u64, u64)> + '_> {
        if self.departures.front().is_none_or(|oldest| oldest.nth > nth) {
            return None;
        }
        let next = self.departures.partition_point(|departed| departed.nth <= nth);
        Some(self.departures.range(next..).map(move |departed| (departed.at, departed.cost.get(unit))))
    }

    /// When and how much of a unit left after that instant; `None` when not all of it is remembered.
    pub(crate) fn later_than(&self, instant: u64, unit: Unit) -> Option<Vec<(u64, u64)>> {
        (self.begins() <= instant).then(|| self.since(instant + 1, unit))
    }

    /// The permit of the latest that had left by then; zero if none is remembered.
    pub(crate) fn last_by(&self, instant: u64) -> u64 {
        let by_then = self.departures.iter().rev().find(|departed| departed.at <= instant);
        by_then.map_or(0, |departed| departed.nth)
    }

    /// How many have ever left.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// How many had ever left before the request with this permit did.
    pub(crate) fn count_before(&self, nth: u64) -> u64 {
        let before = self.departures.partition_point(|departed| departed.nth < nth);
        self.count - (self.departures.len() - before) as u64
    }

    /// How many a second left, and did not return, in the last second before a request that left at `at`.
    pub(crate) fn rate_before(&self, nth: u64, at: u64) -> f64 {
        let from = at.saturating_sub(SECOND);
        let recent = self.departures.iter().filter(|departed| departed.nth < nth && departed.at >= from);
        let count = recent.filter(|departed| departed.cost != Cost::NOTHING).count() as f64;
        // Where not even a second is remembered, it is a part of one.
        let oldest = self.departures.front().filter(|_| self.departures.len() == REMEMBERED);
        let span = oldest.map_or(SECOND, |oldest| at.saturating_sub(oldest.at).clamp(SECOND / 100, SECOND));
        count * SECOND as f64 / span as f64
    }

    /// What has left since `from`, oldest first.
    pub(crate) fn since(&self, from: u64, unit: Unit) -> Vec<(u64, u64)> {
        let recent = self.departures.iter().filter(|departed| departed.at >= from);
        let mut recent: Vec<(u64, u64)> = recent.map(|departed| (departed.at, departed.cost.get(unit))).collect();
        recent.sort_unstable_by_key(|&(at, _)| at);
        recent
    }

    /// What left with permits up to this one, in no certain order.
    pub(crate) fn up_to(&self, nth: u64, unit: Unit) -> impl Iterator<Item = (u64, u64)> + '_ {
        let known = self.departures.partition_point(|departed| departed.nth <= nth);
        self.departures.range(..known).map(move |departed| (departed.at, departed.cost.get(unit)))
    }

    /// What left before this is not remembered here; zero if everything is.
    pub(crate) fn begins(&self) -> u64 {
        let forgets = self.count > self.departures.len() as u64;
        self.departures.front().filter(|_| forgets).map_or(0, |oldest| oldest.at)
    }

    /// When the latest one left.
    pub(crate) fn latest(&self) -> Option<u64> {
        self.departures.back().map(|departed| departed.at)
    }

    fn find(&mut self, nth: u64) -> Option<&mut Departed> {
        let index = self.departures.binary_search_by_key(&nth, |departed| departed.nth).ok()?;
        self.departures.get_mut(index)
    }
}
