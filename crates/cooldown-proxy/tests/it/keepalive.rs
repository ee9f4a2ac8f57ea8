//! Signs of life for streaming clients that wait long.

use http::StatusCode;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::provider::{Behaviour, Dialect, Failure, LlmProvider, When};
use crate::support::{Proxy, ask, chat, events, post, streamed_chat, timed};

const CHAT: &str = "/openai/v1/chat/completions";

fn slow(limit: &str, behaviour: Behaviour) -> (LlmProvider, Proxy) {
    let upstream = LlmProvider::start(behaviour);
    let proxy = Proxy::start(&format!(
        "providers:\n  openai: {{endpoint: \"{}\", api_key: sk-1, limits: {{requests: \"{limit}, burst 1\"}}}}\n\
         queue: {{keepalive: 1s, max_wait: 20s}}",
        upstream.url()
    ));
    (upstream, proxy)
}

fn messages(prompt: &str) -> Value {
    json!({"model": "gpt-4o", "stream": true, "max_tokens": 9, "messages": [{"role": "user", "content": prompt}]})
}

#[rstest]
#[case::chat(CHAT, streamed_chat("gpt-4o", "say 3"), ": waiting")]
#[case::messages("/openai/v1/messages", messages("say 3"), "event: ping")]
#[tokio::test]
async fn a_stream_that_waits_is_kept_alive_until_its_first_byte(
    #[case] path: &str,
    #[case] body: Value,
    #[case] sign: &str,
) {
    let _timed = timed().await;
    let (_upstream, proxy) = slow("1/3s", Behaviour::new(Dialect::OpenAi));
    ask(proxy.address(), CHAT, &chat("gpt-4o", "the first")).await;
    let events = events(proxy.address(), post(path, body.to_string())).await;
    let signs = events.iter().take_while(|(event, _)| event.starts_with(sign)).count();
    assert!((2..=3).contains(&signs), "{events:?}");
    assert!(
        events.len() > signs + 2 && events[signs..].iter().all(|(event, _)| event.contains("data: ")),
        "{events:?}"
    );
}

#[tokio::test]
async fn a_stream_that_is_answered_soon_has_the_upstreams_own_head() {
    let (_upstream, proxy) = slow("100/s", Behaviour::new(Dialect::OpenAi));
    let answer = ask(proxy.address(), CHAT, &streamed_chat("gpt-4o", "say 3")).await;
    assert_eq!((answer.status, answer.field("x-cooldown-source")), (StatusCode::OK, "upstream"));
}

#[tokio::test]
async fn what_fails_after_that_is_told_in_the_stream() {
    let _timed = timed().await;
    let behaviour = Behaviour::new(Dialect::OpenAi).failing(When::Attempt(2), Failure::BadRequest);
    let (_upstream, proxy) = slow("1/2s", behaviour);
    ask(proxy.address(), CHAT, &chat("gpt-4o", "the first")).await;
    let events = events(proxy.address(), post(CHAT, streamed_chat("gpt-4o", "say 3").to_string())).await;
    let (last, _) = events.last().expect("events");
    assert!(events[0].0.starts_with(": waiting"), "{events:?}");
    assert!(last.starts_with("data: {\"error\"") && last.contains("cannot be"), "{last}");
}

#[tokio::test]
async fn who_asks_for_no_stream_is_answered_in_one_piece() {
    let _timed = timed().await;
    let (_upstream, proxy) = slow("1/2s", Behaviour::new(Dialect::OpenAi));
    ask(proxy.address(), CHAT, &chat("gpt-4o", "the first")).await;
    let answer = ask(proxy.address(), CHAT, &chat("gpt-4o", "the second")).await;
    assert_eq!((answer.status, answer.field("x-cooldown-source")), (StatusCode::OK, "upstream"));
    assert!(answer.json()["choices"].is_array());
}
