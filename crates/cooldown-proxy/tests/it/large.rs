//! Much passes in little memory: long bodies both ways, and many streams at once.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use hyper::Response;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::support::{Binary, Body, Client, Upstream, empty, loud, request, text};

const MIB: usize = 1 << 20;
const DOWN: usize = 200;
const UP: usize = 30;
/// What more the program may hold at any time, in KiB.
const ROOM: u64 = 30 * 1024;

/// So many MiB, one after the other.
fn much(count: usize) -> Body {
    let (mut out, body) = Channel::<Bytes, Infallible>::new(1);
    tokio::spawn(async move {
        let piece = Bytes::from(vec![b'x'; MIB]);
        for _ in 0..count {
            if out.send_data(piece.clone()).await.is_err() {
                return;
            }
        }
    });
    body.map_err(|never| match never {}).boxed_unsync()
}

async fn length(mut body: impl hyper::body::Body<Data = Bytes, Error: std::fmt::Debug> + Unpin) -> usize {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.expect("a whole body").data_ref().map_or(0, Bytes::len);
    }
    length
}

#[tokio::test]
async fn a_long_response_and_a_long_upload_pass_in_little_memory() {
    let _loud = loud().await;
    let upstream = Upstream::start(|request: Request<hyper::body::Incoming>| async move {
        match *request.method() {
            Method::POST => Response::new(text(length(request.into_body()).await.to_string())),
            _ => Response::new(much(DOWN)),
        }
    })
    .await;
    let config = format!(
        "server: {{host: 127.0.0.1, port: 0, workers: 1}}\nadmin: off\nroutes: {{\"*\": \"{}\"}}\n",
        upstream.url()
    );
    let proxy = Binary::serve(&config);
    let mut client = Client::connect(proxy.address()).await;
    let small = client.fetch(request("a.example", "/").method(Method::POST).body(text("x")).expect("valid")).await;
    assert_eq!((small.status, small.text()), (StatusCode::OK, "1"));
    let before = proxy.memory("VmRSS");

    let down = client.send(request("a.example", "/").body(empty()).expect("a valid request")).await.expect("a head");
    assert_eq!(length(down.into_body()).await, DOWN * MIB);
    let up = request("a.example", "/").method(Method::POST).body(much(UP)).expect("a valid request");
    assert_eq!(client.fetch(up).await.text(), (UP * MIB).to_string());

    let most = proxy.memory("VmHWM").saturating_sub(before);
    assert!(most < ROOM, "{most} KiB more at the most");
}

/// So many streams, or as many as this machine has files for: each takes two, here and in the program.
fn at_once() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("Linux tells");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("the limit is there");
    let most = files.split_whitespace().nth(3).and_then(|files| files.parse().ok()).unwrap_or(usize::MAX);
    let streams = (most / 2).saturating_sub(50).min(1_000);
    println!("{streams} streams at once");
    streams
}

#[tokio::test]
async fn a_thousand_streams_at_once_all_get_their_events() {
    let _loud = loud().await;
    // All of them are open before any goes on.
    let at_once = at_once();
    let open: &'static Barrier = Box::leak(Box::new(Barrier::new(at_once)));
    let upstream = Upstream::start(move |_| async move {
        let (mut out, body) = Channel::<Bytes, Infallible>::new(1);
        tokio::spawn(async move {
            for event in 0..3 {
                out.send_data(Bytes::from(format!("data: {event}\n\n"))).await.expect("the proxy reads");
                if event == 0 {
                    open.wait().await;
                }
            }
        });
        let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
        response.headers_mut().insert("content-type", "text/event-stream".parse().expect("a value"));
        response
    })
    .await;
    let config = format!(
        "server: {{host: 127.0.0.1, port: 0, workers: 2}}\nadmin: off\nroutes: {{\"*\": \"{}\"}}\n",
        upstream.url()
    );
    let proxy = Binary::serve(&config);
    let mut streams = JoinSet::new();
    for _ in 0..at_once {
        let mut client = Client::connect(proxy.address()).await;
        streams.spawn(async move { client.fetch(request("a.example", "/").body(empty()).expect("valid")).await });
    }
    for answer in streams.join_all().await {
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "data: 0\n\ndata: 1\n\ndata: 2\n\n"));
    }
}
