//! R1–R4 and R10–R13: windows, bursts, use, atomicity, leaks, debt, oversize, bounds.

use std::num::NonZeroU32;
use std::time::Duration;

use cooldown_pacer::{Admission, Ask, Cost, Flow, Key, Limit, Observation, Pacer, Rate, Settings, Spent, Unit};
use proptest::prelude::*;

use crate::world::{
    Fate, MILLI, Request, SECOND, World, at, pacer_with, request, requests_per, tokens_per, with_tokens, worst_window,
};

fn no_guard() -> Settings {
    Settings { guard: Duration::ZERO, max_depth: 1_000_000, ..Settings::default() }
}

fn any_rate(unit: Unit) -> impl Strategy<Value = Rate> {
    (1u64..60, prop_oneof![Just(100u64), Just(1000), Just(10_000), 100u64..5000], 1u64..60).prop_map(
        move |(amount, millis, burst)| {
            let scale = if unit == Unit::Requests { 1 } else { 30 };
            let rate = Rate::new(unit, amount * scale, Duration::from_millis(millis)).expect("a valid rate");
            rate.with_burst((burst * scale).min(amount * scale)).expect("a valid burst")
        },
    )
}

/// Requests in clumps: the time to the next one, whose, how many tokens, how long it takes, what it spends, when it goes.
type Clump = (u64, u64, u64, u64, u8, Option<u64>);

fn any_workload() -> impl Strategy<Value = Vec<Clump>> {
    let gap = prop_oneof![4 => Just(0u64), 2 => 0u64..50 * MILLI, 1 => 0u64..3 * SECOND];
    let leaves = prop_oneof![3 => Just(None), 1 => (0u64..2 * SECOND).prop_map(Some)];
    prop::collection::vec((gap, 0u64..4, 1u64..2000, 0u64..500 * MILLI, 0u8..3, leaves), 1..120)
}

fn requests_of(clumps: &[Clump], keys: &[Key]) -> Vec<Request> {
    let mut now = 0;
    let build = |&(gap, flow, tokens, takes, spent, leaves): &Clump| {
        now += gap;
        let mut ask = Ask::new(Flow(flow), keys.iter().copied());
        ask.cost = Cost::ONE_REQUEST.with(Unit::Tokens, tokens);
        let spent = match spent {
            0 => Spent::Nothing,
            1 => Spent::Exactly(Cost::ONE_REQUEST.with(Unit::Tokens, tokens / 2)),
            _ => Spent::AsEstimated,
        };
        Request { at: now, ask, takes, spent, hangs_up: leaves.map(|after| now + after) }
    };
    clumps.iter().map(build).collect()
}

