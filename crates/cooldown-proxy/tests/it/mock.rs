//! The mock provider itself, asked without a proxy: what it answers, allows and counts is what other tests stand on.

use std::num::NonZeroU32;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use cooldown_pacer::Unit;
use cooldown_proxy::config::model::ProviderKind;
use cooldown_proxy::demo::strict::Counting;
use cooldown_proxy::fields::Fields;
use cooldown_proxy::provider::{Class, UnixTime, classify, classify_error_json, read_limits};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::provider::{
    Allowance, Behaviour, Charging, Dialect, End, Failure, Hint, LlmProvider, Outcome, StreamError, Tokens, When,
};
use crate::support::{Answer, Body, Client, fetch, get, request, text, timed, until};

const MINUTE: Duration = Duration::from_secs(60);
const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";
const GEMINI: &str = "/v1beta/models/gemini-2.5-pro:generateContent";
const GEMINI_STREAM: &str = "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse";

/// A POST with the key that most tests use.
fn post(path: &str, body: &Value) -> http::Request<Body> {
    let post = request("mock", path).method(Method::POST).header("authorization", "Bearer sk-test");
    post.body(text(body.to_string())).expect("a valid request")
}

async fn ask(provider: &LlmProvider, path: &str, body: &Value) -> Answer {
    fetch(provider.address(), post(path, body)).await
}

/// A chat of eleven tokens that asks for so many.
fn chat(output: u32) -> Value {
    let content = format!("{:<34}say {output:02}", "A prompt that is padded with blanks");
    assert_eq!(content.len().div_ceil(4), 11, "{content}");
    json!({"model": "gpt-4o", "messages": [{"role": "user", "content": content}]})
}

fn with(mut body: Value, fields: &Value) -> Value {
    for (name, value) in fields.as_object().expect("fields") {
        body[name] = value.clone();
    }
    body
}

/// The JSON of every event of a stream.
fn events(answer: &Answer) -> Vec<Value> {
    let lines = answer.text().lines().filter_map(|line| line.strip_prefix("data: "));
    lines.filter_map(|data| serde_json::from_str(data).ok()).collect()
}

/// In whole seconds; responses have a `Date`, which counts.
fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    UnixTime::from_secs(since.as_secs())
}

fn requests(amount: u32) -> Allowance {
    Allowance::new(Unit::Requests, amount, MINUTE)
}

fn tokens(amount: u32) -> Allowance {
    Allowance::new(Unit::Tokens, amount, MINUTE)
}

#[tokio::test]
async fn chat_answers_as_long_as_it_is_asked_to_and_tells_its_usage() {
    let provider = LlmProvider::start(Behaviour::new(Dialect::OpenAi));
    let json = ask(&provider, CHAT, &chat(12)).await.json();
    assert_eq!(json["choices"][0]["message"]["content"], "word ".repeat(12));
    assert_eq!(json["choices"][0]["finish_reason"], "stop");
    assert_eq!(json["usage"]["total_tokens"], 23);
    let short = ask(&provider, CHAT, &with(chat(12), &json!({"max_tokens": 5}))).await.json();
    assert_eq!(
        (&short["usage"]["completion_tokens"], &short["choices"][0]["finish_reason"]),
        (&json!(5), &json!("length"))
    );
    assert_eq!(provider.tokens(), Tokens { input: 22, output: 17 });
}

#[tokio::test]
async fn a_chat_stream_tells_its_usage_only_when_it_is_asked_for() {
    let provider = LlmProvider::start(Behaviour::new(Dialect::OpenAi));
    let silent = ask(&provider, CHAT, &with(chat(3), &json!({"stream": true}))).await;
    assert_eq!(silent.field("content-type"), "text/event-stream; charset=utf-8");
    assert!(silent.text().ends_with("data: [DONE]\n\n") && !silent.text().contains("usage"), "{}", silent.text());
    assert_eq!(events(&silent).len(), 5, "the role, three tokens, the reason for the end");
    let told = with(chat(3), &json!({"stream": true, "stream_options": {"include_usage": true}}));
    let told = events(&ask(&provider, CHAT, &told).await);
    assert_eq!((&told[5]["choices"], &told[5]["usage"]["total_tokens"]), (&json!([]), &json!(14)));
    assert!(told[..5].iter().all(|chunk| chunk["usage"].is_null()));
}

