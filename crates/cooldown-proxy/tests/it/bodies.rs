//! Bodies of requests that are read before they are sent, and those that are not.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use parking_lot::Mutex;
use rstest::rstest;
use tokio::time::timeout;

use crate::support::{Binary, Body, Client, PATIENCE, Proxy, Upstream, echo, fetch, loud, post, request, text};

/// A provider whose calls are read for their model.
fn provider(upstream: &Upstream) -> String {
    format!("providers:\n  mine: {{endpoint: \"{}\", api_key: sk-1, models: [m]}}\n", upstream.url())
}

#[tokio::test]
async fn a_large_prompt_is_read_however_many_workers_there_are() {
    let _loud = loud().await;
    let upstream = Upstream::start(echo).await;
    let server = "server: {host: 127.0.0.1, port: 0, workers: 24}\nadmin: off\n";
    let proxy = Binary::serve(&[server, &provider(&upstream)].concat());
    let body = format!("{{\"model\": \"m\", \"prompt\": \"{}\"}}", "x".repeat(30_000_000));
    let answer = fetch(proxy.address(), post("/mine/v1/completions", body.clone())).await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, body.len()));
}

/// A POST in chunks, and where the test writes its body. `fields` are its own.
fn chunked(path: &str, fields: &[(&'static str, &'static str)]) -> (Sender<Bytes>, Request<Body>) {
    let (sender, body) = Channel::new(1);
    let mut builder = request("localhost:8080", path).method(Method::POST);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    let body = body.map_err(|never| match never {}).boxed_unsync();
    (sender, builder.body(body).expect("a valid request"))
}

#[rstest]
#[case::as_it_came("m")]
#[case::with_another_name_for_its_model("short")]
#[tokio::test]
async fn trailers_of_a_body_that_was_read_pass_with_every_attempt(#[case] model: &str) {
    let trailers = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&trailers);
    let upstream = Upstream::start(move |request| {
        let seen = Arc::clone(&seen);
        async move {
            let whole = request.into_body().collect().await.expect("a whole body");
            let sum = whole.trailers().and_then(|trailers| trailers.get("x-sum")).cloned();
            let mut seen = seen.lock();
            seen.push((sum, whole.to_bytes()));
            let mut response = Response::new(text("done"));
            if seen.len() == 1 {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                response.headers_mut().insert("retry-after", HeaderValue::from_static("0"));
            }
            response
        }
    })
    .await;
    let proxy = Proxy::start(&format!(
        "providers:\n  mine: {{endpoint: \"{}\", api_key: sk-1, models: [m], model_aliases: {{short: m}}}}",
        upstream.url()
    ));
    let fields = [("content-type", "application/json"), ("te", "trailers"), ("trailer", "x-sum")];
    let (mut out, asked) = chunked("/mine/v1/completions", &fields);
    let call = tokio::spawn(fetch(proxy.address(), asked));
    let body = format!("{{\"model\": \"{model}\", \"prompt\": \"hi\"}}");
    out.send_data(Bytes::from(body)).await.expect("the proxy reads");
    let sum = HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("4"))]);
    out.send_trailers(sum).await.expect("the proxy reads");
    drop(out);
    assert_eq!(call.await.expect("no panic").status, StatusCode::OK);
    let sent = (Some(HeaderValue::from_static("4")), Bytes::from("{\"model\": \"m\", \"prompt\": \"hi\"}"));
    assert_eq!(*trailers.lock(), [sent.clone(), sent]);
}

#[tokio::test]
async fn an_upload_that_does_not_say_what_it_is_passes_as_it_comes() {
    let (begun, mut beginning) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::start(move |request| {
        let begun = begun.clone();
        async move {
            let mut body = request.into_body();
            let first = body.frame().await.expect("a frame").expect("no error").into_data().expect("data");
            begun.send(first).expect("the test listens");
            let rest = body.collect().await.expect("a whole body").to_bytes();
            Response::new(text(rest.len().to_string()))
        }
    })
    .await;
    let proxy = Proxy::with_server("max_body: 2MiB", &provider(&upstream));
    let mut client = Client::connect(proxy.address()).await;
    let (mut out, asked) = chunked("/mine/v1/files", &[]);
    let call = tokio::spawn(async move { client.fetch(asked).await });
    out.send_data(Bytes::from_static(b"first")).await.expect("the proxy reads");
    let first = timeout(PATIENCE, beginning.recv()).await.expect("it is sent before its end");
    assert_eq!(first.expect("a chunk"), "first");
    let piece = Bytes::from(vec![b'x'; 1 << 20]);
    for _ in 0..4 {
        out.send_data(piece.clone()).await.expect("the proxy reads");
    }
    drop(out);
    let answer = call.await.expect("no panic");
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "4194304"), "it may be longer than what is read");
}

#[rstest]
#[case::short(100, "m-renamed")]
#[case::long(1 << 20, "m")]
#[tokio::test]
async fn a_call_that_does_not_say_what_it_is_is_read_if_it_is_short(#[case] prompt: usize, #[case] model: &str) {
    let upstream = Upstream::start(echo).await;
    let proxy = Proxy::start(&format!(
        "providers:\n  mine: {{endpoint: \"{}\", api_key: sk-1, models: [m-renamed], model_aliases: {{m: m-renamed}}}}",
        upstream.url()
    ));
    let body = |model: &str| format!("{{\"model\": \"{model}\", \"prompt\": \"{}\"}}", "x".repeat(prompt));
    let asked = request("localhost:8080", "/mine/v1/completions").method(Method::POST).body(text(body("m")));
    let answer = fetch(proxy.address(), asked.expect("a valid request")).await;
    assert!(answer.status == StatusCode::OK && answer.body == body(model), "{} bytes", answer.body.len());
}

#[tokio::test]
async fn a_call_that_only_its_body_can_lead_anywhere_is_read_whatever_it_says() {
    let upstream = Upstream::start(echo).await;
    let proxy = Proxy::start(&provider(&upstream));
    let (mut out, asked) = chunked("/v1/completions", &[]);
    let call = tokio::spawn(fetch(proxy.address(), asked));
    out.send_data(Bytes::from_static(b"{\"model\": \"m\"}")).await.expect("the proxy reads");
    drop(out);
    assert_eq!(call.await.expect("no panic").status, StatusCode::OK);
}
