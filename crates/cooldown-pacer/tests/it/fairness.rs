//! R5–R7: shares, urgency, passing.

use std::time::Duration;

use cooldown_pacer::{Cost, Flow, Key, Settings, Unit, Urgency, Weight};
use proptest::prelude::*;

use crate::world::{MILLI, Request, SECOND, World, pacer_with, request, requests_per, tokens_per, with_tokens};

fn deep() -> Settings {
    Settings { max_depth: 1_000_000, ..Settings::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// R5: over any interval two backlogged flows differ by at most one maximal request each, per weight.
    #[test]
    fn backlogged_flows_get_equal_shares_per_weight(
        weights in prop::collection::vec(1u32..5, 2..6),
        sizes in prop::collection::vec(1u64..200, 1..8),
        greedy in 1usize..4,
    ) {
        // A window so long that only even spacing binds: nobody can pass, which is another rule.
        let largest = *sizes.iter().max().expect("some sizes");
        let rate = tokens_per(600_000, 600_000).with_burst(largest).expect("a valid burst");
        let (pacer, limits) = pacer_with(deep(), &[rate.into()]);
        let mut requests = Vec::new();
        for (flow, &weight) in weights.iter().enumerate() {
            let count = if flow == 0 { 40 * greedy } else { 40 };
            for nth in 0..count {
                let tokens = sizes[(nth + flow) % sizes.len()];
                let mut request = with_tokens(request(flow as u64, flow as u64, limits), tokens);
                request.ask.weight = Weight::new(weight).expect("a valid weight");
                requests.push(request);
            }
        }
        let mut world = World::new(pacer, requests);
        world.run();
        // From the first instant at which everybody waits until the first flow has nothing left.
        let from = world.left.iter().position(|&index| world.left_at(index) > Some(weights.len() as u64)).unwrap_or(0);
        let mut left: Vec<usize> = vec![0; weights.len()];
        let mut served = vec![0.0; weights.len()];
        let mut spread = vec![(0.0f64, 0.0f64); weights.len() * weights.len()];
        for (nth, &index) in world.left.iter().enumerate() {
            let flow = world.request(index).ask.flow.0 as usize;
            left[flow] += 1;
            if left[flow] == 40 {
                break;
            }
            if nth < from {
                continue;
            }
            served[flow] += world.request(index).ask.cost.get(Unit::Tokens) as f64 / f64::from(weights[flow]);
            for (a, b) in (0..weights.len()).flat_map(|a| (0..weights.len()).map(move |b| (a, b))) {
                let (low, high) = &mut spread[a * weights.len() + b];
                let lead = served[a] - served[b];
                (*low, *high) = (low.min(lead), high.max(lead));
                let bound = largest as f64 / f64::from(weights[a]) + largest as f64 / f64::from(weights[b]);
                prop_assert!(*high - *low <= bound + 1e-6, "flows {a} and {b} drift by {} > {bound}", *high - *low);
            }
        }
    }

    /// R7: who passes does not delay the head of the line.
    #[test]
    fn passing_never_delays_the_head(
        big in 300u64..1000,
        small in prop::collection::vec((0u64..3 * SECOND, 1u64..100), 1..40),
    ) {
        let limits = [tokens_per(1000, 2000).with_burst(1000).expect("a valid burst").into()];
        let leaves = |others: &[(u64, u64)]| {
            let (pacer, id) = pacer_with(deep(), &limits);
            let mut requests = vec![with_tokens(request(0, 1, id), 900), with_tokens(request(1, 2, id), big)];
            requests.extend(others.iter().map(|&(at, tokens)| with_tokens(request(at + 2, 3, id), tokens)));
            let mut world = World::new(pacer, requests);
            world.run();
            world.left_at(1)
        };
        prop_assert_eq!(leaves(&small), leaves(&[]));
    }

    /// R6: while more urgent requests wait, less urgent ones do not leave, unless age has made them equal.
    #[test]
    fn more_urgent_goes_first(
        arrivals in prop::collection::vec((0u64..20 * SECOND, 0u64..4, 0u8..8), 2..100),
    ) {
        let settings = Settings { ageing: Duration::from_secs(5), ..deep() };
        let rate = requests_per(4, 1000).with_burst(1).expect("a valid burst");
        let (pacer, limits) = pacer_with(settings, &[rate.into()]);
        let build = |&(at, flow, urgency): &(u64, u64, u8)| {
            let mut request = request(at, flow, limits);
            request.ask.urgency = Urgency::new(urgency).expect("a valid urgency");
            request
        };
        let mut world = World::new(pacer, arrivals.iter().map(build).collect());
        world.run();
        for (nth, &index) in world.left.iter().enumerate() {
            let now = world.left_at(index).expect("it left");
            let waiting = || world.left[nth..].iter().map(|&other| world.request(other)).filter(|other| other.at < now);
            // A class is as urgent as the oldest of it that waits.
            let level = |class: Urgency| {
                let oldest = waiting().filter(|other| other.ask.urgency == class).map(|other| other.at).min();
                oldest.map(|at| u64::from(class.level()).saturating_sub((now - at) / (5 * SECOND)))
            };
            let Some(own) = level(world.request(index).ask.urgency) else { continue };
            for other in waiting().skip(1) {
                prop_assert!(Some(own) <= level(other.ask.urgency), "{index} left at {now} before {other:?}");
            }
        }
    }
}

#[test]
fn nothing_starves_under_a_flood_of_urgent_requests() {
    let rate = requests_per(10, 1000).with_burst(1).expect("a valid burst");
    let (pacer, limits) = pacer_with(deep(), &[rate.into()]);
    let urgency = |mut request: Request, level| {
        request.ask.urgency = Urgency::new(level).expect("a valid urgency");
        request
    };
    let mut requests = vec![urgency(request(10 * MILLI, 1, limits), 7)];
    requests.extend((0..2000).map(|nth| urgency(request(nth * 50 * MILLI, 2 + nth % 5, limits), 0)));
    let mut world = World::new(pacer, requests);
    world.run();
    let left = world.left_at(0).expect("it leaves");
    assert!((60 * SECOND..72 * SECOND).contains(&left), "{left}");
}

#[test]
fn a_small_request_passes_a_big_one_that_waits_for_tokens() {
    let (pacer, limits) = pacer_with(
        deep(),
        &[tokens_per(1000, 1000).with_burst(1000).expect("valid").into(), requests_per(100, 1000).into()],
    );
    let requests = vec![
        with_tokens(request(0, 1, limits), 600),
        with_tokens(request(1, 2, limits), 800),
        with_tokens(request(2, 3, limits), 0),
    ];
    let mut world = World::new(pacer, requests);
    world.run();
    assert_eq!(world.left_at(2), Some(2), "it needs nothing that the big one waits for");
    assert!(world.left_at(1) > Some(500 * MILLI));
}

#[test]
fn a_line_for_one_model_does_not_hold_up_another() {
    let (mut pacer, upstream) = pacer_with(deep(), &[requests_per(100, 1000).into()]);
    let model = pacer.add_limits(vec![requests_per(1, 1000).into()]);
    let ask = |at, subject| {
        let mut request = request(at, 1, upstream);
        request.ask.keys.push(Key { limits: model, subject });
        request
    };
    let mut requests: Vec<Request> = (0..10).map(|_| ask(0, 1)).collect();
    requests.push(ask(MILLI, 2));
    let mut world = World::new(pacer, requests);
    world.run();
    assert_eq!(world.left_at(10), Some(MILLI));
    assert!(world.left_at(9) > Some(9 * SECOND));
}

#[test]
fn a_client_that_returns_at_once_does_not_jump_the_round() {
    let rate = requests_per(10, 1000).with_burst(1).expect("a valid burst");
    let (mut pacer, limits) = pacer_with(deep(), &[rate.into()]);
    let ask = |flow| request(0, flow, limits).ask;
    let mut served = [0u32; 5];
    let mut owner = std::collections::BTreeMap::new();
    for flow in [0, 0, 0, 0, 1, 2, 3, 4] {
        if let cooldown_pacer::Admission::Wait(ticket) = pacer.admit(crate::world::at(0), ask(flow)) {
            owner.insert(ticket, flow);
        }
    }
    for _ in 0..200 {
        let now = pacer.next_due().expect("somebody waits");
        let mut out = Vec::new();
        pacer.due(now, &mut out);
        for departure in out {
            let cooldown_pacer::Departure::Go(ticket, permit) = departure else { panic!("nobody has a budget") };
            let flow = owner.remove(&ticket).expect("it waited");
            served[flow as usize] += 1;
            pacer.settle(now, permit, cooldown_pacer::Spent::AsEstimated);
            // Closed loop: it asks again a moment after it was served.
            if let cooldown_pacer::Admission::Wait(ticket) = pacer.admit(now.after(Duration::from_millis(1)), ask(flow))
            {
                owner.insert(ticket, flow);
            }
        }
    }
    let (least, most) = (served.iter().min().expect("five"), served.iter().max().expect("five"));
    assert!(most - least <= 2, "{served:?}");
}

#[test]
fn a_request_that_was_turned_away_returns_to_the_head_of_its_flow() {
    let rate = requests_per(1, 1000).with_burst(1).expect("a valid burst");
    let (pacer, limits) = pacer_with(deep(), &[rate.into()]);
    let mut requests: Vec<Request> = (0..5).map(|_| request(0, 1, limits)).collect();
    let mut returning = request(500 * MILLI, 1, limits);
    returning.ask.since = Some(crate::world::at(0));
    requests.push(returning);
    let mut world = World::new(pacer, requests);
    world.run();
    assert_eq!(world.left[1], 5, "{:?}", world.left);
}

#[test]
fn costs_are_vectors_and_every_unit_binds() {
    let input = cooldown_pacer::Rate::new(Unit::InputTokens, 100, Duration::from_secs(1)).expect("valid");
    let output = cooldown_pacer::Rate::new(Unit::OutputTokens, 50, Duration::from_secs(1)).expect("valid");
    let (pacer, limits) = pacer_with(deep(), &[input.into(), output.into()]);
    let ask = |at, input, output| {
        let mut request = request(at, 1, limits);
        request.ask.flow = Flow(at);
        request.ask.cost = Cost::ONE_REQUEST.with(Unit::InputTokens, input).with(Unit::OutputTokens, output);
        request
    };
    let mut world = World::new(pacer, vec![ask(0, 100, 0), ask(1, 0, 50), ask(2, 1, 0), ask(3, 0, 1)]);
    world.run();
    assert_eq!(world.left_at(1), Some(1));
    assert!(world.left_at(2) > Some(SECOND) && world.left_at(3) > Some(SECOND));
}
