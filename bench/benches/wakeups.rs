//! How late those who wait are woken: a thousand requests wait for one rate, each asks again as soon as it has left.
//!
//! Departures are evenly spread, so the instant at which each should have left is the line through all of them that none
//! is before. What is told is by how much the tasks ran later than that. The limit is stated by the hour: a shorter window
//! adds its guard once in every window, and departures would lie on no line.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use cooldown_pacer::{Ask, Flow};
use cooldown_proxy::config;
use cooldown_proxy::pacing::{Admission, CommonKeys, Credential, Outcome, Pacing};
use tokio::task::LocalSet;

const RATES: [u32; 3] = [100, 2_000, 20_000];
const WAITING: u64 = 1_000;

fn main() {
    // `cargo test` runs benches once to see that they do.
    let measured = std::env::args().any(|argument| argument == "--bench");
    let seconds = if measured { 5 } else { 1 };
    println!("{:>10} {:>12} {:>12} {:>12} {:>12}", "a second", "departures", "late p50", "late p99", "late p99.9");
    for rate in RATES {
        let woken = departures(rate, Duration::from_secs(seconds));
        let late = lateness(&woken);
        let at = |quantile: f64| late[((late.len() - 1) as f64 * quantile) as usize];
        println!("{rate:>10} {:>12} {:>9.0} µs {:>9.0} µs {:>9.0} µs", late.len(), at(0.5), at(0.99), at(0.999));
    }
}

/// When tasks ran whose turn had come, in the order of that.
fn departures(rate: u32, during: Duration) -> Vec<Instant> {
    let text = format!(
        "server: {{host: localhost, port: 1}}\n\
         routes: {{\"*\": {{upstream: \"http://localhost\", limits: {{requests: \"{}/h, burst 1\"}}}}}}",
        rate * 3600
    );
    let config = config::parse("bench.yaml", &text, &|_: &str| None).unwrap_or_else(|faults| panic!("{faults}"));
    let pacing = Rc::new(Pacing::new(&config).expect("a thread"));
    let woken = Rc::new(RefCell::new(Vec::new()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        for flow in 0..WAITING {
            tokio::task::spawn_local(wait_for_ever(Rc::clone(&pacing), flow, Rc::clone(&woken)));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        woken.borrow_mut().clear();
        tokio::time::sleep(during).await;
    });
    woken.take()
}

async fn wait_for_ever(pacing: Rc<Pacing>, flow: u64, woken: Rc<RefCell<Vec<Instant>>>) {
    let common = CommonKeys::new();
    let keys = pacing.keys(0, Credential::None, None, "/", &common);
    loop {
        let ask = Ask::new(Flow(flow), keys.all().iter().copied());
        match pacing.line(0).admit(ask, false, 0) {
            Admission::Wait(place) => {
                if let Outcome::Go(mut permit) = place.await {
                    woken.borrow_mut().push(Instant::now());
                    permit.sent(false);
                }
            }
            Admission::Go(mut permit) => permit.sent(false),
            Admission::Refuse(_) | Admission::Outdated => return,
        }
    }
}

/// By how much each was later than the line that none is before, in microseconds, sorted.
fn lateness(woken: &[Instant]) -> Vec<f64> {
    let (Some(first), Some(last)) = (woken.first(), woken.last()) else { return vec![0.0] };
    let spacing = last.duration_since(*first).as_secs_f64() / (woken.len().max(2) - 1) as f64;
    let ahead = |(place, at): (usize, &Instant)| at.duration_since(*first).as_secs_f64() - place as f64 * spacing;
    let mut late: Vec<f64> = woken.iter().enumerate().map(ahead).collect();
    let earliest = late.iter().copied().fold(f64::INFINITY, f64::min);
    late.iter_mut().for_each(|late| *late = (*late - earliest) * 1e6);
    late.sort_by(f64::total_cmp);
    late
}
