//! Bodies pass in both directions as they come, whatever their size.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use hyper::Response;
use parking_lot::Mutex;
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::{
    Answer, Binary, Body, Client, PATIENCE, Proxy, Upstream, echo, empty, fetch, loud, plain, request, text,
};

/// A body that the test sends piece by piece.
fn fed() -> (Sender<Bytes>, Body) {
    let (sender, body) = Channel::new(1);
    (sender, body.map_err(|never| match never {}).boxed_unsync())
}

fn route_to(upstream: &Upstream) -> Proxy {
    Proxy::start(&format!("routes: {{\"*\": \"{}\"}}", upstream.url()))
}

async fn next(body: &mut hyper::body::Incoming) -> Bytes {
    let frame = timeout(PATIENCE, body.frame()).await.expect("a chunk in time").expect("a chunk").expect("no error");
    frame.into_data().expect("data")
}

#[tokio::test]
async fn a_response_passes_chunk_by_chunk() {
    let (chunks, body) = fed();
    let body = Arc::new(Mutex::new(Some(body)));
    let upstream = Upstream::start(move |_| {
        let body = body.lock().take().expect("one request");
        async move { Response::new(body) }
    })
    .await;
    let proxy = route_to(&upstream);
    let mut client = Client::connect(proxy.address()).await;
    let asked = request("a.example", "/stream").body(empty()).expect("a valid request");
    let mut response = client.send(asked).await.expect("the head comes before the body");
    let mut chunks = chunks;
    for chunk in ["data: one\n\n", "data: two\n\n", "data: three\n\n"] {
        chunks.send_data(Bytes::from_static(chunk.as_bytes())).await.expect("the proxy reads");
        assert_eq!(next(response.body_mut()).await, chunk, "it arrives before the next one is sent");
    }
    drop(chunks);
    assert!(response.body_mut().frame().await.is_none(), "the end passes as well");
}

#[tokio::test]
async fn a_request_passes_chunk_by_chunk_and_a_response_may_begin_before_its_end() {
    let upstream = Upstream::start(|request| async move {
        let (mut out, body) = fed();
        let mut incoming = request.into_body();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = incoming.frame().await {
                if let Ok(data) = frame.into_data() {
                    out.send_data(data).await.expect("the proxy reads");
                }
            }
        });
        Response::new(body)
    })
    .await;
    let proxy = route_to(&upstream);
    let mut client = Client::connect(proxy.address()).await;
    let (mut chunks, body) = fed();
    let asked = request("a.example", "/echo").method(Method::POST).body(body).expect("a valid request");
    let mut response = client.send(asked).await.expect("the response begins before the request ends");
    for chunk in ["one", "two", "three"] {
        chunks.send_data(Bytes::from_static(chunk.as_bytes())).await.expect("the proxy reads");
        assert_eq!(next(response.body_mut()).await, chunk, "it went both ways before the next one was sent");
    }
    drop(chunks);
    assert!(response.body_mut().frame().await.is_none());
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let (seen, mut trailers_seen) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |request| {
        let seen = seen.clone();
        async move {
            let whole = request.into_body().collect().await.expect("a whole body");
            seen.send(whole.trailers().cloned()).expect("the test listens");
            let (mut out, body) = fed();
            tokio::spawn(async move {
                out.send_data(Bytes::from_static(b"hello")).await.expect("the proxy reads");
                let sum =
                    HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), HeaderValue::from_static("9"))]);
                out.send_trailers(sum).await.expect("the proxy reads");
            });
            let mut response = Response::new(body);
            response.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
            response
        }
    })
    .await;
    let proxy = route_to(&upstream);
    let (mut out, body) = fed();
    let asked = request("a.example", "/")
        .method(Method::POST)
        .header("te", "trailers")
        .header("trailer", "x-sum")
        .body(body)
        .expect("a valid request");
    let call = tokio::spawn(fetch(proxy.address(), asked));
    out.send_data(Bytes::from_static(b"body")).await.expect("the proxy reads");
    let sum = HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), HeaderValue::from_static("4"))]);
    out.send_trailers(sum).await.expect("the proxy reads");
    drop(out);
    let answer = call.await.expect("no panic");
    assert_eq!(trailers_seen.recv().await.flatten().expect("trailers")["x-sum"], "4");
    assert_eq!(answer.trailers.expect("trailers")["x-sum"], "9");
}

#[rstest]
#[case::with_a_length("content-length: 5\r\n\r\n", "hello")]
#[case::in_chunks("transfer-encoding: chunked\r\n\r\n", "3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n")]
#[tokio::test]
async fn expect_100_continue_is_answered_before_the_body_is_sent(#[case] framing: &str, #[case] body: &str) {
    let upstream = Upstream::start(echo).await;
    let proxy = route_to(&upstream);
    let mut stream = TcpStream::connect(proxy.address()).await.expect("a connection");
    let head = format!("POST / HTTP/1.1\r\nhost: a.example\r\nexpect: 100-continue\r\nconnection: close\r\n{framing}");
    stream.write_all(head.as_bytes()).await.expect("the head is sent");
    let mut interim = [0; 25];
    timeout(PATIENCE, stream.read_exact(&mut interim)).await.expect("in time").expect("an interim response");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).await.expect("the body is sent");
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("the response");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("hello"), "{answer}");
}

