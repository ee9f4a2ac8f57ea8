//! Two pacers become one while requests wait and are in flight.

use std::collections::BTreeMap;

use cooldown_pacer::{
    Admission, Ask, Departure, Flow, Key, Limit, LimitsId, Observation, Pacer, Permit, Settings, Spent, Ticket,
};
use proptest::prelude::*;

use crate::world::{MILLI, SECOND, at, requests_per, worst_window};

const ONE: LimitsId = LimitsId::new(1);
const OTHER: LimitsId = LimitsId::new(2);

fn pacer(id: LimitsId, limit: Limit) -> Pacer {
    let mut pacer = Pacer::new(Settings { max_depth: 1_000_000, ..Settings::default() });
    pacer.state_limits(at(0), id, vec![limit], None);
    pacer
}

fn full_burst(amount: u64, millis: u64) -> Limit {
    requests_per(amount, millis).with_burst(amount).expect("a valid burst").into()
}

fn asks(flow: u64, keys: &[LimitsId]) -> Ask {
    Ask::new(Flow(flow), keys.iter().map(|&id| Key::whole(id)))
}

fn go(pacer: &mut Pacer, now: u64, ask: Ask) -> Permit {
    match pacer.admit(at(now), ask) {
        Admission::Go(permit) => permit,
        other => panic!("{other:?}"),
    }
}

