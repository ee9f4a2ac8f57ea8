//! Bodies of requests that are read before they are sent, and those that are not.

use http::StatusCode;

use crate::support::{Binary, Upstream, echo, fetch, loud, post};

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
