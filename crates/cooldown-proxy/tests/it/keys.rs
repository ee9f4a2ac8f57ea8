//! Several API keys for one provider: all of each is used, and one that is spent rests.

use std::time::Duration;

use cooldown_pacer::Unit;
use http::StatusCode;
use rstest::rstest;
use serde_json::json;

use crate::support::provider::{Allowance, Behaviour, Dialect, Failure, LlmProvider, When};
use crate::support::{Crowd, Proxy, ask, chat, timed};

const CHAT: &str = "/openai/v1/chat/completions";

fn two_keys(behaviour: Behaviour, limits: &str) -> (LlmProvider, Proxy) {
    let upstream = LlmProvider::start(behaviour);
    let proxy = Proxy::start(&format!(
        "providers:\n  openai: {{endpoint: \"{}\", api_keys: [sk-1, sk-2], {limits}}}",
        upstream.url()
    ));
    (upstream, proxy)
}

fn by_key(upstream: &LlmProvider, key: &str) -> usize {
    upstream.attempts().iter().filter(|attempt| attempt.key.ends_with(key)).count()
}

#[tokio::test]
async fn two_keys_give_twice_as_much() {
    let _timed = timed().await;
    let behaviour = Behaviour::new(Dialect::OpenAi).latency(Duration::from_millis(20)).limit(Allowance::new(
        Unit::Requests,
        10,
        Duration::from_millis(990),
    ));
    let (upstream, proxy) = two_keys(behaviour, "limits: {requests: 10/s}");
    let lasting = Duration::from_secs(8);
    let crowd = Crowd { address: proxy.address(), path: CHAT, clients: 20, lasting };
    let answers = crowd.call(|client, _| chat("gpt-4o", &format!("conversation {client}"))).await;
    assert!(answers.iter().all(|(answer, _)| answer.status == StatusCode::OK));
    assert_eq!(upstream.breaches(), 0);
    let used = upstream.accepted() as f64 / (20.0 * lasting.as_secs_f64());
    assert!(used >= 0.97, "{used}");
}

#[tokio::test]
async fn a_conversation_stays_on_its_key_as_long_as_that_costs_no_wait() {
    let (upstream, proxy) = two_keys(Behaviour::new(Dialect::OpenAi), "limits: {requests: 100/s}");
    for _ in 0..6 {
        ask(proxy.address(), CHAT, &chat("gpt-4o", "one conversation")).await;
    }
    let counts = [by_key(&upstream, "sk-1"), by_key(&upstream, "sk-2")];
    assert!(counts.contains(&6), "{counts:?}");
    for nth in 0..40 {
        ask(proxy.address(), CHAT, &chat("gpt-4o", &format!("conversation {nth}"))).await;
    }
    assert!(by_key(&upstream, "sk-1") > 5 && by_key(&upstream, "sk-2") > 5, "conversations spread over both");
}

#[rstest]
#[case::spent(Failure::InsufficientQuota)]
#[case::refused(Failure::Unauthorized)]
#[case::payment(Failure::PaymentRequired)]
#[tokio::test]
async fn a_key_that_is_spent_or_refused_rests_and_the_other_goes_on(#[case] failure: Failure) {
    let (upstream, proxy) =
        two_keys(Behaviour::new(Dialect::OpenAi).failing(When::Key("sk-1"), failure), "limits: {requests: 100/s}");
    for nth in 0..10 {
        let answer = ask(proxy.address(), CHAT, &chat("gpt-4o", &format!("conversation {nth}"))).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert!(by_key(&upstream, "sk-1") <= 1, "one try tells");
    assert_eq!(upstream.accepted(), 10);
}

#[tokio::test]
async fn a_limit_of_a_model_holds_for_each_key() {
    let limits = "model_limits: {\"gpt-*\": {requests: \"1/min\"}}";
    let (upstream, proxy) = two_keys(Behaviour::new(Dialect::OpenAi), limits);
    for _ in 0..2 {
        assert_eq!(ask(proxy.address(), CHAT, &chat("gpt-4o", "hello")).await.status, StatusCode::OK);
    }
    let mut third = crate::support::post(CHAT, chat("gpt-4o", "hello").to_string());
    third.headers_mut().insert("prefer", "wait=2".parse().expect("a value"));
    assert_eq!(crate::support::fetch(proxy.address(), third).await.code(), "wait_too_long");
    let other = json!({"model": "o3", "messages": []});
    assert_eq!(ask(proxy.address(), CHAT, &other).await.status, StatusCode::OK);
    assert_eq!((by_key(&upstream, "sk-1") >= 1, by_key(&upstream, "sk-2") >= 1), (true, true));
}

/// What comes of a request with its caller's own key where one provider, which has this key of ours or the `client`'s, refuses
/// whatever it is shown, and another passes the caller's on: the answer's status, and both providers.
async fn refused_by_the_first(key: &str) -> (StatusCode, LlmProvider, LlmProvider) {
    let refusing = LlmProvider::start(Behaviour::new(Dialect::OpenAi).failing(When::Always, Failure::Unauthorized));
    let other = LlmProvider::start(Behaviour::new(Dialect::OpenAi));
    let proxy = Proxy::start(&format!(
        "providers:\n  a: {{endpoint: \"{}\", api_key: {key}, models: [m]}}\n  \
         b: {{endpoint: \"{}\", api_key: client, models: [m]}}",
        refusing.url(),
        other.url()
    ));
    let mut asked = crate::support::post("/v1/chat/completions", chat("m", "hello").to_string());
    asked.headers_mut().insert("authorization", "Bearer sk-of-the-caller".parse().expect("a value"));
    (crate::support::fetch(proxy.address(), asked).await.status, refusing, other)
}

#[tokio::test]
async fn a_provider_of_ours_that_refuses_our_key_is_followed_by_one_that_gets_the_callers() {
    let (status, refusing, other) = refused_by_the_first("sk-ours").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((refusing.attempts().len(), other.attempts().len()), (1, 1));
    assert_eq!((by_key(&refusing, "sk-ours"), by_key(&other, "sk-of-the-caller")), (1, 1));
}

#[tokio::test]
async fn a_callers_own_key_that_one_provider_refuses_is_not_shown_to_another() {
    let (status, refusing, other) = refused_by_the_first("client").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!((refusing.attempts().len(), other.attempts().len()), (1, 0));
}
