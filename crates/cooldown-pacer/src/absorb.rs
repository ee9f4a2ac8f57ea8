//! Two pacers become one: what one of them knows and has handed out goes over to the other. See ADR 0012.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::ask::{Permit, Ticket};
use crate::keys::{KeyIndex, KeySet};
use crate::line::Joining;
use crate::pacer::Pacer;
use crate::time::Instant;

/// Where that is now what a pacer had handed out before another one took it over.
#[derive(Debug, Clone, Default)]
pub struct Moved {
    keys: HashMap<KeyIndex, KeyIndex, RandomState>,
    tickets: HashMap<Ticket, Ticket, RandomState>,
}

impl Moved {
    /// Makes a permit one of the pacer that took over. To be done once.
    pub fn permit(&self, permit: &mut Permit) {
        permit.keys = self.key_set(&permit.keys);
    }

    /// The name of a place in the line of the pacer that took over; `None` for one that had left the line by then.
    pub fn ticket(&self, ticket: Ticket) -> Option<Ticket> {
        self.tickets.get(&ticket).copied()
    }

    fn key_set(&self, keys: &KeySet) -> KeySet {
        // Whatever is held or waited for has not been forgotten, so all of them are known.
        let mut moved: KeySet = keys.iter().filter_map(|key| self.keys.get(key).copied()).collect();
        moved.sort_unstable();
        moved
    }
}

impl Pacer {
    /// Takes over everything from another pacer, whose lists of limits must be named apart from this one's (see
    /// [`state_limits`](Pacer::state_limits)): its limits with all that has left, what its upstreams have taught, and who
    /// waits. Everybody keeps age, order within the flow and wait budget. Its permits and tickets count here once they
    /// are [`Moved`].
    pub fn absorb(&mut self, now: Instant, other: Self) -> Moved {
        self.advance(now.max(Instant::from_nanos(other.last_now())));
        self.granted = self.granted.max(other.granted);
        self.lapses = self.lapses.min(other.lapses);
        self.hearsay.extend(other.hearsay);
        let waiting = other.line.everybody();
        let mut moved = Moved { keys: self.keys.absorb(other.keys), tickets: HashMap::default() };
        for (ticket, joining) in waiting {
            let keys = moved.key_set(&joining.keys);
            let place = self.line.join(Joining { keys, ..joining });
            moved.tickets.insert(ticket, self.line.ticket(place));
        }
        self.look_again();
        moved
    }
}
