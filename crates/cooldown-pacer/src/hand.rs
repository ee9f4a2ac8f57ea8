//! What a person may do to a key by hand: close it, open it, pause it.

use crate::ask::{Key, LimitsId};
use crate::pacer::Pacer;
use crate::time::Instant;

impl Pacer {
    /// Closes a key of limits that its upstream may add to until then, if it is not closed for longer. After that, one
    /// request goes first, as after any other closing. Nothing happens to other keys.
    pub fn close(&mut self, now: Instant, key: Key, until: Instant) {
        let now = self.advance(now);
        let Some(index) = self.index_of(now, key) else { return };
        if let Some(taught) = &mut self.keys.get_mut(index).taught {
            taught.close_by_hand(now, until.as_nanos());
        }
    }

    /// Opens every key of these limits that is closed. What was learned meanwhile stays, and so does a pause.
    pub fn open(&mut self, now: Instant, limits: LimitsId) {
        let now = self.advance(now);
        self.keys.of_mut(limits).filter_map(|state| state.taught.as_mut()).for_each(|taught| taught.open_by_hand(now));
        self.look_again();
    }

    /// Pauses a key of limits that its upstream may add to, or lets it go on: while it is paused nobody leaves, and who
    /// asks waits as long as its budget lasts. Whether a budget suffices is judged as if it went on now, since nobody knows
    /// when it will.
    pub fn set_paused(&mut self, now: Instant, key: Key, paused: bool) {
        let now = self.advance(now);
        let Some(index) = self.index_of(now, key) else { return };
        if let Some(taught) = &mut self.keys.get_mut(index).taught {
            taught.set_paused(paused);
        }
        self.look_again();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Admission, Ask, Departure, Flow, Permit, Settings, Teaching};

    fn at(millis: u64) -> Instant {
        Instant::START.after(Duration::from_millis(millis))
    }

    /// A pacer, and a key of it whose upstream has taught nothing.
    fn pacer() -> (Pacer, Key) {
        let mut pacer = Pacer::new(Settings::default());
        let key = Key::whole(pacer.add_teaching_limits(Vec::new(), Teaching::Bold));
        (pacer, key)
    }

    fn waits(pacer: &mut Pacer, now: Instant, key: Key) -> bool {
        match pacer.admit(now, Ask::new(Flow(1), [key])) {
            Admission::Wait(_) => true,
            Admission::Go(_) => false,
            Admission::Refuse(refusal) => panic!("{refusal:?}"),
        }
    }

    fn departures(pacer: &mut Pacer, now: Instant) -> Vec<Permit> {
        let mut departures = Vec::new();
        pacer.due(now, &mut departures);
        let permit = |departure| match departure {
            Departure::Go(_, permit) => permit,
            Departure::Refuse(..) => panic!("nobody is refused"),
        };
        departures.into_iter().map(permit).collect()
    }

    #[test]
    fn a_key_that_a_person_closed_opens_at_its_time_to_one_first() {
        let (mut pacer, key) = pacer();
        pacer.close(at(0), key, at(1000));
        assert!(waits(&mut pacer, at(1), key) && waits(&mut pacer, at(2), key));
        assert!(departures(&mut pacer, at(999)).is_empty());
        assert!(pacer.is_closed(at(999), key));
        assert_eq!(departures(&mut pacer, at(1000)).len(), 1);
        pacer.close(at(1000), key, at(900));
        assert!(!pacer.is_closed(at(1000), key), "what is past closes nothing");
    }

    #[test]
    fn a_key_that_a_person_opened_lets_go_at_once() {
        let (mut pacer, key) = pacer();
        pacer.close(at(0), key, at(60_000));
        assert!(waits(&mut pacer, at(1), key));
        pacer.open(at(2), key.limits);
        assert_eq!(departures(&mut pacer, at(2)).len(), 1);
    }

    #[test]
    fn while_a_key_is_paused_everybody_waits_and_nobody_is_refused_on_arrival() {
        let (mut pacer, key) = pacer();
        pacer.set_paused(at(0), key, true);
        let ask = Ask { latest: Some(at(5000)), ..Ask::new(Flow(1), [key]) };
        let Admission::Wait(ticket) = pacer.admit(at(1), ask.clone()) else { panic!("it may go on at any time") };
        assert_eq!(pacer.predict(at(1), ticket), Some(Instant::NEVER));
        assert_eq!(pacer.foresee(at(1), &ask), Instant::NEVER, "another way is better");
        assert!(departures(&mut pacer, at(4000)).is_empty());
        assert!(pacer.is_paused(key) && pacer.is_closed(at(4000), key));
        pacer.set_paused(at(4500), key, false);
        assert_eq!(departures(&mut pacer, at(4500)).len(), 1);
    }

    #[test]
    fn a_budget_that_ends_during_a_pause_is_kept() {
        let (mut pacer, key) = pacer();
        pacer.set_paused(at(0), key, true);
        let ask = Ask { latest: Some(at(5000)), ..Ask::new(Flow(1), [key]) };
        assert!(matches!(pacer.admit(at(1), ask), Admission::Wait(_)));
        pacer.due(at(1), &mut Vec::new());
        assert_eq!(pacer.next_due(), Some(at(5000)));
        let mut told = Vec::new();
        pacer.due(at(5000), &mut told);
        assert!(matches!(told[..], [Departure::Refuse(..)]));
    }

    #[test]
    fn a_pause_is_not_forgotten_when_room_is_made() {
        let (mut pacer, key) = pacer();
        pacer.set_paused(at(0), key, true);
        pacer.keys_in_use(at(86_400_000));
        assert!(pacer.is_paused(key));
        assert!(waits(&mut pacer, at(86_400_000), key));
    }
}
