//! What is tried again, and what is not: no refusal for a limit reaches a client, and nothing is sent twice that was taken.

use std::time::{Duration, Instant};

use cooldown_pacer::Unit;
use http::StatusCode;
use rstest::rstest;
use serde_json::json;

use crate::support::provider::{Allowance, Behaviour, Dialect, Failure, Hint, LlmProvider, StreamError, When};
use crate::support::{Crowd, Proxy, Upstream, ask, chat, events, fetch, get, post, post_as, streamed_chat, timed};

const CHAT: &str = "/openai/v1/chat/completions";

fn openai(behaviour: Behaviour, more: &str) -> (LlmProvider, Proxy) {
    let upstream = LlmProvider::start(behaviour);
    let proxy =
        Proxy::start(&format!("providers:\n  openai: {{endpoint: \"{}\", api_key: sk-1}}\n{more}", upstream.url()));
    (upstream, proxy)
}

fn failing(when: When, failure: Failure) -> Behaviour {
    Behaviour::new(Dialect::OpenAi).hint(Hint::RetryAfterMs).failing(when, failure)
}

const HALF_A_SECOND: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_refusal_for_a_limit_is_waited_for_and_the_body_sent_again_as_it_was() {
    let _timed = timed().await;
    let (upstream, proxy) = openai(failing(When::Attempt(1), Failure::RateLimited(HALF_A_SECOND)), "");
    let body = json!({"messages": [{"role": "user", "content": "é\n ".repeat(3000)}], "model": "gpt-4o"});
    let answer = ask(proxy.address(), CHAT, &body).await;
    assert_eq!((answer.status, answer.field("x-cooldown-attempts")), (StatusCode::OK, "2"));
    let attempts = upstream.attempts();
    assert_eq!(attempts.len(), 2);
    assert!(attempts[0].body == attempts[1].body && attempts[0].body == body.to_string());
    let waited = attempts[1].arrival - attempts[0].arrival;
    assert!((HALF_A_SECOND..HALF_A_SECOND * 2).contains(&waited), "{waited:?}");
    assert!(answer.field("x-cooldown-wait-ms").parse::<u64>().expect("a number") >= 490);
}

#[tokio::test]
async fn a_plain_route_waits_too_and_streams_its_body_again() {
    let _timed = timed().await;
    let refused = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let upstream = Upstream::start(move |request| {
        let refused = std::sync::Arc::clone(&refused);
        async move {
            let mut response = crate::support::echo(request).await;
            if refused.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
                *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
                response.headers_mut().insert("retry-after", "1".parse().expect("a value"));
            }
            response
        }
    })
    .await;
    let proxy = Proxy::start(&format!("routes: {{\"*\": \"{}\"}}", upstream.url()));
    let body = "many words ".repeat(50_000);
    let answer = fetch(proxy.address(), post("/upload", body.clone())).await;
    assert_eq!((answer.status, answer.field("x-cooldown-attempts")), (StatusCode::OK, "2"));
    assert!(answer.text() == body);
    let arrivals = upstream.arrivals();
    assert!((1.0..1.5).contains(&arrivals[1]), "{arrivals:?}");
}

#[tokio::test]
async fn a_body_that_is_too_long_to_keep_is_sent_once() {
    let upstream = Upstream::start(|request: http::Request<hyper::body::Incoming>| async move {
        let mut response = crate::support::echo(request).await;
        *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        response
    })
    .await;
    let proxy = Proxy::start(&format!("routes: {{\"*\": \"{}\"}}", upstream.url()));
    let body = "x".repeat(3_000_000);
    let answer = fetch(proxy.address(), post("/upload", body.clone())).await;
    assert_eq!((answer.status, answer.text() == body), (StatusCode::TOO_MANY_REQUESTS, true));
    assert_eq!((upstream.seen().len(), answer.field("x-cooldown-source")), (1, "upstream"));
}

