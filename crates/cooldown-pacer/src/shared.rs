//! Limits that other instances use too: this one leaves what its share allows. See [`share`](crate::share).

use crate::ask::{Key, LimitsId, Ticket};
use crate::bucket::Bucket;
use crate::keys::KeyIndex;
use crate::pacer::Pacer;
use crate::share::{Share, Usage, Which};
use crate::time::Instant;

impl Pacer {
    /// Says whether other instances use these limits too. If they do, each of their keys has a stranger's share from now
    /// on, until [`set_share`](Pacer::set_share) says another. Nothing changes where that was said before.
    pub fn share_limits(&mut self, now: Instant, id: LimitsId, is_shared: bool) {
        let now = self.advance(now);
        self.keys.share(now, id, is_shared);
        self.look_again();
    }

    /// The keys of these limits that are in use here.
    pub fn keys_of(&self, id: LimitsId) -> impl Iterator<Item = Key> {
        self.keys.of(id).map(|state| state.key)
    }

    /// The keys with limits that a waiting request is held up by, or could be.
    pub fn waits_for(&self, ticket: Ticket) -> impl Iterator<Item = Key> {
        let place = self.line.place(ticket);
        let keys = place.into_iter().flat_map(|place| &self.line.queues[self.line.waiter(place).queue as usize].keys);
        keys.map(|&key| self.keys.get(key)).filter(|state| state.is_limited()).map(|state| state.key)
    }

    /// Whether a request waits for a key.
    pub fn is_waited_for(&self, key: Key) -> bool {
        self.keys.find(key).is_some_and(|state| state.waiting > 0)
    }

    /// What this instance does with a limit of a key; `None` if there is no such limit, or no such key in use.
    pub fn usage(&mut self, now: Instant, key: Key, which: Which) -> Option<Usage> {
        let now = self.advance(now);
        let place = self.keys.place(key)?;
        let weight = self.backlogged_weight(place);
        let state = self.keys.get_mut(place);
        let (waiting, backlog) = (state.waiting, state.backlog);
        let usage = |bucket: &mut Bucket| bucket.usage(now, waiting, &backlog, weight);
        match which {
            Which::Stated(nth) => state.buckets.get_mut(nth).map(usage),
            Which::Told(..) | Which::Found => state.taught.as_mut()?.usage(now, which, weight, usage),
        }
    }

    /// From now on this instance holds so much of a limit of a key, whose limits are [shared](Pacer::share_limits). What
    /// has left stays counted. After it, [`next_due`](Pacer::next_due) may be at once.
    pub fn set_share(&mut self, now: Instant, key: Key, which: Which, share: Share) {
        let now = self.advance(now);
        let place = match which {
            Which::Stated(_) => self.index_of(now, key),
            Which::Told(..) | Which::Found => self.keys.place(key),
        };
        let Some(place) = place else { return };
        let state = self.keys.get_mut(place);
        match which {
            Which::Stated(nth) => state.shares.get_mut(nth).into_iter().for_each(|held| *held = share),
            Which::Told(..) | Which::Found => {
                state.taught.iter_mut().for_each(|taught| taught.set_share(which, share));
            }
        }
        let changes = state.hold_to_shares(now);
        self.lapses = self.lapses.min(changes);
        if self.keys.get(place).waiting > 0 {
            self.look_again();
        }
    }

    /// Leases have ended: what was lent is not used any more, however long nobody called.
    #[cold]
    pub(crate) fn lapse(&mut self) {
        self.lapses = self.keys.hold_to_shares(self.last_now());
    }

    /// The weights of all flows that wait for a key.
    fn backlogged_weight(&self, place: KeyIndex) -> u64 {
        let queues = self.line.queues.iter().map(|(_, queue)| queue);
        queues.filter(|queue| queue.keys.contains(&place)).map(|queue| queue.weight).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Admission, Ask, Flow, Limit, Rate, Settings, Unit};

    const SECOND: Duration = Duration::from_secs(1);
    const FIRST: Which = Which::Stated(0);

    fn lent(amount: u64, until: Instant, floor: u64) -> Share {
        Share { amount, until, floor, forgotten: Instant::NEVER, least: 0, hoped: amount }
    }

    /// A pacer, and a key whose limit of ten a second is shared.
    fn pacer() -> (Pacer, Key) {
        let mut pacer = Pacer::new(Settings { guard: Duration::ZERO, ..Settings::default() });
        let rate = Rate::new(Unit::Requests, 10, SECOND).expect("a rate");
        let id = pacer.add_limits(vec![rate.into()]);
        pacer.share_limits(Instant::START, id, true);
        (pacer, Key::whole(id))
    }

    fn leaves(pacer: &mut Pacer, now: Instant, key: Key) -> bool {
        match pacer.admit(now, Ask::new(Flow(1), [key])) {
            Admission::Go(_) => true,
            Admission::Wait(ticket) => !pacer.cancel(now, ticket),
            Admission::Refuse(refusal) => panic!("{refusal:?}"),
        }
    }