fn share(rate: &Rate, cost: &Cost) -> u64 {
    cost.get(rate.unit()).min(rate.amount())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// R1, R4. Estimates that are not corrected, so that what the pacer believed is what an upstream would count.
    #[test]
    fn no_trailing_window_ever_holds_more_than_its_limit(
        first in any_rate(Unit::Requests),
        second in any_rate(Unit::Requests),
        tokens in any_rate(Unit::Tokens),
        slots in 1u32..8,
        clumps in any_workload(),
        lateness in prop::collection::vec(0u64..20 * MILLI, 1..8),
    ) {
        let mut pacer = Pacer::new(no_guard());
        let shared = pacer.add_limits(vec![first.into(), tokens.into()]);
        let own = pacer.add_limits(vec![second.into(), Limit::Concurrency(NonZeroU32::new(slots).expect("not zero"))]);
        let mut requests = requests_of(&clumps, &[Key::whole(shared), Key { limits: own, subject: 7 }]);
        requests.iter_mut().for_each(|request| request.spent = Spent::AsEstimated);
        let mut world = World::new(pacer, requests).with_lateness(lateness);
        world.run();
        for rate in [first, second, tokens] {
            let log: Vec<(u64, u64)> = world
                .left
                .iter()
                .map(|&index| (world.left_at(index).expect("it left"), share(&rate, &world.request(index).ask.cost)))
                .collect();
            let worst = worst_window(&log, rate.period().as_nanos() as u64);
            prop_assert!(worst <= rate.amount(), "{worst} in a window of {rate:?}");
        }
        let stays = |&index: &usize| (world.left_at(index).expect("it left"), world.request(index).takes);
        let mut edges: Vec<(u64, i64)> =
            world.left.iter().map(stays).flat_map(|(left, takes)| [(left, 1), (left + takes, -1)]).collect();
        edges.sort_unstable();
        let mut in_flight = 0;
        for (_, edge) in edges {
            in_flight += edge;
            prop_assert!(in_flight <= i64::from(slots), "{in_flight} in flight");
        }
        prop_assert!(world.waiting().is_empty(), "everybody leaves or hangs up");
    }

    /// R1, R4 for keys of different subjects: each client's own limit and the one that they share hold in every window.
    #[test]
    fn the_limits_of_every_client_hold_beside_the_shared_one(
        shared in any_rate(Unit::Tokens),
        own in any_rate(Unit::Requests),
        slots in 1u32..4,
        clumps in any_workload(),
        lateness in prop::collection::vec(0u64..20 * MILLI, 1..8),
    ) {
        let mut pacer = Pacer::new(no_guard());
        let whole = pacer.add_limits(vec![shared.into()]);
        let each = pacer.add_limits(vec![own.into(), Limit::Concurrency(NonZeroU32::new(slots).expect("not zero"))]);
        let mut requests = requests_of(&clumps, &[Key::whole(whole)]);
        for request in &mut requests {
            request.spent = Spent::AsEstimated;
            request.ask.keys.push(Key { limits: each, subject: request.ask.flow.0 });
        }
        let mut world = World::new(pacer, requests);
        world = world.with_lateness(lateness);
        world.run();
        let log = |rate: &Rate, client: Option<u64>| -> Vec<(u64, u64)> {
            let asked = world.left.iter().map(|&index| (world.left_at(index).expect("it left"), &world.request(index).ask));
            let counted = asked.filter(|(_, ask)| client.is_none_or(|client| ask.flow.0 == client));
            counted.map(|(at, ask)| (at, share(rate, &ask.cost))).collect()
        };
        let period = |rate: &Rate| rate.period().as_nanos() as u64;
        prop_assert!(worst_window(&log(&shared, None), period(&shared)) <= shared.amount());
        for client in 0..4 {
            prop_assert!(worst_window(&log(&own, Some(client)), period(&own)) <= own.amount(), "client {client}");
        }
        prop_assert!(world.waiting().is_empty(), "everybody leaves or hangs up");
        prop_assert_eq!(world.pacer.keys_in_use(at(world.now + 3600 * SECOND)), 0);
    }

    /// R10: after any workload, every bucket is as if only what was really spent had been sent.
    #[test]
    fn nothing_leaks_whatever_hangs_up_or_is_given_back(
        requests in any_rate(Unit::Requests),
        tokens in any_rate(Unit::Tokens),
        clumps in any_workload(),
    ) {
        let (pacer, limits) = pacer_with(no_guard(), &[
            requests.into(), tokens.into(), Limit::Concurrency(NonZeroU32::new(3).expect("not zero")),
        ]);
        let key = Key::whole(limits);
        let mut world = World::new(pacer, requests_of(&clumps, &[key]));
        world.run();
        let end = world.left.iter().map(|&index| world.left_at(index).expect("it left") + world.request(index).takes);
        let end = end.max().unwrap_or(0).max(world.now);
        for (rate, room) in [requests, tokens].iter().zip(world.pacer.room(at(end), key)) {
            let spent = |index: &usize| {
                let request = world.request(*index);
                let cost = match request.spent {
                    Spent::Nothing => 0,
                    Spent::AsEstimated => share(rate, &request.ask.cost),
                    Spent::Exactly(cost) => cost.get(rate.unit()),
                };
                // Held for the window and its guard, of which an exact log takes a nanosecond.
                let period = rate.period().as_nanos() as u64;
                let held_until = world.left_at(*index).expect("it left") + period + period / 1000 - 1;
                if held_until > end { cost } else { 0 }
            };
            let used: u64 = world.left.iter().map(spent).sum();
            // A correction reaches its own window only: what was settled after it stays at its estimate, and is gone by now.
            prop_assert_eq!(room.left, rate.amount() as i64 - used as i64, "{:?}", rate);
        }
        prop_assert_eq!(world.pacer.waiting(), 0);
        let later = end + 3600 * SECOND;
        prop_assert_eq!(world.pacer.keys_in_use(at(later)), 0, "an idle key is forgotten");
    }

    /// R2 and R3 in one: a burst at once, then even departures that use all but the guard.
    #[test]
    fn a_burst_leaves_at_once_and_then_departures_are_even_and_waste_nothing(
        amount in 1u64..60,
        millis in prop_oneof![Just(100u64), Just(1000), Just(60_000), 100u64..5000],
        burst in 1u64..60,
        flows in 1u64..5,
    ) {
        let burst = burst.min(amount);
        let rate = requests_per(amount, millis).with_burst(burst).expect("a valid burst");
        let period = rate.period().as_nanos() as u64;
        let settings = Settings { max_depth: 100_000, ..Settings::default() };
        let (pacer, limits) = pacer_with(settings, &[rate.into()]);
        let count = amount * 12;
        let mut world = World::new(pacer, (0..count).map(|nth| request(0, nth % flows, limits)).collect());
        world.run();
        let departures = world.departures();
        let at_once = departures.iter().filter(|&&at| at == 0).count() as u64;
        prop_assert_eq!(at_once, burst);
        let spacing = period / amount;
        for pair in departures[burst as usize..].windows(2) {
            prop_assert!(pair[1] - pair[0] + 2 >= spacing, "{} after {}, spacing {}", pair[1], pair[0], spacing);
        }
        let guard = 2 * MILLI + period / 1000;
        let last = departures[departures.len() - 1];
        let windows = (count - burst) as f64 / amount as f64;
        prop_assert!(
            (last as f64) <= (windows + 1.0) * (period + guard) as f64 + spacing as f64,
            "{count} of {rate:?} took {last}"
        );
    }
}