#[tokio::test]
async fn nobody_is_sent_while_the_upstream_is_closed_and_no_herd_follows() {
    let _timed = timed().await;
    let (upstream, proxy) = openai(failing(When::Attempt(9), Failure::RateLimited(Duration::from_secs(1))), "");
    let crowd = Crowd { address: proxy.address(), path: CHAT, clients: 20, lasting: Duration::from_millis(1800) };
    let answers = crowd.call(|_, _| chat("gpt-4o", "hello")).await;
    assert!(answers.iter().all(|(answer, _)| answer.status == StatusCode::OK));
    let attempts = upstream.attempts();
    let closed = attempts[8].arrival;
    let after = |from: u64, to: u64| {
        let window = closed + Duration::from_millis(from)..closed + Duration::from_millis(to);
        attempts.iter().filter(|attempt| window.contains(&attempt.arrival)).count()
    };
    assert_eq!(after(100, 995), 0, "requests during the cooldown");
    assert_eq!(attempts.iter().filter(|attempt| attempt.status == Some(StatusCode::TOO_MANY_REQUESTS)).count(), 1);
    let first = attempts.iter().skip(9).find(|attempt| attempt.arrival > closed + Duration::from_millis(995));
    let first = first.expect("it opens again").arrival;
    let with_it = attempts
        .iter()
        .filter(|attempt| attempt.arrival >= first && attempt.arrival - first < Duration::from_micros(100));
    assert_eq!(with_it.count(), 1, "one goes first");
}

#[rstest]
#[case::quota(Failure::InsufficientQuota, 429)]
#[case::payment(Failure::PaymentRequired, 402)]
#[case::key(Failure::Unauthorized, 401)]
#[case::too_large(Failure::TooLarge, 429)]
#[case::too_large_too(Failure::TooLarge413, 413)]
#[case::bad_request(Failure::BadRequest, 400)]
#[tokio::test]
async fn what_waiting_does_not_help_passes_at_once(#[case] failure: Failure, #[case] status: u16) {
    let _timed = timed().await;
    let (upstream, proxy) = openai(failing(When::Always, failure), "");
    for nth in 1..=2 {
        let began = Instant::now();
        let answer = ask(proxy.address(), CHAT, &chat("gpt-4o", "hello")).await;
        assert_eq!((answer.status.as_u16(), answer.field("x-cooldown-source")), (status, "upstream"));
        assert!(answer.json()["error"]["message"].is_string(), "the words are the upstream's");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(upstream.attempts().len(), nth);
    }
}

#[rstest]
#[case::overloaded(Failure::Overloaded)]
#[case::unavailable(Failure::Unavailable(None))]
#[case::later(Failure::Unavailable(Some(Duration::from_secs(1))))]
#[case::limit_of_azure(Failure::RateLimited(Duration::from_millis(20)))]
#[tokio::test]
async fn an_upstream_that_is_full_is_asked_again(#[case] failure: Failure) {
    let (upstream, proxy) = openai(failing(When::Attempt(1), failure), "");
    let answer = ask(proxy.address(), CHAT, &chat("gpt-4o", "hello")).await;
    assert_eq!((answer.status, answer.field("x-cooldown-attempts")), (StatusCode::OK, "2"));
    assert_eq!(upstream.attempts().len(), 2);
}

#[tokio::test]
async fn an_upstream_that_stays_full_is_asked_as_often_as_configured() {
    let (upstream, proxy) = openai(failing(When::Always, Failure::Overloaded), "retry: {attempts: 2}");
    let answer = ask(proxy.address(), CHAT, &chat("gpt-4o", "hello")).await;
    assert_eq!((answer.status.as_u16(), answer.field("x-cooldown-source")), (529, "upstream"));
    assert_eq!((answer.field("x-cooldown-attempts"), upstream.attempts().len()), ("2", 2));
}

#[tokio::test]
async fn what_is_not_to_be_retried_is_not() {
    let (upstream, proxy) =
        openai(failing(When::Always, Failure::RateLimited(HALF_A_SECOND)), "retry: {on: [connect]}");
    let answer = ask(proxy.address(), CHAT, &chat("gpt-4o", "hello")).await;
    assert_eq!((answer.status, upstream.attempts().len()), (StatusCode::TOO_MANY_REQUESTS, 1));
    assert_eq!(answer.field("retry-after-ms"), "500");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_asked_for_again() {
    let (upstream, proxy) = openai(failing(When::Always, Failure::Reset), "");
    let answer = ask(proxy.address(), CHAT, &chat("gpt-4o", "hello")).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_GATEWAY, "upstream_unreachable"));
    assert_eq!(upstream.attempts().len(), 1, "it may have been taken");
}

