//! What one instance learns, all obey: limits that nobody configured, closings, and what a person orders, over a real store.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cooldown_pacer::Unit;
use http::{Request, StatusCode};
use tokio::time::sleep;

use crate::shared::{or_busy, refusing, url};
use crate::support::provider::{Allowance, Behaviour, Dialect, LlmProvider};
use crate::support::redis::Redis;
use crate::support::{Binary, Crowd, Proxy, Upstream, chat, fetch, get, plain, text, timed, until};

const LIMIT: u32 = 60;
const SECOND: Duration = Duration::from_secs(1);

/// A kind of API, as what its clients call it, and by which model.
#[derive(Clone, Copy)]
struct Api {
    provider: &'static str,
    path: &'static str,
    model: &'static str,
}

const OPENAI: Api = Api { provider: "openai", path: "/openai/v1/chat/completions", model: "gpt-4o" };
const CEREBRAS: Api = Api { provider: "cerebras", path: "/cerebras/v1/chat/completions", model: "llama3.1-8b" };

/// An instance before an upstream that tells its limits, of which it knows none.
fn instance(api: Api, upstream: &LlmProvider, redis: &Redis, name: &str) -> Proxy {
    Proxy::start(&format!(
        "providers:\n  {}: {{endpoint: \"{}\", api_key: sk-1}}\nqueue: {{guard: 0ms}}\n\
         shared: {{redis: \"{}\", instance: {name}}}",
        api.provider,
        upstream.url(),
        url(redis)
    ))
}

/// How many errors its clients meet.
fn crowd(api: Api, proxy: &Proxy, lasting: Duration) -> tokio::task::JoinHandle<usize> {
    let crowd = Crowd { address: proxy.address(), path: api.path, clients: 12, lasting };
    tokio::spawn(async move {
        let answers = crowd.call(move |_, _| chat(api.model, "hello")).await;
        answers.iter().filter(|(answer, _)| answer.status != StatusCode::OK).count()
    })
}

/// The most that was accepted and refused together in any second from `from` on, and how many were refused.
fn worst_second(upstream: &LlmProvider, from: Instant) -> (usize, usize) {
    let attempts = upstream.attempts();
    let mut arrivals: Vec<Instant> = attempts.iter().map(|attempt| attempt.arrival).filter(|at| *at >= from).collect();
    arrivals.sort_unstable();
    // A hundredth less than a second, for the noise of a shared machine.
    let window = Duration::from_millis(990);
    let within = |first: usize| arrivals[first..].partition_point(|at| *at - arrivals[first] < window);
    let worst = (0..arrivals.len()).map(within).max().unwrap_or(0);
    let is_refused = |status: Option<StatusCode>| status == Some(StatusCode::TOO_MANY_REQUESTS);
    let refused = attempts.iter().filter(|attempt| attempt.arrival >= from && is_refused(attempt.status)).count();
    (worst, refused)
}

#[tokio::test]
async fn a_limit_that_is_told_is_kept_and_used_by_three_instances_and_by_one_that_comes_later() {
    let _timed = timed().await;
    let redis = Redis::start();
    let limit = Allowance::new(Unit::Requests, LIMIT, Duration::from_millis(990));
    let behaviour = Behaviour::new(Dialect::Cerebras).latency(Duration::from_millis(5)).limit(limit);
    let upstream = LlmProvider::start(behaviour);
    let proxies = ["one", "two", "three"].map(|name| instance(CEREBRAS, &upstream, &redis, name));
    // They have met.
    sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    let crowds = proxies.each_ref().map(|proxy| crowd(CEREBRAS, proxy, 16 * SECOND));
    sleep(7 * SECOND).await;
    let from = Instant::now();
    let late = instance(CEREBRAS, &upstream, &redis, "late");
    // It reads what is known.
    sleep(Duration::from_millis(300)).await;
    let newcomers = crowd(CEREBRAS, &late, 8 * SECOND);
    sleep(SECOND).await;
    let (before, counted) = (upstream.accepted(), Instant::now());
    sleep(6 * SECOND).await;
    let used = (upstream.accepted() - before) as f64 / (f64::from(LIMIT) * counted.elapsed().as_secs_f64());
    for crowd in crowds.into_iter().chain([newcomers]) {
        assert_eq!(crowd.await.expect("no panic"), 0, "errors at clients");
    }
    let ((worst, late_refused), (_, refused)) = (worst_second(&upstream, from), worst_second(&upstream, began));
    println!("{:.1} % used, {refused} refused, {late_refused} of them after the fourth came", used * 100.0);
    // Alone it is 91 to 93 %; beside other tests 87.
    assert!(used >= or_busy(0.85), "{used} used");
    assert!(refused <= 12, "{refused} refused");
    assert!(late_refused <= 2, "{late_refused} refused");
    assert!(worst <= LIMIT as usize + 2, "{worst} in a second");
}

