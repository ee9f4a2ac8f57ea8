//! Which limits concern a request, and how clients share them.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::support::{Answer, Proxy, Upstream, empty, fetch, get, plain, request, text, timed, until};

/// Whether a GET from `host` had to wait.
async fn waits(proxy: SocketAddr, host: &str) -> bool {
    let answer = get(proxy, host, "/").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.field("x-cooldown-wait-ms") != "0"
}

#[tokio::test]
async fn domains_without_an_entry_have_a_bucket_each() {
    let _timed = timed().await;
    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::start(&format!(
        "routes: {{\"*\": \"{}\"}}\ndefault_rate_limit: {{requests_per_second: 1}}",
        upstream.url()
    ));
    assert!(!waits(proxy.address(), "a.example").await);
    assert!(!waits(proxy.address(), "b.example").await, "another domain has room of its own");
    assert!(waits(proxy.address(), "A.example:80").await, "the same domain, written otherwise, has not");
}

#[tokio::test]
async fn a_wildcard_entry_is_one_bucket_unless_it_is_per_host() {
    let _timed = timed().await;
    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::start(&format!(
        "routes: {{\"*\": \"{}\"}}\n\
         rate_limits:\n\
         - {{domain: \"*.together.example\", requests_per_second: 1, burst: 1}}\n\
         - {{domain: \"*.apart.example\", requests_per_second: 1, burst: 1, per: host}}",
        upstream.url()
    ));
    assert!(!waits(proxy.address(), "a.apart.example").await);
    assert!(!waits(proxy.address(), "b.apart.example").await);
    assert!(!waits(proxy.address(), "a.together.example").await);
    assert!(waits(proxy.address(), "b.together.example").await);
    assert!(!waits(proxy.address(), "free.example").await, "no entry, no limit");
}

#[tokio::test]
async fn a_request_leaves_only_when_its_route_and_its_domain_both_have_room() {
    let _timed = timed().await;
    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::start(&format!(
        "routes: {{\"*\": {{upstream: \"{}\", limits: {{requests: 3/s}}}}}}\n\
         rate_limits: [{{domain: slow.example, requests_per_second: 1}}]",
        upstream.url()
    ));
    assert!(!waits(proxy.address(), "slow.example").await);
    assert!(!waits(proxy.address(), "a.example").await);
    assert!(!waits(proxy.address(), "b.example").await);
    assert!(waits(proxy.address(), "c.example").await, "the route's three are used up");
    assert!(upstream.seen().len() == 4);
}

#[tokio::test]
async fn no_more_than_the_concurrency_are_in_flight_until_their_last_byte() {
    let upstream = Upstream::start(|_| async {
        sleep(Duration::from_millis(20)).await;
        hyper::Response::new(text("done"))
    })
    .await;
    let proxy =
        Proxy::start(&format!("routes: {{\"*\": {{upstream: \"{}\", limits: {{concurrency: 3}}}}}}", upstream.url()));
    let address = proxy.address();
    let calls: JoinSet<Answer> = (0..12).map(|_| async move { get(address, "a.example", "/").await }).collect();
    assert!(calls.join_all().await.iter().all(|answer| answer.status == StatusCode::OK));
    assert_eq!(upstream.most_under_way(), 3);
}

/// A request in the background, and when it is surely in line.
async fn in_line(proxy: SocketAddr, path: &'static str, fields: &'static [(&str, &str)]) -> JoinHandle<Answer> {
    let waiting = tokio::spawn(async move {
        let mut builder = request("a.example", path);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        fetch(proxy, builder.body(empty()).expect("a valid request")).await
    });
    sleep(Duration::from_millis(50)).await;
    waiting
}

fn paths(upstream: &Upstream) -> Vec<String> {
    upstream.seen().iter().map(|seen| seen.uri.path().to_owned()).collect()
}

#[tokio::test]
async fn a_more_urgent_request_overtakes() {
    let _timed = timed().await;
    let upstream = Upstream::start(plain).await;
    let proxy =
        Proxy::start(&format!("routes: {{\"*\": {{upstream: \"{}\", limits: {{requests: 2/s}}}}}}", upstream.url()));
    get(proxy.address(), "a.example", "/first").await;
    get(proxy.address(), "a.example", "/second").await;
    let calls = [
        in_line(proxy.address(), "/batch", &[("priority", "u=6"), ("x-cooldown-client", "a")]).await,
        in_line(proxy.address(), "/ordinary", &[("x-cooldown-client", "b")]).await,
        in_line(proxy.address(), "/urgent", &[("priority", "u=0, i"), ("x-cooldown-client", "c")]).await,
    ];
    for call in calls {
        assert_eq!(call.await.expect("no panic").status, StatusCode::OK);
    }
    assert_eq!(paths(&upstream), ["/first", "/second", "/urgent", "/ordinary", "/batch"]);
}

#[tokio::test]
async fn clients_take_turns_whatever_they_have_waiting() {
    let _timed = timed().await;
    let upstream = Upstream::start(plain).await;
    let proxy =
        Proxy::start(&format!("routes: {{\"*\": {{upstream: \"{}\", limits: {{requests: 5/s}}}}}}", upstream.url()));
    for _ in 0..5 {
        get(proxy.address(), "a.example", "/burst").await;
    }
    let mut calls = Vec::new();
    for _ in 0..4 {
        calls.push(in_line(proxy.address(), "/greedy", &[("x-cooldown-client", "greedy")]).await);
    }
    calls.push(in_line(proxy.address(), "/modest", &[("x-cooldown-client", "modest")]).await);
    until("the modest client is served", || paths(&upstream).iter().any(|path| path == "/modest")).await;
    let before =
        paths(&upstream).iter().take_while(|path| *path != "/modest").filter(|path| *path == "/greedy").count();
    assert!(before <= 1, "{before} of the greedy client's went first");
    for call in calls {
        assert_eq!(call.await.expect("no panic").status, StatusCode::OK);
    }
}
