//! Providers, as far as they are served now: by name, with our key, within their limits.

use http::StatusCode;

use crate::support::{Proxy, Upstream, empty, fetch, get, plain, request};

#[tokio::test]
async fn a_provider_is_reached_by_its_name_and_sent_our_key() {
    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::start(&format!(
        "providers:\n  mine: {{endpoint: \"{}/base\", api_key: sk-ours, models: [m]}}",
        upstream.url()
    ));
    let asked = request("localhost:8080", "/mine/v1/chat/completions?x=1")
        .header("authorization", "Bearer sk-of-the-caller")
        .body(empty())
        .expect("a valid request");
    let answer = fetch(proxy.address(), asked).await;
    assert_eq!((answer.status, answer.field("x-cooldown-upstream")), (StatusCode::OK, "mine"));
    let seen = upstream.only();
    assert_eq!(seen.uri.to_string(), "/base/v1/chat/completions?x=1");
    assert_eq!(seen.field("authorization"), "Bearer sk-ours");
    assert_eq!(seen.field("host"), upstream.address.to_string());
}

#[tokio::test]
async fn an_anthropic_key_goes_where_anthropic_reads_it() {
    let upstream = Upstream::start(plain).await;
    let proxy =
        Proxy::start(&format!("providers:\n  anthropic: {{endpoint: \"{}\", api_key: sk-ours}}", upstream.url()));
    let asked = request("localhost:8080", "/anthropic/v1/messages")
        .header("x-api-key", "sk-of-the-caller")
        .header("anthropic-version", "2023-06-01")
        .body(empty())
        .expect("a valid request");
    assert_eq!(fetch(proxy.address(), asked).await.status, StatusCode::OK);
    let seen = upstream.only();
    assert_eq!((seen.field("x-api-key").as_str(), seen.field("anthropic-version").as_str()), ("sk-ours", "2023-06-01"));
    assert_eq!(seen.field("authorization"), "");
}

#[tokio::test]
async fn the_callers_own_key_passes_where_that_is_configured() {
    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::start(&format!(
        "providers:\n  mine: {{endpoint: \"{}\", api_key: client, models: [m]}}",
        upstream.url()
    ));
    let asked = request("localhost", "/mine/v1/models")
        .header("authorization", "Bearer sk-of-the-caller")
        .body(empty())
        .expect("a valid request");
    fetch(proxy.address(), asked).await;
    assert_eq!(upstream.only().field("authorization"), "Bearer sk-of-the-caller");
}

#[tokio::test]
async fn a_providers_limits_hold() {
    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::start(&format!(
        "providers:\n  mine: {{endpoint: \"{}\", api_key: sk-ours, models: [m], limits: {{requests: 1/min}}}}\n\
         queue: {{max_wait: 5s}}",
        upstream.url()
    ));
    assert_eq!(get(proxy.address(), "localhost", "/mine/v1/models").await.status, StatusCode::OK);
    assert_eq!(get(proxy.address(), "localhost", "/mine/v1/models").await.code(), "wait_too_long");
}
