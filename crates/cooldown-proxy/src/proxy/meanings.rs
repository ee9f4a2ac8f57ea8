//! What an upstream means by what it says about limits: found out by comparing its responses.

use std::collections::HashMap;

use cooldown_pacer::{Instant, Key, Refill, Told, Unit};
use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::provider::{Meaning, Reset, Statement, tell_apart};

/// The resets of more limits than this are not compared: the rest is taken for windows.
const MOST: usize = 1000;

/// What is known of the resets of an upstream's limits.
#[derive(Debug, Default)]
pub(super) struct Meanings(Mutex<HashMap<(Key, Unit, Option<u64>), Heard, RandomState>>);

/// What was heard of one limit.
#[derive(Debug, Clone, Copy)]
struct Heard {
    said: Statement,
    at: Instant,
    meaning: Meaning,
}

impl Meanings {
    /// What a statement about a key's limit tells a pacer.
    pub(super) fn told(&self, key: Key, said: &Statement, now: Instant) -> Told {
        let refill = said.reset.map(|reset| match reset {
            Reset::ToFull(after) => Refill::Steadily(after),
            Reset::WindowEnd(after) => Refill::AtOnce(after),
            Reset::Unknown(after) => match self.compared(key, said, now) {
                Meaning::ToFull => Refill::Steadily(after),
                // Until it is known, nothing is counted on before the time that was told.
                Meaning::WindowEnd | Meaning::Unknown => Refill::AtOnce(after),
            },
        });
        Told { unit: said.axis, amount: said.limit, period: said.window, left: said.remaining, refill }
    }

    fn compared(&self, key: Key, said: &Statement, now: Instant) -> Meaning {
        let mut heard = self.0.lock();
        let name = (key, said.axis, said.limit);
        let Some(known) = heard.get_mut(&name) else {
            if heard.len() < MOST {
                heard.insert(name, Heard { said: *said, at: now, meaning: Meaning::Unknown });
            }
            return Meaning::Unknown;
        };
        if let Some(meaning) = tell_apart(&known.said, said, now.since(known.at)) {
            known.meaning = meaning;
        }
        (known.said, known.at) = (*said, now);
        known.meaning
    }
}
