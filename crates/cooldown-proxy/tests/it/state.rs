//! What survives the process: quotas, cooldowns and what was learned, whatever ends it and whatever becomes of the file.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use http::StatusCode;
use hyper::Response;
use tempfile::TempDir;

use crate::support::{Answer, Binary, Proxy, Upstream, empty, fetch, get, plain, post, request, text, timed};

/// A proxy of one upstream whose ledger is in `state`. Who would wait for long is refused.
fn config(upstream: &Upstream, state: &Path, limits: &str) -> String {
    format!(
        "server: {{host: 127.0.0.1, port: 0, drain_timeout: 1s}}\nadmin: {{host: 127.0.0.1, port: 0}}\n\
         log: {{access: false}}\nqueue: {{max_wait: 500ms}}\nretry: {{attempts: 1}}\n\
         state: {{path: \"{}\"}}\nroutes: {{\"*\": {{upstream: \"{}\"{limits}}}}}\n",
        state.display(),
        upstream.url()
    )
}

fn requests(rate: &str) -> String {
    format!(", limits: {{requests: \"{rate}\"}}")
}

/// The limit is where one looks for it before it is broken: so many ask at once, and so many are served.
async fn served_of(address: SocketAddr, asking: usize) -> usize {
    let asked: Vec<_> = (0..asking).map(|_| tokio::spawn(get(address, "a.example", "/"))).collect();
    let mut served = 0;
    for answer in asked {
        served += usize::from(answer.await.expect("no panic").status == StatusCode::OK);
    }
    served
}

async fn killed(mut binary: Binary, signal: &str) {
    binary.signal(signal);
    tokio::task::spawn_blocking(move || binary.end()).await.expect("no panic");
}

async fn metrics(binary: &Binary) -> String {
    get(binary.admin_address(), "localhost", "/metrics").await.text().to_owned()
}

#[tokio::test]
async fn a_quota_holds_over_a_crash_and_what_is_left_of_it_is_there_at_once() {
    let _timed = timed().await;
    let (upstream, state) = (Upstream::start(plain).await, TempDir::new().expect("a folder"));
    let config = config(&upstream, &state.path().join("ledger"), &requests("50/min, burst 50"));
    let binary = Binary::serve(&config);
    assert_eq!(served_of(binary.address(), 30).await, 30);
    killed(binary, "KILL").await;

    let binary = Binary::serve(&config);
    let began = Instant::now();
    let served = served_of(binary.address(), 50).await;
    assert!(began.elapsed() < Duration::from_secs(20), "all in one window");
    assert!((15..=20).contains(&served), "{served} of 20 are left");
    assert_eq!(upstream.seen().len(), 30 + served);
}

#[tokio::test]
async fn fifty_kills_at_any_instant_break_no_limit() {
    let _timed = timed().await;
    let (upstream, state) = (Upstream::start(plain).await, TempDir::new().expect("a folder"));
    let config = config(&upstream, state.path(), &requests("200/min, burst 200"));
    let began = Instant::now();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..50 {
        let binary = Binary::serve(&config);
        let address = binary.address();
        let asking: Vec<_> = (0..3)
            .map(|_| {
                tokio::spawn(async move {
                    for _ in 0..3 {
                        let call = request("a.example", "/").body(empty()).expect("a valid request");
                        // It is killed in the middle of some.
                        let _ = tokio::time::timeout(Duration::from_millis(400), try_fetch(address, call)).await;
                    }
                })
            })
            .collect();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        tokio::time::sleep(Duration::from_micros((random >> 33) % 15_000)).await;
        killed(binary, "KILL").await;
        asking.into_iter().for_each(|asking| asking.abort());
    }
    let last = Binary::serve(&config);
    served_of(last.address(), 200).await;
    assert!(began.elapsed() < Duration::from_secs(58), "all in one window: {:?}", began.elapsed());
    let seen = upstream.seen().len();
    assert!((150..=200).contains(&seen), "{seen} of 200 have left");
}

async fn try_fetch(address: SocketAddr, call: http::Request<crate::support::Body>) -> Option<Answer> {
    tokio::spawn(fetch(address, call)).await.ok()
}

#[tokio::test]
async fn an_end_in_good_order_loses_nothing() {
    let (upstream, state) = (Upstream::start(plain).await, TempDir::new().expect("a folder"));
    let config = config(&upstream, state.path(), &requests("1000/min, burst 1000"));
    let binary = Binary::serve(&config);
    assert_eq!(served_of(binary.address(), 7).await, 7);
    killed(binary, "TERM").await;
    let binary = Binary::serve(&config);
    let figures = metrics(&binary).await;
    let room = figures.lines().find(|line| line.starts_with("cooldown_upstream_room")).expect("a figure");
    assert!(room.ends_with(" 993"), "{room}");
    assert!(figures.contains("cooldown_state_faults_total 0"), "{figures}");
}

