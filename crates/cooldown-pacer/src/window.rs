//! What has left in the trailing window: exact for small amounts, rounded to the safe side for large ones, in bounded memory.

use std::collections::VecDeque;

/// How many cells a window is divided into when its amount is too large for an exact log.
const CELLS: u64 = 2048;

/// A log of departures. See ADR 0002.
///
/// Departures closer together than [`width`](Window::width) share a cell, which is held as long as its youngest one: what
/// the log says is in the window is never less than what is. Amounts up to [`CELLS`] have a cell for each instant.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    amount: u64,
    /// Departures less than this many nanoseconds after a cell's first one join it.
    width: u64,
    cells: VecDeque<Cell>,
    /// The running total at the last cell that was dropped.
    passed: u64,
}

#[derive(Debug, Clone, Copy)]
struct Cell {
    /// The oldest departure in it.
    first: u64,
    /// The youngest one: the cell is held until a whole window has passed since then.
    last: u64,
    /// The running total of all departures up to this cell and with it, so that sums need a binary search only.
    total: u64,
}

impl Window {
    pub(crate) fn new(amount: u64, period: u64) -> Self {
        Self { amount, width: width(amount, period), cells: VecDeque::new(), passed: 0 }
    }

    /// The same log under another limit.
    pub(crate) fn retune(&mut self, amount: u64, period: u64) {
        self.amount = amount;
        self.width = width(amount, period);
    }

    /// The same log under a part of its limit, or all of it again.
    pub(crate) fn allow(&mut self, amount: u64) {
        self.amount = amount;
    }

    /// What it allows now.
    pub(crate) fn amount(&self) -> u64 {
        self.amount
    }

    /// How much of what is in the window left after `since`.
    pub(crate) fn used_since(&self, since: u64) -> u64 {
        let before = self.cells.partition_point(|cell| cell.last <= since);
        let passed = before.checked_sub(1).map_or(self.passed, |before| self.cells[before].total);
        self.cells.back().map_or(0, |cell| cell.total - passed)
    }

    /// The span that rounding can hold a departure longer than its own window.
    pub(crate) fn width(&self) -> u64 {
        self.width
    }

    /// How much is in the window.
    pub(crate) fn used(&self) -> u64 {
        self.cells.back().map_or(0, |cell| cell.total - self.passed)
    }

    /// Forgets what left `hold` or longer before `now`.
    pub(crate) fn expire(&mut self, now: u64, hold: u64) {
        while let Some(front) = self.cells.front()
            && front.last.saturating_add(hold) <= now
        {
            self.passed = front.total;
            self.cells.pop_front();
        }
        if self.cells.is_empty() {
            self.passed = 0;
        }
    }

    /// Whether nothing is remembered.
    pub(crate) fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Writes down a departure at `now`, which is not before any other.
    pub(crate) fn record(&mut self, now: u64, cost: u64) {
        if cost == 0 {
            return;
        }
        let width = self.width;
        let total = self.used() + self.passed + cost;
        match self.cells.back_mut() {
            Some(back) if now.saturating_sub(back.first) < width => {
                back.last = back.last.max(now);
                back.total = total;
            }
            _ => self.cells.push_back(Cell { first: now, last: now, total }),
        }
    }

    /// Replaces the cost of the departure at `at`; false when it is no longer in the window.
    pub(crate) fn change(&mut self, at: u64, from: u64, to: u64) -> bool {
        let Some(index) = self.cells.partition_point(|cell| cell.first <= at).checked_sub(1) else {
            return false;
        };
        if from == 0 || self.cells[index].last < at {
            return false;
        }
        let before = index.checked_sub(1).map_or(self.passed, |before| self.cells[before].total);
        // A reload may have changed what one request can take: no more is given back than the cell holds.
        let from = from.min(self.cells[index].total - before);
        for cell in self.cells.range_mut(index..) {
            cell.total = cell.total - from + to;
        }
        if self.cells[index].total == before {
            self.cells.remove(index);
        }
        true
    }

    /// When `cost` more fits, after `taken` more has left now: zero if at once, `u64::MAX` if that cannot be told.
    pub(crate) fn earliest(&self, cost: u64, taken: u64, hold: u64) -> u64 {
        let excess = (self.used() + cost + taken).saturating_sub(self.amount);
        if excess == 0 {
            return 0;
        }
        let index = self.cells.partition_point(|cell| cell.total - self.passed < excess);
        self.cells.get(index).map_or(u64::MAX, |cell| cell.last.saturating_add(hold))
    }

    /// What left by departures of which some were before `end`, oldest first, each no earlier than it did.
    pub(crate) fn departures(&self, end: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let before = std::iter::once(self.passed).chain(self.cells.iter().map(|cell| cell.total));
        let cells = self.cells.iter().zip(before).take_while(move |(cell, _)| cell.first < end);
        cells.map(|(cell, before)| (cell.last, cell.total - before))
    }

    /// When room appears: pairs of an instant and how much of the window is free from then on.
    pub(crate) fn releases(&self, hold: u64) -> impl Iterator<Item = (u64, i64)> + '_ {
        let free = self.amount as i64 - self.used() as i64;
        self.cells.iter().map(move |cell| (cell.last.saturating_add(hold), free + (cell.total - self.passed) as i64))
    }
}

fn width(amount: u64, period: u64) -> u64 {
    if amount <= CELLS { 1 } else { (period / CELLS).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn room_returns_when_the_departures_that_took_it_are_a_window_old() {
        let mut window = Window::new(10, SECOND);
        for at in [0, 100, 200] {
            window.record(at, 3);
        }
        assert_eq!(window.used(), 9);
        assert_eq!(window.earliest(1, 0, SECOND), 0);
        assert_eq!(window.earliest(2, 0, SECOND), SECOND);
        assert_eq!(window.earliest(5, 0, SECOND), SECOND + 100);
        assert_eq!(window.earliest(2, 3, SECOND), SECOND + 100, "what another one takes now is not there");
        window.expire(SECOND + 100, SECOND);
        assert_eq!(window.used(), 3);
    }

    #[test]
    fn a_change_reaches_its_own_window_or_nothing() {
        let mut window = Window::new(100, SECOND);
        window.record(0, 10);
        window.record(5, 20);
        assert!(window.change(5, 20, 50));
        assert_eq!(window.used(), 60);
        assert!(window.change(0, 10, 0));
        assert_eq!(window.used(), 50);
        assert!(!window.change(0, 10, 0), "it is not there any more");
        window.expire(2 * SECOND, SECOND);
        assert!(!window.change(5, 50, 0));
        assert!(window.is_empty());
    }

    #[test]
    fn memory_is_bounded_whatever_the_amount() {
        let mut window = Window::new(1_000_000_000, SECOND);
        let mut now = 0;
        for _ in 0..200_000 {
            now += 10_000;
            window.expire(now, SECOND);
            window.record(now, 1000);
        }
        assert!(window.cells.len() as u64 <= CELLS + 2, "{} cells", window.cells.len());
        let exact = 100_000 * 1000;
        let rounded = window.used();
        assert!(rounded >= exact && rounded <= exact + exact / 1000, "{rounded} is not just above {exact}");
    }

    #[test]
    fn what_was_given_back_leaves_no_trace() {
        let mut window = Window::new(10, SECOND);
        for at in 0..100_000 {
            window.record(at, 1);
            assert!(window.change(at, 1, 0));
        }
        assert!(window.is_empty());
    }
}