#[tokio::test]
async fn a_websocket_is_passed_through_both_ways_until_it_closes() {
    let upstream = Upstream::start(|mut request| async move {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = hyper_util::rt::TokioIo::new(upgrade.await.expect("an upgrade"));
            let mut bytes = [0; 64];
            while let Ok(n @ 1..) = stream.read(&mut bytes).await {
                stream.write_all(&bytes[..n]).await.expect("the proxy reads");
            }
        });
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        for (name, value) in [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", "x")] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    })
    .await;
    let proxy =
        Proxy::start(&format!("routes: {{\"*\": {{upstream: \"{}\", limits: {{concurrency: 1}}}}}}", upstream.url()));
    for message in ["first", "second"] {
        let mut stream = open_websocket(proxy.address()).await;
        stream.write_all(message.as_bytes()).await.expect("the proxy reads");
        let mut echoed = vec![0; message.len()];
        timeout(PATIENCE, stream.read_exact(&mut echoed)).await.expect("in time").expect("an echo");
        assert_eq!(echoed, message.as_bytes(), "and when it closes, the only place in flight is free again");
    }
    let seen = &upstream.seen()[0];
    assert_eq!(
        (seen.field("upgrade"), seen.field("connection").to_lowercase()),
        ("websocket".into(), "upgrade".into())
    );
    assert_eq!(seen.field("sec-websocket-key"), "dGhlIHNhbXBsZSBub25jZQ==");
}

async fn open_websocket(proxy: std::net::SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(proxy).await.expect("a connection");
    let head = "GET /ws HTTP/1.1\r\nhost: a.example\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("the head is sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(timeout(PATIENCE, stream.read_u8()).await.expect("in time").expect("the head of the response"));
    }
    let answer = String::from_utf8(answer).expect("a head in ASCII").to_lowercase();
    assert!(answer.starts_with("http/1.1 101") && answer.contains("upgrade: websocket"), "{answer}");
    stream
}

#[tokio::test]
async fn a_200_mb_body_passes_both_ways_in_bounded_memory() {
    const CHUNK: usize = 1 << 20;
    const CHUNKS: usize = 200;
    let _loud = loud().await;
    let received = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&received);
    let upstream = Upstream::start(move |request| {
        let counting = Arc::clone(&counting);
        async move {
            let (mut out, body) = fed();
            let mut incoming = request.into_body();
            tokio::spawn(async move {
                while let Some(Ok(frame)) = incoming.frame().await {
                    let data = frame.into_data().expect("data");
                    counting.fetch_add(data.len() as u64, Ordering::Relaxed);
                    out.send_data(data).await.expect("the proxy reads");
                }
            });
            Response::new(body)
        }
    })
    .await;
    let proxy = Binary::serve(&format!(
        "server: {{host: 127.0.0.1, port: 0, workers: 1}}\nadmin: off\nroutes: {{\"*\": \"{}\"}}\n",
        upstream.url()
    ));
    let mut client = Client::connect(proxy.address()).await;
    let (mut chunks, body) = fed();
    let asked = request("a.example", "/big").method(Method::POST).body(body).expect("a valid request");
    let mut response = client.send(asked).await.expect("a response");
    tokio::spawn(async move {
        let chunk = Bytes::from(vec![b'x'; CHUNK]);
        for _ in 0..CHUNKS {
            chunks.send_data(chunk.clone()).await.expect("the proxy reads");
        }
    });
    let mut returned = 0;
    while let Some(frame) = timeout(PATIENCE, response.body_mut().frame()).await.expect("in time") {
        returned += frame.expect("no error").into_data().expect("data").len();
    }
    assert_eq!(received.load(Ordering::Relaxed) as usize, CHUNK * CHUNKS);
    assert_eq!(returned, CHUNK * CHUNKS);
    let peak = peak_memory_mb(proxy.id());
    assert!(peak < 60, "the proxy took {peak} MB");
}

/// The most memory that a process ever had resident.
fn peak_memory_mb(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("Linux tells");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the peak is there");
    let kilobytes: u64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number");
    kilobytes / 1024
}

#[tokio::test]
async fn many_requests_share_one_connection_on_both_sides() {
    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::start(&format!("routes: {{\"*\": \"{}\"}}", upstream.url()));
    let mut client = Client::connect(proxy.address()).await;
    for _ in 0..10 {
        let answer = client.fetch(request("a.example", "/").body(empty()).expect("a valid request")).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert_eq!(upstream.connections_made(), 1);
}

#[tokio::test]
async fn a_head_request_and_a_204_have_no_body_and_keep_the_connection() {
    let upstream = Upstream::start(|request| async move {
        let mut response = Response::new(empty());
        if request.method() == Method::HEAD {
            response.headers_mut().insert("content-length", HeaderValue::from_static("1234"));
        } else {
            *response.status_mut() = StatusCode::NO_CONTENT;
        }
        response
    })
    .await;
    let proxy = route_to(&upstream);
    let mut client = Client::connect(proxy.address()).await;
    let head: Answer =
        client.fetch(request("a.example", "/").method(Method::HEAD).body(empty()).expect("a valid request")).await;
    assert_eq!((head.status, head.field("content-length"), head.body.len()), (StatusCode::OK, "1234", 0));
    let none = client.fetch(request("a.example", "/").body(empty()).expect("a valid request")).await;
    assert_eq!((none.status, none.body.len()), (StatusCode::NO_CONTENT, 0));
}

#[tokio::test]
async fn a_body_of_a_waiting_request_arrives_whole() {
    let upstream = Upstream::start(echo).await;
    let proxy = Proxy::start(&format!(
        "routes: {{\"*\": {{upstream: \"{}\", limits: {{requests: \"4/s, burst 1\"}}}}}}",
        upstream.url()
    ));
    for size in [10, 70_000, 300_000] {
        let body = vec![b'x'; size];
        let asked = request("a.example", "/").method(Method::POST).body(text(body.clone())).expect("a valid request");
        let answer = fetch(proxy.address(), asked).await;
        assert!(
            answer.status == StatusCode::OK && answer.body == body,
            "{size} bytes came back as {}",
            answer.body.len()
        );
    }
}