#[test]
fn with_work_waiting_99_percent_are_used_although_timers_are_late() {
    let (pacer, limits) = pacer_with(Settings::default(), &[requests_per(50, 1000).into()]);
    let requests = (0..6000).map(|nth| request(0, nth % 32, limits)).collect();
    let mut world = World::new(pacer, requests).with_lateness(vec![50_000, 900_000, 10_000, 300_000, 0]);
    world.run_until(100 * SECOND);
    let used = world.left.len() as f64 / (50.0 * 100.0);
    assert!(used >= 0.99, "only {:.2} % used", used * 100.0);
}

#[test]
fn with_late_timers_and_arrivals_all_the_time_99_percent_are_used() {
    let settings = Settings { max_depth: 1_000_000, ..Settings::default() };
    let (pacer, limits) = pacer_with(settings, &[requests_per(50, 1000).into()]);
    let requests = (0..40_000).map(|nth| request(nth * 500_000, nth % 32, limits)).collect();
    let mut world = World::new(pacer, requests).with_lateness(vec![450_000, 300_000, 490_000]);
    world.run_until(20 * SECOND);
    let used = world.left.len() as f64 / (50.0 * 20.0);
    assert!(used >= 0.99, "only {:.2} % used", used * 100.0);
}

#[test]
fn a_timer_that_is_late_by_several_departures_makes_up_for_all_of_them() {
    let settings = Settings { max_depth: 1_000_000, ..Settings::default() };
    let (pacer, limits) = pacer_with(settings, &[requests_per(5000, 1000).with_burst(1).expect("valid").into()]);
    let mut world = World::new(pacer, (0..12_000).map(|nth| request(0, nth % 8, limits)).collect());
    world = world.with_lateness(vec![900_000, 1_400_000, 1_100_000]);
    world.run_until(2 * SECOND);
    let used = world.left.len() as f64 / 10_000.0;
    assert!(used >= 0.99, "only {:.2} % used", used * 100.0);
}

