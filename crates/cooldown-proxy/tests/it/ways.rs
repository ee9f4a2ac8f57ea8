//! Which of several ways a request takes, and that it changes it when another is better.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use rstest::rstest;
use serde_json::json;

use crate::support::provider::{Behaviour, Dialect, Failure, LlmProvider, When};
use crate::support::{
    Answer, Body, Proxy, Upstream, ask, chat, empty, fetch, plain, post, post_as, request, streamed_chat, text, timed,
};

const CHAT: &str = "/v1/chat/completions";

/// Calls at the same time, each by a client of its own.
async fn at_once(proxy: &Proxy, count: usize) -> Vec<Answer> {
    let address = proxy.address();
    let calls = (0..count).map(|nth| {
        let asked = post_as(&format!("client-{nth}"), CHAT, &chat("gpt-4o", &format!("conversation {nth}")));
        tokio::spawn(fetch(address, asked))
    });
    let calls: Vec<_> = calls.collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.expect("it ends"));
    }
    answers
}

fn by_key(upstream: &LlmProvider, key: &str) -> usize {
    upstream.attempts().iter().filter(|attempt| attempt.key.ends_with(key)).count()
}

#[rstest]
#[case::closed(Failure::RateLimited(Duration::from_secs(60)))]
#[case::spent(Failure::InsufficientQuota)]
#[tokio::test]
async fn who_waits_for_a_key_that_closes_goes_by_another(#[case] failure: Failure) {
    let _timed = timed().await;
    let behaviour =
        Behaviour::new(Dialect::OpenAi).latency(Duration::from_millis(50)).failing(When::Key("sk-1"), failure);
    let upstream = LlmProvider::start(behaviour);
    let proxy = Proxy::start(&format!(
        "providers:\n  openai: {{endpoint: \"{}\", api_keys: [sk-1, sk-2], limits: {{requests: \"5/s, burst 1\"}}}}",
        upstream.url()
    ));
    let began = Instant::now();
    let answers = at_once(&proxy, 10).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK), "{answers:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!((by_key(&upstream, "sk-1"), by_key(&upstream, "sk-2")), (1, 10));
}

#[tokio::test]
async fn who_waits_at_a_provider_that_closes_goes_to_the_fallback_with_its_age() {
    let _timed = timed().await;
    let first = Upstream::start(|_| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut response = Response::new(text("{}"));
        *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        response.headers_mut().insert("retry-after", "60".parse().expect("a value"));
        response
    })
    .await;
    let other = LlmProvider::start(Behaviour::new(Dialect::Silent));
    let proxy = Proxy::start(&format!(
        "providers:\n  first: {{endpoint: \"{}\", api_key: sk-1, models: [\"gpt-*\"], provider: openai, limits: {{requests: \"5/s, burst 1\"}}}}\n  \
         other: {{endpoint: \"{}\", api_key: sk-2, models: [\"gpt-*\"], fallback: true, limits: {{requests: 100/s}}}}",
        first.url(),
        other.url()
    ));
    let answers = at_once(&proxy, 8).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK), "{answers:?}");
    assert_eq!((first.seen().len(), other.attempts().len()), (1, 8));
    let waits = answers.iter().filter(|answer| answer.field("x-cooldown-attempts") == "1");
    let waits: Vec<u64> = waits.map(|answer| answer.field("x-cooldown-wait-ms").parse().expect("a number")).collect();
    assert_eq!(waits.len(), 7);
    assert!(waits.iter().all(|wait| *wait > 50), "the time in the first line is told: {waits:?}");
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_costs_one_try_whatever_keys_it_has() {
    let other = LlmProvider::start(Behaviour::new(Dialect::Silent));
    let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|gone| gone.local_addr()).expect("a free port");
    let proxy = Proxy::start(&format!(
        "providers:\n  gone: {{endpoint: \"http://{gone}\", api_keys: [k1, k2, k3, k4], models: [m]}}\n  \
         other: {{endpoint: \"{}\", api_key: sk-2, models: [m], fallback: true}}\nretry: {{attempts: 2}}",
        other.url()
    ));
    for nth in 1..=30 {
        let answer = ask(proxy.address(), CHAT, &chat("m", "hello")).await;
        assert_eq!((answer.status, answer.field("x-cooldown-upstream")), (StatusCode::OK, "other"), "call {nth}");
    }
    assert_eq!(other.attempts().len(), 30, "those who come later do not even try the first");
}