#[tokio::test]
async fn a_key_that_was_closed_stays_closed() {
    let upstream = Upstream::start(|_| async {
        let refused = Response::builder().status(429).header("retry-after", "40");
        refused.body(text("no")).expect("a response")
    })
    .await;
    let state = TempDir::new().expect("a folder");
    let config = config(&upstream, state.path(), "");
    let binary = Binary::serve(&config);
    assert_eq!(served_of(binary.address(), 1).await, 0);
    killed(binary, "KILL").await;
    let seen = upstream.seen().len();

    let binary = Binary::serve(&config);
    let answer = get(binary.address(), "a.example", "/").await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(
        (30..=50).contains(&answer.field("retry-after").parse().expect("seconds")),
        "{}",
        answer.field("retry-after")
    );
    assert_eq!(upstream.seen().len(), seen, "nobody asks while it is closed");
}

#[tokio::test]
async fn a_limit_that_was_learned_is_known_after_a_crash() {
    let upstream = Upstream::start(|_| async {
        let told = Response::builder().header("ratelimit-policy", "\"default\";q=20;w=60");
        told.header("ratelimit", "\"default\";r=15;t=60").body(text("yes")).expect("a response")
    })
    .await;
    let state = TempDir::new().expect("a folder");
    let config = config(&upstream, state.path(), "");
    let binary = Binary::serve(&config);
    assert_eq!(served_of(binary.address(), 1).await, 1);
    let before = metrics(&binary).await;
    assert!(before.contains("source=\"learned\""), "{before}");
    killed(binary, "KILL").await;
    let after = metrics(&Binary::serve(&config)).await;
    assert!(after.contains("source=\"learned\""), "{after}");
}

#[tokio::test]
async fn a_rate_that_was_found_is_known_after_a_crash() {
    let accepted = std::sync::Arc::new(parking_lot::Mutex::new(std::collections::VecDeque::<Instant>::new()));
    let upstream = Upstream::start(move |_| {
        let mut accepted = accepted.lock();
        accepted.retain(|at| at.elapsed() < Duration::from_secs(1));
        // It says nothing of its limit.
        let status = if accepted.len() < 20 { 200 } else { 429 };
        if status == 200 {
            accepted.push_back(Instant::now());
        }
        async move { Response::builder().status(status).body(text("")).expect("a response") }
    })
    .await;
    let state = TempDir::new().expect("a folder");
    let config = config(&upstream, state.path(), "").replace("max_wait: 500ms", "max_wait: 30s");
    let binary = Binary::serve(&config);
    assert!(served_of(binary.address(), 60).await > 20);
    let before = metrics(&binary).await;
    assert!(before.contains("source=\"found\""), "{before}");
    killed(binary, "KILL").await;
    let after = metrics(&Binary::serve(&config)).await;
    assert!(after.contains("source=\"found\""), "{after}");
}

#[tokio::test]
async fn a_limit_that_a_reload_brings_back_knows_what_an_earlier_process_sent() {
    let (upstream, state) = (Upstream::start(plain).await, TempDir::new().expect("a folder"));
    let sections = |route: &str, limits: &str| {
        format!(
            "queue: {{max_wait: 500ms}}\nstate: {{path: \"{}\"}}\nroutes: {{{route}: {{upstream: \"{}\"{limits}}}}}",
            state.path().display(),
            upstream.url()
        )
    };
    let here = sections("a.example", &requests("50/min, burst 50"));
    let elsewhere = "routes: {b.example: \"http://127.0.0.1:9\"}";
    let proxy = Proxy::start(&here);
    assert_eq!(served_of(proxy.address(), 30).await, 30);
    drop(proxy);
    let proxy = Proxy::start(&format!("state: {{path: \"{}\"}}\n{elsewhere}", state.path().display()));
    proxy.reload(&here);
    assert_eq!(served_of(proxy.address(), 50).await, 20, "thirty have left");
    assert_eq!(upstream.seen().len(), 50);
}

#[tokio::test]
async fn two_processes_cannot_share_one_folder() {
    let (upstream, state) = (Upstream::start(plain).await, TempDir::new().expect("a folder"));
    let config = config(&upstream, state.path(), "");
    let first = Binary::serve(&config);
    first.address();
    let mut second = Binary::serve(&config);
    second.line("that says why", |line| line.contains("is used by another process"));
    let (status, _) = tokio::task::spawn_blocking(move || second.end()).await.expect("no panic");
    assert_eq!(status.code(), Some(1));
}

#[tokio::test]
async fn a_torn_ledger_is_reported_and_the_rest_of_it_holds() {
    let (upstream, state) = (Upstream::start(plain).await, TempDir::new().expect("a folder"));
    let config = config(&upstream, state.path(), &requests("50/min, burst 50"));
    let binary = Binary::serve(&config);
    assert_eq!(served_of(binary.address(), 30).await, 30);
    killed(binary, "KILL").await;
    let path = state.path().join("ledger");
    let mut bytes = std::fs::read(&path).expect("a ledger");
    bytes.truncate(bytes.len() - 20);
    std::fs::write(&path, bytes).expect("it is written");

    let binary = Binary::serve(&config);
    binary.line("that tells of it", |line| line.contains("1 lines of the ledger were torn or damaged"));
    assert_eq!(served_of(binary.address(), 50).await, 21, "one line of thirty is lost");
    let events = get(binary.admin_address(), "localhost", "/api/v1/events").await;
    assert!(events.text().contains("\"kind\":\"state\""), "{}", events.text());
}