#[tokio::test]
async fn responses_messages_and_gemini_tell_their_usage_where_each_has_it() {
    let provider = LlmProvider::start(Behaviour::new(Dialect::Silent));
    let input = json!({"model": "gpt-4o", "input": "Twelve bytes", "max_output_tokens": 4});
    let whole = ask(&provider, RESPONSES, &input).await.json();
    assert_eq!((&whole["status"], &whole["usage"]["total_tokens"]), (&json!("incomplete"), &json!(7)));
    let streamed = events(&ask(&provider, RESPONSES, &with(input, &json!({"stream": true}))).await);
    assert!(streamed[0]["response"]["usage"].is_null() && streamed[0]["type"] == "response.created");
    assert_eq!(streamed.last().expect("events")["response"]["usage"]["output_tokens"], 4);

    let messages = json!({"model": "claude-x", "max_tokens": 20, "system": "Four", "messages": [
        {"role": "user", "content": [{"type": "text", "text": "say 2"}]},
    ]});
    let whole = ask(&provider, MESSAGES, &messages).await.json();
    assert_eq!((&whole["stop_reason"], &whole["content"][0]["text"]), (&json!("end_turn"), &json!("word word ")));
    assert_eq!((&whole["usage"]["input_tokens"], &whole["usage"]["output_tokens"]), (&json!(3), &json!(2)));
    let streamed = events(&ask(&provider, MESSAGES, &with(messages, &json!({"stream": true}))).await);
    assert_eq!(streamed[0]["message"]["usage"]["output_tokens"], 1, "a placeholder");
    let delta = streamed.iter().find(|event| event["type"] == "message_delta").expect("a delta");
    assert_eq!(delta["usage"]["output_tokens"], 2);

    let contents = json!({"contents": [{"parts": [{"text": "say 3"}]}], "generationConfig": {"maxOutputTokens": 9}});
    let whole = ask(&provider, GEMINI, &contents).await.json();
    assert_eq!(whole["usageMetadata"]["totalTokenCount"], 5);
    let streamed = events(&ask(&provider, GEMINI_STREAM, &contents).await);
    assert_eq!(streamed.len(), 3);
    assert_eq!(
        (&streamed[0]["usageMetadata"]["candidatesTokenCount"], &streamed[2]["candidates"][0]["finishReason"]),
        (&json!(1), &json!("STOP"))
    );
    assert_eq!(provider.attempts().last().expect("attempts").model, "gemini-2.5-pro");
}

#[tokio::test]
async fn embeddings_and_models_are_there() {
    let provider = LlmProvider::start(Behaviour::new(Dialect::OpenAi).bytes_per_token("small", 2.0));
    let embedding = ask(&provider, "/v1/embeddings", &json!({"model": "small", "input": ["four", "four"]})).await;
    assert_eq!(embedding.json()["usage"], json!({"prompt_tokens": 4, "total_tokens": 4}));
    let bytes = json!({"model": "small", "input": "x", "encoding_format": "base64"});
    let bytes = ask(&provider, "/v1/embeddings", &bytes).await.json();
    assert_eq!(bytes["data"][0]["embedding"].as_str().map(str::len), Some(16), "twelve bytes");
    let models = request("mock", "/v1/models?key=sk-query").body(text("")).expect("a valid request");
    assert_eq!(fetch(provider.address(), models).await.json()["object"], "list");
    assert_eq!(provider.attempts()[2].key, "sk-query");
}

#[rstest]
#[case::chat(CHAT, json!({"model": "m", "messages": [], "tools": [{"type": "function", "function": {"name": "weather"}}]}))]
#[case::responses(RESPONSES, json!({"model": "m", "input": "x", "tools": [{"type": "function", "name": "weather"}]}))]
#[case::messages(MESSAGES, json!({"model": "m", "messages": [], "max_tokens": 9, "tools": [{"name": "weather"}]}))]
#[case::gemini(GEMINI, json!({"contents": [], "tools": [{"functionDeclarations": [{"name": "weather"}]}]}))]
#[tokio::test]
async fn a_request_with_tools_is_answered_with_a_call(#[case] path: &str, #[case] body: Value) {
    let provider = LlmProvider::start(Behaviour::new(Dialect::Silent));
    let whole = ask(&provider, path, &body).await.json().to_string();
    assert!(whole.contains("\"weather\"") && whole.contains("Paris") && !whole.contains("word"), "{whole}");
    let streamed = ask(&provider, path, &with(body, &json!({"stream": true}))).await;
    assert!(streamed.text().contains("\"weather\"") && streamed.text().contains("Paris"), "{}", streamed.text());
}

