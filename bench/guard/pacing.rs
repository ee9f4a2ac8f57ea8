//! Decisions of the pacer, in virtual time.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::Duration;

use cooldown_pacer::{
    Admission, Ask, Departure, Flow, Instant, Key, Limit, LimitsId, Pacer, Rate, Settings, Spent, Unit,
};

const WAITING: u64 = 1000;
const FLOWS: u64 = 100;

/// Nobody waits, and one limit concerns the request.
pub(crate) fn one_rate(times: u64) {
    without_waiting(vec![rate(1_000_000, 1)], times);
}

/// Nobody waits, and three limits concern the request.
pub(crate) fn rates_and_concurrency(times: u64) {
    let in_flight = Limit::Concurrency(NonZeroU32::MIN.saturating_add(63));
    without_waiting(vec![rate(1_000_000, 1), rate(100_000_000, 60), in_flight], times);
}

/// One request joins and one leaves: the whole work of a request that waits.
pub(crate) fn with_a_line(times: u64) {
    let (mut pacer, id) = pacer(vec![rate(10, 1)]);
    let newcomer = |nth: u64| Ask::new(Flow(nth % FLOWS), [Key::whole(id)]);
    // Ten leave at once.
    for nth in 0..WAITING + 10 {
        if let Admission::Go(permit) = pacer.admit(Instant::START, newcomer(nth)) {
            pacer.settle(Instant::START, permit, Spent::AsEstimated);
        }
    }
    let mut departures = Vec::new();
    let mut left = 0;
    while left < times {
        let now = pacer.next_due().expect("somebody waits");
        pacer.due(now, &mut departures);
        for departure in departures.drain(..) {
            if let Departure::Go(_, permit) = departure {
                pacer.settle(now, permit, Spent::AsEstimated);
                black_box(pacer.admit(now, black_box(newcomer(left))));
                left += 1;
            }
        }
    }
}

fn without_waiting(limits: Vec<Limit>, times: u64) {
    let (mut pacer, id) = pacer(limits);
    let ask = Ask::new(Flow(1), [Key::whole(id)]);
    for nth in 0..times {
        let now = Instant::from_nanos(nth * 2000);
        match pacer.admit(now, black_box(ask.clone())) {
            Admission::Go(permit) => pacer.settle(now, permit, Spent::AsEstimated),
            other => panic!("there is room: {other:?}"),
        }
    }
}

fn pacer(limits: Vec<Limit>) -> (Pacer, LimitsId) {
    let mut pacer = Pacer::new(Settings { max_depth: 1_000_000, ..Settings::default() });
    let id = pacer.add_limits(limits);
    (pacer, id)
}

fn rate(amount: u64, seconds: u64) -> Limit {
    Rate::new(Unit::Requests, amount, Duration::from_secs(seconds)).expect("a valid rate").into()
}
