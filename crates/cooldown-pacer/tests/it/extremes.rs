//! Values at the edge of what can be said, and what a stranger may choose.

use std::time::Duration;

use cooldown_pacer::{
    Admission, Ask, Cost, Departure, Flow, Instant, Key, LARGEST_AMOUNT, LONGEST_PERIOD, Limit, Observation, Pacer,
    Rate, SHORTEST_PERIOD, Settings, Spent, Unit, Urgency, Weight,
};
use proptest::prelude::*;

use crate::world::{MILLI, SECOND, World, at, pacer_with, request, requests_per, tokens_per, with_tokens};

fn an_amount() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0u64), Just(1), 0u64..10_000, Just(LARGEST_AMOUNT), Just(u64::MAX / 2 + 1), Just(u64::MAX)]
}

fn a_rate() -> impl Strategy<Value = Rate> {
    let amount = prop_oneof![Just(1u64), Just(2048), Just(2049), Just(LARGEST_AMOUNT)];
    let period = prop_oneof![Just(SHORTEST_PERIOD), Just(Duration::from_secs(60)), Just(LONGEST_PERIOD)];
    let unit = prop_oneof![Just(Unit::Requests), Just(Unit::Tokens)];
    (unit, amount, period).prop_map(|(unit, amount, period)| Rate::new(unit, amount, period).expect("a valid rate"))
}

fn a_duration() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(Duration::ZERO), Just(Duration::from_millis(2)), Just(Duration::MAX)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// No panic, no endless loop, nothing left behind, whatever is said.
    #[test]
    fn nothing_that_can_be_said_breaks_the_pacer(
        rates in prop::collection::vec(a_rate(), 1..4),
        start in prop_oneof![Just(0u64), Just(1 << 62), Just(u64::MAX - 10 * SECOND)],
        guard in a_duration(),
        ageing in a_duration(),
        steps in prop::collection::vec((0u8..8, an_amount(), an_amount(), 0u64..4, 0u64..SECOND), 1..60),
    ) {
        let settings = Settings { guard, ageing, max_depth: 20, max_keys: 3, max_flows: 2 };
        let (mut pacer, limits) = pacer_with(settings, &rates.iter().copied().map(Limit::from).collect::<Vec<_>>());
        let (mut now, mut tickets, mut permits, mut out) = (start, Vec::new(), Vec::new(), Vec::new());
        for &(what, tokens, spent, who, gap) in &steps {
            now = now.saturating_add(gap);
            let key = Key { limits, subject: who };
            match what {
                0..=2 => {
                    let mut ask = Ask::new(Flow(who), [key, Key::whole(limits)]);
                    ask.cost = Cost::ONE_REQUEST.with(Unit::Tokens, tokens);
                    ask.latest = (what > 0).then(|| at(now.saturating_add(spent)));
                    ask.weight = Weight::new(if who == 0 { Weight::LARGEST } else { 1 }).expect("a valid weight");
                    ask.urgency = Urgency::new(who as u8).expect("a valid urgency");
                    ask.since = (what == 2).then(|| at(spent));
                    match pacer.admit(at(now), ask) {
                        Admission::Go(permit) => permits.push(permit),
                        Admission::Wait(ticket) => tickets.push(ticket),
                        Admission::Refuse(_) => {}
                    }
                }
                3 => {
                    let Some(permit) = permits.pop() else { continue };
                    let cost = Cost::ONE_REQUEST.with(Unit::Tokens, tokens).with(Unit::Requests, spent);
                    pacer.settle(at(now), permit, Spent::Exactly(cost));
                }
                4 => {
                    let Some(ticket) = tickets.pop() else { continue };
                    pacer.predict(at(now), ticket);
                    pacer.cancel(at(now), ticket);
                }
                5 => {
                    let Some(permit) = permits.last_mut() else { continue };
                    pacer.observe(at(now), permit, Observation::Refused { key, unit: None, until: None });
                }
                6 => permits.iter_mut().for_each(|permit| pacer.sent(at(now), permit)),
                _ => {
                    pacer.due(at(now), &mut out);
                    prop_assert!(pacer.next_due().is_none_or(|due| due > at(now)), "due did what there was to do");
                }
            }
            tickets.iter().for_each(|&ticket| {
                pacer.predict(at(now), ticket);
            });
            for departure in out.drain(..) {
                match departure {
                    Departure::Go(ticket, permit) => {
                        tickets.retain(|&other| other != ticket);
                        permits.push(permit);
                    }
                    Departure::Refuse(ticket, _) => tickets.retain(|&other| other != ticket),
                }
            }
            prop_assert_eq!(pacer.waiting(), tickets.len());
            pacer.room(at(now), key);
        }
    }
}

#[test]
fn a_correction_after_its_window_changes_nothing() {
    let (mut pacer, limits) = pacer_with(Settings::default(), &[tokens_per(1000, 1000).into()]);
    let ask = |tokens| {
        let mut ask = Ask::new(Flow(1), [Key::whole(limits)]);
        ask.cost = Cost::ONE_REQUEST.with(Unit::Tokens, tokens);
        ask
    };
    let Admission::Go(permit) = pacer.admit(at(0), ask(10)) else { panic!("there is room") };
    pacer.settle(at(60 * SECOND), permit, Spent::Exactly(Cost::ONE_REQUEST.with(Unit::Tokens, 5000)));
    assert!(matches!(pacer.admit(at(60 * SECOND), ask(10)), Admission::Go(_)), "the debt is a minute old");
}