#[tokio::test]
async fn a_crowd_before_an_upstream_that_cannot_be_reached_goes_to_another_whole() {
    let other = LlmProvider::start(Behaviour::new(Dialect::Silent));
    let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|gone| gone.local_addr()).expect("a free port");
    let proxy = Proxy::start(&format!(
        "providers:\n  gone: {{endpoint: \"http://{gone}\", api_key: k1, models: [\"gpt-*\"]}}\n  \
         other: {{endpoint: \"{}\", api_key: sk-2, models: [\"gpt-*\"]}}",
        other.url()
    ));
    let answers = at_once(&proxy, 60).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK), "{answers:?}");
    assert_eq!(other.attempts().len(), 60);
}

#[tokio::test]
async fn a_line_that_is_full_is_no_way() {
    let (first, other) = (Upstream::start(plain).await, Upstream::start(plain).await);
    let proxy = Proxy::start(&format!(
        "providers:\n  first: {{endpoint: \"{}\", api_key: k1, models: [\"gpt-*\"], limits: {{requests: \"5/s, burst 1\"}}}}\n  \
         other: {{endpoint: \"{}\", api_key: k2, models: [\"gpt-*\"], limits: {{requests: \"2/s, burst 1\"}}}}\n\
         queue: {{max_depth: 2}}",
        first.url(),
        other.url()
    ));
    let mut calls = Vec::new();
    for nth in 0..6 {
        let asked = post_as(&format!("client-{nth}"), CHAT, &chat("gpt-4o", "hello"));
        calls.push(tokio::spawn(fetch(proxy.address(), asked)));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for call in calls {
        let answer = call.await.expect("it ends");
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
    assert_eq!((first.seen().len(), other.seen().len()), (3, 3), "each lets one go, and two wait");
}

/// An API that counts groups of requests, of which searches are used up.
async fn github() -> Upstream {
    Upstream::start(|request| async move {
        let is_search = request.uri().path().starts_with("/search");
        let mut response = Response::new(text("{\"message\": \"API rate limit exceeded for user ID 1.\"}"));
        let reset =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs() + 50;
        let fields = [
            ("x-ratelimit-limit", if is_search { "30" } else { "5000" }.to_owned()),
            ("x-ratelimit-remaining", if is_search { "0" } else { "4999" }.to_owned()),
            ("x-ratelimit-reset", reset.to_string()),
            ("x-ratelimit-resource", if is_search { "search" } else { "core" }.to_owned()),
        ];
        for (name, value) in fields {
            response.headers_mut().insert(name, value.parse().expect("a value"));
        }
        if is_search {
            *response.status_mut() = StatusCode::FORBIDDEN;
        }
        response
    })
    .await
}

#[tokio::test]
async fn a_group_that_is_used_up_does_not_hold_up_others_behind_the_same_prefix() {
    let upstream = github().await;
    let proxy = Proxy::start(&format!(
        "providers:\n  github: {{endpoint: \"{}\", api_key: t}}\nqueue: {{max_wait: 2s}}",
        upstream.url()
    ));
    let get = async |path: &str| {
        let asked = request("localhost", path).body(empty()).expect("a request");
        fetch(proxy.address(), asked).await
    };
    assert_eq!(get("/github/repos/a/b").await.status, StatusCode::OK);
    let search = get("/github/search/issues?q=x").await;
    assert_eq!((search.status, search.code().as_str()), (StatusCode::TOO_MANY_REQUESTS, "wait_too_long"));
    assert_eq!(get("/github/repos/c/d").await.status, StatusCode::OK);
    let sent = upstream.seen().len();
    assert_eq!(get("/github/search/users").await.code(), "wait_too_long");
    assert_eq!(upstream.seen().len(), sent, "it is known to be counted with other searches");
}

#[tokio::test]
async fn an_error_that_comes_as_a_200_is_tried_again() {
    let _timed = timed().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let upstream = Upstream::start(move |_| {
        let first = asked.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            let error = r#"{"errors":[{"type":"RATE_LIMITED","message":"API rate limit exceeded for user ID 1."}]}"#;
            let mut response = Response::new(text(if first { error } else { r#"{"data":{"viewer":"me"}}"# }));
            response.headers_mut().insert("content-type", "application/json; charset=utf-8".parse().expect("a value"));
            if first {
                response.headers_mut().insert("retry-after", "1".parse().expect("a value"));
            }
            response
        }
    })
    .await;
    let proxy = Proxy::start(&format!("providers:\n  github: {{endpoint: \"{}\", api_key: t}}", upstream.url()));
    let answer = fetch(proxy.address(), post("/github/graphql", r#"{"query":"{viewer{login}}"}"#)).await;
    assert_eq!((answer.text(), answer.field("x-cooldown-attempts")), (r#"{"data":{"viewer":"me"}}"#, "2"));
    let arrivals = upstream.arrivals();
    assert!(arrivals[1] - arrivals[0] >= 1.0, "{arrivals:?}");
}

#[tokio::test]
async fn an_error_too_late_in_a_stream_to_be_tried_again_is_heard_all_the_same() {
    let _timed = timed().await;
    let upstream = Upstream::start(|_| async {
        let (mut out, body) = Channel::<Bytes, std::convert::Infallible>::new(1);
        tokio::spawn(async move {
            let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n";
            let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
            drop(out.send_data(Bytes::from_static(start.as_bytes())).await);
            tokio::time::sleep(Duration::from_millis(200)).await;
            drop(out.send_data(Bytes::from_static(error.as_bytes())).await);
        });
        let body: Body = body.map_err(|never| match never {}).boxed_unsync();
        let mut response = Response::new(body);
        response.headers_mut().insert("content-type", "text/event-stream".parse().expect("a value"));
        response
    })
    .await;
    let proxy = Proxy::start(&format!("providers:\n  anthropic: {{endpoint: \"{}\", api_key: k}}", upstream.url()));
    let body = json!({"model": "claude-sonnet-4-5", "stream": true, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]});
    let answer = ask(proxy.address(), "/anthropic/v1/messages", &body).await;
    assert!(answer.text().contains("overloaded_error"), "it passes: {}", answer.text());
    let next = ask(proxy.address(), "/anthropic/v1/messages", &body).await;
    let waited: u64 = next.field("x-cooldown-wait-ms").parse().expect("a number");
    assert!(waited > 0, "the model was closed for a moment");
}

#[rstest]
#[case::requests("limits: {requests: 100/s}", false)]
#[case::tokens("limits: {tokens: 100k/min}", true)]
#[case::of_the_model("model_limits: {\"gpt-*\": {output_tokens: 100k/min}}", true)]
#[tokio::test]
async fn usage_is_asked_for_only_where_tokens_are_limited(#[case] limits: &str, #[case] asks: bool) {
    let upstream = LlmProvider::start(Behaviour::new(Dialect::Silent));
    let proxy =
        Proxy::start(&format!("providers:\n  openai: {{endpoint: \"{}\", api_key: sk-1, {limits}}}", upstream.url()));
    let body = streamed_chat("gpt-4o", "say 3");
    assert_eq!(ask(proxy.address(), "/openai/v1/chat/completions", &body).await.status, StatusCode::OK);
    let sent = upstream.attempts().pop().expect("an attempt").body;
    assert_eq!(sent != body.to_string(), asks, "{}", String::from_utf8_lossy(&sent));
}

#[tokio::test]
async fn a_callers_key_in_the_query_goes_to_google_alone() {
    let (google, other) = (Upstream::start(plain).await, Upstream::start(plain).await);
    let proxy = Proxy::start(&format!(
        "providers:\n  gemini: {{endpoint: \"{}\", api_key: client, models: [\"gemini-*\"]}}\n  \
         other: {{endpoint: \"{}\", api_key: sk-2, models: [\"llama-*\"]}}",
        google.url(),
        other.url()
    ));
    for (model, upstream, query) in
        [("gemini-2.5-pro", &google, Some("alt=sse&key=AIza")), ("llama-3", &other, Some("alt=sse"))]
    {
        let asked = post(&format!("/v1beta/models/{model}:generateContent?alt=sse&key=AIza"), r#"{"contents":[]}"#);
        assert_eq!(fetch(proxy.address(), asked).await.status, StatusCode::OK);
        assert_eq!(upstream.only().uri.query(), query);
    }
}
