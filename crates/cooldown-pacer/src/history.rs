//! What has left lately for one key: what a limit that becomes known must account for, and what left after an answered request.

use std::collections::VecDeque;

use crate::cost::{Cost, Unit};

/// How many departures are remembered.
const REMEMBERED: usize = 512;

/// The latest departures, in the order of their permits.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    departures: VecDeque<Departed>,
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

    /// How much of a unit left after the request with this permit; `None` when that is too long ago.
    pub(crate) fn after(&self, nth: u64, unit: Unit) -> Option<u64> {
        if self.departures.front().is_none_or(|oldest| oldest.nth > nth) {
            return None;
        }
        let next = self.departures.partition_point(|departed| departed.nth <= nth);
        Some(self.departures.range(next..).map(|departed| departed.cost.get(unit)).sum())
    }

    /// What has left since `from`, oldest first.
    pub(crate) fn since(&self, from: u64, unit: Unit) -> Vec<(u64, u64)> {
        let recent = self.departures.iter().filter(|departed| departed.at >= from);
        let mut recent: Vec<(u64, u64)> = recent.map(|departed| (departed.at, departed.cost.get(unit))).collect();
        recent.sort_unstable_by_key(|&(at, _)| at);
        recent
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
