//! Whose turn it is.

use crate::line::{Ages, Place};
use crate::pacer::Pacer;

/// A late timer may make up for this much time at once; after a longer pause departures go on from there.
const LATENESS_KEPT: u64 = 250_000_000;
/// How many flows of one queue are looked at for a request that may pass the head.
const PASSING_FLOWS: usize = 32;

/// What to do next.
pub(crate) enum Choice {
    /// This one leaves; it could have left at `due`.
    Go { place: Place, due: u64 },
    /// Nobody can leave before then.
    Until(u64),
}

impl Pacer {
    /// Whether a newcomer may pass everybody.
    pub(crate) fn can_leave_at_once(&self, now: u64, place: Place) -> bool {
        let queue = self.line.waiter(place).queue;
        let ages = self.ages(now);
        let rank = self.line.rank(queue, &ages);
        let queues = self.line.queues.iter().map(|(queue, _)| queue as u32);
        let mut ahead = queues.filter(|&other| other == queue || self.line.rank(other, &ages) < rank);
        self.line.is_first_of_flow(place)
            && self.earliest(place) <= now
            && ahead.all(|queue| self.line.first_of(queue).is_none_or(|first| self.may_pass(now, place, first)))
    }

    /// How far age has lifted each urgency. Who waits for a limit of its own is not passed over, and lifts nobody.
    pub(crate) fn ages(&self, now: u64) -> Ages {
        let mut ages = Ages::default();
        let queues = self.line.queues.iter().map(|(queue, state)| (queue as u32, state));
        for (queue, state) in queues.filter(|&(queue, _)| !self.waits_for_its_own(now, queue)) {
            let age = &mut ages.0[usize::from(state.level)];
            *age = self.line.age(queue, now).max(*age);
        }
        ages
    }

    /// Whether the first of a queue is held up by a key that nobody else waits for.
    pub(crate) fn waits_for_its_own(&self, now: u64, queue: u32) -> bool {
        let state = &self.line.queues[queue as usize];
        let Some(first) = self.line.first_of(queue).filter(|_| self.line.queues.len() > 1) else { return false };
        let cost = &self.line.waiter(first).cost;
        let own = state.keys.iter().map(|&key| self.keys.get(key)).filter(|key| key.waiting == state.waiting);
        own.into_iter().any(|key| key.earliest(cost) > now)
    }

    /// When a waiter could leave if it were alone.
    pub(crate) fn earliest(&self, place: Place) -> u64 {
        let waiter = self.line.waiter(place);
        let keys = &self.line.queue_of(waiter).keys;
        keys.iter().map(|&key| self.keys.get(key).earliest(&waiter.cost)).max().unwrap_or(0)
    }

    /// The head of the line if it can leave, else somebody who may pass all that are first of their queues before it,
    /// else when to look again.
    pub(crate) fn choose(&self, now: u64) -> Choice {
        let ages = self.ages(now);
        let Some(queue) = self.line.first_queue(&ages) else { return Choice::Until(u64::MAX) };
        let Some(head) = self.line.first_of(queue) else { return Choice::Until(u64::MAX) };
        let earliest = self.earliest(head);
        if earliest <= now {
            return self.go(now, head, earliest);
        }
        if self.line.queues.len() == 1 && !self.line.queues[queue as usize].mixed {
            return Choice::Until(earliest);
        }
        let mut next = earliest;
        let mut ahead = vec![head];
        for place in self.candidates(&ages, queue) {
            let earliest = self.earliest(place);
            if earliest > now {
                next = next.min(earliest);
            } else if ahead.iter().all(|&first| self.may_pass(now, place, first)) {
                return self.go(now, place, earliest);
            } else {
                next = next.min(self.line.next_ageing(now));
            }
            if self.line.first_of(self.line.waiter(place).queue) == Some(place) {
                ahead.push(place);
            }
        }
        Choice::Until(next)
    }

    fn go(&self, now: u64, place: Place, earliest: u64) -> Choice {
        let arrived = self.line.waiter(place).arrived;
        Choice::Go { place, due: earliest.max(arrived).max(now.saturating_sub(LATENESS_KEPT)).min(now) }
    }

    /// Who might pass the head of the line: in the order of the line, the first of every other queue, and some later
    /// flows where costs differ.
    fn candidates(&self, ages: &Ages, first: u32) -> Vec<Place> {
        let mut queues: Vec<u32> = self.line.queues.iter().map(|(queue, _)| queue as u32).collect();
        queues.sort_unstable_by_key(|&queue| self.line.rank(queue, ages));
        let mut places = Vec::new();
        for queue in queues {
            let state = &self.line.queues[queue as usize];
            let heads = state.order.iter().map(|&(.., flow)| state.flows[flow as usize].head);
            let skip = usize::from(queue == first);
            let more = if state.mixed { PASSING_FLOWS } else { 1 - skip };
            places.extend(heads.skip(skip).take(more));
        }
        places
    }

    /// The proof of backfilling: with what the passer takes, the other's earliest instant is the same as without.
    fn may_pass(&self, now: u64, passer: Place, other: Place) -> bool {
        if passer == other {
            return true;
        }
        let (passer, other) = (self.line.waiter(passer), self.line.waiter(other));
        let shared = &self.line.queue_of(passer).keys;
        let states = || self.line.queue_of(other).keys.iter().map(|&key| (key, self.keys.get(key)));
        let without = states().map(|(_, state)| state.earliest(&other.cost)).max();
        let with = states().map(|(key, state)| {
            let both = shared.contains(&key);
            if both { state.earliest_after(now, &other.cost, &passer.cost) } else { state.earliest(&other.cost) }
        });
        with.max().max(Some(now)) == without.max(Some(now))
    }
}
