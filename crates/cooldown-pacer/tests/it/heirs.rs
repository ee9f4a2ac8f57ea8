//! Limits that come know of what left before them.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use cooldown_pacer::{
    Admission, Ask, Cost, Departure, Flow, Heritage, Key, Limit, LimitsId, Pacer, Permit, Settings, Spent, Teaching,
    Ticket, Unit,
};
use proptest::prelude::*;

use crate::world::{MILLI, SECOND, at, requests_per, tokens_per, worst_window};

/// All requests to an upstream, which it may teach about.
const UPSTREAM: LimitsId = LimitsId::new(1);
/// Another list, that comes later.
const DOMAIN: LimitsId = LimitsId::new(2);

fn full_burst(amount: u64, millis: u64) -> Limit {
    requests_per(amount, millis).with_burst(amount).expect("a valid burst").into()
}

fn pacer(limits: &[Limit]) -> Pacer {
    let mut pacer = Pacer::new(Settings { max_depth: 1_000_000, ..Settings::default() });
    pacer.state_limits(at(0), UPSTREAM, limits.to_vec(), Some(Teaching::Bold));
    pacer
}

fn asks(keys: &[LimitsId]) -> Ask {
    Ask::new(Flow(1), keys.iter().map(|&id| Key::whole(id)))
}

fn go(pacer: &mut Pacer, now: u64, ask: Ask) -> Permit {
    match pacer.admit(at(now), ask) {
        Admission::Go(permit) => permit,
        other => panic!("{other:?}"),
    }
}

/// How many of so many may leave at once.
fn leave(pacer: &mut Pacer, now: u64, count: u64, ask: &Ask) -> Vec<Permit> {
    let mut permits = Vec::new();
    for _ in 0..count {
        match pacer.admit(at(now), ask.clone()) {
            Admission::Go(permit) => permits.push(permit),
            Admission::Wait(ticket) => assert!(pacer.cancel(at(now), ticket)),
            Admission::Refuse(refusal) => panic!("{refusal:?}"),
        }
    }
    permits
}

fn settle_all(pacer: &mut Pacer, now: u64, permits: impl IntoIterator<Item = Permit>) {
    permits.into_iter().for_each(|permit| pacer.settle(at(now), permit, Spent::AsEstimated));
}

/// Moves what limits the upstream to the other list, or back.
fn restate(pacer: &mut Pacer, now: u64, upstream: &[Limit], domain: &[Limit]) {
    pacer.state_limits(at(now), UPSTREAM, upstream.to_vec(), Some(Teaching::Bold));
    pacer.state_limits(at(now), DOMAIN, domain.to_vec(), None);
    if !domain.is_empty() {
        pacer.inherit(at(now), DOMAIN, vec![Heritage::Key(Key::whole(UPSTREAM))]);
    }
}

#[test]
fn a_limit_that_moved_counts_what_left_where_it_was() {
    let limit = full_burst(10, 60_000);
    let mut pacer = pacer(&[limit]);
    let permits = leave(&mut pacer, 0, 7, &asks(&[UPSTREAM]));
    restate(&mut pacer, SECOND, &[], &[limit]);
    let more = leave(&mut pacer, 2 * SECOND, 10, &asks(&[UPSTREAM, DOMAIN]));
    assert_eq!((permits.len(), more.len()), (7, 3));
    settle_all(&mut pacer, 3 * SECOND, permits.into_iter().chain(more));
    assert_eq!(leave(&mut pacer, 59 * SECOND, 10, &asks(&[UPSTREAM, DOMAIN])).len(), 0);
    let rest = leave(&mut pacer, 130 * SECOND, 20, &asks(&[UPSTREAM, DOMAIN]));
    assert_eq!(rest.len(), 10, "and no longer than it is in the window");
    settle_all(&mut pacer, 131 * SECOND, rest);
    assert_eq!(pacer.keys_in_use(at(3600 * SECOND)), 0, "nothing leaks");
}

