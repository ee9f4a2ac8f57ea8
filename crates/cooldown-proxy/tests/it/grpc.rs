//! Calls of gRPC pass, and are refused in their own words.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use hyper::body::Incoming;

use crate::support::{Body, Http2, Proxy, Speaks, Upstream, text, timed};

/// A message as gRPC frames it: not compressed, its length, its bytes.
fn message(text: &str) -> Bytes {
    let length = u32::try_from(text.len()).expect("a short text").to_be_bytes();
    [&[0][..], &length, text.as_bytes()].concat().into()
}

fn call(body: Body) -> Request<Body> {
    Request::post("http://a.example/echo.Echo/Say")
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .body(body)
        .expect("a valid request")
}

/// Answers each message at once with the same one, and with a status at the end.
async fn echo(request: Request<Incoming>) -> Response<Body> {
    assert_eq!(request.headers()["te"], "trailers");
    let (mut out, body) = Channel::<Bytes>::new(1);
    tokio::spawn(async move {
        let mut asked = request.into_body();
        while let Some(Ok(frame)) = asked.frame().await {
            if let Ok(data) = frame.into_data() {
                out.send_data(data).await.expect("it is read");
            }
        }
        let status = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))]);
        out.send_trailers(status).await.expect("they are read");
    });
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc+proto"));
    response
}

#[tokio::test]
async fn a_call_streams_in_both_directions_and_ends_with_its_status() {
    let upstream = Upstream::speaking(Speaks::Http2 { streams: 100 }, echo).await;
    let proxy =
        Proxy::start(&format!("routes: {{\"*\": {{upstream: \"{}\", http2: prior_knowledge}}}}", upstream.url()));
    let mut client = Http2::connect(proxy.address()).await;
    let (mut out, body) = Channel::<Bytes>::new(1);
    out.send_data(message("one")).await.expect("room");
    let response = client.send(call(body.map_err(|never| match never {}).boxed_unsync())).await.expect("an answer");
    assert_eq!(response.headers()["content-type"], "application/grpc+proto");
    let mut body = response.into_body();
    for (said, next) in [("one", "two"), ("two", "three")] {
        let frame = body.frame().await.expect("a message").expect("no error");
        assert_eq!(frame.into_data().expect("data"), message(said), "the answer comes before the next question");
        out.send_data(message(next)).await.expect("it is read");
    }
    drop(out);
    let rest = body.collect().await.expect("a whole body");
    assert_eq!(rest.trailers().expect("trailers")["grpc-status"], "0");
    assert_eq!(rest.to_bytes(), message("three"));
}

#[tokio::test]
async fn our_own_refusal_is_a_status_of_grpc() {
    let _timed = timed().await;
    let upstream = Upstream::speaking(Speaks::Http2 { streams: 100 }, echo).await;
    let proxy = Proxy::start(&format!(
        "routes: {{a.example: {{upstream: \"{}\", http2: prior_knowledge, limits: {{requests: 1/h}}}}}}\n\
         queue: {{max_wait: 100ms}}",
        upstream.url()
    ));
    let mut client = Http2::connect(proxy.address()).await;
    let first = client.fetch(call(text(message("one")))).await;
    assert_eq!(first.trailers.expect("trailers")["grpc-status"], "0");
    let refused = client.fetch(call(text(message("two")))).await;
    assert_eq!((refused.status, refused.field("content-type")), (StatusCode::OK, "application/grpc"));
    assert_eq!(
        (refused.field("grpc-status"), refused.field("x-cooldown-source")),
        ("8", "proxy"),
        "RESOURCE_EXHAUSTED"
    );
    assert!(refused.field("grpc-message").contains("would have to wait"), "{refused:?}");
    let after: u64 = refused.field("grpc-retry-pushback-ms").parse().expect("a number");
    assert!(Duration::from_millis(after) > Duration::from_secs(3000), "{after}");
    let mut lost = call(text(message("three")));
    *lost.uri_mut() = "http://b.example/echo.Echo/Say".parse().expect("a URI");
    let lost = client.fetch(lost).await;
    assert_eq!((lost.status, lost.field("grpc-status")), (StatusCode::OK, "12"), "UNIMPLEMENTED");
}