#[tokio::test]
async fn a_file_that_is_no_ledger_is_moved_aside() {
    let (upstream, state) = (Upstream::start(plain).await, TempDir::new().expect("a folder"));
    std::fs::write(state.path().join("ledger"), "my diary").expect("it is written");
    let binary = Binary::serve(&config(&upstream, state.path(), &requests("50/min")));
    binary.line("that tells of it", |line| line.contains("moved to"));
    assert_eq!(served_of(binary.address(), 1).await, 1);
    let aside = std::fs::read_to_string(state.path().join("ledger.unreadable-1")).expect("it is there");
    assert_eq!(aside, "my diary");
}

#[tokio::test]
async fn without_room_requests_go_on_and_nothing_is_lost_once_there_is_room_again() {
    let _timed = timed().await;
    let (upstream, state) = (Upstream::start(plain).await, TempDir::new().expect("a folder"));
    let config = config(&upstream, state.path(), &requests("200/min, burst 200"));
    let binary = Binary::serve_without_room(&config);
    assert_eq!(served_of(binary.address(), 100).await, 100);
    binary.line("that tells of it", |line| line.contains("the ledger cannot be written"));
    let pid = binary.id().to_string();
    let room = std::process::Command::new("prlimit").args(["--fsize=unlimited", "--pid", &pid]).status();
    assert!(room.expect("prlimit runs").success());
    assert_eq!(served_of(binary.address(), 1).await, 1);
    binary.line("that tells of it", |line| line.contains("the ledger is written again"));
    let told = binary.lines().iter().filter(|line| line.contains("cannot be written")).count();
    assert_eq!(told, 1, "once is enough");
    killed(binary, "KILL").await;
    assert_eq!(served_of(Binary::serve(&config).address(), 120).await, 99);
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_reported_and_stops_nothing() {
    let (upstream, state) = (Upstream::start(plain).await, TempDir::new().expect("a folder"));
    let file = state.path().join("file");
    std::fs::write(&file, "").expect("it is written");
    let binary = Binary::serve(&config(&upstream, &file.join("state"), &requests("50/min, burst 50")));
    binary.line("that tells of it", |line| line.contains("the ledger cannot be written"));
    assert_eq!(served_of(binary.address(), 60).await, 50);
}

#[tokio::test]
async fn another_path_needs_a_restart_and_a_reload_goes_on_writing() {
    let (upstream, state) = (Upstream::start(plain).await, TempDir::new().expect("a folder"));
    let sections = |name: &str, rate: &str| {
        format!(
            "queue: {{max_wait: 500ms}}\nstate: {{path: \"{}\"}}\nroutes: {{\"*\": {{upstream: \"{}\"{}}}}}",
            state.path().join(name).display(),
            upstream.url(),
            requests(rate)
        )
    };
    let proxy = Proxy::start(&sections("a", "50/min, burst 50"));
    assert_eq!(served_of(proxy.address(), 10).await, 10);
    assert_eq!(proxy.reload(&sections("b", "100/min, burst 100")).after_restart, ["state"]);
    assert_eq!(served_of(proxy.address(), 20).await, 20);
    drop(proxy);
    let proxy = Proxy::start(&sections("a", "60/min, burst 60"));
    assert_eq!(served_of(proxy.address(), 60).await, 30);
}

#[tokio::test]
async fn a_key_whose_money_is_spent_is_left_alone_after_a_crash() {
    let upstream = Upstream::start(|_| async {
        let refused = Response::builder().status(402).header("content-type", "application/json");
        refused.body(text("{\"error\":{\"message\":\"no credits\",\"code\":402}}")).expect("a response")
    })
    .await;
    let state = TempDir::new().expect("a folder");
    let config = format!(
        "server: {{host: 127.0.0.1, port: 0}}\nadmin: {{host: 127.0.0.1, port: 0}}\nstate: {{path: \"{}\"}}\n\
         providers: {{p: {{api_keys: [a-key-of-ours, another-key], endpoint: \"{}\", provider: openai, models: [m]}}}}\n",
        state.path().display(),
        upstream.url()
    );
    let binary = Binary::serve(&config);
    fetch(binary.address(), post("/p/v1/chat/completions", "{\"model\":\"m\",\"messages\":[]}")).await;
    let keys = |snapshot: String| snapshot.matches("\"rests\":true").count();
    let snapshot = get(binary.admin_address(), "localhost", "/api/v1/snapshot").await.text().to_owned();
    assert_eq!(keys(snapshot.clone()), 2, "{snapshot}");
    killed(binary, "KILL").await;
    let binary = Binary::serve(&config);
    let snapshot = get(binary.admin_address(), "localhost", "/api/v1/snapshot").await.text().to_owned();
    assert_eq!(keys(snapshot.clone()), 2, "{snapshot}");
    let file = std::fs::read_to_string(state.path().join("ledger")).expect("a ledger");
    assert!(file.contains("rests") && !file.contains("key-of-ours"), "and no secret is written: {file}");
}
