//! Limits that change while requests wait and are in flight.

use std::num::NonZeroU32;
use std::time::Duration;

use cooldown_pacer::{Admission, Ask, Flow, Key, Limit, LimitsId, Observation, Pacer, Rate, Settings, Spent, Unit};
use proptest::prelude::*;

use crate::world::{
    MILLI, Request, SECOND, World, at, pacer_with, request, requests_per, tokens_per, with_tokens, worst_window,
};

fn deep() -> Settings {
    Settings { max_depth: 1_000_000, ..Settings::default() }
}

fn slots(max: u32) -> Limit {
    Limit::Concurrency(NonZeroU32::new(max).expect("not zero"))
}

fn full_burst(rate: Rate) -> Limit {
    rate.with_burst(rate.amount()).expect("a valid burst").into()
}

/// How many of `count` may leave at once; their permits are kept.
fn go(pacer: &mut Pacer, now: u64, limits: LimitsId, count: u64) -> Vec<cooldown_pacer::Permit> {
    let mut permits = Vec::new();
    for _ in 0..count {
        match pacer.admit(at(now), Ask::new(Flow(1), [Key::whole(limits)])) {
            Admission::Go(permit) => permits.push(permit),
            Admission::Wait(ticket) => assert!(pacer.cancel(at(now), ticket)),
            Admission::Refuse(refusal) => panic!("{refusal:?}"),
        }
    }
    permits
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// R1 over a reload: a limit that stays holds in every window, whatever comes and goes beside it.
    #[test]
    fn a_limit_that_stays_holds_over_every_reload(
        amount in 1u64..40,
        beside in prop::collection::vec((0usize..3, 1u64..100, prop_oneof![Just(500u64), Just(7000), Just(60_000)]), 1..5),
        gaps in prop::collection::vec(0u64..200 * MILLI, 1..200),
    ) {
        let stays = full_burst(requests_per(amount, 2000));
        let (pacer, limits) = pacer_with(deep(), &[stays]);
        let mut now = 0;
        let requests: Vec<Request> = gaps.iter().map(|gap| {
            now += gap;
            request(now, now % 3, limits)
        }).collect();
        let mut world = World::new(pacer, requests);
        for (nth, &(place, other, millis)) in beside.iter().enumerate() {
            let when = (nth as u64 + 1) * SECOND;
            world.run_until(when);
            let other = full_burst(requests_per(other, millis));
            let list = match place {
                0 => vec![stays],
                1 => vec![stays, other],
                _ => vec![other, stays],
            };
            world.pacer.set_limits(at(when), limits, list);
        }
        world.run();
        let log: Vec<(u64, u64)> = world.departures().into_iter().map(|at| (at, 1)).collect();
        prop_assert!(worst_window(&log, 2 * SECOND) <= amount);
    }
}

#[test]
fn a_limit_that_stays_keeps_what_has_left_whatever_comes_before_it() {
    let minute = full_burst(requests_per(10, 60_000));
    let (mut pacer, limits) = pacer_with(deep(), &[minute]);
    assert_eq!(go(&mut pacer, 0, limits, 20).len(), 10);
    pacer.set_limits(at(SECOND), limits, vec![full_burst(requests_per(100, 3_600_000)), minute]);
    assert_eq!(go(&mut pacer, SECOND, limits, 20).len(), 0);
}

#[test]
fn a_limit_that_comes_knows_what_has_left_for_another_of_its_unit() {
    let minute = full_burst(requests_per(10, 60_000));
    let (mut pacer, limits) = pacer_with(deep(), &[minute]);
    assert_eq!(go(&mut pacer, 0, limits, 20).len(), 10);
    pacer.set_limits(at(SECOND), limits, vec![minute, full_burst(requests_per(15, 3_600_000))]);
    assert_eq!(go(&mut pacer, 100 * SECOND, limits, 20).len(), 5);
}

