//! Limits on tokens: estimated before, counted after, and kept.

use std::time::Duration;

use cooldown_pacer::Unit;
use http::StatusCode;
use serde_json::{Value, json};

use crate::support::provider::{Allowance, Behaviour, Charging, Dialect, LlmProvider};
use crate::support::{Binary, Crowd, Proxy, ask, chat, get, timed};

const CHAT: &str = "/openai/v1/chat/completions";

/// A chat of about this many tokens of prompt and this many of answer.
fn sized(prompt: usize, answer: usize) -> Value {
    let mut body = chat("gpt-4o", &format!("say {answer} {}", "abc ".repeat(prompt)));
    body["max_tokens"] = json!(answer);
    body
}

#[tokio::test]
async fn a_token_limit_is_used_and_never_broken_and_large_requests_get_their_turn() {
    let _timed = timed().await;
    let behaviour = Behaviour::new(Dialect::OpenAi)
        .charging(Charging::Actual)
        .latency(Duration::from_millis(20))
        .limit(Allowance::new(Unit::Tokens, 10_000, Duration::from_millis(1980)));
    let upstream = LlmProvider::start(behaviour);
    let proxy = Proxy::start(&format!(
        "providers:\n  openai: {{endpoint: \"{}\", api_key: sk-1, limits: {{tokens: \"10k/2s\"}}}}",
        upstream.url()
    ));
    let lasting = Duration::from_secs(14);
    let crowd = Crowd { address: proxy.address(), path: CHAT, clients: 24, lasting };
    let answers = crowd
        .call(|client, call| match client % 4 {
            0 => sized(1300, 200),
            1 => sized(30 + call % 7, 20),
            2 => sized(400, 100),
            _ => sized(200, 10 + call % 5),
        })
        .await;
    assert!(answers.iter().all(|(answer, _)| answer.status == StatusCode::OK));
    assert_eq!(upstream.breaches(), 0, "429s at the upstream");
    let tokens = upstream.tokens();
    let used = (tokens.input + tokens.output) as f64 / (5_000.0 * lasting.as_secs_f64());
    assert!(used >= 0.90, "{used}");
    let large = upstream.attempts().iter().filter(|attempt| attempt.body.len() > 5000).count();
    assert!(large >= 10, "{large} large requests");
}

#[tokio::test]
async fn usage_is_asked_for_where_it_must_be_and_hidden_where_it_was_not() {
    let upstream = LlmProvider::start(Behaviour::new(Dialect::OpenAi));
    let proxy = Proxy::start(&format!(
        "providers:\n  openai: {{endpoint: \"{}\", api_key: sk-1, limits: {{tokens: 100k/min}}}}",
        upstream.url()
    ));
    let direct = ask(upstream.address(), "/v1/chat/completions", &json!({"model": "gpt-4o"})).await;
    assert_ne!(direct.status, StatusCode::OK, "the mock wants a key");
    let mut body = chat("gpt-4o", "say 5");
    body["stream"] = json!(true);
    let hidden = ask(proxy.address(), CHAT, &body).await;
    assert!(!hidden.text().contains("usage") && hidden.text().ends_with("data: [DONE]\n\n"), "{}", hidden.text());
    let sent: Value = serde_json::from_slice(&upstream.attempts().pop().expect("it was sent").body).expect("JSON");
    assert_eq!(sent["stream_options"]["include_usage"], true);
    body["stream_options"] = json!({"include_usage": true});
    let asked = ask(proxy.address(), CHAT, &body).await;
    assert!(asked.text().contains("\"usage\":{"), "{}", asked.text());
}

#[tokio::test]
async fn estimates_come_within_a_tenth_after_twenty_responses() {
    let behaviour = Behaviour::new(Dialect::OpenAi).bytes_per_token("gpt-4o", 2.9);
    let upstream = LlmProvider::start(behaviour);
    let program = Binary::serve(&format!(
        "server: {{host: 127.0.0.1, port: 0}}\nadmin: {{host: 127.0.0.1, port: 0}}\n\
         providers:\n  openai: {{endpoint: \"{}\", api_key: sk-1, limits: {{tokens: 10M/min}}}}\n",
        upstream.url()
    ));
    let call = async |nth: usize| {
        let answer = ask(program.address(), CHAT, &sized(100 + 37 * (nth % 11), 40)).await;
        assert_eq!(answer.status, StatusCode::OK);
    };
    for nth in 0..20 {
        call(nth).await;
    }
    let before = estimates(&program).await;
    for nth in 20..40 {
        call(nth).await;
    }
    let after = estimates(&program).await;
    let (actual, error) = (after.0 - before.0, after.1 - before.1);
    assert!(actual > 5_000.0 && error / actual < 0.10, "off by {error} of {actual}");
}