#[test]
fn whoever_cannot_leave_before_a_debt_is_repaid_is_refused_on_arrival() {
    let (mut pacer, limits) = pacer_with(Settings::default(), &[tokens_per(1000, 1000).into()]);
    let mut ask = Ask::new(Flow(1), [Key::whole(limits)]);
    ask.cost = Cost::ONE_REQUEST.with(Unit::Tokens, 10);
    let Admission::Go(permit) = pacer.admit(at(0), ask.clone()) else { panic!("there is room") };
    pacer.settle(at(1), permit, Spent::Exactly(Cost::ONE_REQUEST.with(Unit::Tokens, 60_000)));
    ask.latest = Some(at(10 * SECOND));
    let answer = pacer.admit(at(2), ask);
    assert!(
        matches!(answer, Admission::Refuse(refusal) if refusal.retry_after > Duration::from_secs(50)),
        "{answer:?}"
    );
}

#[test]
fn credit_never_grows_beyond_the_limit_however_large_the_waiting_request() {
    let slots = Limit::Concurrency(std::num::NonZeroU32::new(1).expect("not zero"));
    let tokens = tokens_per(100, 1000).with_burst(10).expect("a valid burst");
    let (mut pacer, limits) = pacer_with(Settings { max_depth: 10_000, ..Settings::default() }, &[tokens.into()]);
    let one = pacer.add_limits(vec![slots]);
    let held = |mut request: crate::world::Request, takes| {
        request.ask.keys.push(Key::whole(one));
        crate::world::Request { takes, ..request }
    };
    let mut requests = vec![
        held(with_tokens(request(0, 1, limits), 1), 20 * SECOND),
        held(with_tokens(request(1, 1, limits), 50_000), MILLI),
        held(with_tokens(request(2, 1, limits), 50_000), MILLI),
    ];
    requests.extend((0..400).map(|nth| with_tokens(request(20 * SECOND + 10 * MILLI + nth, 2 + nth, limits), 1)));
    let mut world = World::new(pacer, requests);
    world.run_until(60 * SECOND);
    let mut sorted: Vec<u64> = (3..403).filter_map(|index| world.left_at(index)).collect();
    sorted.sort_unstable();
    let most =
        sorted.iter().map(|&from| sorted.iter().filter(|&&at| at >= from && at < from + 10 * MILLI).count()).max();
    assert!(most <= Some(12), "{most:?} left within 10 ms");
}

#[test]
fn keys_beyond_the_bound_cost_no_sweep_each() {
    // The time itself is not asserted: without amortization this test takes minutes.
    let settings = Settings { max_keys: 20_000, ..Settings::default() };
    let (mut pacer, limits) = pacer_with(settings, &[requests_per(1_000_000, 86_400_000).into()]);
    for subject in 0..60_000 {
        let Admission::Go(permit) = pacer.admit(at(subject), Ask::new(Flow(subject), [Key { limits, subject }])) else {
            panic!("there is room")
        };
        pacer.settle(at(subject), permit, Spent::AsEstimated);
    }
    assert!(pacer.keys_in_use(at(60_000)) <= 20_001);
}

#[test]
fn keys_are_not_forgotten_while_a_request_names_them() {
    let (mut pacer, first) = pacer_with(Settings::default(), &[requests_per(1, 1000).into()]);
    let second = pacer.add_limits(vec![requests_per(1000, 1000).into()]);
    // However many newcomers came before, the second key may be the one that makes others be forgotten.
    for newcomers in 0..2100u32 {
        let now = at((u64::from(newcomers) + 1) * 10 * SECOND);
        let keys = [Key::whole(first), Key { limits: second, subject: newcomers.into() }];
        let Admission::Go(permit) = pacer.admit(now, Ask::new(Flow(1), keys)) else { panic!("there is room") };
        pacer.settle(now, permit, Spent::AsEstimated);
        let foreseen = pacer.foresee(now, &Ask::new(Flow(1), [Key::whole(first)]));
        assert!(foreseen.since(now) >= Duration::from_secs(1), "after {newcomers} newcomers the limit was skipped");
    }
}

#[test]
fn the_end_of_time_is_no_special_case() {
    let (mut pacer, limits) = pacer_with(Settings::default(), &[requests_per(1, 1000).into()]);
    let ask = || Ask::new(Flow(1), [Key::whole(limits)]);
    for _ in 0..3 {
        if let Admission::Wait(ticket) = pacer.admit(Instant::NEVER, ask()) {
            assert_eq!(pacer.predict(Instant::NEVER, ticket), Some(Instant::NEVER));
        }
    }
    let mut empty = Pacer::new(Settings::default());
    assert!(matches!(empty.admit(Instant::NEVER, Ask::new(Flow(1), [])), Admission::Go(_)));
}