#[tokio::test]
async fn a_breach_is_refused_counted_and_told_in_the_dialect() {
    let _timed = timed().await;
    let behaviour = Behaviour::new(Dialect::OpenAi).limit(requests(2)).hint(Hint::RetryAfterMs);
    let provider = LlmProvider::start(behaviour);
    let first = ask(&provider, CHAT, &chat(1)).await;
    assert_eq!((first.field("x-ratelimit-limit-requests"), first.field("x-ratelimit-remaining-requests")), ("2", "1"));
    ask(&provider, CHAT, &chat(1)).await;
    let refused = ask(&provider, CHAT, &chat(1)).await;
    assert_eq!((refused.status, refused.field("x-ratelimit-remaining-requests")), (StatusCode::TOO_MANY_REQUESTS, "0"));
    let wait: u64 = refused.field("retry-after-ms").parse().expect("a number");
    assert!((59_000..=60_000).contains(&wait), "{wait}");
    let message = refused.json()["error"]["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("requests per min (RPM): Limit 2, Used 2, Requested 1."), "{message}");
    let another = request("mock", CHAT).method(Method::POST).header("x-api-key", "sk-other");
    let another = another.body(text(chat(1).to_string())).expect("a valid request");
    assert_eq!(fetch(provider.address(), another).await.status, StatusCode::OK, "each key has its own");
    assert_eq!((provider.accepted(), provider.breaches()), (3, 1));
    let attempts = provider.attempts();
    assert_eq!((attempts[2].outcome, attempts[2].status), (Outcome::Breach, Some(StatusCode::TOO_MANY_REQUESTS)));
    assert_eq!((attempts[3].key.as_str(), attempts[3].body.as_ref()), ("sk-other", chat(1).to_string().as_bytes()));
}

#[tokio::test]
async fn keys_are_read_wherever_an_api_has_them_and_attempts_are_written_down() {
    let behaviour = Behaviour::new(Dialect::Silent)
        .failing(When::Key("sk-spent"), Failure::InsufficientQuota)
        .failing(When::UpTo(2), Failure::Unavailable(None));
    let provider = LlmProvider::start(behaviour);
    for (field, value) in
        [("authorization", "Bearer sk-a"), ("x-api-key", "sk-b"), ("api-key", "sk-c"), ("x-goog-api-key", "sk-spent")]
    {
        let asked = request("mock", "/v1/models").header(field, value).body(text("")).expect("a valid request");
        fetch(provider.address(), asked).await;
    }
    let attempts = provider.attempts();
    let seen: Vec<_> = attempts
        .iter()
        .map(|attempt| (attempt.key.as_str(), attempt.status.map_or(0, |status| status.as_u16())))
        .collect();
    assert_eq!(seen, [("sk-a", 503), ("sk-b", 503), ("sk-c", 200), ("sk-spent", 429)]);
    assert_eq!((&attempts[2].method, attempts[2].uri.path()), (&Method::GET, "/v1/models"));
    assert_eq!(attempts[2].headers["api-key"], "sk-c");
    assert!(attempts.is_sorted_by_key(|attempt| attempt.arrival));
}

#[tokio::test]
async fn a_refusal_may_tell_no_wait_and_an_answer_may_take_its_time() {
    let _timed = timed().await;
    let behaviour = Behaviour::new(Dialect::Silent).limit(requests(1)).hint(Hint::Nothing);
    let provider = LlmProvider::start(behaviour.latency(Duration::from_millis(30)));
    let asked = Instant::now();
    ask(&provider, CHAT, &chat(1)).await;
    assert!(asked.elapsed() >= Duration::from_millis(30));
    let refused = ask(&provider, CHAT, &chat(1)).await;
    assert_eq!(
        (refused.status, refused.field("retry-after"), refused.text()),
        (StatusCode::TOO_MANY_REQUESTS, "", "{\"error\":\"Too many requests\"}")
    );
}

#[tokio::test]
async fn models_may_have_limits_of_their_own() {
    let provider = LlmProvider::start(Behaviour::new(Dialect::Silent).limit(requests(1).per_model()));
    for (model, status) in [("a", 200), ("a", 429), ("b", 200)] {
        let answer = ask(&provider, CHAT, &json!({"model": model, "messages": []})).await;
        assert_eq!(answer.status.as_u16(), status, "{model}");
    }
}

/// Three requests of 11 and at most 30 tokens, which answer with 4, against 100 tokens a minute.
#[rstest]
#[case::reserved(Charging::Reserved, 2, 100 - 2 * 41)]
#[case::settled(Charging::Settled, 3, 100 - 3 * 15)]
#[case::larger(Charging::Larger, 3, 100 - 3 * 30)]
#[case::actual(Charging::Actual, 3, 100 - 3 * 15)]
#[tokio::test]
async fn tokens_are_charged_as_configured(#[case] charging: Charging, #[case] accepted: usize, #[case] left: u32) {
    let behaviour = Behaviour::new(Dialect::OpenAi).limit(tokens(100)).charging(charging);
    let provider = LlmProvider::start(behaviour);
    let body = with(chat(4), &json!({"max_tokens": 30}));
    for _ in 0..3 {
        ask(&provider, CHAT, &body).await;
    }
    assert_eq!(provider.accepted(), accepted);
    let probe = request("mock", "/v1/models").header("authorization", "Bearer sk-test");
    let probe = fetch(provider.address(), probe.body(text("")).expect("a valid request")).await;
    assert_eq!(probe.field("x-ratelimit-remaining-tokens"), left.to_string());
}

#[tokio::test]
async fn a_request_larger_than_a_limit_is_told_that_it_can_never_fit() {
    let behaviour = Behaviour::new(Dialect::Groq).limit(tokens(20)).charging(Charging::Reserved);
    let provider = LlmProvider::start(behaviour);
    let refused = ask(&provider, CHAT, &with(chat(4), &json!({"max_tokens": 30}))).await;
    assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(refused.text().contains("Limit 20, Requested 41"), "{}", refused.text());
    assert_eq!((provider.count(Outcome::Impossible), provider.breaches()), (1, 0));
}

#[tokio::test]
async fn a_bucket_and_a_fixed_window_count_too() {
    let bucket = Counting::TokenBucket(NonZeroU32::MIN);
    for counting in [bucket, Counting::FixedWindow] {
        let provider = LlmProvider::start(Behaviour::new(Dialect::Silent).limit(requests(1).counted(counting)));
        let [first, second] = [ask(&provider, CHAT, &chat(1)).await, ask(&provider, CHAT, &chat(1)).await];
        assert_eq!((first.status, second.status), (StatusCode::OK, StatusCode::TOO_MANY_REQUESTS), "{counting:?}");
    }
}

#[tokio::test]
async fn a_place_in_flight_is_held_until_the_last_byte_or_the_clients_leaving() {
    let provider = LlmProvider::start(
        Behaviour::new(Dialect::OpenAi)
            .concurrency(1)
            .token_every(Duration::from_millis(2))
            .failing(When::Model("endless"), Failure::StallAfter(1)),
    );
    let endless = with(chat(1), &json!({"model": "endless", "stream": true}));
    let mut client = Client::connect(provider.address()).await;
    let streaming = client.send(post(CHAT, &endless)).await.expect("a head");
    assert_eq!(ask(&provider, CHAT, &chat(1)).await.status, StatusCode::TOO_MANY_REQUESTS);
    drop((streaming, client));
    until("the place is free", || provider.in_flight() == 0).await;
    assert!(matches!(provider.attempts()[0].end, End::Early(_)) && provider.attempts()[0].began.is_some());
    assert_eq!(ask(&provider, CHAT, &with(chat(9), &json!({"stream": true}))).await.status, StatusCode::OK);
    assert!(matches!(provider.attempts()[2].end, End::Whole(_)));
    assert_eq!((provider.in_flight(), provider.most_in_flight(), provider.breaches()), (0, 1, 1));
}

/// What is stated is read by the proxy's own parsers.
#[rstest]
#[case::openai(Dialect::OpenAi, ProviderKind::OpenAi, true)]
#[case::azure(Dialect::Azure, ProviderKind::Azure, true)]
#[case::anthropic(Dialect::Anthropic, ProviderKind::Anthropic, true)]
#[case::groq(Dialect::Groq, ProviderKind::Groq, true)]
#[case::cerebras(Dialect::Cerebras, ProviderKind::Cerebras, true)]
#[case::mistral(Dialect::Mistral, ProviderKind::Mistral, true)]
#[case::github(Dialect::GitHub, ProviderKind::GitHub, true)]
#[case::openrouter(Dialect::OpenRouter, ProviderKind::OpenRouter, false)]
#[case::gemini(Dialect::Gemini, ProviderKind::Gemini, false)]
#[case::silent(Dialect::Silent, ProviderKind::Generic, false)]
#[tokio::test]
async fn each_dialect_states_the_limit_as_it_stands(
    #[case] dialect: Dialect,
    #[case] kind: ProviderKind,
    #[case] states: bool,
) {
    let provider = LlmProvider::start(Behaviour::new(dialect).limit(requests(3)));
    let answer = ask(&provider, CHAT, &chat(1)).await;
    let said = read_limits(kind, 200, &Fields::from(&answer.headers), now());
    let stated = said.statements.iter().find(|said| said.axis == Unit::Requests);
    assert_eq!(stated.map(|said| (said.limit, said.remaining)), states.then_some((Some(3), Some(2))), "{answer:?}");
    for _ in 0..2 {
        ask(&provider, CHAT, &chat(1)).await;
    }
    let refused = ask(&provider, CHAT, &chat(1)).await;
    let class = classify(kind, refused.status.as_u16(), &Fields::from(&refused.headers), Some(&refused.body), now());
    let Class::Limit { wait: Some(wait), .. } = class else { panic!("{class:?}: {refused:?}") };
    assert!((Duration::from_secs(58)..Duration::from_secs(63)).contains(&wait), "{wait:?}: {refused:?}");
}

/// What is failed with is understood by the proxy's own classes.
#[rstest]
#[case(Failure::RateLimited(Duration::from_secs(2)), ProviderKind::OpenAi, CHAT, 429, "Limit")]
#[case(Failure::AzureTokenMinute, ProviderKind::Azure, CHAT, 429, "Limit")]
#[case(Failure::InsufficientQuota, ProviderKind::OpenAi, CHAT, 429, "Money")]
#[case(Failure::SpendLimit, ProviderKind::Anthropic, MESSAGES, 429, "Money")]
#[case(Failure::PaymentRequired, ProviderKind::OpenRouter, CHAT, 402, "Money")]
#[case(Failure::Unauthorized, ProviderKind::Anthropic, MESSAGES, 401, "Credentials")]
#[case(Failure::BadRequest, ProviderKind::OpenAi, RESPONSES, 400, "Fault")]
#[case(Failure::SecondaryLimit(None), ProviderKind::GitHub, "/repos", 403, "Limit")]
#[case(Failure::PrimaryLimit(MINUTE), ProviderKind::GitHub, "/repos", 403, "Limit")]
#[case(Failure::QuotaForbidden(MINUTE), ProviderKind::Azure, CHAT, 403, "Limit")]
#[case(Failure::TooLarge, ProviderKind::OpenAi, CHAT, 429, "Impossible")]
#[case(Failure::TooLarge413, ProviderKind::Groq, CHAT, 413, "Impossible")]
#[case(Failure::Unavailable(Some(MINUTE)), ProviderKind::OpenAi, CHAT, 503, "Capacity")]
#[case(Failure::Unavailable(None), ProviderKind::Together, CHAT, 503, "Capacity")]
#[case(Failure::Overloaded, ProviderKind::Anthropic, MESSAGES, 529, "Capacity")]
#[case(Failure::MinuteQuota(Duration::from_millis(34_400)), ProviderKind::Gemini, GEMINI, 429, "Limit")]
#[case(Failure::DayQuota, ProviderKind::Gemini, GEMINI, 429, "Limit")]
#[case(Failure::Status(498), ProviderKind::Groq, CHAT, 498, "Limit")]
#[case(Failure::Status(500), ProviderKind::Gemini, GEMINI, 500, "Fault")]
#[case(Failure::ErrorInBody, ProviderKind::OpenAi, CHAT, 200, "Limit")]
#[case(Failure::ErrorInBody, ProviderKind::Anthropic, MESSAGES, 200, "Limit")]
#[case(Failure::ErrorInBody, ProviderKind::GitHub, "/graphql", 200, "Limit")]
#[case(Failure::RateLimited(MINUTE), ProviderKind::Anthropic, MESSAGES, 429, "Limit")]
#[case(Failure::RateLimited(MINUTE), ProviderKind::Gemini, GEMINI, 429, "Limit")]
#[tokio::test]
async fn each_failure_means_what_it_says(
    #[case] failure: Failure,
    #[case] kind: ProviderKind,
    #[case] path: &str,
    #[case] status: u16,
    #[case] class: &str,
) {
    let dialect = if kind == ProviderKind::GitHub { Dialect::GitHub } else { Dialect::OpenAi };
    let provider = LlmProvider::start(Behaviour::new(dialect).failing(When::Attempt(1), failure));
    let answer = ask(&provider, path, &chat(1)).await;
    let understood = classify(kind, answer.status.as_u16(), &Fields::from(&answer.headers), Some(&answer.body), now());
    assert!(format!("{understood:?}").starts_with(class), "{understood:?}: {answer:?}");
    assert_eq!((answer.status.as_u16(), provider.count(Outcome::Failed)), (status, 1));
    assert_eq!(ask(&provider, path, &chat(1)).await.status, StatusCode::OK, "only the first attempt fails");
}

#[rstest]
#[case(CHAT, ProviderKind::OpenAi)]
#[case(RESPONSES, ProviderKind::OpenAi)]
#[case(MESSAGES, ProviderKind::Anthropic)]
#[case(GEMINI_STREAM, ProviderKind::Gemini)]
#[tokio::test]
async fn an_error_may_be_a_streams_first_event_or_come_after_some_tokens(
    #[case] path: &str,
    #[case] kind: ProviderKind,
) {
    let at_first = Failure::StreamError { after: 0, error: StreamError::Limit };
    let later = Failure::StreamError { after: 2, error: StreamError::Capacity };
    let behaviour = Behaviour::new(Dialect::Silent).failing(When::Attempt(1), at_first).failing(When::Always, later);
    let provider = LlmProvider::start(behaviour);
    let body = json!({"model": "m", "stream": true, "max_tokens": 9, "messages": []});
    let first = events(&ask(&provider, path, &body).await);
    let class = |event: &Value| classify_error_json(kind, event.to_string().as_bytes(), now());
    assert_eq!(first.len(), 1, "{first:?}");
    assert!(matches!(class(&first[0]), Class::Limit { .. }), "{:?}", first[0]);
    let later = events(&ask(&provider, path, &body).await);
    let (error, before) = later.split_last().expect("events");
    assert!(matches!(class(error), Class::Capacity { .. }), "{error}");
    assert_eq!(before.iter().filter(|event| event.to_string().contains("word ")).count(), 2, "{before:?}");
}

#[tokio::test]
async fn connections_break_and_stall_where_they_are_told_to() {
    let behaviour = Behaviour::new(Dialect::OpenAi)
        .failing(When::Attempt(1), Failure::Reset)
        .failing(When::Attempt(2), Failure::CloseAfter(2))
        .failing(When::Attempt(3), Failure::CloseAfter(0))
        .failing(When::Attempt(4), Failure::NoAnswer);
    let provider = LlmProvider::start(behaviour);
    let streamed = with(chat(5), &json!({"stream": true}));
    let reset = Client::connect(provider.address()).await.send(post(CHAT, &streamed)).await;
    assert!(reset.is_err() && provider.attempts()[0].status.is_none(), "{reset:?}");
    for (body, expected) in [(&streamed, 3), (&chat(5), 1)] {
        let mut client = Client::connect(provider.address()).await;
        let mut broken = client.send(post(CHAT, body)).await.expect("a head").into_body();
        let mut whole: Vec<Bytes> = Vec::new();
        let end = loop {
            match broken.frame().await {
                Some(Ok(frame)) => whole.push(frame.into_data().expect("data")),
                end => break end,
            }
        };
        assert!(matches!(end, Some(Err(_))), "it does not end well");
        let text = String::from_utf8(whole.concat()).expect("text");
        assert_eq!(text.matches("\"choices\"").count(), expected, "{text}");
    }
    let mut client = Client::connect(provider.address()).await;
    let waited = tokio::time::timeout(Duration::from_millis(50), client.send(post(CHAT, &chat(1)))).await;
    assert!(waited.is_err(), "{waited:?}");
    drop(client);
    until("it is given up", || matches!(provider.attempts()[3].end, End::Early(_))).await;
}

#[tokio::test]
async fn what_cannot_be_answered_is_told_so() {
    let provider = LlmProvider::start(Behaviour::new(Dialect::OpenAi).keys(&["sk-good"]).limit(requests(1)));
    let statuses = [
        ask(&provider, CHAT, &chat(1)).await.status.as_u16(),
        ask(&provider, CHAT, &json!({"messages": []})).await.status.as_u16(),
        fetch(provider.address(), request("mock", MESSAGES).body(text("{")).expect("a request")).await.status.as_u16(),
        get(provider.address(), "mock", "/nothing").await.status.as_u16(),
    ];
    assert_eq!(statuses, [401, 400, 400, 404]);
    assert_eq!(provider.count(Outcome::Invalid), 4);
}
