//! Configured clients: who is let in, and what of their credentials goes on.

use std::net::SocketAddr;

use http::StatusCode;
use rstest::rstest;

use crate::support::{Answer, Proxy, Upstream, empty, fetch, plain, request, timed};

const CLIENTS: &str = "clients:\n\
    \x20 alice: {token: \"alice-secret\", weight: 2, urgency: 1}\n\
    \x20 bob: {token: \"bob-secret\", limits: {requests: 1/min}}\n\
    \x20 carol: {}\n\
    queue: {max_wait: 5s}\n";

fn guarded(upstream: &Upstream) -> Proxy {
    Proxy::start(&format!("routes: {{\"*\": \"{}\"}}\n{CLIENTS}", upstream.url()))
}

async fn get_with(proxy: SocketAddr, fields: &[(&str, &str)]) -> Answer {
    let asked = fields.iter().fold(request("a.example", "/"), |asked, (name, value)| asked.header(*name, *value));
    fetch(proxy, asked.body(empty()).expect("a valid request")).await
}

#[rstest]
#[case::a_bearer_token(&[("authorization", "Bearer alice-secret")])]
#[case::a_bearer_token_in_lower_case(&[("authorization", "bearer alice-secret")])]
#[case::an_api_key(&[("x-api-key", "alice-secret")])]
#[case::an_api_key_beside_a_bearer_token(&[("authorization", "Bearer alice-secret"), ("x-api-key", "bob-secret")])]
#[case::a_token_behind_something_else(
    &[("authorization", "Basic x"), ("authorization", "Bearer alice-secret"), ("x-api-key", "bob-secret")]
)]
#[case::a_name_without_a_token(&[("x-cooldown-client", "carol")])]
#[case::a_name_beside_a_token_that_is_not_read(
    &[("x-cooldown-client", "carol"), ("x-api-key", "x"), ("x-api-key", "bob-secret")]
)]
#[tokio::test]
async fn a_configured_client_is_let_in_and_its_token_stays_here(#[case] fields: &[(&str, &str)]) {
    let upstream = Upstream::start(plain).await;
    let proxy = guarded(&upstream);
    assert_eq!(get_with(proxy.address(), fields).await.status, StatusCode::OK);
    let seen = upstream.only();
    for name in ["authorization", "x-api-key", "x-cooldown-client"] {
        assert_eq!(seen.field(name), "", "{name} was forwarded");
    }
}

#[rstest]
#[case::nothing(&[])]
#[case::a_wrong_token(&[("authorization", "Bearer alice-secrets")])]
#[case::a_prefix_of_a_token(&[("authorization", "Bearer alice-secre")])]
#[case::an_empty_token(&[("authorization", "Bearer ")])]
#[case::another_scheme(&[("authorization", "Basic YWxpY2U6YWxpY2Utc2VjcmV0")])]
#[case::an_unknown_name(&[("x-cooldown-client", "mallory")])]
#[case::the_name_of_one_that_has_a_token(&[("x-cooldown-client", "alice")])]
#[tokio::test]
async fn everybody_else_is_refused(#[case] fields: &[(&str, &str)]) {
    let upstream = Upstream::start(plain).await;
    let proxy = guarded(&upstream);
    let answer = get_with(proxy.address(), fields).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::UNAUTHORIZED, "unauthorized"));
    assert!(!answer.text().contains("secret"), "{}", answer.text());
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn a_clients_own_limit_holds_for_it_alone() {
    let _timed = timed().await;
    let upstream = Upstream::start(plain).await;
    let proxy = guarded(&upstream);
    let bob = &[("authorization", "Bearer bob-secret")];
    assert_eq!(get_with(proxy.address(), bob).await.status, StatusCode::OK);
    assert_eq!(get_with(proxy.address(), bob).await.code(), "wait_too_long", "bob has one a minute");
    for _ in 0..3 {
        let alice = get_with(proxy.address(), &[("authorization", "Bearer alice-secret")]).await;
        assert_eq!((alice.status, alice.field("x-cooldown-wait-ms")), (StatusCode::OK, "0"));
    }
}