    fn count(pacer: &mut Pacer, now: Instant, key: Key) -> usize {
        std::iter::repeat_with(|| leaves(pacer, now, key)).take_while(|left| *left).count()
    }

    #[test]
    fn only_the_share_leaves_and_nothing_before_there_is_one() {
        let (mut pacer, key) = pacer();
        assert_eq!(count(&mut pacer, Instant::START, key), 0);
        pacer.set_share(Instant::START, key, FIRST, lent(4, Instant::NEVER, 0));
        let later = Instant::START.after(SECOND);
        assert_eq!(count(&mut pacer, later, key), 4, "credit for all of it has grown");
        pacer.set_share(later, key, FIRST, lent(10, Instant::NEVER, 0));
        assert_eq!(pacer.usage(later, key, FIRST).expect("it is in use").used, 4, "what has left stays counted");
    }

    #[test]
    fn a_lease_that_ended_in_a_pause_is_over_before_anything_leaves() {
        let (mut pacer, key) = pacer();
        pacer.set_share(Instant::START, key, FIRST, lent(10, Instant::START.after(2 * SECOND), 3));
        assert_eq!(count(&mut pacer, Instant::START.after(60 * SECOND), key), 3);
    }

    #[test]
    fn another_amount_of_a_limit_keeps_its_share() {
        let (mut pacer, key) = pacer();
        pacer.set_share(Instant::START, key, FIRST, lent(4, Instant::NEVER, 0));
        let twenty = Rate::new(Unit::Requests, 20, SECOND).expect("a rate");
        let slots = Limit::Concurrency(std::num::NonZeroU32::MAX);
        pacer.set_limits(Instant::START, key.limits, vec![twenty.into()]);
        let later = Instant::START.after(SECOND);
        assert_eq!(count(&mut pacer, later, key), 4);
        pacer.set_limits(later, key.limits, vec![slots, twenty.into()]);
        assert!(pacer.usage(later, key, Which::Stated(1)).is_some_and(|usage| usage.used == 4));
    }

    #[test]
    fn a_limit_that_is_not_shared_any_more_is_this_instances_alone() {
        let (mut pacer, key) = pacer();
        pacer.set_share(Instant::START, key, FIRST, lent(4, Instant::NEVER, 0));
        pacer.share_limits(Instant::START, key.limits, false);
        let later = Instant::START.after(SECOND);
        assert_eq!(count(&mut pacer, later, key), 10);
        pacer.share_limits(later, key.limits, true);
        assert_eq!(count(&mut pacer, later.after(2 * SECOND), key), 0);
    }

    #[test]
    fn a_share_is_not_forgotten_while_it_is_held() {
        let (mut pacer, key) = pacer();
        pacer.set_share(Instant::START, key, FIRST, lent(4, Instant::NEVER, 0));
        assert_eq!(pacer.keys_in_use(Instant::START.after(60 * SECOND)), 1);
        let stranger = Share::of_stranger(pacer.limits(key.limits)[0]);
        pacer.set_share(Instant::START.after(61 * SECOND), key, FIRST, stranger);
        assert_eq!(pacer.keys_in_use(Instant::START.after(120 * SECOND)), 0, "and then it is");
    }

    #[test]
    fn two_pacers_that_become_one_hold_on_to_their_shares() {
        let (mut one, _) = pacer();
        let mut other = Pacer::new(Settings::default());
        let id = LimitsId::new(7);
        let rate = Rate::new(Unit::Requests, 10, SECOND).expect("a rate");
        other.state_limits(Instant::START, id, vec![rate.into()], None);
        other.share_limits(Instant::START, id, true);
        other.set_share(Instant::START, Key::whole(id), FIRST, lent(6, Instant::START.after(2 * SECOND), 2));
        one.absorb(Instant::START, other);
        assert_eq!(count(&mut one, Instant::START.after(SECOND), Key::whole(id)), 6);
        assert_eq!(count(&mut one, Instant::START.after(4 * SECOND), Key::whole(id)), 2, "its lease ended");
    }

    #[test]
    fn who_waits_for_a_share_is_told_when_it_will_come_not_that_it_never_will() {
        let (mut pacer, key) = pacer();
        pacer.set_share(Instant::START, key, FIRST, Share { hoped: 5, ..lent(0, Instant::NEVER, 0) });
        let Admission::Wait(ticket) = pacer.admit(Instant::START, Ask::new(Flow(1), [key])) else { panic!("no share") };
        let told = pacer.predict(Instant::START, ticket).expect("it waits");
        assert!(told <= Instant::START.after(SECOND), "{told:?}");
        pacer.set_share(Instant::START.after(SECOND), key, FIRST, lent(1, Instant::NEVER, 0));
        let mut departures = Vec::new();
        pacer.due(Instant::START.after(SECOND), &mut departures);
        assert_eq!(departures.len(), 1);
    }
}
