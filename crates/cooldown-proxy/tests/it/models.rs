//! Where a request goes because of the model that it names, and what becomes of its body.

use http::StatusCode;
use rstest::rstest;
use serde_json::json;

use crate::support::{Proxy, Upstream, ask, chat, echo, fetch, post, text};

/// Two providers, `a` and `b`, and what each serves.
async fn two(a: &str, b: &str) -> (Upstream, Upstream, Proxy) {
    two_and(a, b, "").await
}

async fn two_and(a: &str, b: &str, more: &str) -> (Upstream, Upstream, Proxy) {
    let upstreams = (Upstream::start(echo).await, Upstream::start(echo).await);
    let proxy = Proxy::start(&format!(
        "providers:\n  a: {{endpoint: \"{}\", api_key: sk-a, {a}}}\n  b: {{endpoint: \"{}\", api_key: sk-b, {b}}}\n{more}",
        upstreams.0.url(),
        upstreams.1.url()
    ));
    (upstreams.0, upstreams.1, proxy)
}

#[rstest]
#[case::first(r#"{"model":"small-1","messages":[]}"#)]
#[case::last(r#"{"messages":[{"content":"model: big-1, \"model\": \"big-1\""}], "model" : "small-1"}"#)]
#[case::nested(r#"{"metadata":{"model":"big-1"},"model":"small\u002d1"}"#)]
#[case::spaced(" \n{\t\"model\"\r\n:\"small-1\" }\n")]
#[tokio::test]
async fn a_request_goes_where_its_model_is_served_and_its_body_byte_for_byte(#[case] body: &'static str) {
    let (a, b, proxy) = two("models: [\"big-*\"]", "models: [small-1]").await;
    let answer = fetch(proxy.address(), post("/v1/chat/completions", body)).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, body));
    assert_eq!(answer.field("x-cooldown-upstream"), "b");
    let seen = b.only();
    assert_eq!((seen.uri.path(), seen.field("authorization").as_str()), ("/v1/chat/completions", "Bearer sk-b"));
    assert!(a.seen().is_empty());
}

#[tokio::test]
async fn a_model_in_the_path_counts_where_the_api_names_it_there() {
    let (a, b, proxy) = two("models: [\"gemini-*\"]", "models: [\"gpt-*\"]").await;
    let body = r#"{"contents":[{"parts":[{"text":"hello"}]}]}"#;
    let answer = fetch(proxy.address(), post("/v1beta/models/gemini-2.5-pro:generateContent", body)).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, body));
    assert_eq!(a.only().uri.path(), "/v1beta/models/gemini-2.5-pro:generateContent");
    assert!(b.seen().is_empty());
}

#[tokio::test]
async fn an_alias_is_replaced_and_nothing_else() {
    let (a, _b, proxy) = two("models: [llama3.1-8b], model_aliases: {gpt-4: llama3.1-8b}", "models: [other]").await;
    let answer = fetch(
        proxy.address(),
        post("/v1/chat/completions", r#"{"x": 1.0, "model": "gpt-4" , "messages":[{"content":"gpt-4"}]}"#),
    )
    .await;
    assert_eq!(answer.text(), r#"{"x": 1.0, "model": "llama3.1-8b" , "messages":[{"content":"gpt-4"}]}"#);
    assert_eq!(a.only().field("content-length"), answer.body.len().to_string());

    let by_name = ask(proxy.address(), "/a/v1/chat/completions", &chat("gpt-4", "hello")).await;
    assert_eq!(by_name.json()["model"], "llama3.1-8b", "also where the provider is named");
    let by_path = post("/a/v1beta/models/gpt-4:generateContent", r#"{"contents":[]}"#);
    assert_eq!(fetch(proxy.address(), by_path).await.text(), r#"{"contents":[]}"#);
    let last = a.seen().pop().expect("the last request");
    assert_eq!(last.uri.path(), "/v1beta/models/llama3.1-8b:generateContent");
}

#[tokio::test]
async fn a_model_that_nobody_serves_is_named_in_the_refusal() {
    let (_a, _b, proxy) = two("models: [x]", "models: [y]").await;
    let answer = ask(proxy.address(), "/v1/chat/completions", &chat("z-1", "hello")).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "no_route"));
    assert!(answer.text().contains("`z-1`"), "{}", answer.text());
}

#[rstest]
#[case::no_json("no json at all")]
#[case::no_object("[1, 2]")]
#[case::no_model(r#"{"messages":[]}"#)]
#[case::model_is_no_string(r#"{"model":7}"#)]
#[case::cut_off(r#"{"model":"x","#)]
#[tokio::test]
async fn what_names_no_model_takes_the_route_for_everything_else(#[case] body: &'static str) {
    let other = Upstream::start(echo).await;
    let (a, _b, proxy) = two_and("models: [x]", "models: [y]", &format!("routes:\n  \"*\": \"{}\"", other.url())).await;
    let answer = fetch(proxy.address(), post("/v1/chat/completions", body)).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, body));
    assert_eq!(other.seen().len(), 1);
    let named = fetch(proxy.address(), post("/a/v1/chat/completions", body)).await;
    assert_eq!((named.status, named.text()), (StatusCode::OK, body), "a provider that is named judges it itself");
    assert_eq!(a.seen().len(), 1);
}

