//! When requests leave: at once while there is room, then each at an instant of its own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::{Answer, Client, Proxy, Upstream, empty, get, loud, plain, request, text, timed, until};

fn paced(upstream: &Upstream, limits: &str) -> Proxy {
    Proxy::start(&format!("routes: {{\"*\": {{upstream: \"{}\", limits: {{{limits}}}}}}}", upstream.url()))
}

/// `count` requests at once, each over a connection that is there already.
async fn at_once(proxy: SocketAddr, count: usize) -> Vec<Answer> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(Client::connect(proxy).await);
    }
    let mut calls = JoinSet::new();
    for mut client in clients {
        calls.spawn(
            async move { client.fetch(request("a.example", "/").body(empty()).expect("a valid request")).await },
        );
    }
    calls.join_all().await
}

#[tokio::test]
async fn of_25_at_once_ten_leave_at_once_and_each_later_one_at_its_own_instant() {
    let _timed = timed().await;
    let upstream = Upstream::start(plain).await;
    let proxy = paced(&upstream, "requests: 10/s");
    let answers = at_once(proxy.address(), 25).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));

    let arrivals = upstream.arrivals();
    assert_eq!(arrivals.len(), 25);
    assert!(arrivals[9] < 0.1, "ten leave at once: {arrivals:?}");
    assert!(arrivals[10] > 0.98, "the eleventh waits: {arrivals:?}");
    for pair in arrivals[10..].windows(2) {
        assert!(pair[1] - pair[0] > 0.05, "two left together: {arrivals:?}");
    }
    for (first, eleventh) in arrivals.iter().zip(&arrivals[10..]) {
        assert!(eleventh - first > 0.99, "more than ten in one second: {arrivals:?}");
    }
    let delayed = answers.iter().filter(|answer| answer.field("x-cooldown-wait-ms") != "0").count();
    assert_eq!(delayed, 15, "fifteen are told that they waited");
}

#[tokio::test]
async fn a_request_that_need_not_wait_does_not_wait() {
    let _timed = timed().await;
    let upstream = Upstream::start(plain).await;
    let proxy = paced(&upstream, "requests: 10/s");
    let began = Instant::now();
    let answer = get(proxy.address(), "a.example", "/").await;
    assert_eq!(answer.field("x-cooldown-wait-ms"), "0");
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_thousand_requests_fifty_at_a_time_all_succeed() {
    let _loud = loud().await;
    let upstream = Upstream::start(|_| async {
        sleep(Duration::from_millis(10)).await;
        hyper::Response::new(text("done"))
    })
    .await;
    let proxy = paced(&upstream, "requests: 800/s, concurrency: 40");
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let mut client = Client::connect(proxy.address()).await;
        callers.spawn(async move {
            for _ in 0..20 {
                let answer = client.fetch(request("a.example", "/").body(empty()).expect("a valid request")).await;
                assert_eq!((answer.status, answer.text()), (StatusCode::OK, "done"));
            }
        });
    }
    callers.join_all().await;
    assert_eq!(upstream.seen().len(), 1000, "each request reaches the upstream exactly once");
    assert!(upstream.most_under_way() <= 40, "{} in flight", upstream.most_under_way());
}

#[tokio::test]
async fn the_next_request_does_not_wait_for_the_ghosts_of_forty_that_hung_up() {
    let _timed = timed().await;
    let upstream = Upstream::start(plain).await;
    let proxy = paced(&upstream, "requests: 2/s");
    at_once(proxy.address(), 2).await;
    let mut waiters = JoinSet::new();
    for _ in 0..40 {
        let mut client = Client::connect(proxy.address()).await;
        waiters.spawn(async move {
            // It hangs up before there is an answer.
            let _ = client.send(request("a.example", "/ghost").body(empty()).expect("a valid request")).await;
        });
    }
    sleep(Duration::from_millis(150)).await;
    waiters.shutdown().await;
    sleep(Duration::from_millis(50)).await;

    let began = Instant::now();
    let answer = get(proxy.address(), "a.example", "/next").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(began.elapsed() < Duration::from_millis(1200), "it waited for {:?}", began.elapsed());
    assert!(upstream.seen().iter().all(|seen| seen.uri.path() != "/ghost"), "no ghost was sent");
}

#[tokio::test]
async fn a_permit_whose_client_left_unanswered_frees_its_place_in_flight() {
    let upstream = Upstream::start(|request| async move {
        if request.uri().path() == "/hangs" {
            std::future::pending::<()>().await;
        }
        hyper::Response::new(text("hello"))
    })
    .await;
    let proxy = paced(&upstream, "concurrency: 1");
    let mut client = Client::connect(proxy.address()).await;
    let hanging = tokio::spawn(async move {
        let _ = client.send(request("a.example", "/hangs").body(empty()).expect("a valid request")).await;
    });
    until("the first request is under way", || upstream.under_way() == 1).await;
    let waiting = tokio::spawn(get_of(proxy.address()));
    sleep(Duration::from_millis(50)).await;
    assert_eq!(upstream.seen().len(), 1, "the second one waits for the only place");
    hanging.abort();
    assert_eq!(waiting.await.expect("no panic").status, StatusCode::OK);
}

async fn get_of(proxy: SocketAddr) -> Answer {
    get(proxy, "a.example", "/").await
}