fn wait(pacer: &mut Pacer, now: u64, ask: Ask) -> Ticket {
    match pacer.admit(at(now), ask) {
        Admission::Wait(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

/// Who leaves until then, each when it could.
fn leave(pacer: &mut Pacer, until: u64) -> Vec<(u64, Ticket, Permit)> {
    let (mut left, mut departures) = (Vec::new(), Vec::new());
    while let Some(due) = pacer.next_due().filter(|due| due.as_nanos() <= until) {
        pacer.due(due, &mut departures);
        left.extend(departures.drain(..).map(|departure| match departure {
            Departure::Go(ticket, permit) => (permit.at().as_nanos(), ticket, permit),
            Departure::Refuse(..) => panic!("nobody is refused"),
        }));
    }
    left
}

fn settle_all(pacer: &mut Pacer, now: u64, permits: impl IntoIterator<Item = Permit>) {
    permits.into_iter().for_each(|permit| pacer.settle(at(now), permit, Spent::AsEstimated));
}

#[test]
fn what_has_left_stays_counted_and_what_is_given_back_returns() {
    let (mut one, mut other) = (pacer(ONE, full_burst(2, 10_000)), pacer(OTHER, full_burst(3, 10_000)));
    let kept = go(&mut one, 0, asks(1, &[ONE]));
    let mut permits: Vec<Permit> = (0..3).map(|_| go(&mut other, 0, asks(1, &[OTHER]))).collect();
    let moved = one.absorb(at(MILLI), other);
    permits.iter_mut().for_each(|permit| moved.permit(permit));
    let waits = wait(&mut one, 2 * MILLI, asks(1, &[ONE, OTHER]));
    assert!(one.cancel(at(3 * MILLI), waits));
    one.settle(at(4 * MILLI), permits.pop().expect("three"), Spent::Nothing);
    let both = go(&mut one, 5 * MILLI, asks(1, &[ONE, OTHER]));
    wait(&mut one, 6 * MILLI, asks(1, &[ONE]));
    wait(&mut one, 6 * MILLI, asks(1, &[OTHER]));
    settle_all(&mut one, 7 * MILLI, permits.into_iter().chain([kept, both]));
    leave(&mut one, 60 * SECOND)
        .into_iter()
        .for_each(|(.., permit)| one.settle(at(60 * SECOND), permit, Spent::AsEstimated));
    assert_eq!(one.keys_in_use(at(3600 * SECOND)), 0, "nothing leaks");
}

#[test]
fn who_waits_keeps_its_order_and_can_leave_the_line() {
    let (mut one, mut other) = (pacer(ONE, full_burst(1, 1000)), pacer(OTHER, full_burst(1, 1000)));
    let permits = [go(&mut one, 0, asks(1, &[ONE])), go(&mut other, 0, asks(1, &[OTHER]))];
    let tickets: Vec<Ticket> = (0..4).map(|_| wait(&mut other, MILLI, asks(7, &[OTHER]))).collect();
    let gone = wait(&mut other, MILLI, asks(8, &[OTHER]));
    assert!(other.cancel(at(MILLI), gone));
    let moved = one.absorb(at(2 * MILLI), other);
    assert_eq!(moved.ticket(gone), None);
    let [first, mut second] = permits;
    moved.permit(&mut second);
    settle_all(&mut one, 3 * MILLI, [first, second]);
    let tickets: Vec<Ticket> = tickets.iter().map(|ticket| moved.ticket(*ticket).expect("it waits")).collect();
    assert!(one.cancel(at(4 * MILLI), tickets[1]), "a moved ticket leaves the line");
    let left: Vec<Ticket> = leave(&mut one, 10 * SECOND)
        .into_iter()
        .map(|(_, ticket, permit)| {
            one.settle(at(10 * SECOND), permit, Spent::AsEstimated);
            ticket
        })
        .collect();
    assert_eq!(left, [tickets[0], tickets[2], tickets[3]]);
}

#[test]
fn what_an_upstream_has_closed_stays_closed() {
    let mut one = pacer(ONE, full_burst(100, 1000));
    let mut other = Pacer::new(Settings::default());
    other.state_limits(at(0), OTHER, Vec::new(), Some(cooldown_pacer::Teaching::Bold));
    let key = Key::whole(OTHER);
    let (mut refused, mut late) = (go(&mut other, 0, asks(1, &[OTHER])), go(&mut other, 0, asks(1, &[OTHER])));
    other.observe(at(MILLI), &mut refused, Observation::Closed { key, until: Some(at(5 * SECOND)) });
    let moved = one.absorb(at(2 * MILLI), other);
    moved.permit(&mut refused);
    moved.permit(&mut late);
    assert!(one.is_closed(at(3 * MILLI), key));
    one.observe(at(4 * MILLI), &mut late, Observation::Closed { key, until: Some(at(7 * SECOND)) });
    settle_all(&mut one, 5 * MILLI, [refused, late]);
    wait(&mut one, 6 * MILLI, asks(1, &[OTHER]));
    let left = leave(&mut one, 20 * SECOND);
    assert!(left[0].0 >= 7 * SECOND, "the permit from before is heard as well");
    settle_all(&mut one, 20 * SECOND, left.into_iter().map(|(.., permit)| permit));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// R1 over a join: both limits hold in every window, and everybody leaves.
    #[test]
    fn both_limits_hold_over_a_join(
        (amount, beside) in (1u64..20, 1u64..20),
        arrivals in prop::collection::vec((0u64..50 * MILLI, 0usize..3, 0u64..4), 1..120),
        joined in 0u64..3 * SECOND,
    ) {
        let mut one = pacer(ONE, full_burst(amount, 1000));
        let mut other = Some(pacer(OTHER, full_burst(beside, 1000)));
        let (mut logs, mut waiting, mut now): (BTreeMap<LimitsId, Vec<u64>>, usize, u64) = (BTreeMap::new(), 0, 0);
        let mut held: Vec<Permit> = Vec::new();
        let mut tagged: BTreeMap<(bool, Ticket), Vec<LimitsId>> = BTreeMap::new();
        for (gap, which, flow) in arrivals {
            now += gap;
            for (is_one, pacer) in [(true, Some(&mut one)), (false, other.as_mut())] {
                for (left, ticket, permit) in pacer.map(|pacer| leave(pacer, now)).unwrap_or_default() {
                    for id in tagged.remove(&(is_one, ticket)).expect("it waited") {
                        logs.entry(id).or_default().push(left);
                    }
                    waiting -= 1;
                    held.push(permit);
                }
            }
            if now >= joined && let Some(gone) = other.take() {
                // Permits of both are held; those of the first are as they were.
                let moved = one.absorb(at(now), gone);
                let of_other: Vec<_> = tagged.keys().filter(|(is_one, _)| !is_one).copied().collect();
                for key in of_other {
                    let ids = tagged.remove(&key).expect("it is there");
                    tagged.insert((true, moved.ticket(key.1).expect("it waits")), ids);
                }
            }
            let ids: Vec<LimitsId> = match which { 0 => vec![ONE], 1 => vec![OTHER], _ if other.is_none() => vec![ONE, OTHER], _ => vec![ONE] };
            let in_one = other.is_none() || ids[0] == ONE;
            let pacer = if in_one { &mut one } else { other.as_mut().expect("not joined") };
            match pacer.admit(at(now), asks(flow, &ids)) {
                Admission::Go(permit) => {
                    ids.iter().for_each(|id| logs.entry(*id).or_default().push(now));
                    held.push(permit);
                }
                Admission::Wait(ticket) => {
                    waiting += 1;
                    tagged.insert((in_one, ticket), ids);
                }
                Admission::Refuse(refusal) => panic!("{refusal:?}"),
            }
        }
        for (is_one, pacer) in [(true, Some(&mut one)), (false, other.as_mut())] {
            for (left, ticket, _) in pacer.map(|pacer| leave(pacer, 10_000 * SECOND)).unwrap_or_default() {
                for id in tagged.remove(&(is_one, ticket)).expect("it waited") {
                    logs.entry(id).or_default().push(left);
                }
                waiting -= 1;
            }
        }
        prop_assert_eq!(waiting, 0);
        for (id, limit) in [(ONE, amount), (OTHER, beside)] {
            let mut log: Vec<(u64, u64)> = logs.remove(&id).unwrap_or_default().into_iter().map(|at| (at, 1)).collect();
            log.sort_unstable();
            prop_assert!(worst_window(&log, SECOND) <= limit);
        }
    }
}
