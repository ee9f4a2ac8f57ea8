//! The dashboard in a real Chromium, under load, and `status` beside it.
//!
//! Both are loud: a browser keeps a core busy.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::{Binary, Body, Client, Upstream, command, empty, loud, request, text};

const BUSY: &str = "api.example.com";
const LIMITED: &str = "limited.example.com";
/// Longer than the browser's story takes on a busy machine.
const STORY: Duration = Duration::from_secs(180);

/// Every twentieth request to the limited one is refused, for two seconds.
async fn answer(request: Request<Incoming>) -> Response<Body> {
    static SEEN: AtomicUsize = AtomicUsize::new(0);
    sleep(Duration::from_millis(40)).await;
    let is_limited = request.headers().get("host").is_some_and(|host| host == LIMITED);
    let mut response = Response::new(text("hello"));
    if is_limited && SEEN.fetch_add(1, Ordering::Relaxed) % 20 == 9 {
        *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        response.headers_mut().insert("retry-after", HeaderValue::from_static("2"));
    }
    response
}

fn config(upstream: &Upstream) -> String {
    let url = upstream.url();
    format!(
        "server: {{host: 127.0.0.1, port: 0, drain_timeout: 1s}}\n\
         admin: {{host: 127.0.0.1, port: 0}}\n\
         log: {{access: false}}\n\
         routes:\n\
         \x20 {BUSY}: {{upstream: \"{url}\", limits: {{requests: [20/s, 200k/day], concurrency: 8}}}}\n\
         \x20 {LIMITED}: {{upstream: \"{url}\", limits: {{requests: 300/min}}}}\n\
         providers:\n\
         \x20 models: {{provider: openai, endpoint: \"{url}\", api_keys: [sk-first-key, sk-second-key], models: [small, large], \
         limits: {{requests: 60/min, tokens: 40k/min}}}}\n"
    )
}

/// Clients that ask again and again until they are dropped.
fn load(binary: &Binary) -> JoinSet<()> {
    let proxy = binary.address();
    let mut clients = JoinSet::new();
    let callers = [("alice", BUSY, 6), ("bob", BUSY, 6), ("nightly batch", BUSY, 12), ("carol", LIMITED, 6)];
    for (name, host, at_once) in callers {
        for _ in 0..at_once {
            clients.spawn(async move {
                let mut client = Client::connect(proxy).await;
                loop {
                    let call = request(host, "/").header("x-cooldown-client", name).body(empty());
                    client.fetch(call.expect("a valid request")).await;
                }
            });
        }
    }
    clients.spawn(async move {
        let mut client = Client::connect(proxy).await;
        loop {
            let body = r#"{"model": "small", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 300}"#;
            let call = Request::post("/v1/chat/completions").header("host", "localhost");
            let call =
                call.header("content-type", "application/json").header("x-cooldown-client", "dave").body(text(body));
            client.fetch(call.expect("a valid request")).await;
        }
    });
    clients
}

/// Where the pictures are kept.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap_or(Path::new("target")).join("screenshots")
}

async fn drive(admin: &str) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/dashboard.mjs");
    let mut node = Command::new("node");
    node.arg(script).args([admin, BUSY, LIMITED]).arg(folder());
    node.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(STORY, node.output()).await.expect("the story ends").expect("node runs; see .ci/setup");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {words}"))
}

#[tokio::test]
async fn the_dashboard_lives_in_a_real_browser() {
    let _loud = loud().await;
    let upstream = Upstream::start(answer).await;
    let binary = Binary::serve(&config(&upstream));
    let _load = load(&binary);
    let seen = drive(&format!("http://{}/", binary.admin_address())).await;
    assert!(seen["waits"].as_f64().is_some_and(|waits| waits > 0.0), "{seen}");
    assert!(seen["closed"].as_str().is_some_and(|left| left.ends_with("left")), "{seen}");
    assert!(seen["clients"].as_array().is_some_and(|names| names.contains(&"nightly batch".into())), "{seen}");
    assert_eq!(seen["unnamed"], 0, "every control has an accessible name: {seen}");
    assert!(seen["overflow"].as_i64().is_some_and(|overflow| overflow <= 0), "nothing is wider than the page: {seen}");
    assert_eq!(seen["faults"], serde_json::json!([]), "the browser complains of nothing");
    for name in ["dashboard-light", "dashboard-dark", "dashboard-phone"] {
        let path = folder().join(format!("{name}.png"));
        assert!(std::fs::metadata(&path).is_ok_and(|file| file.len() > 10_000), "{}", path.display());
    }
}

#[tokio::test]
async fn status_draws_how_a_running_proxy_stands() {
    let upstream = Upstream::start(answer).await;
    let binary = Binary::serve(&config(&upstream));
    let load = load(&binary);
    sleep(Duration::from_secs(1)).await;
    let url = format!("http://{}", binary.admin_address());
    let run = |arguments: Vec<String>| {
        tokio::task::spawn_blocking(move || {
            let folder = TempDir::new().expect("a folder");
            command(&folder, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
        })
    };
    let drawn = run(vec!["status".into(), "--url".into(), url.clone()]).await.expect("no panic");
    assert_eq!(drawn.status.code(), Some(0), "{}", drawn.stderr);
    assert!(drawn.stdout.contains(BUSY) && drawn.stdout.contains("20 requests a second"), "{}", drawn.stdout);
    assert!(drawn.stdout.contains("nightly batch"), "{}", drawn.stdout);
    assert!(!drawn.stdout.contains('\x1b'), "a pipe gets plain text");
    let json = run(vec!["status".into(), "--json".into(), "--url".into(), url]).await.expect("no panic");
    let snapshot: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(snapshot["upstreams"][2]["keys"].as_array().map(Vec::len), Some(2), "{snapshot}");
    assert!(!json.stdout.contains("sk-"), "{snapshot}");
    drop((load, binary));
    let nobody = run(vec!["status".into(), "--url".into(), "http://127.0.0.1:9".into()]).await.expect("no panic");
    assert_eq!(nobody.status.code(), Some(1));
    assert!(nobody.stderr.contains("does not tell its status"), "{}", nobody.stderr);
}
