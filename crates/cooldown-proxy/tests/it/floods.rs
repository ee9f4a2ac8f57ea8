//! Clients that are slow, that send too much, or that are too many: each is bounded, and others are served meanwhile.

use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::support::{PATIENCE, Proxy, Upstream, get, plain, raw, until};

fn proxy(server: &str, upstream: &Upstream) -> Proxy {
    let server = format!("drain_timeout: 100ms, {server}");
    Proxy::with_server(&server, &format!("routes: {{\"*\": \"{}\"}}", upstream.url()))
}

/// What a connection is told until it is closed.
async fn rest(stream: &mut TcpStream) -> String {
    let mut told = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut told)).await.expect("it is closed in the end");
    // Closed is closed, reset or not.
    drop(read);
    String::from_utf8_lossy(&told).into_owned()
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_cut_and_never_forwarded() {
    let upstream = Upstream::start(plain).await;
    let proxy = proxy("header_timeout: 500ms", &upstream);
    let mut slow = TcpStream::connect(proxy.address()).await.expect("a connection");
    let began = Instant::now();
    for byte in b"GET /slow HTTP/1.1\r\nHost: a.example\r\nX-Slow: ".iter().chain([b'x'; 200].iter()) {
        if slow.write_all(&[*byte]).await.is_err() {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert!(!rest(&mut slow).await.starts_with("HTTP/1.1 2"));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(upstream.seen().is_empty());
    assert_eq!(get(proxy.address(), "a.example", "/").await.status, StatusCode::OK, "others are served");
}

#[tokio::test]
async fn connections_on_which_nothing_is_said_are_closed() {
    let upstream = Upstream::start(plain).await;
    let proxy = proxy("header_timeout: 300ms", &upstream);
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(proxy.address()).await.expect("a connection"));
    }
    assert_eq!(get(proxy.address(), "a.example", "/").await.status, StatusCode::OK, "others are served meanwhile");
    for stream in &mut silent {
        assert_eq!(rest(stream).await, "");
    }
}

#[tokio::test]
async fn a_body_that_stands_still_is_cut_at_the_upstream_too() {
    let upstream = Upstream::start(|request: hyper::Request<hyper::body::Incoming>| async {
        // It waits for the whole body.
        let _ = http_body_util::BodyExt::collect(request.into_body()).await;
        hyper::Response::new(crate::support::text("read"))
    })
    .await;
    let proxy = proxy("idle_timeout: 300ms", &upstream);
    let mut slow = TcpStream::connect(proxy.address()).await.expect("a connection");
    slow.write_all(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1000000\r\n\r\nbegun").await.expect("sent");
    let began = Instant::now();
    let told = rest(&mut slow).await;
    assert!(!told.starts_with("HTTP/1.1 2"), "{told}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    until("nothing is left at the upstream", || upstream.under_way() == 0).await;
}

#[tokio::test]
async fn heads_with_too_many_or_too_long_fields_are_refused_and_never_forwarded() {
    let upstream = Upstream::start(plain).await;
    let proxy = proxy("header_timeout: 2s", &upstream);
    let many: String = (0..5_000).map(|number| format!("x-{number}: 1\r\n")).collect();
    let long = format!("x-long: {}\r\n", "a".repeat(1 << 20));
    let same = "x-same: 1\r\n".repeat(20_000);
    let target = "a".repeat(200_000);
    for head in [
        format!("GET / HTTP/1.1\r\nHost: a.example\r\n{many}\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a.example\r\n{long}\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a.example\r\n{same}\r\n"),
        format!("GET /{target} HTTP/1.1\r\nHost: a.example\r\n\r\n"),
    ] {
        let mut stream = TcpStream::connect(proxy.address()).await.expect("a connection");
        // It may be cut before it has said all.
        let _ = stream.write_all(head.as_bytes()).await;
        let told = rest(&mut stream).await;
        let refused = ["HTTP/1.1 431", "HTTP/1.1 414", "HTTP/1.1 400"].iter().any(|status| told.starts_with(status));
        assert!(told.is_empty() || refused, "{}", &told[..told.len().min(200)]);
    }
    assert!(upstream.seen().is_empty());
    assert_eq!(get(proxy.address(), "a.example", "/").await.status, StatusCode::OK, "others are served");
}

#[tokio::test]
async fn an_endless_head_is_cut_and_not_kept() {
    let upstream = Upstream::start(plain).await;
    let proxy = proxy("header_timeout: 30s", &upstream);
    let mut stream = TcpStream::connect(proxy.address()).await.expect("a connection");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\nX-Endless: ").await.expect("sent");
    let mut sent = 0;
    while stream.write_all(&[b'a'; 4096]).await.is_ok() {
        sent += 4096;
        // What the system holds on the way is some MiB.
        assert!(sent < 64 << 20, "{sent} bytes were taken");
        tokio::task::yield_now().await;
    }
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_until_one_closes() {
    let upstream = Upstream::start(plain).await;
    // Two workers, two connections each.
    let proxy = proxy("max_connections: 4, header_timeout: 60s", &upstream);
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(TcpStream::connect(proxy.address()).await.expect("a connection"));
    }
    let address = proxy.address();
    let waits = tokio::spawn(async move { get(address, "a.example", "/").await });
    sleep(Duration::from_millis(300)).await;
    assert!(!waits.is_finished() && upstream.seen().is_empty(), "the workers have as many as they may");
    drop(held);
    assert_eq!(waits.await.expect("no panic").status, StatusCode::OK, "it is served once there is room");
}

#[tokio::test]
async fn a_client_that_closes_its_half_leaves_nothing_behind() {
    let upstream = Upstream::start(|_| std::future::pending::<hyper::Response<crate::support::Body>>()).await;
    let proxy = proxy("header_timeout: 5s", &upstream);
    for _ in 0..20 {
        let mut stream = TcpStream::connect(proxy.address()).await.expect("a connection");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await.expect("sent");
        stream.shutdown().await.expect("half closed");
        assert_eq!(rest(&mut stream).await, "", "nobody is there to be answered");
    }
    until("nothing is left at the upstream", || upstream.under_way() == 0).await;
}

#[tokio::test]
async fn heads_sent_at_once_are_answered_one_by_one_in_their_order() {
    let upstream = Upstream::start(plain).await;
    let proxy = proxy("header_timeout: 2s", &upstream);
    let many = "GET /one HTTP/1.1\r\nHost: a.example\r\n\r\n".repeat(200);
    let last = "GET /last HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    let told = raw(proxy.address(), format!("{many}{last}").as_bytes()).await;
    assert_eq!(told.matches("HTTP/1.1 200").count(), 201);
    let seen = upstream.seen();
    assert_eq!(seen.len(), 201);
    assert_eq!(seen[200].uri.path(), "/last");
}