#[tokio::test]
async fn fields_as_openai_sends_them_are_enough_for_three_instances() {
    let _timed = timed().await;
    let redis = Redis::start();
    let burst = std::num::NonZeroU32::new(LIMIT).expect("not zero");
    let limit = Allowance::new(Unit::Requests, LIMIT, SECOND);
    let limit = limit.counted(cooldown_proxy::demo::strict::Counting::TokenBucket(burst));
    let behaviour = Behaviour::new(Dialect::OpenAi).latency(Duration::from_millis(5)).limit(limit);
    let upstream = LlmProvider::start(behaviour);
    let proxies = ["one", "two", "three"].map(|name| instance(OPENAI, &upstream, &redis, name));
    sleep(Duration::from_millis(500)).await;
    let crowds = proxies.each_ref().map(|proxy| crowd(OPENAI, proxy, 14 * SECOND));
    sleep(3 * SECOND).await;
    let (before, from) = (upstream.accepted(), Instant::now());
    sleep(10 * SECOND).await;
    let used = (upstream.accepted() - before) as f64 / (f64::from(LIMIT) * from.elapsed().as_secs_f64());
    for crowd in crowds {
        assert_eq!(crowd.await.expect("no panic"), 0, "errors at clients");
    }
    let refused = worst_second(&upstream, from).1;
    println!("{:.1} % used, {refused} refused of {}", used * 100.0, upstream.attempts().len());
    assert!(used >= or_busy(0.9), "{used} used");
    assert!(refused <= 12, "{refused} refused");
}

/// An upstream that refuses so, and when it last said no.
async fn timed_refusing() -> (Upstream, Arc<Mutex<Option<Instant>>>) {
    let said = Arc::new(Mutex::new(None));
    let says = Arc::clone(&said);
    let upstream = Upstream::start(move |request| {
        let says = Arc::clone(&says);
        async move {
            let response = refusing(request).await;
            if response.status() == StatusCode::TOO_MANY_REQUESTS {
                *says.lock().expect("no panic") = Some(Instant::now());
            }
            response
        }
    })
    .await;
    (upstream, said)
}

#[tokio::test]
async fn a_refusal_of_one_instance_stops_the_others_within_100_ms() {
    let _timed = timed().await;
    let redis = Redis::start();
    let (upstream, said) = timed_refusing().await;
    let start = |name| {
        let shared = format!("shared: {{redis: \"{}\", instance: {name}}}", url(&redis));
        Proxy::start(&format!("routes: {{\"*\": \"{}\"}}\nretry: {{on: []}}\n{shared}", upstream.url()))
    };
    let [one, two, three] = ["one", "two", "three"].map(start);
    sleep(Duration::from_millis(300)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let others: Vec<_> = [&two, &three]
        .map(|proxy| {
            let (address, stop) = (proxy.address(), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(get(address, "a.example", "/").await.status, StatusCode::OK);
                    sleep(Duration::from_millis(2)).await;
                }
            })
        })
        .into();
    sleep(Duration::from_millis(200)).await;
    assert_eq!(get(one.address(), "a.example", "/refused").await.status, StatusCode::TOO_MANY_REQUESTS);
    let refused = said.lock().expect("no panic").expect("it was asked");
    sleep(SECOND).await;
    stop.store(true, Ordering::SeqCst);
    let late = upstream.seen().iter().filter(|seen| seen.at > refused).map(|seen| seen.at - refused).max();
    println!("the last of {} came {late:?} after the refusal", upstream.seen().len());
    assert!(late.is_none_or(|late| late <= Duration::from_millis(100)), "one came {late:?} after the refusal");
    for other in others {
        other.await.expect("everybody is served in the end");
    }
}

fn of_admin(upstream: &Upstream, redis: &Redis, name: &str) -> Binary {
    Binary::serve(&format!(
        "server: {{host: 127.0.0.1, port: 0}}\nadmin: {{host: 127.0.0.1, port: 0}}\n\
         routes: {{\"a.example\": \"{}\"}}\nshared: {{redis: \"{}\", instance: {name}}}\n",
        upstream.url(),
        url(redis)
    ))
}

async fn order(binary: &Binary, path: &str, body: &str) {
    let admin = binary.admin_address();
    let call = Request::post(format!("/api/v1/{path}")).header("host", admin.to_string());
    let call = call.header("content-type", "application/json").body(text(body.to_owned())).expect("a request");
    assert_eq!(fetch(admin, call).await.status, StatusCode::OK, "{path}");
}

#[tokio::test]
async fn what_a_person_orders_at_one_instance_holds_at_all_and_at_newcomers() {
    let redis = Redis::start();
    let upstream = Upstream::start(plain).await;
    let [one, two] = ["one", "two"].map(|name| of_admin(&upstream, &redis, name));
    for binary in [&one, &two] {
        binary.line("that the store is reached", |line| line.contains("the store of shared limits is reached"));
    }
    let of_it = r#"{"upstream": "a.example"}"#;
    order(&one, "pause", of_it).await;
    two.line("about the pause", |line| line.contains("paused by hand at another instance"));
    let three = of_admin(&upstream, &redis, "three");
    three.line("about the pause", |line| line.contains("paused by hand at another instance"));
    let waiting: Vec<_> = [&two, &three]
        .map(|binary| {
            let address = binary.address();
            tokio::spawn(async move { get(address, "a.example", "/").await.status })
        })
        .into();
    sleep(Duration::from_millis(300)).await;
    assert!(upstream.seen().is_empty(), "it is paused");
    order(&two, "resume", of_it).await;
    for call in waiting {
        assert_eq!(call.await.expect("no panic"), StatusCode::OK);
    }
    one.line("that it goes on", |line| line.contains("resumed by hand at another instance"));

    order(&one, "cooldown", r#"{"upstream": "a.example", "seconds": 60}"#).await;
    two.line("about the closing", |line| line.contains("closed, as another instance was told"));
    let address = two.address();
    let waiting = tokio::spawn(async move { get(address, "a.example", "/").await.status });
    sleep(Duration::from_millis(300)).await;
    assert_eq!(upstream.seen().len(), 2, "it is closed");
    order(&three, "release", of_it).await;
    assert_eq!(waiting.await.expect("no panic"), StatusCode::OK);
    until("the first hears of it", || one.lines().iter().any(|line| line.contains("opened by hand at another"))).await;
}
