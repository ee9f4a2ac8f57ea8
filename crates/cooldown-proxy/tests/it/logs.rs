//! One access line for each request, whatever becomes of it, and no secret in any line.

use std::time::Duration;

use http::StatusCode;
use tokio::time::sleep;

use crate::support::{Binary, Client, Upstream, empty, fetch, get, plain, request, until};

fn config(upstream: &Upstream, format: &str) -> String {
    format!(
        "server: {{host: 127.0.0.1, port: 0}}\nadmin: off\nlog: {{format: {format}}}\n\
         routes: {{api.example.com: {{upstream: \"{}\", limits: {{requests: \"1/s\"}}}}}}\n\
         queue: {{max_wait: 5s}}\n\
         clients: {{alice: {{token: alice-secret}}}}\n",
        upstream.url()
    )
}

fn asked(path: &str) -> http::Request<crate::support::Body> {
    request("api.example.com", path)
        .header("authorization", "Bearer alice-secret")
        .body(empty())
        .expect("a valid request")
}

/// What happened in every run of these tests: a request that was served, one that was refused, one from a stranger, one
/// that no route matched, and one whose client left while it waited.
async fn run(format: &str) -> Vec<String> {
    let upstream = Upstream::start(plain).await;
    let binary = Binary::serve(&config(&upstream, format));
    let address = binary.address();
    assert_eq!(fetch(address, asked("/served?key=query-secret")).await.status, StatusCode::OK);
    let mut refused = asked("/refused");
    refused.headers_mut().insert("prefer", http::HeaderValue::from_static("wait=0"));
    assert_eq!(fetch(address, refused).await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(get(address, "api.example.com", "/stranger").await.status, StatusCode::UNAUTHORIZED);
    let mut lost = asked("/lost");
    lost.headers_mut().insert("host", http::HeaderValue::from_static("nobody.example"));
    assert_eq!(fetch(address, lost).await.status, StatusCode::NOT_FOUND);
    let leaving = tokio::spawn(async move {
        let mut client = Client::connect(address).await;
        let _ = client.send(asked("/left")).await;
    });
    sleep(Duration::from_millis(200)).await;
    leaving.abort();
    until("five lines were written", || access_lines(&binary.lines()).len() >= 5).await;
    binary.signal("TERM");
    let lines = lines_after_the_end(binary).await;
    for line in &lines {
        assert!(!line.contains("secret"), "a secret is in the log: {line}");
    }
    let lines = access_lines(&lines);
    assert_eq!(lines.len(), 5, "one line a request: {lines:#?}");
    lines
}

fn access_lines(lines: &[String]) -> Vec<String> {
    let is_access = |line: &&String| line.contains(" access: ") || line.contains("\"target\":\"access\"");
    lines.iter().filter(is_access).cloned().collect()
}

fn find<'a>(lines: &'a [String], path: &str) -> &'a str {
    let of_path = lines.iter().filter(|line| line.contains(path)).collect::<Vec<_>>();
    assert_eq!(of_path.len(), 1, "one line for {path}: {lines:#?}");
    of_path[0]
}

#[tokio::test]
async fn each_request_gets_one_line_of_text() {
    let lines = run("text").await;
    let served = find(&lines, "GET api.example.com/served ");
    for part in [" 200 ", "route=api.example.com", "client=alice", "wait_ms=0.", "attempts=1", "bytes=5"] {
        assert!(served.contains(part), "no `{part}` in: {served}");
    }
    let refused = find(&lines, "/refused");
    assert!(refused.contains(" 429 ") && refused.contains("code=wait_too_long"), "{refused}");
    let stranger = find(&lines, "/stranger");
    assert!(stranger.contains(" 401 ") && stranger.contains("code=unauthorized"), "{stranger}");
    let lost = find(&lines, "/lost");
    assert!(lost.contains(" 404 ") && lost.contains("nobody.example"), "{lost}");
    let left = find(&lines, "/left");
    assert!(left.contains(" 499 ") && left.contains("attempts=0"), "{left}");
}

#[tokio::test]
async fn each_request_gets_one_object_of_json() {
    let lines = run("json").await;
    let object = |path: &str| -> serde_json::Value {
        let line = find(&lines, path);
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    };
    let served = object("/served");
    assert_eq!(served["method"], "GET");
    assert_eq!(served["host"], "api.example.com");
    assert_eq!(served["path"], "/served");
    assert_eq!(served["route"], "api.example.com");
    assert_eq!(served["client"], "alice");
    assert_eq!((served["status"].as_u64(), served["bytes"].as_u64()), (Some(200), Some(5)));
    assert!(served["wait_ms"].is_number() && served["total_ms"].is_number() && served["upstream_ms"].is_number());
    assert_eq!(
        (object("/refused")["status"].as_u64(), object("/refused")["code"].as_str()),
        (Some(429), Some("wait_too_long"))
    );
    let left = object("/left");
    assert_eq!(left["status"], 499);
    assert!(left["wait_ms"].as_f64().is_some_and(|wait| wait > 100.0), "it waited: {left}");
}

/// Everything that the program has written once it has ended.
async fn lines_after_the_end(mut binary: Binary) -> Vec<String> {
    let ended = tokio::task::spawn_blocking(move || {
        binary.end();
        binary.lines()
    });
    ended.await.expect("no panic")
}

#[tokio::test]
async fn access_lines_can_be_switched_off() {
    let upstream = Upstream::start(plain).await;
    let binary = Binary::serve(&format!(
        "server: {{host: 127.0.0.1, port: 0}}\nadmin: off\nlog: {{access: false}}\nroutes: {{\"*\": \"{}\"}}\n",
        upstream.url()
    ));
    assert_eq!(get(binary.address(), "a.example", "/").await.status, StatusCode::OK);
    binary.signal("TERM");
    let lines = lines_after_the_end(binary).await;
    assert!(access_lines(&lines).is_empty(), "{lines:#?}");
}