#[tokio::test]
async fn a_wait_that_is_longer_than_the_budget_is_refused_with_its_true_length() {
    let (upstream, proxy) =
        openai(failing(When::Attempt(1), Failure::RateLimited(Duration::from_secs(30))), "queue: {max_wait: 5s}");
    let began = Instant::now();
    let answer = ask(proxy.address(), CHAT, &chat("gpt-4o", "hello")).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::TOO_MANY_REQUESTS, "wait_too_long"));
    let wait: u64 = answer.field("retry-after-ms").parse().expect("a number");
    assert!((29_000..34_000).contains(&wait), "{wait} ms");
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(upstream.attempts().len(), 1);
}

#[rstest]
#[case::chat("/openai/v1/chat/completions", streamed_chat("gpt-4o", "hello"))]
#[case::responses("/openai/v1/responses", json!({"model": "gpt-4o", "stream": true, "input": "hello"}))]
#[case::messages("/openai/v1/messages", json!({"model": "gpt-4o", "stream": true, "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}))]
#[tokio::test]
async fn an_error_before_the_first_token_of_a_stream_is_tried_again(
    #[case] path: &str,
    #[case] body: serde_json::Value,
) {
    for error in [StreamError::Limit, StreamError::Capacity] {
        let (upstream, proxy) = openai(failing(When::Attempt(1), Failure::StreamError { after: 0, error }), "");
        let answer = ask(proxy.address(), path, &body).await;
        assert_eq!((answer.status, answer.field("x-cooldown-attempts")), (StatusCode::OK, "2"), "{error:?}");
        assert!(!answer.text().contains("overloaded") && !answer.text().contains("failed"), "{}", answer.text());
        assert_eq!(upstream.attempts().len(), 2);
    }
}

#[tokio::test]
async fn an_error_after_the_first_token_passes() {
    let error = Failure::StreamError { after: 2, error: StreamError::Capacity };
    let (upstream, proxy) = openai(failing(When::Attempt(1), error), "");
    let answer = ask(proxy.address(), CHAT, &streamed_chat("gpt-4o", "hello")).await;
    assert_eq!((answer.status, answer.field("x-cooldown-attempts")), (StatusCode::OK, "1"));
    assert!(answer.text().contains("error"), "{}", answer.text());
    assert_eq!(upstream.attempts().len(), 1);
}

#[tokio::test]
async fn the_first_byte_of_a_stream_passes_at_once() {
    let _timed = timed().await;
    let behaviour = Behaviour::new(Dialect::OpenAi).token_every(Duration::from_millis(100));
    let (upstream, proxy) = openai(behaviour, "");
    let mut late = Vec::new();
    for _ in 0..5 {
        let events = events(proxy.address(), post(CHAT, streamed_chat("gpt-4o", "say 3").to_string())).await;
        let sent = upstream.attempts().pop().expect("an attempt").began.expect("it was answered");
        late.push(events[0].1.saturating_duration_since(sent));
    }
    late.sort_unstable();
    // A busy machine adds to some of them; what the proxy holds back it holds back every time.
    assert!(late[1] < Duration::from_millis(5), "{late:?}");
}

