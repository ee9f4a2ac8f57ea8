//! What goes wrong at the upstream, and what a client is told.

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, StatusCode};
use hyper::Response;
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::support::{Client, Proxy, Upstream, empty, fetch, get, plain, request, text, until};

fn route_to(url: &str, more: &str) -> Proxy {
    Proxy::start(&format!("routes: {{\"*\": {{upstream: \"{url}\"{more}}}}}"))
}

#[rstest]
#[case(400)]
#[case(404)]
#[case(500)]
#[case(502)]
#[tokio::test]
async fn an_upstreams_error_passes_unchanged(#[case] status: u16) {
    let status = StatusCode::from_u16(status).expect("a status");
    let upstream = Upstream::start(move |_| async move {
        let mut response = Response::new(text("{\"error\": \"of the upstream\"}"));
        *response.status_mut() = status;
        response.headers_mut().insert("retry-after", HeaderValue::from_static("7"));
        response
    })
    .await;
    let proxy = route_to(&upstream.url(), "");
    let answer = get(proxy.address(), "a.example", "/").await;
    assert_eq!((answer.status, answer.text()), (status, "{\"error\": \"of the upstream\"}"));
    assert_eq!((answer.field("retry-after"), answer.field("x-cooldown-source")), ("7", "upstream"));
}

#[tokio::test]
async fn an_upstream_that_refuses_connections_is_unreachable() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let proxy = route_to(&format!("http://{address}"), "");
    let answer = get(proxy.address(), "a.example", "/").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_GATEWAY, "upstream_unreachable"));
    assert!(!answer.text().contains(&address.port().to_string()), "no internals: {}", answer.text());
}

#[tokio::test]
async fn an_upstream_whose_name_does_not_resolve_is_unreachable() {
    let proxy = route_to("http://nobody.invalid", "");
    let answer = get(proxy.address(), "a.example", "/").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_GATEWAY, "upstream_unreachable"));
}

/// An upstream that reads the head of a request and then answers with these bytes.
async fn answering(bytes: &'static [u8]) -> Upstream {
    Upstream::bytes(move |mut stream: TcpStream| async move {
        let mut head = [0; 4096];
        // A request of these tests fits into one read.
        if stream.read(&mut head).await.is_ok_and(|n| n > 0) {
            let _ = stream.write_all(bytes).await;
        }
    })
    .await
}

#[rstest]
#[case::no_http(b"220 smtp.example.com ready\r\n")]
#[case::bad_status(b"HTTP/1.1 abc\r\n\r\n")]
#[case::both_lengths(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab")]
#[tokio::test]
async fn an_upstream_that_does_not_speak_http_is_a_protocol_error(#[case] bytes: &'static [u8]) {
    let upstream = answering(bytes).await;
    let proxy = route_to(&upstream.url(), "");
    let answer = get(proxy.address(), "a.example", "/").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_GATEWAY, "upstream_protocol_error"));
}

#[tokio::test]
async fn an_upstream_that_closes_without_an_answer_gives_a_502() {
    let upstream = answering(b"").await;
    let proxy = route_to(&upstream.url(), "");
    let answer = fetch(
        proxy.address(),
        request("a.example", "/").method(Method::POST).body(text("pay once")).expect("a valid request"),
    )
    .await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    answer.code();
    assert_eq!(upstream.connections_made(), 1, "it may have acted: nothing is sent twice");
}

#[tokio::test]
async fn an_upstream_without_a_response_head_in_time_gives_a_504() {
    let upstream = Upstream::start(|_| std::future::pending::<Response<crate::support::Body>>()).await;
    let proxy = route_to(&upstream.url(), ", timeout: 300ms");
    let began = Instant::now();
    let answer = get(proxy.address(), "a.example", "/").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout"));
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    until("the upstream is left alone", || upstream.connections_open() == 0).await;
}

#[tokio::test]
async fn time_in_line_does_not_count_as_the_upstreams() {
    let upstream = Upstream::start(plain).await;
    let proxy = route_to(&upstream.url(), ", timeout: 300ms, limits: {requests: 1/s}");
    assert_eq!(get(proxy.address(), "a.example", "/").await.status, StatusCode::OK);
    let second = get(proxy.address(), "a.example", "/").await;
    assert_eq!(second.status, StatusCode::OK, "it waited for a second, three times the timeout");
}

#[tokio::test]
async fn a_response_that_stands_still_or_breaks_off_is_cut() {
    let broken = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    let held = Upstream::bytes(|mut stream: TcpStream| async move {
        let mut head = [0; 4096];
        if stream.read(&mut head).await.is_ok_and(|n| n > 0) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
            // Until the proxy closes.
            while stream.read(&mut head).await.is_ok_and(|n| n > 0) {}
        }
    })
    .await;
    for upstream in [&broken, &held] {
        let proxy = Proxy::with_server(
            "drain_timeout: 100ms, idle_timeout: 1s",
            &format!("routes: {{\"*\": \"{}\"}}", upstream.url()),
        );
        let mut client = Client::connect(proxy.address()).await;
        let asked = request("a.example", "/").body(empty()).expect("a valid request");
        // The head may come or not, where it is followed by an end at once.
        if let Ok(response) = client.send(asked).await {
            let whole = http_body_util::BodyExt::collect(response.into_body()).await;
            assert!(whole.is_err(), "half of a body is not passed off as a whole one");
        }
        until("the upstream is left alone", || upstream.connections_open() == 0).await;
    }
}

#[tokio::test]
async fn an_idle_connection_that_the_upstream_closes_is_no_error() {
    // Each connection serves one request and is then closed although it claimed to be kept alive.
    let upstream = Upstream::bytes(|mut stream: TcpStream| async move {
        let mut head = [0; 4096];
        if stream.read(&mut head).await.is_ok_and(|n| n > 0) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let proxy = route_to(&upstream.url(), "");
    let mut client = Client::connect(proxy.address()).await;
    for pause in [0, 1, 5, 20, 0, 3, 5, 6, 5, 5] {
        sleep(Duration::from_millis(20 + pause)).await;
        let answer = client.fetch(request("a.example", "/").body(empty()).expect("a valid request")).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "hello"));
    }
}