#[test]
fn a_number_in_flight_that_comes_counts_those_in_flight() {
    let (mut pacer, limits) = pacer_with(deep(), &[full_burst(requests_per(100, 1000))]);
    let mut permits = go(&mut pacer, 0, limits, 5);
    pacer.set_limits(at(MILLI), limits, vec![full_burst(requests_per(100, 1000)), slots(6)]);
    let more = go(&mut pacer, 2 * MILLI, limits, 5);
    assert_eq!(more.len(), 1);
    pacer.settle(at(3 * MILLI), permits.pop().expect("five left"), Spent::AsEstimated);
    let again = go(&mut pacer, 4 * MILLI, limits, 5);
    assert_eq!(again.len(), 1, "one came back");
    for permit in permits.into_iter().chain(more).chain(again) {
        pacer.settle(at(5 * MILLI), permit, Spent::AsEstimated);
    }
    assert_eq!(go(&mut pacer, 6 * MILLI, limits, 10).len(), 6);
}

#[test]
fn a_guard_that_was_widened_for_a_day_is_not_kept_for_a_second() {
    let (mut pacer, limits) = pacer_with(deep(), &[full_burst(requests_per(100, 86_400_000))]);
    let key = Key::whole(limits);
    let Admission::Go(mut permit) = pacer.admit(at(0), Ask::new(Flow(9), [key])) else { panic!("there is room") };
    pacer.observe(at(0), &mut permit, Observation::Refused { key, unit: None, until: None });
    pacer.settle(at(0), permit, Spent::Nothing);
    pacer.set_limits(at(1), limits, vec![full_burst(requests_per(10, 1000))]);
    assert_eq!(go(&mut pacer, 2, limits, 20).len(), 10);
    assert_eq!(go(&mut pacer, 2 + SECOND + SECOND / 5, limits, 20).len(), 10);
}

#[test]
fn a_limit_that_comes_while_requests_wait_does_not_starve_the_largest() {
    let once = requests_per(2, 1000).with_burst(1).expect("a valid burst");
    let (pacer, limits) = pacer_with(deep(), &[once.into()]);
    let mut requests = vec![with_tokens(request(0, 1, limits), 1), with_tokens(request(1, 1, limits), 1000)];
    requests.extend((2..20).map(|flow| with_tokens(request(flow, flow, limits), 1)));
    requests.extend((0..1000).map(|nth| with_tokens(request(SECOND / 4 + nth * 20 * MILLI, 100 + nth, limits), 1)));
    let mut world = World::new(pacer, requests);
    world.run_until(100);
    let tokens = tokens_per(10_000, 60_000).with_burst(1000).expect("a valid burst");
    world.pacer.set_limits(at(100), limits, vec![tokens.into(), once.into()]);
    // Nobody but the largest waits for tokens, once what it starts with is gone.
    world.pacer.set_limits(at(101), limits, vec![once.into()]);
    world.run_until(110 * MILLI);
    world.pacer.set_limits(at(110 * MILLI), limits, vec![tokens.into(), requests_per(1000, 1000).into()]);
    world.run_until(30 * SECOND);
    assert!(world.left_at(1).is_some());
}

#[test]
fn limits_may_vanish_while_requests_wait_and_are_in_flight() {
    let (pacer, limits) = pacer_with(deep(), &[requests_per(1, 60_000).into(), slots(1)]);
    let mut world =
        World::new(pacer, (0..10).map(|nth| Request { takes: SECOND, ..request(0, nth, limits) }).collect());
    world.run_until(MILLI);
    world.pacer.set_limits(at(MILLI), limits, Vec::new());
    world.run_until(2 * MILLI);
    assert_eq!(world.left.len(), 10);
    world.pacer.set_limits(at(3 * MILLI), limits, vec![slots(1)]);
    world.run();
    assert_eq!(world.pacer.room(at(10 * SECOND), Key::whole(limits))[0].left, 1);
    assert_eq!(world.pacer.keys_in_use(at(3600 * SECOND)), 0);
}

#[test]
fn another_unit_is_another_limit() {
    let (mut pacer, limits) = pacer_with(deep(), &[full_burst(requests_per(10, 1000))]);
    let permits = go(&mut pacer, 0, limits, 10);
    let output = Rate::new(Unit::OutputTokens, 100, Duration::from_secs(1)).expect("a valid rate");
    pacer.set_limits(at(1), limits, vec![full_burst(output)]);
    permits.into_iter().for_each(|permit| pacer.settle(at(2), permit, Spent::Nothing));
    assert_eq!(pacer.room(at(3), Key::whole(limits))[0].left, 100);
}
