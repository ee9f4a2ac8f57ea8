//! A client that takes nothing of its answer does not hold for ever what others wait for.

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use hyper::Response;
use tokio::time::timeout;

use crate::support::{Client, Http2, PATIENCE, Proxy, Upstream, empty, get, request};

/// An upstream whose answers have no end, and a proxy that lets one request at a time go there.
async fn endless() -> (Upstream, Proxy) {
    let upstream = Upstream::start(|request| async move {
        if request.uri().path() != "/endless" {
            return Response::new(crate::support::text("short"));
        }
        let (mut out, body) = Channel::<Bytes>::new(1);
        tokio::spawn(async move { while out.send_data(Bytes::from(vec![b'x'; 1 << 16])).await.is_ok() {} });
        Response::new(body.map_err(|never| match never {}).boxed_unsync())
    })
    .await;
    let routes = format!("routes: {{\"*\": {{upstream: \"{}\", limits: {{concurrency: 1}}}}}}", upstream.url());
    let proxy = Proxy::with_server("header_timeout: 1s, idle_timeout: 1s, drain_timeout: 100ms", &routes);
    (upstream, proxy)
}

#[tokio::test]
async fn a_client_of_http1_that_takes_nothing_gives_its_slot_back() {
    let (_upstream, proxy) = endless().await;
    let mut client = Client::connect(proxy.address()).await;
    let asked = request("a.example", "/endless").body(empty()).expect("a valid request");
    let unread = client.send(asked).await.expect("a head");
    let next = timeout(PATIENCE, get(proxy.address(), "a.example", "/")).await.expect("the slot comes back");
    assert_eq!(next.status, StatusCode::OK);
    drop(unread);
}

#[tokio::test]
async fn a_stream_of_http2_of_which_nothing_is_taken_gives_its_slot_back_beside_busy_ones() {
    let (_upstream, proxy) = endless().await;
    let mut client = Http2::connect(proxy.address()).await;
    let asked = |path: &str| request("a.example", path).body(empty()).expect("a valid request");
    let unread = client.send(asked("/endless")).await.expect("a head");
    let next = timeout(PATIENCE, client.fetch(asked("/"))).await.expect("the slot comes back");
    assert_eq!((next.status, next.text()), (StatusCode::OK, "short"));
    drop(unread);
}