#[tokio::test]
async fn a_tokenizer_brings_the_first_estimate_within_a_tenth() {
    let upstream = LlmProvider::start(Behaviour::new(Dialect::OpenAi).tokenizing());
    let program = Binary::serve(&format!(
        "server: {{host: 127.0.0.1, port: 0}}\nadmin: {{host: 127.0.0.1, port: 0}}\n\
         providers:\n  openai: {{endpoint: \"{}\", api_key: sk-1, limits: {{tokens: 10M/min}}, \
         tokenizer: {{\"gpt-*\": o200k_base}}}}\n",
        upstream.url()
    ));
    program.line("that it is loaded", |line| line.contains("tokens are counted by o200k_base"));
    // None is near to the usual four bytes a token.
    let prompts = [
        "人工智能在上海发展得很快，许多公司都在那里设立了研究所。".repeat(40),
        "aGVsbG8gd29ybGQsIHRoaXMgaXMgbm8gdGV4dCE3Zjk4ZTBhMWI4Yw".repeat(20),
        include_str!("tokens.rs").to_owned(),
        "hello world, it is a nice day and nothing happens at all. ".repeat(3_000),
    ];
    for (model, prompt) in ["gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-5"].into_iter().zip(prompts) {
        let before = estimates(&program).await;
        let mut body = chat(model, &format!("{prompt} say 20"));
        body["max_tokens"] = json!(20);
        assert_eq!(ask(program.address(), CHAT, &body).await.status, StatusCode::OK);
        let after = estimates(&program).await;
        let (actual, error) = (after.0 - before.0, after.1 - before.1);
        assert!(actual > 300.0 && error / actual < 0.10, "{model}: off by {error} of {actual}");
    }
}

#[tokio::test]
async fn a_tokenizer_that_a_reload_brings_counts_from_then_on() {
    let upstream = LlmProvider::start(Behaviour::new(Dialect::OpenAi).tokenizing());
    let config = |more: &str| {
        format!(
            "server: {{host: 127.0.0.1, port: 0}}\nadmin: {{host: 127.0.0.1, port: 0}}\n\
             providers:\n  openai: {{endpoint: \"{}\", api_key: sk-1, limits: {{tokens: 10M/min}}{more}}}\n",
            upstream.url()
        )
    };
    let program = Binary::serve(&config(", tokenizer: off"));
    let error = async |model: &str| {
        let before = estimates(&program).await;
        let mut body = chat(model, &"aGVsbG8gd29ybGQsIHRoaXMgaXMgbm8gdGV4dCE3Zjk4ZTBhMWI4Yw say 20".repeat(20));
        body["max_tokens"] = json!(20);
        assert_eq!(ask(program.address(), CHAT, &body).await.status, StatusCode::OK);
        let after = estimates(&program).await;
        (after.1 - before.1) / (after.0 - before.0)
    };
    let by_bytes = error("gpt-4o").await;
    assert!(by_bytes > 0.15, "this is no prompt of four bytes a token: off by {by_bytes}");
    std::fs::write(program.folder().join("config.yaml"), config(", tokenizer: {\"gpt-*\": o200k_base}"))
        .expect("written");
    program.signal("HUP");
    program.line("that it is loaded", |line| line.contains("tokens are counted by o200k_base"));
    program.line("that it is in force", |line| line.contains("providers changed"));
    let counted = error("gpt-5").await;
    assert!(counted < 0.10, "off by {counted}");
}

/// How many tokens were charged so far, and by how many the estimates were off.
async fn estimates(program: &Binary) -> (f64, f64) {
    let figures = get(program.admin_address(), "localhost", "/metrics").await;
    let figure = |name: &str| -> f64 {
        let start = format!("cooldown_upstream_{name}{{upstream=\"openai\"}} ");
        let line = figures.text().lines().find_map(|line| line.strip_prefix(start.as_str()).map(str::to_owned));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    };
    (figure("tokens_actual_total"), figure("tokens_estimate_error_total"))
}

#[tokio::test]
async fn a_stream_that_is_given_up_pays_for_what_came_of_it() {
    let _timed = timed().await;
    let behaviour = Behaviour::new(Dialect::OpenAi).token_every(Duration::from_millis(5));
    let upstream = LlmProvider::start(behaviour);
    let proxy = Proxy::start(&format!(
        "providers:\n  openai: {{endpoint: \"{}\", api_key: sk-1, limits: {{tokens: \"2000/min, burst 2000\"}}}}\n\
         queue: {{max_wait: 3s}}",
        upstream.url()
    ));
    for _ in 0..3 {
        let mut body = sized(10, 1500);
        body["stream"] = json!(true);
        let mut client = crate::support::Client::connect(proxy.address()).await;
        let response = client.send(crate::support::post(CHAT, body.to_string())).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK, "what the last one did not take is there again");
        drop(response);
        drop(client);
        crate::support::until("the upstream sees it", || upstream.in_flight() == 0).await;
    }
}
