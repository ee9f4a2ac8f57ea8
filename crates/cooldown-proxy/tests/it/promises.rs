//! The three promises, counted by upstreams that forgive nothing: no 429, no quota wasted, nobody starved.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cooldown_proxy::demo::mock::MockProvider;
use cooldown_proxy::demo::strict::{Counting, Rule};
use cooldown_proxy::load::jain;
use http::StatusCode;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::{Client, Proxy, empty, request, timed};

const CLIENTS: usize = 32;
/// What the greedy client has under way beyond the one request that everybody has.
const GREEDY: usize = 32;
const RATE: u32 = 50;
/// One per cent shorter than the second that the proxy paces for, for the noise of a shared machine.
const SHORT_SECOND: Duration = Duration::from_millis(990);
/// The first burst is over well before this, and the next departures come after it.
const BURST: Duration = Duration::from_millis(900);

/// What a crowd came to.
struct Run {
    breaches: u64,
    /// The used part of what 50 a second allow.
    used: f64,
    errors: u64,
    /// Answers of each client after the first burst, the greedy one first.
    shares: Vec<u64>,
}

#[derive(Default)]
struct Counts {
    answered: [AtomicU64; CLIENTS],
    errors: AtomicU64,
}

/// 32 clients ask without a pause for `span`, one of them with 33 requests at once.
async fn crowd(counting: Counting, period: Duration, span: Duration) -> Run {
    let rule = Rule { counting, amount: NonZeroU32::new(RATE).expect("not zero"), period };
    let upstream = MockProvider::start(rule, Duration::from_millis(5)).expect("the upstream starts");
    let proxy = Proxy::start(&format!(
        "routes: {{\"*\": {{upstream: \"http://{}\", limits: {{requests: {RATE}/s}}}}}}",
        upstream.address()
    ));
    let counts = Arc::new(Counts::default());
    let mut callers = JoinSet::new();
    for client in std::iter::repeat_n(0, GREEDY).chain(0..CLIENTS) {
        callers.spawn(call_for_ever(client, proxy.address(), Arc::clone(&counts)));
    }
    let load = |client: &AtomicU64| client.load(Ordering::Relaxed);
    sleep(BURST).await;
    let burst: Vec<u64> = counts.answered.iter().map(load).collect();
    sleep(span - BURST).await;
    let (accepted, breaches) = (upstream.strict().accepted(), upstream.strict().breaches());
    let shares = counts.answered.iter().map(load).zip(burst).map(|(all, before)| all - before).collect();
    Run {
        breaches,
        used: accepted as f64 / (f64::from(RATE) * span.as_secs_f64()),
        errors: load(&counts.errors),
        shares,
    }
}

async fn call_for_ever(client: usize, proxy: SocketAddr, counts: Arc<Counts>) {
    let mut connection = Client::connect(proxy).await;
    loop {
        let call = request("api.example.com", "/v1/models").header("x-cooldown-client", format!("client-{client}"));
        let answer = connection.fetch(call.body(empty()).expect("a valid request")).await;
        let count = if answer.status == StatusCode::OK { &counts.answered[client] } else { &counts.errors };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn assert_kept(run: &Run, least_used: f64) {
    assert_eq!(run.breaches, 0, "429s at the upstream");
    assert_eq!(run.errors, 0, "errors at clients");
    assert!(run.used >= least_used, "only {:.2} % of the quota was used", run.used * 100.0);
}

#[tokio::test]
async fn a_greedy_crowd_uses_a_sliding_window_fully_fairly_and_without_a_429() {
    let _timed = timed().await;
    let run = crowd(Counting::SlidingWindow, SHORT_SECOND, Duration::from_secs(10)).await;
    assert_kept(&run, 0.99);
    let index = jain(&run.shares);
    assert!(index >= 0.99, "Jain index {index:.4} of {:?}", run.shares);
}

#[tokio::test]
async fn a_greedy_crowd_uses_fixed_windows_fully_and_without_a_429() {
    let _timed = timed().await;
    let run = crowd(Counting::FixedWindow, SHORT_SECOND, Duration::from_secs(5)).await;
    assert_kept(&run, 0.98);
}

#[tokio::test]
async fn a_greedy_crowd_uses_a_token_bucket_fully_and_without_a_429() {
    let _timed = timed().await;
    let size = NonZeroU32::new(RATE).expect("not zero");
    let run = crowd(Counting::TokenBucket(size), Duration::from_secs(1), Duration::from_secs(5)).await;
    assert_kept(&run, 0.98);
}