#[test]
fn overestimates_that_return_together_are_used_again() {
    let (pacer, limits) =
        pacer_with(Settings { max_depth: 1_000_000, ..Settings::default() }, &[tokens_per(1000, 10_000).into()]);
    let cheap = |nth: u64| Request {
        takes: SECOND / 2,
        spent: Spent::Exactly(Cost::ONE_REQUEST.with(Unit::Tokens, 10)),
        ..with_tokens(request(0, nth % 8, limits), 100)
    };
    let mut world = World::new(pacer, (0..20_000).map(cheap).collect());
    world.run_until(200 * SECOND);
    let used = world.left.len() as f64 * 10.0 / (1000.0 * 20.0);
    // 6.9 a second would hold 690 tokens that were spent and 310 that are reserved on top for half a second.
    assert!(used >= 0.63, "only {:.2} % used", used * 100.0);
}

#[test]
fn a_hole_that_another_limit_made_is_filled_again() {
    let slots = Limit::Concurrency(NonZeroU32::new(10).expect("not zero"));
    let (pacer, limits) = pacer_with(Settings::default(), &[requests_per(50, 1000).into(), slots]);
    let slow = |nth: u64| if (500..600).contains(&nth) { SECOND } else { MILLI };
    let requests = (0..3000).map(|nth| Request { takes: slow(nth), ..request(0, nth % 8, limits) }).collect();
    let mut world = World::new(pacer, requests);
    world.run();
    let last_2000 = &world.departures()[1000..];
    let span = last_2000[last_2000.len() - 1] - last_2000[0];
    let used = last_2000.len() as f64 / (span as f64 / SECOND as f64 * 50.0);
    assert!(used >= 0.99, "only {:.2} % used after the slow ones", used * 100.0);
}

#[test]
fn ten_a_second_sends_ten_of_25_at_once_and_each_later_one_at_its_own_instant() {
    let (pacer, limits) = pacer_with(Settings::default(), &[requests_per(10, 1000).into()]);
    let mut world = World::new(pacer, (0..25).map(|nth| request(0, nth, limits)).collect());
    world.run();
    let departures = world.departures();
    assert_eq!(departures.iter().filter(|&&at| at == 0).count(), 10);
    let mut later = departures[10..].to_vec();
    later.dedup();
    assert_eq!(later.len(), 15, "no two leave at the same instant");
    let log: Vec<(u64, u64)> = departures.iter().map(|&at| (at, 1)).collect();
    assert!(worst_window(&log, SECOND) <= 10);
}

#[test]
fn waiters_that_hung_up_leave_no_ghosts() {
    let rate = requests_per(2, 1000).with_burst(1).expect("a valid burst");
    let (pacer, limits) = pacer_with(Settings::default(), &[rate.into()]);
    let mut requests: Vec<Request> = (0..41).map(|_| request(0, 1, limits)).collect();
    requests[1..].iter_mut().for_each(|request| request.hangs_up = Some(100 * MILLI));
    requests.push(request(200 * MILLI, 2, limits));
    let mut world = World::new(pacer, requests);
    world.run();
    assert_eq!(world.left_at(41), Some(SECOND / 2));
}

#[test]
fn a_request_that_was_written_late_is_counted_from_then() {
    let (mut pacer, limits) = pacer_with(no_guard(), &[requests_per(1, 1000).into()]);
    let ask = || Ask::new(Flow(1), [Key::whole(limits)]);
    let Admission::Go(mut permit) = pacer.admit(at(0), ask()) else { panic!("there is room") };
    pacer.sent(at(100 * MILLI), &mut permit);
    let Admission::Wait(ticket) = pacer.admit(at(200 * MILLI), ask()) else { panic!("the window is full") };
    let predicted = pacer.predict(at(200 * MILLI), ticket).expect("it waits");
    assert!(predicted.as_nanos() > SECOND + 100 * MILLI);
    pacer.settle(at(300 * MILLI), permit, Spent::AsEstimated);
}