#[tokio::test]
async fn a_field_that_two_readers_could_read_differently_is_refused() {
    let (a, b, proxy) = two("models: [x]", "models: [y]").await;
    for path in ["/v1/chat/completions", "/a/v1/chat/completions"] {
        let answer = fetch(proxy.address(), post(path, r#"{"model":"x","model":"y"}"#)).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, "invalid_request"));
    }
    assert!(a.seen().is_empty() && b.seen().is_empty());
}

#[tokio::test]
async fn a_body_that_is_too_long_to_read_is_refused_and_one_that_need_not_be_read_is_not() {
    let upstream = Upstream::start(echo).await;
    let url = upstream.url();
    let sections = format!(
        "providers:\n  a: {{endpoint: \"{url}\", api_key: sk-a, models: [x]}}\nroutes:\n  /plain: \"{url}\"\n  \"*\": \"{url}\""
    );
    let proxy = Proxy::with_server("max_body: 10kB", &sections);
    let long = chat("x", &"long ".repeat(4000)).to_string();
    let refused = fetch(proxy.address(), post("/a/v1/chat/completions", long.clone())).await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"));
    for path in ["/plain", "/v1/chat/completions"] {
        let passed = fetch(proxy.address(), post(path, long.clone())).await;
        assert_eq!((passed.status, passed.text() == long), (StatusCode::OK, true), "{path}");
    }
    let mut form = post("/a/v1/files", long.clone());
    form.headers_mut().insert("content-type", "multipart/form-data; boundary=x".parse().expect("a type"));
    assert_eq!(fetch(proxy.address(), form).await.text(), long, "uploads are no calls");
}

#[rstest]
#[case::a_long_prompt(json!({"model": "x", "prompt": "word ".repeat(6_000_000)}).to_string().into_bytes())]
#[case::deep_nesting(format!(r#"{{"x":{}1{},"model":"x"}}"#, "[".repeat(100_000), "]".repeat(100_000)).into_bytes())]
#[case::no_utf8(b"{\"model\":\"x\",\"prompt\":\"\xff\xfe\"}".to_vec())]
#[tokio::test]
async fn a_strange_body_passes_whole(#[case] body: Vec<u8>) {
    let (_a, _b, proxy) = two("models: [x]", "models: [y]").await;
    let answer = fetch(proxy.address(), post("/v1/completions", body.clone())).await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, body.len()));
    assert!(answer.body == body);
}

#[tokio::test]
async fn the_provider_that_can_serve_soonest_serves() {
    let limits = "models: [m], limits: {requests: \"1/min\"}";
    let (a, b, proxy) = two(limits, limits).await;
    for _ in 0..2 {
        assert_eq!(ask(proxy.address(), "/v1/chat/completions", &chat("m", "hello")).await.status, StatusCode::OK);
    }
    assert_eq!((a.seen().len(), b.seen().len()), (1, 1), "the second one need not wait for the first's minute");
}

#[tokio::test]
async fn a_fallback_serves_only_while_the_others_cannot() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    let (a, b) = (Upstream::start(echo).await, Upstream::start(echo).await);
    let sections = |first: &str| {
        format!(
            "providers:\n  a: {{endpoint: \"{first}\", api_key: sk-a, models: [m]}}\n  \
             b: {{endpoint: \"{}\", api_key: sk-b, models: [m], fallback: true}}",
            b.url()
        )
    };
    let proxy = Proxy::start(&sections(&a.url()));
    for _ in 0..3 {
        ask(proxy.address(), "/v1/chat/completions", &chat("m", "hello")).await;
    }
    assert_eq!((a.seen().len(), b.seen().len()), (3, 0));
    let proxy = Proxy::start(&sections(&format!("http://{dead}")));
    let answer = ask(proxy.address(), "/v1/chat/completions", &chat("m", "hello")).await;
    assert_eq!((answer.status, answer.field("x-cooldown-upstream")), (StatusCode::OK, "b"));
    assert_eq!(b.seen().len(), 1);
}

#[tokio::test]
async fn an_absurd_answer_about_limits_poisons_nothing() {
    let fields = [
        ("x-ratelimit-limit-requests", "-5"),
        ("x-ratelimit-remaining-requests", "NaN"),
        ("x-ratelimit-reset-requests", "1e30"),
        ("x-ratelimit-limit-tokens", "1000000000000000000000000000000"),
        ("x-ratelimit-remaining-tokens", "-1"),
        ("x-ratelimit-reset-tokens", "9999y"),
        ("ratelimit", "limit=0, remaining=-1, reset=99999999999999999999"),
        ("retry-after", "99999999999"),
        ("anthropic-ratelimit-requests-reset", "9999-99-99T99:99:99Z"),
    ];
    let upstream = Upstream::start(move |_| async move {
        let mut response = http::Response::new(text("{\"usage\":{\"prompt_tokens\":-3,\"total_tokens\":1e99}}"));
        response.headers_mut().insert("content-type", "application/json".parse().expect("a type"));
        for (name, value) in fields {
            response.headers_mut().insert(name, value.parse().expect("a value"));
        }
        response
    })
    .await;
    let proxy = Proxy::start(&format!(
        "providers:\n  openai: {{endpoint: \"{}\", api_key: sk-a, limits: {{tokens: 100k/min}}}}",
        upstream.url()
    ));
    for _ in 0..5 {
        let answer = ask(proxy.address(), "/openai/v1/chat/completions", &chat("gpt-4o", "hello")).await;
        assert_eq!((answer.status, answer.field("x-cooldown-wait-ms")), (StatusCode::OK, "0"));
    }
}
