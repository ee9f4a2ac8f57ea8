//! L2 and L5: limits that were told, and limits that had to be found.

use std::time::Duration;

use cooldown_pacer::{
    Admission, Ask, Cost, Flow, Key, LARGEST_AMOUNT, Lesson, Limit, Observation, Pacer, Permit, Refill, Room, Settings,
    Source, Spent, Teaching, Told, Unit,
};

use crate::upstream::{Counting, Loop, Telling, Weather, bucket, fixed, sliding};
use crate::world::{MILLI, SECOND, at, requests_per};

const MINUTE: u64 = 60 * SECOND;

/// An upstream of 20 a second in each way of counting, near and far, with one client and with many.
fn twenty_a_second(telling: Telling, teaching: Teaching) -> impl Iterator<Item = (String, Loop)> {
    let countings = [sliding(20, 1), fixed(20, 1), bucket(20, 1)];
    let of_each = move |counting: Counting| {
        [(30 * MILLI, 1), (30 * MILLI, 30), (SECOND, 1), (SECOND, 30)].map(|(latency, flows)| {
            let name = format!("{counting:?} {telling:?} {latency} ns {flows} clients");
            let upstream = Loop::new(counting.clone(), telling, teaching).with_latency(latency);
            (name, upstream.with_clients(flows, 300 / flows))
        })
    };
    countings.into_iter().flat_map(of_each)
}

/// A pacer that has asked nothing yet.
fn fresh() -> (Pacer, Key) {
    let mut pacer = Pacer::new(Settings::default());
    let key = Key::whole(pacer.add_teaching_limits(Vec::new(), Teaching::Bold));
    (pacer, key)
}

fn go(pacer: &mut Pacer, now: u64, ask: Ask) -> Permit {
    match pacer.admit(at(now), ask) {
        Admission::Go(permit) => permit,
        other => panic!("{other:?}"),
    }
}

fn told(amount: u64, left: u64) -> Told {
    Told {
        unit: Unit::Requests,
        amount: Some(amount),
        period: Some(Duration::from_secs(1)),
        left: Some(left),
        refill: Some(Refill::Steadily(Duration::from_secs(1))),
    }
}

fn learned(pacer: &Pacer, now: u64, key: Key) -> Option<Room> {
    pacer.learned(at(now), key.limits).first().map(|&(_, room)| room)
}

