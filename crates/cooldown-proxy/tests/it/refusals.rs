//! When the proxy says no: on arrival, and with the true wait.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::StatusCode;
use rstest::rstest;
use tokio::time::sleep;

use crate::support::{Answer, Proxy, Upstream, empty, fetch, get, plain, request, timed};

/// A proxy whose only limit, `limits`, is used up for now.
async fn used_up(upstream: &Upstream, limits: &str, more: &str) -> Proxy {
    let proxy = Proxy::start(&format!(
        "routes: {{\"*\": {{upstream: \"{}\", limits: {{requests: \"{limits}\"}}}}}}\n{more}",
        upstream.url()
    ));
    assert_eq!(get(proxy.address(), "a.example", "/").await.status, StatusCode::OK);
    proxy
}

async fn get_with(proxy: SocketAddr, name: &str, value: &str) -> (Answer, Duration) {
    let began = Instant::now();
    let answer = fetch(proxy, request("a.example", "/").header(name, value).body(empty()).expect("valid")).await;
    (answer, began.elapsed())
}

fn retry_after(answer: &Answer) -> (u64, u64) {
    let number = |name| answer.field(name).parse().unwrap_or_else(|_| panic!("no {name}: {answer:?}"));
    (number("retry-after"), number("retry-after-ms"))
}

#[rstest]
#[case::preference("prefer", "wait=2")]
#[case::preference_in_a_list("prefer", "respond-async, wait=2; x=y")]
#[case::read_timeout("x-stainless-read-timeout", "2")]
#[case::whole_timeout("x-stainless-timeout", "2.5")]
#[case::server_timeout("x-server-timeout", "2")]
#[tokio::test]
async fn a_wait_beyond_the_clients_budget_is_refused_on_arrival(#[case] name: &str, #[case] value: &str) {
    let _timed = timed().await;
    let upstream = Upstream::start(plain).await;
    let proxy = used_up(&upstream, "1/10s", "").await;
    let (answer, took) = get_with(proxy.address(), name, value).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::TOO_MANY_REQUESTS, "wait_too_long"));
    assert!(took < Duration::from_millis(500), "on arrival, not after {took:?}");
    let (seconds, millis) = retry_after(&answer);
    assert!((9_000..=11_100).contains(&millis), "the true wait, up to a tenth more: {millis} ms");
    assert_eq!(seconds, millis.div_ceil(1000), "whole seconds, rounded up");
    assert_eq!(answer.field("x-should-retry"), "true");
    assert_eq!(upstream.seen().len(), 1, "nothing was forwarded");
}

#[rstest]
#[case("x-stainless-timeout", "NOT_GIVEN")]
#[case("x-stainless-read-timeout", "None")]
#[case("x-stainless-timeout", "-3")]
#[case("x-server-timeout", "1e300")]
#[case("prefer", "wait=soon")]
#[case("prefer", "return=minimal")]
#[tokio::test]
async fn nonsense_in_a_budget_is_ignored(#[case] name: &str, #[case] value: &str) {
    let _timed = timed().await;
    let upstream = Upstream::start(plain).await;
    let proxy = used_up(&upstream, "2/s, burst 1", "").await;
    let (answer, _) = get_with(proxy.address(), name, value).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

#[tokio::test]
async fn a_wait_within_the_budget_is_waited_for() {
    let _timed = timed().await;
    let upstream = Upstream::start(plain).await;
    let proxy = used_up(&upstream, "1/s", "").await;
    let (answer, took) = get_with(proxy.address(), "x-stainless-timeout", "10").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(took > Duration::from_millis(800), "it waited: {took:?}");
}

#[tokio::test]
async fn the_configured_longest_wait_holds_where_the_client_states_none() {
    let upstream = Upstream::start(plain).await;
    let proxy = used_up(&upstream, "1/min", "queue: {max_wait: 5s}").await;
    let answer = get(proxy.address(), "a.example", "/").await;
    assert_eq!(answer.code(), "wait_too_long");
    let (_, millis) = retry_after(&answer);
    assert!((58_000..=66_100).contains(&millis), "{millis} ms");
}

#[tokio::test]
async fn beyond_a_minute_clients_are_told_not_to_retry_by_themselves() {
    let upstream = Upstream::start(plain).await;
    let proxy = used_up(&upstream, "1/h", "queue: {max_wait: 5s}").await;
    let answer = get(proxy.address(), "a.example", "/").await;
    assert_eq!(answer.code(), "wait_too_long");
    assert_eq!(answer.field("x-should-retry"), "false");
}

#[tokio::test]
async fn a_full_line_refuses_the_next_one() {
    let upstream = Upstream::start(plain).await;
    let proxy = used_up(&upstream, "1/min", "queue: {max_depth: 2}").await;
    let address = proxy.address();
    let waiting: Vec<_> = (0..2).map(|_| tokio::spawn(async move { get(address, "a.example", "/").await })).collect();
    sleep(Duration::from_millis(200)).await;
    let answer = get(address, "a.example", "/").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::TOO_MANY_REQUESTS, "queue_full"));
    let (seconds, _) = retry_after(&answer);
    assert!(seconds >= 58, "the true wait: {seconds} s");
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}
