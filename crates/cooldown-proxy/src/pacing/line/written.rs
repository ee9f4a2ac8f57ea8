//! What a line has to write down, and what it starts with because an earlier process did.

use std::sync::Arc;
use std::time::Duration;

use cooldown_pacer::{Instant, Key, Lesson, Limit};

use super::super::ledger::{Ledger, Memory};
use super::{Inner, Line};

impl Line {
    /// Lets a key start with what an earlier process wrote down.
    pub(in super::super) fn recall(self: &Arc<Self>, key: Key, memory: &Memory) {
        self.decide(|inner, now, _| memory.give_to(&mut inner.pacer, now, key));
    }

    /// Writes down that what was written ahead and has not left never will.
    pub(in super::super) fn close_ledger(&self) {
        let mut inner = self.inner.lock();
        let (now, Some(ledger)) = (self.clock.now(), inner.ledger.clone()) else { return };
        let mut entries = Vec::new();
        inner.pacer.last_entries(now, &mut entries);
        for (key, rate) in inner.pacer.found_rates(now) {
            ledger.add_found(key, rate);
        }
        drop(inner);
        ledger.close(&mut entries);
    }
}

impl Inner {
    /// Queues what must be written down before anybody leaves. The ledger, if something is not written yet.
    pub(super) fn write_ahead(&mut self, now: Instant) -> Option<Arc<Ledger>> {
        let ledger = self.ledger.as_ref()?;
        if self.pacer.has_entries() {
            self.pacer.entries(now, &mut self.entries);
            ledger.add(&mut self.entries);
        }
        ledger.is_behind().then(|| Arc::clone(ledger))
    }

    /// Writes down for how long a key has closed.
    pub(super) fn note_closed(&self, key: Key, lasting: Duration) {
        self.ledger.iter().for_each(|ledger| ledger.add_closed(key, lasting));
    }

    /// Writes down what an upstream has taught.
    pub(super) fn note_lesson(&self, now: Instant, lesson: &Lesson) {
        match (&self.ledger, lesson) {
            (Some(ledger), Lesson::Limit { key, limit: Limit::Rate(rate) }) => ledger.add_told(*key, *rate),
            (Some(ledger), Lesson::Closed { key, until }) => {
                ledger.add_closed(*key, until.since(now));
                self.pacer.found_rate(now, *key).into_iter().for_each(|rate| ledger.add_found(*key, rate));
            }
            _ => {}
        }
    }
}