#[test]
fn what_is_in_flight_over_a_move_is_settled_where_the_limit_is() {
    let tokens: Limit = tokens_per(1000, 60_000).with_burst(1000).expect("a valid burst").into();
    let mut pacer = pacer(&[tokens]);
    let ask = |keys: &[LimitsId], tokens| Ask { cost: Cost::ONE_REQUEST.with(Unit::Tokens, tokens), ..asks(keys) };
    let (over, unsent) = (go(&mut pacer, 0, ask(&[UPSTREAM], 400)), go(&mut pacer, 0, ask(&[UPSTREAM], 500)));
    restate(&mut pacer, SECOND, &[], &[tokens]);
    assert_eq!(leave(&mut pacer, SECOND, 1, &ask(&[UPSTREAM, DOMAIN], 300)).len(), 0);
    pacer.settle(at(SECOND), over, Spent::Exactly(Cost::ONE_REQUEST.with(Unit::Tokens, 600)));
    pacer.settle(at(SECOND), unsent, Spent::Nothing);
    assert_eq!(pacer.room(at(2 * SECOND), Key::whole(DOMAIN))[0].left, 400);
}

#[test]
fn those_in_flight_hold_their_slots_where_the_limit_is_now() {
    let two = Limit::Concurrency(NonZeroU32::new(2).expect("not zero"));
    let mut pacer = pacer(&[two]);
    let mut permits = leave(&mut pacer, 0, 2, &asks(&[UPSTREAM]));
    restate(&mut pacer, SECOND, &[], &[two]);
    let both = asks(&[UPSTREAM, DOMAIN]);
    assert_eq!(leave(&mut pacer, SECOND, 1, &both).len(), 0);
    pacer.settle(at(2 * SECOND), permits.remove(0), Spent::AsEstimated);
    let third = leave(&mut pacer, 2 * SECOND, 2, &both);
    assert_eq!(third.len(), 1);
    restate(&mut pacer, 3 * SECOND, &[two], &[]);
    assert_eq!(leave(&mut pacer, 3 * SECOND, 1, &asks(&[UPSTREAM])).len(), 0);
    restate(&mut pacer, 3 * SECOND, &[], &[two]);
    settle_all(&mut pacer, 4 * SECOND, permits.into_iter().chain(third));
    let again = leave(&mut pacer, 5 * SECOND, 3, &both);
    assert_eq!(again.len(), 2);
    settle_all(&mut pacer, 6 * SECOND, again);
    assert_eq!(pacer.keys_in_use(at(3600 * SECOND)), 0, "nothing leaks");
}

#[test]
fn a_limit_that_was_gone_for_a_while_counts_what_left_meanwhile() {
    let limit = full_burst(100, 60_000);
    let mut pacer = pacer(&[limit]);
    settle_all(&mut pacer, 0, Vec::new());
    let mut permits = leave(&mut pacer, 0, 60, &asks(&[UPSTREAM]));
    pacer.set_limits(at(SECOND), UPSTREAM, Vec::new());
    permits.extend(leave(&mut pacer, 2 * SECOND, 30, &asks(&[UPSTREAM])));
    pacer.set_limits(at(3 * SECOND), UPSTREAM, vec![limit]);
    permits.extend(leave(&mut pacer, 4 * SECOND, 30, &asks(&[UPSTREAM])));
    assert_eq!(permits.len(), 100);
    settle_all(&mut pacer, 5 * SECOND, permits);
    pacer.set_limits(at(6 * SECOND), UPSTREAM, Vec::new());
    assert_eq!(pacer.keys_in_use(at(3600 * SECOND)), 0, "nothing leaks");
}

#[test]
fn a_limit_that_nobody_had_stated_knows_the_latest_departures() {
    let mut pacer = pacer(&[]);
    settle_all_at_once(&mut pacer, 40);
    pacer.set_limits(at(SECOND), UPSTREAM, vec![full_burst(50, 60_000)]);
    assert_eq!(leave(&mut pacer, SECOND, 50, &asks(&[UPSTREAM])).len(), 10);
}