#[tokio::test]
async fn a_client_that_hangs_up_in_a_cooldown_leaves_nothing_behind() {
    let (upstream, proxy) = openai(failing(When::Attempt(1), Failure::RateLimited(HALF_A_SECOND)), "");
    let mut client = crate::support::Client::connect(proxy.address()).await;
    let asked = post(CHAT, chat("gpt-4o", "hello").to_string());
    assert!(tokio::time::timeout(Duration::from_millis(200), client.send(asked)).await.is_err());
    drop(client);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(upstream.attempts().len(), 1, "it is not sent again for nobody");
    assert_eq!(ask(proxy.address(), CHAT, &chat("gpt-4o", "hello")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_client_that_hangs_up_in_a_stream_is_noticed_by_the_upstream() {
    let behaviour = Behaviour::new(Dialect::OpenAi).token_every(Duration::from_millis(20));
    let (upstream, proxy) = openai(behaviour, "");
    let mut client = crate::support::Client::connect(proxy.address()).await;
    let response = client.send(post(CHAT, streamed_chat("gpt-4o", "say 1000").to_string())).await.expect("an answer");
    drop(response);
    drop(client);
    let began = Instant::now();
    crate::support::until("the upstream sees it", || upstream.in_flight() == 0).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_hidden_limit_of_githubs_closes_what_it_says() {
    let _timed = timed().await;
    let behaviour = Behaviour::new(Dialect::GitHub)
        .failing(When::Attempt(1), Failure::SecondaryLimit(Some(Duration::from_secs(1))));
    let upstream = LlmProvider::start(behaviour);
    let proxy = Proxy::start(&format!(
        "routes:\n  api.github.com: {{upstream: \"{}\", provider: github, host_header: upstream}}",
        upstream.url()
    ));
    let asked = crate::support::request("api.github.com", "/search/issues").header("authorization", "Bearer t");
    let answer = fetch(proxy.address(), asked.body(crate::support::empty()).expect("a request")).await;
    assert_eq!((answer.status, answer.field("x-cooldown-attempts")), (StatusCode::OK, "2"));
    let attempts = upstream.attempts();
    assert!(attempts[1].arrival - attempts[0].arrival >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_caller_that_returns_after_a_refusal_has_kept_its_age() {
    let _timed = timed().await;
    let upstream = LlmProvider::start(Behaviour::new(Dialect::Silent));
    let proxy = Proxy::start(&format!(
        "providers:\n  openai: {{endpoint: \"{}\", api_key: sk-1, limits: {{requests: \"2/s, burst 1\"}}}}",
        upstream.url()
    ));
    let patient = |prompt: &str, seconds: &str, retries: &str| {
        let mut asked = post_as("one", CHAT, &chat("gpt-4o", prompt));
        asked.headers_mut().insert("x-stainless-timeout", seconds.parse().expect("a value"));
        asked.headers_mut().insert("x-stainless-retry-count", retries.parse().expect("a value"));
        asked
    };
    fetch(proxy.address(), patient("the first", "60", "0")).await;
    let refused = fetch(proxy.address(), patient("long ago", "0.2", "0")).await;
    assert_eq!(refused.code(), "wait_too_long");
    let spawn = |asked| tokio::spawn(fetch(proxy.address(), asked));
    let newer: Vec<_> = (0..3).map(|nth| spawn(patient(&format!("newer by {nth}"), "60", "0"))).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let again = spawn(patient("long ago", "60", "1"));
    for call in newer.into_iter().chain([again]) {
        assert_eq!(call.await.expect("it ends").status, StatusCode::OK);
    }
    let order: Vec<String> =
        upstream.attempts().iter().map(|attempt| String::from_utf8_lossy(&attempt.body).into_owned()).collect();
    assert!(order[1].contains("long ago"), "{order:?}");
}

#[tokio::test]
async fn a_limit_in_the_line_of_one_model_does_not_hold_up_another() {
    let _timed = timed().await;
    let behaviour = failing(When::Model("gpt-4o"), Failure::RateLimited(Duration::from_secs(20)))
        .limit(Allowance::new(Unit::Requests, 1000, Duration::from_secs(1)));
    let (_upstream, proxy) = openai(behaviour, "queue: {max_wait: 2s}");
    assert_eq!(ask(proxy.address(), CHAT, &chat("gpt-4o", "hello")).await.code(), "wait_too_long");
    let answer = ask(proxy.address(), CHAT, &chat("gpt-4o-mini", "hello")).await;
    assert_eq!((answer.status, answer.field("x-cooldown-wait-ms")), (StatusCode::OK, "0"));
    assert_eq!(get(proxy.address(), "localhost", "/openai/v1/models").await.status, StatusCode::OK);
}
