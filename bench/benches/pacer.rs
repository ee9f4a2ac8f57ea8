//! R13's figures: what one decision costs.

use std::hint::black_box;
use std::time::Duration;

use cooldown_pacer::{
    Admission, Ask, Departure, Flow, Instant, Key, Limit, LimitsId, Pacer, Rate, Settings, Spent, Unit,
};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

fn rate(amount: u64, seconds: u64) -> Limit {
    Rate::new(Unit::Requests, amount, Duration::from_secs(seconds)).expect("a valid rate").into()
}

fn pacer(limits: Vec<Limit>) -> (Pacer, LimitsId) {
    let settings = Settings { max_depth: 1_000_000, ..Settings::default() };
    let mut pacer = Pacer::new(settings);
    let id = pacer.add_limits(limits);
    (pacer, id)
}

/// A pacer with `waiting` requests of `flows` clients in line at ten a second.
fn with_line(waiting: u64, flows: u64) -> (Pacer, LimitsId) {
    let (mut pacer, id) = pacer(vec![rate(10, 1)]);
    for nth in 0..waiting + 10 {
        if let Admission::Go(permit) = pacer.admit(Instant::START, Ask::new(Flow(nth % flows), [Key::whole(id)])) {
            pacer.settle(Instant::START, permit, Spent::AsEstimated);
        }
    }
    pacer.due(Instant::START, &mut Vec::new());
    (pacer, id)
}

fn without_waiting(bench: &mut Criterion) {
    let cases = [
        ("one rate", vec![rate(1_000_000, 1)]),
        (
            "two rates and a concurrency",
            vec![rate(1_000_000, 1), rate(100_000_000, 60), Limit::Concurrency(64.try_into().expect("not zero"))],
        ),
    ];
    for (name, limits) in cases {
        let (mut pacer, id) = pacer(limits);
        let ask = Ask::new(Flow(1), [Key::whole(id)]);
        let mut now = 0;
        bench.bench_function(&format!("admit + settle, nobody waits, {name}"), |bench| {
            bench.iter(|| {
                now += 2000;
                let now = Instant::from_nanos(now);
                match pacer.admit(now, black_box(ask.clone())) {
                    Admission::Go(permit) => pacer.settle(now, permit, Spent::AsEstimated),
                    other => panic!("there is room: {other:?}"),
                }
            });
        });
    }
}

/// One request joins, one leaves: the whole work of a request that waits.
fn with_waiting(bench: &mut Criterion) {
    for (waiting, flows) in [(1000, 100), (100_000, 100), (100_000, 4000)] {
        let (mut pacer, id) = with_line(waiting, flows);
        let mut nth = 0;
        let mut out = Vec::new();
        bench.bench_function(&format!("join + leave + settle, {waiting} wait, {flows} flows"), |bench| {
            bench.iter(|| {
                nth += 1;
                let now = pacer.next_due().expect("somebody waits");
                pacer.due(now, &mut out);
                for departure in out.drain(..) {
                    if let Departure::Go(_, permit) = departure {
                        pacer.settle(now, permit, Spent::AsEstimated);
                        black_box(pacer.admit(now, Ask::new(Flow(nth % flows), [Key::whole(id)])));
                    }
                }
            });
        });
    }
}

fn joining_and_hanging_up(bench: &mut Criterion) {
    let (mut pacer, id) = with_line(100_000, 100);
    let mut out = Vec::new();
    bench.bench_function("join + cancel, 100000 wait, 100 flows", |bench| {
        bench.iter(|| {
            let Admission::Wait(ticket) = pacer.admit(Instant::START, Ask::new(Flow(7), [Key::whole(id)])) else {
                panic!("there is a line")
            };
            pacer.due(Instant::START, &mut out);
            pacer.cancel(Instant::START, ticket)
        });
    });
    bench.bench_function("predict a newcomer, 100000 wait, 100 flows", |bench| {
        let Admission::Wait(ticket) = pacer.admit(Instant::START, Ask::new(Flow(7), [Key::whole(id)])) else {
            panic!("there is a line")
        };
        bench.iter(|| pacer.predict(Instant::START, black_box(ticket)));
    });
    bench.bench_function("refuse on arrival, 100000 wait, 100 flows", |bench| {
        let ask = Ask { latest: Some(Instant::from_nanos(1)), ..Ask::new(Flow(7), [Key::whole(id)]) };
        bench.iter_batched(|| ask.clone(), |ask| black_box(pacer.admit(Instant::START, ask)), BatchSize::SmallInput);
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = without_waiting, with_waiting, joining_and_hanging_up
}
criterion_main!(benches);