fn settle_all_at_once(pacer: &mut Pacer, count: u64) {
    let permits = leave(pacer, 0, count, &asks(&[UPSTREAM]));
    settle_all(pacer, 0, permits);
}

#[test]
fn a_key_that_shared_the_buckets_of_all_that_were_too_many_starts_with_what_left_there() {
    let mut pacer = Pacer::new(Settings { max_keys: 1, ..Settings::default() });
    let limits = pacer.add_limits(vec![full_burst(4, 10_000)]);
    let ask = |subject| Ask::new(Flow(1), [Key { limits, subject }]);
    let first = leave(&mut pacer, 0, 4, &ask(1));
    let mut shared = leave(&mut pacer, SECOND, 3, &ask(2));
    assert_eq!(shared.len(), 3);
    pacer.set_settings(at(SECOND), Settings { max_keys: 100, ..Settings::default() });
    let own = leave(&mut pacer, 2 * SECOND, 4, &ask(2));
    assert_eq!(own.len(), 1, "of four in ten seconds");
    pacer.settle(at(2 * SECOND), shared.remove(0), Spent::Nothing);
    let returned = leave(&mut pacer, 2 * SECOND, 4, &ask(2));
    assert_eq!(returned.len(), 1, "what was not sent comes back there, too");
    settle_all(&mut pacer, 3 * SECOND, first.into_iter().chain(shared).chain(own).chain(returned));
    assert_eq!(pacer.keys_in_use(at(3600 * SECOND)), 0, "nothing leaks");
}

/// A pacer, its upstream's log, and what a shell around it does at a reload.
struct Site {
    pacer: Pacer,
    now: u64,
    log: Vec<(u64, u64)>,
    in_flight: BTreeMap<u64, Vec<Permit>>,
    waiting: BTreeMap<Ticket, u64>,
    keys: Vec<LimitsId>,
}

impl Site {
    fn run_until(&mut self, until: u64) {
        let mut departures = Vec::new();
        loop {
            let ends = self.in_flight.keys().next().copied().unwrap_or(u64::MAX);
            let due = self.pacer.next_due().map_or(u64::MAX, |due| due.as_nanos().max(self.now));
            if ends.min(due) > until {
                break;
            }
            self.now = ends.min(due);
            if ends <= due {
                let permits = self.in_flight.remove(&ends).unwrap_or_default();
                settle_all(&mut self.pacer, ends, permits);
                continue;
            }
            self.pacer.due(at(due), &mut departures);
            for departure in departures.drain(..) {
                let Departure::Go(ticket, permit) = departure else { panic!("{departure:?}") };
                self.waiting.remove(&ticket);
                self.sent(permit);
            }
        }
        self.now = until;
    }

    fn sent(&mut self, permit: Permit) {
        self.log.push((self.now, 1));
        self.in_flight.entry(self.now + 300 * MILLI).or_default().push(permit);
    }

    fn ask(&mut self, since: Option<u64>) {
        match self.pacer.admit(at(self.now), Ask { since: since.map(at), ..asks(&self.keys) }) {
            Admission::Go(permit) => self.sent(permit),
            Admission::Wait(ticket) => _ = self.waiting.insert(ticket, since.unwrap_or(self.now)),
            Admission::Refuse(refusal) => panic!("{refusal:?}"),
        }
    }

