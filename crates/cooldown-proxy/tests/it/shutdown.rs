//! The end: what is under way is finished, and nothing new is begun.

use std::time::Duration;

use http::StatusCode;
use hyper::Response;
use tokio::time::sleep;

use crate::support::{Binary, Client, Upstream, empty, get, plain, request, text, timed, until};

fn config(upstream: &Upstream, drain: &str, limits: &str) -> String {
    format!(
        "server: {{host: 127.0.0.1, port: 0, drain_timeout: {drain}}}\nadmin: off\n\
         routes: {{\"*\": {{upstream: \"{}\"{limits}}}}}\n",
        upstream.url()
    )
}

async fn slow() -> Upstream {
    Upstream::start(|_| async {
        sleep(Duration::from_millis(700)).await;
        Response::new(text("finished"))
    })
    .await
}

#[tokio::test]
async fn a_request_under_way_is_finished_and_the_exit_code_is_0() {
    for signal in ["TERM", "INT"] {
        let upstream = slow().await;
        let mut binary = Binary::serve(&config(&upstream, "10s", ""));
        let address = binary.address();
        let call = tokio::spawn(async move { get(address, "a.example", "/").await });
        until("the request is under way", || upstream.under_way() == 1).await;
        binary.signal(signal);
        let answer = call.await.expect("no panic");
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "finished"));
        let (status, took) = tokio::task::spawn_blocking(move || binary.end()).await.expect("no panic");
        assert_eq!(status.code(), Some(0), "after SIG{signal}");
        assert!(took < Duration::from_secs(5), "it does not wait for the whole drain_timeout: {took:?}");
    }
}

#[tokio::test]
async fn drain_timeout_bounds_the_wait_for_what_never_ends() {
    let upstream = Upstream::start(|_| std::future::pending::<Response<crate::support::Body>>()).await;
    let mut binary = Binary::serve(&config(&upstream, "1s", ""));
    let address = binary.address();
    let call = tokio::spawn(async move {
        let mut client = Client::connect(address).await;
        client.send(request("a.example", "/").body(empty()).expect("a valid request")).await.map(|_| ())
    });
    until("the request is under way", || upstream.under_way() == 1).await;
    binary.signal("TERM");
    let (status, took) = tokio::task::spawn_blocking(move || binary.end()).await.expect("no panic");
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(4), "{took:?}");
    // It is cut off or told so; either way it does not hang.
    let _ = call.await.expect("no panic");
}

#[tokio::test]
async fn new_requests_on_open_connections_are_turned_away() {
    let upstream = slow().await;
    let binary = Binary::serve(&config(&upstream, "10s", ""));
    let address = binary.address();
    // A connection with a request under way keeps the proxy alive; another one asks in the meantime.
    let call = tokio::spawn(async move { get(address, "a.example", "/").await });
    let mut head_start = tokio::net::TcpStream::connect(address).await.expect("a connection");
    tokio::io::AsyncWriteExt::write_all(&mut head_start, b"GET /late HTTP/1.1\r\nHost: a.exa").await.expect("sent");
    until("the request is under way", || upstream.under_way() == 1).await;
    sleep(Duration::from_millis(100)).await;
    binary.signal("TERM");
    sleep(Duration::from_millis(150)).await;
    // Its connection may be closed by now, or it is answered with a refusal; it is never forwarded.
    let _ = tokio::io::AsyncWriteExt::write_all(&mut head_start, b"mple\r\n\r\n").await;
    let mut answer = String::new();
    let _ = tokio::io::AsyncReadExt::read_to_string(&mut head_start, &mut answer).await;
    assert!(answer.is_empty() || (answer.starts_with("HTTP/1.1 503") && answer.contains("shutting_down")), "{answer}");
    assert_eq!(call.await.expect("no panic").status, StatusCode::OK);
    assert!(upstream.seen().iter().all(|seen| seen.uri.path() != "/late"));
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn of_those_in_line_whoever_can_leave_in_time_does_and_the_others_are_told() {
    let _timed = timed().await;
    let upstream = Upstream::start(plain).await;
    let mut binary = Binary::serve(&config(&upstream, "2s", ", limits: {requests: 1/s}"));
    let address = binary.address();
    assert_eq!(get(address, "a.example", "/").await.status, StatusCode::OK);
    let calls: Vec<_> = (0..6).map(|_| tokio::spawn(async move { get(address, "a.example", "/").await })).collect();
    sleep(Duration::from_millis(200)).await;
    binary.signal("TERM");
    let mut served = 0;
    for call in calls {
        let answer = call.await.expect("no panic");
        if answer.status == StatusCode::OK {
            served += 1;
        } else {
            assert_eq!((answer.status, answer.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "shutting_down"));
            assert_eq!(answer.field("retry-after"), "1");
        }
    }
    assert!((1..=3).contains(&served), "{served} could leave within two seconds");
    let (status, took) = tokio::task::spawn_blocking(move || binary.end()).await.expect("no panic");
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test]
async fn an_idle_proxy_ends_at_once() {
    let upstream = Upstream::start(plain).await;
    let mut binary = Binary::serve(&config(&upstream, "30s", ""));
    let mut client = Client::connect(binary.address()).await;
    let answer = client.fetch(request("a.example", "/").body(empty()).expect("a valid request")).await;
    assert_eq!(answer.status, StatusCode::OK);
    binary.signal("TERM");
    let (status, took) = tokio::task::spawn_blocking(move || binary.end()).await.expect("no panic");
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(2), "an idle connection keeps nothing alive: {took:?}");
}