#[test]
fn an_overestimate_returns_at_once_and_an_underestimate_is_repaid() {
    let (pacer, limits) = pacer_with(no_guard(), &[tokens_per(1000, 1000).with_burst(1000).expect("valid").into()]);
    let spend = |mut request: Request, tokens: u64| {
        request.spent = Spent::Exactly(Cost::ONE_REQUEST.with(Unit::Tokens, tokens));
        request
    };
    let over = spend(Request { takes: 100 * MILLI, ..with_tokens(request(0, 1, limits), 1000) }, 100);
    let under = spend(Request { takes: 100 * MILLI, ..with_tokens(request(10 * MILLI, 1, limits), 500) }, 1400);
    let last = with_tokens(request(250 * MILLI, 1, limits), 10);
    let mut world = World::new(pacer, vec![over, under, last]);
    world.run();
    assert_eq!(world.left_at(1), Some(100 * MILLI), "when the first one turned out to be cheap");
    assert!(world.left_at(2) >= Some(SECOND), "after the debt has left the window");
}

#[test]
fn a_request_larger_than_the_limit_leaves_when_the_limit_is_empty() {
    let (pacer, limits) = pacer_with(no_guard(), &[tokens_per(1000, 1000).into()]);
    let small = with_tokens(request(0, 1, limits), 10);
    let huge = with_tokens(request(1, 2, limits), 50_000);
    let mut world = World::new(pacer, vec![small, huge]);
    world.run();
    assert!(world.left_at(1).is_some_and(|at| at > SECOND && at < SECOND + 10 * MILLI), "{:?}", world.fates[1]);
}

#[test]
fn keys_that_clients_choose_are_bounded_and_forgotten() {
    let settings = Settings { max_keys: 2000, ..Settings::default() };
    let (mut pacer, limits) = pacer_with(settings, &[requests_per(1, 1000).into()]);
    for subject in 0..10_000 {
        let now = at(subject);
        match pacer.admit(now, Ask::new(Flow(subject), [Key { limits, subject }])) {
            Admission::Go(permit) => pacer.settle(now, permit, Spent::AsEstimated),
            Admission::Wait(ticket) => assert!(pacer.cancel(now, ticket)),
            Admission::Refuse(refusal) => panic!("{refusal:?}"),
        }
    }
    assert!(pacer.keys_in_use(at(10_000)) <= 2001);
    assert_eq!(pacer.keys_in_use(at(3600 * SECOND)), 0);
}

/// One request leaves and is refused by the upstream.
fn refuse(pacer: &mut Pacer, key: Key) {
    let Admission::Go(mut permit) = pacer.admit(at(0), Ask::new(Flow(9), [key])) else { panic!("there is room") };
    pacer.observe(at(0), &mut permit, Observation::Refused { key, unit: None, until: None });
    pacer.settle(at(0), permit, Spent::Nothing);
}

#[test]
fn a_refusal_by_the_upstream_widens_the_guard_of_the_limits_it_concerns() {
    let (mut pacer, limits) = pacer_with(Settings::default(), &[requests_per(10, 1000).into()]);
    let other = pacer.add_limits(vec![requests_per(10, 1000).into()]);
    let due = |pacer: &mut Pacer, limits| {
        for _ in 0..10 {
            let Admission::Go(permit) = pacer.admit(at(0), Ask::new(Flow(1), [Key::whole(limits)])) else {
                panic!("there is room")
            };
            pacer.settle(at(0), permit, Spent::AsEstimated);
        }
        pacer.room(at(0), Key::whole(limits))[0].free_at.expect("a rate").as_nanos()
    };
    refuse(&mut pacer, Key::whole(limits));
    let (widened, ordinary) = (due(&mut pacer, limits), due(&mut pacer, other));
    assert_eq!(widened, ordinary + 3 * MILLI, "the guard has doubled");
}

#[test]
fn a_full_line_refuses_with_the_true_wait() {
    let settings = Settings { max_depth: 5, ..Settings::default() };
    let (pacer, limits) = pacer_with(settings, &[requests_per(1, 1000).into()]);
    let mut world = World::new(pacer, (0..7).map(|_| request(0, 1, limits)).collect());
    world.run();
    let Fate::Refused { refusal, .. } = world.fates[6] else { panic!("{:?}", world.fates[6]) };
    let wait = refusal.retry_after.as_millis();
    assert!((6000..6100).contains(&wait), "{wait} ms");
}