fn amount(room: Option<Room>) -> u64 {
    match room.map(|room| room.limit) {
        Some(Limit::Rate(rate)) => rate.amount(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_limit_that_is_told_is_used_from_the_first_answer_on_and_never_broken() {
    for (name, mut upstream) in twenty_a_second(Telling::Limits, Teaching::Cautious) {
        upstream.run_until(62 * SECOND);
        let (used, refused) = (upstream.used(0, MINUTE, 1200.0), upstream.refused(0, MINUTE));
        assert!(used >= 0.97, "{name}: {used} used");
        assert_eq!(refused, 0.0, "{name}");
        let room = learned(&upstream.pacer, upstream.now, upstream.key);
        assert_eq!(room.map(|room| (room.source, room.limit)), Some((Source::Learned, requests_per(20, 1000).into())));
        assert_eq!(upstream.lessons.iter().filter(|lesson| matches!(lesson, Lesson::Limit { .. })).count(), 1);
    }
}

#[test]
fn a_limit_that_is_never_told_is_found() {
    for telling in [Telling::Nothing, Telling::Waits] {
        for (name, mut upstream) in twenty_a_second(telling, Teaching::Cautious) {
            let (from, to) = (30 * SECOND, 330 * SECOND);
            upstream.run_until(to + 2 * SECOND);
            let (used, refused) = (upstream.used(from, to, 6000.0), upstream.refused(from, to));
            let least = if telling == Telling::Nothing { 0.97 } else { 0.92 };
            assert!(used >= least, "{name}: {used} used");
            assert!(refused <= 0.005, "{name}: {refused} refused");
            let room = learned(&upstream.pacer, upstream.now, upstream.key).expect("something was found");
            assert_eq!(room.source, Source::Found);
        }
    }
}

#[test]
fn a_rate_that_an_earlier_process_found_is_where_the_search_goes_on() {
    for counting in [sliding(20, 1), fixed(20, 1), bucket(20, 1)] {
        let upstream = || Loop::new(counting.clone(), Telling::Nothing, Teaching::Cautious).with_clients(30, 10);
        let mut first = upstream();
        first.run_until(5 * MINUTE);
        let rate = first.pacer.found_rate(at(first.now), first.key).expect("a rate");
        assert_eq!(first.pacer.found_rates(at(first.now)), [(first.key, rate)]);
        let (mut knows, mut does_not) = (upstream(), upstream());
        knows.pacer.recall_found(at(0), knows.key, rate);
        let refused = [&mut knows, &mut does_not].map(|upstream| {
            upstream.run_until(32 * SECOND);
            upstream.refused(0, 30 * SECOND)
        });
        assert!(refused[0] <= 0.004 && refused[0] < refused[1], "{counting:?}: {refused:?} refused");
        let used = knows.used(0, 30 * SECOND, 600.0);
        assert!(used >= 0.9, "{counting:?}: {used} used");
    }
}

#[test]
fn a_limit_that_was_told_goes_before_a_rate_that_was_found() {
    let (mut pacer, key) = fresh();
    pacer.recall_limit(at(0), key, requests_per(20, 60_000));
    pacer.recall_found(at(0), key, requests_per(30, 60_000));
    assert_eq!(pacer.found_rate(at(0), key), None);
    assert_eq!(learned(&pacer, 0, key).map(|room| room.source), Some(Source::Learned));
}

#[test]
fn the_first_crowd_of_a_bold_key_does_not_spoil_the_search() {
    for (name, mut upstream) in twenty_a_second(Telling::Nothing, Teaching::Bold) {
        let (from, to) = (30 * SECOND, 150 * SECOND);
        upstream.run_until(to + 2 * SECOND);
        let (used, refused) = (upstream.used(from, to, 2400.0), upstream.refused(from, to));
        assert!(used >= 0.85, "{name}: {used} used");
        assert!(refused <= 0.01, "{name}: {refused} refused");
    }
}

#[test]
fn slow_limits_are_found_as_well() {
    for telling in [Telling::Nothing, Telling::Waits] {
        for counting in [sliding(60, 60), fixed(60, 60), bucket(60, 60)] {
            for weather in [Weather::Calm, Weather::Jitter { seed: 1 }, Weather::Storm { seed: 1 }] {
                let upstream = Loop::new(counting.clone(), telling, Teaching::Cautious).with_clients(30, 10);
                let mut upstream = upstream.with_weather(weather);
                let (from, to) = (3 * MINUTE, 23 * MINUTE);
                upstream.run_until(to + 2 * SECOND);
                let (used, refused) = (upstream.used(from, to, 1200.0), upstream.refused(from, to));
                assert!(used >= 0.9, "{counting:?} {telling:?} {weather:?}: {used} used");
                assert!(refused <= 0.03, "{counting:?} {telling:?} {weather:?}: {refused} refused");
            }
        }
    }
}

/// Figures of what is found from 15 s on, in the mean over crowds of different jitter, and the least that any of them used.
struct Found {
    used: f64,
    refused: f64,
    least: f64,
}

fn found(counting: &Counting, a_second: f64, (flows, depth): (u64, u64), weather: fn(u64) -> Weather) -> Found {
    const SEEDS: u64 = 6;
    let (from, to) = (15 * SECOND, 60 * SECOND);
    let mut found = Found { used: 0.0, refused: 0.0, least: f64::INFINITY };
    for seed in 0..SEEDS {
        let upstream = Loop::new(counting.clone(), Telling::Nothing, Teaching::Cautious).with_latency(30 * MILLI);
        let mut upstream = upstream.with_weather(weather(seed)).with_clients(flows, depth);
        upstream.run_until(to + 2 * SECOND);
        let used = upstream.used(from, to, a_second * 45.0);
        found.used += used / SEEDS as f64;
        found.refused += upstream.refused(from, to) / SEEDS as f64;
        found.least = found.least.min(used);
    }
    found
}

#[test]
fn a_limit_that_is_never_told_is_found_however_late_and_uneven_requests_arrive() {
    let weathers: [fn(u64) -> Weather; 2] = [|seed| Weather::Jitter { seed }, |seed| Weather::Storm { seed }];
    for amount in [5, 20, 200] {
        for counting in [sliding(amount, 1), fixed(amount, 1), bucket(amount, 1)] {
            for (clients, weather) in
                [(1, 40), (30, 2)].into_iter().flat_map(|clients| weathers.map(|of| (clients, of)))
            {
                let name = format!("{counting:?} {clients:?} {:?}", weather(0));
                let found = found(&counting, amount as f64, clients, weather);
                assert!(found.used >= 0.88, "{name}: {} used", found.used);
                assert!(found.least >= 0.85, "{name}: {} used at least", found.least);
                assert!(found.refused < 0.01, "{name}: {} refused", found.refused);
            }
        }
    }
}

#[test]
fn a_limit_that_changes_is_found_again() {
    let mut upstream = Loop::new(sliding(20, 1), Telling::Nothing, Teaching::Cautious).with_clients(30, 10);
    upstream.run_until(MINUTE);
    upstream.change(sliding(4, 1));
    upstream.run_until(6 * MINUTE);
    let used = upstream.used(2 * MINUTE, 6 * MINUTE, 4.0 * 240.0);
    assert!(used >= 0.8, "lowered: {used} used");
    assert!(upstream.refused(2 * MINUTE, 6 * MINUTE) <= 0.03);
    upstream.change(sliding(100, 1));
    upstream.run_until(20 * MINUTE);
    let used = upstream.used(16 * MINUTE, 20 * MINUTE, 100.0 * 240.0);
    assert!(used >= 0.8, "raised: {used} used");
}

#[test]
fn a_rate_that_nobody_uses_does_not_grow_and_is_forgotten_in_the_end() {
    let mut upstream = Loop::new(sliding(20, 1), Telling::Nothing, Teaching::Cautious).with_clients(30, 10);
    upstream.run_until(MINUTE);
    let (mut pacer, key) = (upstream.pacer.clone(), upstream.key);
    let before = amount(learned(&pacer, MINUTE, key));
    let mut now = MINUTE;
    // A clone knows of those who wait; they go away, and one request a second comes.
    let mut departures = Vec::new();
    for _ in 0..2000 {
        now += 100 * MILLI;
        pacer.due(at(now), &mut departures);
    }
    let drained = amount(learned(&pacer, now, key));
    assert!(drained >= before, "{before} {drained}");
    assert_eq!(pacer.waiting(), 0);
    for _ in 0..120 {
        now += SECOND;
        let mut permit = go(&mut pacer, now, Ask::new(Flow(1), [key]));
        pacer.observe(at(now), &mut permit, Observation::Accepted);
        pacer.settle(at(now), permit, Spent::AsEstimated);
    }
    let after = amount(learned(&pacer, now, key));
    assert!(after <= drained, "{drained} {after}");
    assert_eq!(learned(&pacer, now + 10 * MINUTE, key), None);
}

#[test]
fn a_told_limit_that_is_too_high_is_not_believed_for_ever() {
    let (mut pacer, key) = fresh();
    let mut strict = sliding(5, 1);
    let mut accepted = 0;
    let mut now = 0;
    while now < 5 * MINUTE {
        now += 20 * MILLI;
        let Admission::Go(mut permit) = pacer.admit(at(now), Ask::new(Flow(1), [key])) else { break };
        let taken = strict.accepts(now);
        accepted += u64::from(taken);
        let verdict = if taken { Observation::Accepted } else { Observation::Refused { key, unit: None, until: None } };
        pacer.observe(at(now), &mut permit, Observation::Told { key, told: told(1000, 900) });
        pacer.observe(at(now), &mut permit, verdict);
        pacer.settle(at(now), permit, Spent::AsEstimated);
        now = now.max(pacer.foresee(at(now), &Ask::new(Flow(1), [key])).as_nanos());
    }
    assert!(accepted as f64 >= 0.7 * 5.0 * 300.0, "{accepted} were accepted");
    let found = pacer.learned(at(now), key.limits).into_iter().find(|(_, room)| room.source == Source::Found);
    let found = amount(found.map(|(_, room)| room));
    assert!((150..500).contains(&found), "{found} a minute");
}

#[test]
fn what_is_in_flight_counts_when_a_limit_becomes_known() {
    let (mut pacer, key) = fresh();
    let mut permits: Vec<Permit> = (0..8).map(|nth| go(&mut pacer, nth, Ask::new(Flow(nth), [key]))).collect();
    let lesson = pacer.observe(at(100), &mut permits[0], Observation::Told { key, told: told(20, 19) });
    assert_eq!(lesson, Some(Lesson::Limit { key, limit: requests_per(20, 1000).into() }));
    let room = learned(&pacer, 100, key).expect("it is known");
    assert_eq!(room.left, 12);
    let at_once = (0..20).map_while(|nth| match pacer.admit(at(200), Ask::new(Flow(nth), [key])) {
        Admission::Go(permit) => Some(permit),
        _ => None,
    });
    assert_eq!(at_once.count(), 12);
}

#[test]
fn of_a_configured_limit_and_a_told_one_the_lower_one_rules() {
    for (configured, told_amount) in [(100, 20), (20, 100)] {
        let mut pacer = Pacer::new(Settings::default());
        let limits = pacer.add_teaching_limits(vec![requests_per(configured, 1000).into()], Teaching::Cautious);
        let key = Key::whole(limits);
        let mut first = go(&mut pacer, 0, Ask::new(Flow(1), [key]));
        pacer.observe(at(1), &mut first, Observation::Told { key, told: told(told_amount, told_amount - 1) });
        let at_once = (0..200).map_while(|_| match pacer.admit(at(2), Ask::new(Flow(1), [key])) {
            Admission::Go(permit) => Some(permit),
            _ => None,
        });
        assert_eq!(at_once.count(), 19);
    }
}

#[test]
fn older_answers_never_overrule_newer_ones() {
    let (mut pacer, key) = fresh();
    let mut old = go(&mut pacer, 0, Ask::new(Flow(1), [key]));
    let mut new = go(&mut pacer, 1, Ask::new(Flow(1), [key]));
    pacer.observe(at(10), &mut new, Observation::Told { key, told: told(20, 5) });
    let before = learned(&pacer, 10, key);
    assert_eq!(pacer.observe(at(10), &mut old, Observation::Told { key, told: told(3, 0) }), None);
    assert_eq!(learned(&pacer, 10, key), before);
}

#[test]
fn a_lower_amount_is_believed_at_once_and_a_higher_one_by_and_by() {
    let (mut pacer, key) = fresh();
    let mut hear = |now: u64, amount: u64| {
        let mut permit = go(&mut pacer, now, Ask::new(Flow(1), [key]));
        pacer.observe(at(now), &mut permit, Observation::Told { key, told: told(amount, amount - 1) });
        pacer.settle(at(now), permit, Spent::AsEstimated);
        learned(&pacer, now, key)
    };
    assert_eq!(amount(hear(0, 100)), 100);
    assert_eq!(amount(hear(SECOND, 40)), 40);
    assert_eq!(amount(hear(2 * SECOND, 80)), 50);
    assert_eq!(amount(hear(3 * SECOND, 80)), 58);
}

#[test]
fn tokens_that_were_told_of_are_settled_like_configured_ones() {
    let (mut pacer, key) = fresh();
    let ask = |tokens: u64| Ask { cost: Cost::ONE_REQUEST.with(Unit::Tokens, tokens), ..Ask::new(Flow(1), [key]) };
    let of_tokens = Told { unit: Unit::Tokens, period: Some(Duration::from_secs(60)), ..told(6000, 5000) };
    let mut first = go(&mut pacer, 0, ask(1000));
    let second = go(&mut pacer, 1, ask(500));
    pacer.observe(at(10), &mut first, Observation::Told { key, told: of_tokens });
    let left = |pacer: &Pacer| learned(pacer, 10, key).expect("it is known").left;
    assert_eq!(left(&pacer), 4500);
    pacer.settle(at(10), second, Spent::Exactly(Cost::ONE_REQUEST.with(Unit::Tokens, 100)));
    assert_eq!(left(&pacer), 4900);
    pacer.settle(at(10), first, Spent::AsEstimated);
}

#[test]
fn nonsense_poisons_nothing() {
    let absurd = [
        Told { amount: Some(0), ..told(1, 0) },
        Told { period: Some(Duration::MAX), ..told(20, 19) },
        Told { period: Some(Duration::ZERO), refill: Some(Refill::Steadily(Duration::ZERO)), ..told(20, 0) },
        Told { amount: Some(u64::MAX), left: Some(u64::MAX), ..told(1, 1) },
        Told { amount: None, period: None, refill: Some(Refill::AtOnce(Duration::ZERO)), ..told(1, 0) },
        Told { amount: None, period: None, refill: None, ..told(1, 0) },
        Told { amount: None, left: None, ..told(1, 0) },
    ];
    for nonsense in absurd {
        let (mut pacer, key) = fresh();
        let mut permit = go(&mut pacer, 0, Ask::new(Flow(1), [key]));
        pacer.observe(at(1), &mut permit, Observation::Told { key, told: nonsense });
        pacer.settle(at(1), permit, Spent::AsEstimated);
        let soon = pacer.foresee(at(2), &Ask::new(Flow(1), [key])).as_nanos();
        assert!(soon <= 1001 * MILLI, "{nonsense:?} holds the next one for {soon} ns");
    }
    let (mut pacer, key) = fresh();
    let mut permit = go(&mut pacer, 0, Ask::new(Flow(1), [key]));
    let years = Told { refill: Some(Refill::AtOnce(Duration::MAX)), amount: Some(LARGEST_AMOUNT), ..told(1, 0) };
    pacer.observe(at(1), &mut permit, Observation::Told { key, told: years });
    pacer.settle(at(1), permit, Spent::AsEstimated);
    let foreseen = pacer.foresee(at(2), &Ask::new(Flow(1), [key])).since(at(0));
    assert!(foreseen <= Duration::from_secs(32 * 24 * 3600), "{foreseen:?}");
}

#[test]
fn what_was_learned_is_forgotten_when_it_is_not_told_again() {
    let (mut pacer, key) = fresh();
    let mut permit = go(&mut pacer, 0, Ask::new(Flow(1), [key]));
    pacer.observe(at(1), &mut permit, Observation::Told { key, told: told(20, 0) });
    pacer.settle(at(1), permit, Spent::AsEstimated);
    assert!(learned(&pacer, 9 * MINUTE, key).is_some());
    assert_eq!(learned(&pacer, 11 * MINUTE, key), None);
    assert_eq!(pacer.keys_in_use(at(11 * MINUTE)), 0);
}

#[test]
fn models_that_think_for_long_are_learned_as_well() {
    for thinking in [3 * SECOND, 20 * SECOND] {
        for (telling, least) in [(Telling::Limits, 0.99), (Telling::Waits, 0.92), (Telling::Nothing, 0.97)] {
            let mut upstream = Loop::new(sliding(20, 1), telling, Teaching::Cautious).with_thinking(thinking);
            upstream = upstream.with_clients(30, 40);
            upstream.run_until(390 * SECOND);
            let (from, to) = (MINUTE, 6 * MINUTE);
            let (used, refused) = (upstream.used(from, to, 6000.0), upstream.refused(from, to));
            assert!(used >= least, "{telling:?}, {thinking} ns: {used} used");
            assert!(refused <= 0.005, "{telling:?}, {thinking} ns: {refused} refused");
        }
    }
}
