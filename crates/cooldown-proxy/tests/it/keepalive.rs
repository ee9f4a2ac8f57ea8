//! Signs of life for streaming clients that wait long.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::provider::{Behaviour, Dialect, Failure, LlmProvider, When};
use crate::support::{Body, Client, Proxy, Upstream, ask, chat, events, post, streamed_chat, timed};

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

/// A response in these pieces; the last of them is `None` where the connection breaks.
fn in_pieces(kind: &'static str, pieces: Vec<Option<Bytes>>) -> Response<Body> {
    let (mut out, body) = Channel::<Bytes, std::io::Error>::new(1);
    tokio::spawn(async move {
        for piece in pieces {
            let Some(piece) = piece else { return out.abort(std::io::Error::other("broken")) };
            if out.send_data(piece).await.is_err() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    let mut response = Response::new(body.map_err(Into::into).boxed_unsync());
    response.headers_mut().insert("content-type", HeaderValue::from_static(kind));
    response
}

/// What a streaming client gets that waits for its turn, after the signs of life, from an upstream that answers like this.
async fn after_waiting(path: &str, answer: fn() -> Response<Body>) -> (String, Upstream) {
    let upstream = Upstream::start(move |_| async move { answer() }).await;
    let proxy = Proxy::start(&format!(
        "providers:\n  openai: {{endpoint: \"{}\", api_key: sk-1, limits: {{requests: \"1/2s, burst 1\"}}}}\n\
         queue: {{keepalive: 1s, max_wait: 20s}}",
        upstream.url()
    ));
    let body = streamed_chat("gpt-4o", "hello").to_string();
    let first = Client::connect(proxy.address()).await.send(post(path, body.clone())).await.expect("an answer");
    assert_eq!(first.headers()["x-cooldown-source"], "upstream", "it has its own head, and is read by nobody");
    let mut asked = post(path, body);
    asked.headers_mut().insert("accept-encoding", HeaderValue::from_static("gzip, br"));
    let events = events(proxy.address(), asked).await;
    let is_sign = |event: &str| event.starts_with(": waiting") || event.starts_with("event: ping");
    assert!(is_sign(&events[0].0), "{events:?}");
    let told = events.into_iter().map(|(event, _)| event).skip_while(|event| is_sign(event)).collect();
    (told, upstream)
}

fn compressed() -> Response<Body> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    let mut pieces = Vec::new();
    for event in ["data: {\"a\": 1}\n\n", "data: {\"a\": 2}\n\n"] {
        gzip.write_all(event.as_bytes()).and_then(|()| gzip.flush()).expect("memory");
        pieces.push(Some(Bytes::from(std::mem::take(gzip.get_mut()))));
    }
    pieces.push(Some(Bytes::from(gzip.finish().expect("memory"))));
    let mut response = in_pieces("text/event-stream", pieces);
    response.headers_mut().insert("content-encoding", HeaderValue::from_static("gzip"));
    response
}

fn in_one_piece() -> Response<Body> {
    let pieces = ["{\"type\": \"message\",", "\n \"text\": \"a", "b\"}\n"];
    in_pieces("application/json", pieces.map(|piece| Some(Bytes::from(piece))).into())
}

fn too_long() -> Response<Body> {
    in_pieces("application/json", vec![Some(Bytes::from(vec![b'1'; 600_000])); 3])
}

fn broken() -> Response<Body> {
    in_pieces("text/event-stream", vec![Some(Bytes::from("data: {\"a\": 1}\n\ndata: {\"a")), None])
}

#[rstest]
#[case::compressed_all_the_same(CHAT, compressed, "data: {\"a\": 1}\n\ndata: {\"a\": 2}\n\n")]
#[case::in_one_piece(CHAT, in_one_piece, "data: {\"type\": \"message\",\ndata:  \"text\": \"ab\"}\n\n")]
#[case::in_one_piece_to_anthropics_callers(
    "/openai/v1/messages",
    in_one_piece,
    "event: message\ndata: {\"type\": \"message\",\ndata:  \"text\": \"ab\"}\n\n"
)]
#[tokio::test]
async fn whatever_an_upstream_answers_then_is_told_in_plain_events(
    #[case] path: &str,
    #[case] answer: fn() -> Response<Body>,
    #[case] expected: &str,
) {
    let _timed = timed().await;
    let (told, upstream) = after_waiting(path, answer).await;
    assert_eq!(told, expected);
    assert_eq!(upstream.seen()[1].field("accept-encoding"), "identity");
}

#[rstest]
#[case::too_long_for_an_event(too_long, "data: {")]
#[case::broken_off(broken, "data: {\"a\": 1}\n\n")]
#[tokio::test]
async fn an_answer_that_cannot_be_told_ends_with_an_error_in_the_stream(
    #[case] answer: fn() -> Response<Body>,
    #[case] beginning: &str,
) {
    let _timed = timed().await;
    let (told, _upstream) = after_waiting(CHAT, answer).await;
    assert!(told.starts_with(beginning), "{told}");
    assert!(told.contains("upstream_protocol_error") && told.ends_with("\n\n"), "{told}");
}
