//! What the upstream's answers change. See ADR 0009.

use crate::ask::{Key, Permit};
use crate::bucket::Bucket;
use crate::cooldown::{Closing, TurnedAway};
use crate::cost::Unit;
use crate::hearsay::Said;
use crate::keys::{KeyIndex, KeyState};
use crate::learned::{Answered, Sense};
use crate::observation::{Lesson, Observation, Told};
use crate::pacer::Pacer;
use crate::time::{Instant, nanos};

impl Pacer {
    /// The upstream answered a request that has left. Call it for everything that the answer says, and once with
    /// [`Observation::Accepted`] if it was no refusal.
    pub fn observe(&mut self, now: Instant, permit: &mut Permit, observation: Observation) -> Option<Lesson> {
        let now = self.advance(now);
        match observation {
            Observation::Accepted => {
                self.accepted(now, permit);
                None
            }
            Observation::Refused { key, unit, until } => {
                let explained = self.widen_guards(now, permit, unit);
                let lesson = self.turn_away(now, permit, key, until, |state, away, first| {
                    let (waiting, taught) = (state.waiting, state.taught.as_mut());
                    taught.into_iter().for_each(|taught| match first {
                        true => taught.cut(now, away, unit, explained, waiting),
                        false => taught.stays_closed(now, away),
                    });
                });
                if lesson.is_some() {
                    self.tell_found(now, key);
                }
                lesson
            }
            Observation::Closed { key, until } => self.turn_away(now, permit, key, until, |_, _, _| {}),
            Observation::Told { key, told } => self.hear(now, permit, key, &told),
        }
    }

    fn accepted(&mut self, now: u64, permit: &mut Permit) {
        let mut freed = false;
        for &index in &permit.keys {
            if let Some(taught) = &mut self.keys.get_mut(index).taught {
                freed |= taught.accepted(now, permit.nth, permit.heard);
            }
        }
        permit.heard = true;
        if freed {
            self.look_again();
        }
    }

    /// A refusal of what configured limits allow is taken for jitter, whichever key it names. Whether there is such a
    /// limit.
    fn widen_guards(&mut self, now: u64, permit: &Permit, unit: Option<Unit>) -> bool {
        let mut explained = false;
        for &index in &permit.keys {
            for bucket in &mut self.keys.get_mut(index).buckets {
                bucket.refused(now);
                explained |= matches!(bucket, Bucket::Rate(rate) if unit.is_none_or(|unit| unit == rate.unit()));
            }
        }
        self.look_again();
        explained
    }

    /// Closes a key, and lets it `learn` from a closing whether it is the first one since requests were taken.
    fn turn_away(
        &mut self,
        now: u64,
        permit: &mut Permit,
        key: Key,
        until: Option<Instant>,
        learn: impl FnOnce(&mut KeyState, &TurnedAway, bool),
    ) -> Option<Lesson> {
        if !std::mem::replace(&mut permit.heard, true) {
            self.lose(now, permit);
        }
        let granted = self.granted;
        let index = self.index_of(now, key)?;
        let state = self.keys.get_mut(index);
        let taught = state.taught.as_mut()?;
        let away = taught.turned_away(permit, granted, until.map(Instant::as_nanos));
        let closing = taught.close(now, &away);
        let until = Instant::from_nanos(taught.closed_until());
        if let Closing::New { first } = closing {
            learn(state, &away, first);
        }
        let is_told = matches!(closing, Closing::New { .. } | Closing::Longer { notable: true });
        is_told.then_some(Lesson::Closed { key, until })
    }

    fn lose(&mut self, now: u64, permit: &Permit) {
        for &index in &permit.keys {
            if let Some(taught) = &mut self.keys.get_mut(index).taught {
                taught.lose(now, permit.nth);
            }
        }
        self.look_again();
    }

    fn hear(&mut self, now: u64, permit: &Permit, key: Key, told: &Told) -> Option<Lesson> {
        let lesson = self.hear_as_of(now, permit.nth, permit.at, key, told);
        let is_told = self.keys.is_shared(key.limits)
            && self.index_of(now, key).is_some_and(|index| {
                let taught = self.keys.get_mut(index).taught.as_mut();
                taught.is_some_and(|taught| taught.is_worth_telling(now, told, lesson.is_some()))
            });
        if is_told {
            self.tell(key, Said::Told(*told), now.saturating_sub(permit.at));
        }
        lesson
    }

    /// The answer to the request of permit `nth`, which left at `at`, told of a limit.
    pub(crate) fn hear_as_of(&mut self, now: u64, nth: u64, at: u64, key: Key, told: &Told) -> Option<Lesson> {
        let sense = Sense::of(told)?;
        let guard = nanos(self.settings.guard);
        let index = self.index_of(now, key)?;
        let state = self.keys.get_mut(index);
        let (waiting, typical) = (state.waiting, state.typical());
        let answered = Answered { now, elsewhere: false, nth, at, waiting, typical, guard };
        let limit = state.taught.as_mut()?.hear(&answered, &sense);
        if limit.is_some() {
            self.keys.plan_ahead(now, index);
        }
        self.look_again();
        limit.map(|limit| Lesson::Limit { key, limit })
    }

    pub(crate) fn index_of(&mut self, now: u64, key: Key) -> Option<KeyIndex> {
        self.resolve(now, &[key]).first().copied()
    }
}