    /// Everybody asks again by other keys.
    fn reload(&mut self, upstream: &[Limit], domain: &[Limit]) {
        let waiting = std::mem::take(&mut self.waiting);
        waiting.keys().for_each(|ticket| assert!(self.pacer.cancel(at(self.now), *ticket)));
        restate(&mut self.pacer, self.now, upstream, domain);
        self.keys = if domain.is_empty() { vec![UPSTREAM] } else { vec![UPSTREAM, DOMAIN] };
        waiting.into_values().for_each(|since| self.ask(Some(since)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// R1 over moves: a limit that goes to and fro between two places holds in every window.
    #[test]
    fn a_limit_holds_wherever_it_is_stated(
        amount in 1u64..30,
        moves in prop::collection::vec(any::<bool>(), 1..6),
        gaps in prop::collection::vec(0u64..120 * MILLI, 10..150),
        every in 50 * MILLI..1500 * MILLI,
    ) {
        let limit = full_burst(amount, 1000);
        let log = Vec::new();
        let (in_flight, waiting) = (BTreeMap::new(), BTreeMap::new());
        let mut site = Site { pacer: pacer(&[limit]), now: 0, log, in_flight, waiting, keys: vec![UPSTREAM] };
        let mut moves = moves.into_iter();
        let mut next_move = every;
        for gap in gaps {
            let arrives = site.now + gap;
            while next_move <= arrives && let Some(to_domain) = moves.next() {
                site.run_until(next_move);
                if to_domain { site.reload(&[], &[limit]) } else { site.reload(&[limit], &[]) }
                next_move += every;
            }
            site.run_until(arrives);
            site.ask(None);
        }
        site.run_until(100_000 * SECOND);
        prop_assert_eq!(site.waiting.len(), 0);
        let worst = worst_window(&site.log, SECOND);
        prop_assert!(worst <= amount, "{} of {}", worst, amount);
        prop_assert_eq!(site.pacer.keys_in_use(at(200_000 * SECOND)), 0, "nothing leaks");
    }

    /// R1 over other periods: from the change on, the new limit holds in every window, also in those that began before.
    #[test]
    fn a_limit_of_another_period_knows_what_left_before(
        (amount, millis) in (1u64..60, 500u64..3000),
        (before, before_millis) in (1u64..60, 100u64..3000),
        gaps in prop::collection::vec(0u64..60 * MILLI, 10..200),
        changed in 500 * MILLI..4 * SECOND,
    ) {
        let (in_flight, waiting) = (BTreeMap::new(), BTreeMap::new());
        let old = pacer(&[full_burst(before, before_millis)]);
        let mut site = Site { pacer: old, now: 0, log: Vec::new(), in_flight, waiting, keys: vec![UPSTREAM] };
        let mut left_before = None;
        for gap in gaps {
            let arrives = site.now + gap;
            if arrives >= changed && left_before.is_none() {
                site.run_until(changed);
                left_before = Some(site.log.len());
                site.pacer.set_limits(at(changed), UPSTREAM, vec![full_burst(amount, millis)]);
            }
            site.run_until(arrives);
            site.ask(None);
        }
        site.run_until(100_000 * SECOND);
        let left_before = left_before.unwrap_or(site.log.len());
        for (nth, &(left, _)) in site.log.iter().enumerate().skip(left_before) {
            let within = site.log[..=nth].iter().filter(|(at, _)| at + millis * MILLI > left).count() as u64;
            prop_assert!(within <= amount, "{} of {} in the window that ends at {}", within, amount, left);
        }
    }
}

#[test]
fn what_the_latest_departures_know_only_in_part_still_counts_whole() {
    // So many tokens that several departures share a cell, and more departures than are remembered one by one.
    let tokens = |amount: u64, millis: u64| -> Limit {
        tokens_per(amount, millis).with_burst(amount).expect("a valid burst").into()
    };
    let mut pacer = pacer(&[tokens(600_000, 60_000)]);
    let ask = || {
        let mut ask = asks(&[UPSTREAM]);
        ask.cost = Cost::ONE_REQUEST.with(Unit::Tokens, 100);
        ask
    };
    for nth in 0..1_000 {
        let permit = go(&mut pacer, nth * MILLI, ask());
        pacer.settle(at(nth * MILLI), permit, Spent::AsEstimated);
    }
    let now = 1_000 * MILLI;
    pacer.state_limits(at(now), UPSTREAM, vec![tokens(500_000, 30_000)], Some(Teaching::Bold));
    let more = leave(&mut pacer, now, 5_000, &ask()).len();
    assert!(more <= 4_000, "{more} of 4,000 that are left");
}
