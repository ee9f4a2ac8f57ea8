//! When what is to be done next.

use std::collections::BTreeSet;

use cooldown_pacer::Instant;

/// Instants by number, the earliest first.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    order: BTreeSet<(Instant, usize)>,
}

impl Schedule {
    /// Moves a number from one instant to another.
    pub(super) fn change(&mut self, number: usize, from: Instant, to: Instant) {
        self.order.remove(&(from, number));
        self.order.insert((to, number));
    }

    pub(super) fn remove(&mut self, number: usize, from: Instant) {
        self.order.remove(&(from, number));
    }

    /// The earliest instant.
    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(due, _)| *due)
    }

    /// The first number that is due.
    pub(super) fn due(&self, now: Instant) -> Option<usize> {
        self.order.first().filter(|(due, _)| *due <= now).map(|(_, number)| *number)
    }
}
