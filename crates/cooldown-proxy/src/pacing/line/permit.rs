//! The right to send a request, and what becomes of it: it is taken, sent, and settled or given back.

use std::sync::Arc;
use std::time::Duration;

use cooldown_pacer::{Cost, Instant, Lesson, Observation, Spent};

use super::{Inner, Line};

/// A permit is stamped again when its request is written later than this after the grant; the guard covers less.
const STAMP_AGAIN: Duration = Duration::from_micros(200);
/// A key that closes for less than this is waited for where one stands: the next one may close as well.
const WORTH_MOVING: Duration = Duration::from_millis(250);

/// The right to send one request now. Dropped unsent, it gives back everything it took; dropped after
/// [`Permit::sent`], it settles as estimated.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    /// `None` where no limit concerns the request.
    held: Option<Held>,
    sent: bool,
}

/// What a permit holds, and where.
#[derive(Debug)]
struct Held {
    line: Arc<Line>,
    permit: cooldown_pacer::Permit,
}

impl Permit {
    pub(super) fn new(line: &Arc<Line>, permit: cooldown_pacer::Permit) -> Self {
        Self { held: Some(Held { line: Arc::clone(line), permit }), sent: false }
    }

    /// To be called at the moment at which the request is written. `late` says that something was awaited since the
    /// grant (a connection, the wake-up of a waiter): what counts is this instant then.
    pub fn sent(&mut self, late: bool) {
        self.sent = true;
        let Some(held) = self.held.as_mut().filter(|_| late) else { return };
        held.decide(|inner, now, permit| {
            if now.since(permit.at()) > STAMP_AGAIN {
                inner.pacer.sent(now, permit);
            }
        });
    }

    /// The request was not written after all.
    pub fn unsent(&mut self) {
        self.sent = false;
    }

    /// What was taken for the request.
    pub fn taken(&self) -> Cost {
        self.held.as_ref().map_or(Cost::NOTHING, |held| held.permit.taken())
    }

    /// Hears what the upstream's response says about limits.
    pub fn observe(&mut self, observation: Observation) -> Option<Lesson> {
        let held = self.held.as_mut()?;
        // Most upstreams have taught nothing, and most requests are accepted: that needs no lock.
        if observation == Observation::Accepted && held.permit.accepted() {
            return None;
        }
        held.decide(|inner, now, permit| {
            let lesson = inner.pacer.observe(now, permit, observation);
            lesson.iter().for_each(|lesson| inner.note_lesson(now, lesson));
            if let Some(watch) = &inner.watch {
                inner.pacer.hearsay().into_iter().for_each(|hearsay| watch.taught(hearsay));
            }
            if let Some(Lesson::Limit { key, .. }) = &lesson {
                // It may not be worth telling the others, but whoever waits now waits for it too.
                inner.watch.iter_mut().for_each(|watch| watch.forget(*key));
            }
            if let Some(Lesson::Closed { key, until }) = &lesson {
                let lasting = until.since(now);
                inner.watch.iter().for_each(|watch| watch.closed(*key, lasting));
                if lasting >= WORTH_MOVING {
                    inner.vacate(now, *key);
                }
            }
            lesson
        })
    }

    /// Whether one of the limits that it was taken from counts tokens.
    pub fn counts_tokens(&mut self) -> bool {
        let counts = |held: &mut Held| held.decide(|inner, _, permit| inner.pacer.counts_tokens(permit));
        self.held.as_mut().is_some_and(counts)
    }

    /// Ends it with what was really spent.
    pub fn settle(mut self, spent: Spent) {
        self.give_back(spent);
    }

    fn give_back(&mut self, spent: Spent) {
        let Some(Held { mut line, mut permit }) = self.held.take() else { return };
        loop {
            let inner = line.inner.lock();
            let Some((home, moved)) = &inner.moved else {
                return line.decide_in(inner, |inner, now, _| inner.pacer.settle(now, permit, spent));
            };
            moved.permit(&mut permit);
            let home = Arc::clone(home);
            drop(inner);
            line = home;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.give_back(if self.sent { Spent::AsEstimated } else { Spent::Nothing });
    }
}

impl Held {
    /// A decision about the permit, by the line where it is at home now.
    fn decide<R>(&mut self, ask: impl FnOnce(&mut Inner, Instant, &mut cooldown_pacer::Permit) -> R) -> R {
        loop {
            let inner = self.line.inner.lock();
            let Some((home, moved)) = &inner.moved else {
                return self.line.decide_in(inner, |inner, now, _| ask(inner, now, &mut self.permit));
            };
            moved.permit(&mut self.permit);
            let home = Arc::clone(home);
            drop(inner);
            self.line = home;
        }
    }
}
