//! Whoever asks for whatever, with whatever fields, and whatever upstreams answer: a key of ours comes to its own upstream
//! only, a caller's to none that has keys of ours, a client's token to none at all, and what is between neighbours stays there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use http::{Method, Response};
use parking_lot::Mutex;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use crate::support::{Answer, Client, Proxy, Seen, Upstream, request, text};

/// Keys of ours, by the provider that they are for.
const OURS: [(&str, &str); 4] =
    [("p", "sk-ours-p-1"), ("p", "sk-ours-p-2"), ("q", "sk-ours-q-1"), ("g", "sk-ours-g-1")];
const CALLERS: &str = "sk-callers";
const TOKEN: &str = "t-of-a-client";
/// Fields in which credentials travel.
const CREDENTIALS: [&str; 4] = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];

const FIELDS: [(&str, &str); 22] = [
    ("authorization", "Bearer sk-callers"),
    ("authorization", "Basic sk-callers"),
    ("authorization", "Bearer t-of-a-client"),
    ("x-api-key", "sk-callers"),
    ("x-api-key", "t-of-a-client"),
    ("api-key", "sk-callers"),
    ("x-goog-api-key", "sk-callers"),
    ("proxy-authorization", "Basic sk-callers"),
    ("connection", "authorization, x-private"),
    ("connection", "close, x-api-key"),
    ("connection", "Upgrade, X-Private, te"),
    ("connection", "host, content-length, x-forwarded-for"),
    ("upgrade", "websocket"),
    ("te", "trailers, gzip"),
    ("te", "deflate"),
    ("keep-alive", "timeout=5"),
    ("proxy-connection", "keep-alive"),
    ("x-private", "1"),
    ("x-cooldown-client", "somebody"),
    ("x-cooldown-later", "1"),
    ("x-forwarded-for", "10.0.0.1"),
    ("forwarded", "for=10.0.0.1"),
];
const PATHS: [&str; 8] = [
    "/x?key=sk-callers&y=1",
    "/v1/chat/completions",
    "/v1/chat/completions?key=sk-callers",
    "/p/v1/chat/completions",
    "/q/v1/messages",
    "/c/v1/chat/completions",
    "/g/v1beta/models/only-g:generateContent?key=sk-callers&alt=sse",
    "/v1beta/models/shared:streamGenerateContent?key=sk-callers&alt=sse",
];
const MODELS: [&str; 5] = ["shared", "only-p", "only-q", "only-c", "nobodys"];
const HOSTS: [&str; 3] = ["localhost", "a.example", "x.b.example"];

/// A request: its host, its path, its model, its fields.
type Call = (&'static str, &'static str, &'static str, Vec<(&'static str, &'static str)>);

fn call() -> impl Strategy<Value = Call> {
    (select(&HOSTS[..]), select(&PATHS[..]), select(&MODELS[..]), prop::collection::vec(select(&FIELDS[..]), 0..8))
}

/// The upstreams of one proxy, by the provider's name; routes lead to `r`.
struct Upstreams {
    all: Vec<(&'static str, Upstream)>,
    statuses: Arc<Mutex<Vec<u16>>>,
}

impl Upstreams {
    async fn start() -> Self {
        let statuses = Arc::new(Mutex::new(vec![200]));
        let (count, mut all) = (Arc::new(AtomicUsize::new(0)), Vec::new());
        for name in ["r", "p", "q", "c", "g"] {
            let (statuses, count) = (Arc::clone(&statuses), Arc::clone(&count));
            let answer = move |_| {
                let status = {
                    let statuses = statuses.lock();
                    statuses[count.fetch_add(1, SeqCst) % statuses.len()]
                };
                async move { Response::builder().status(status).body(text("{}")).expect("a response") }
            };
            all.push((name, Upstream::start(answer).await));
        }
        Self { all, statuses }
    }

    fn proxy(&self, has_clients: bool, fallback: &str) -> Proxy {
        let url = |name: &str| self.all.iter().find(|(other, _)| *other == name).expect("one of them").1.url();
        let clients = if has_clients {
            format!("clients: {{alice: {{token: {TOKEN}}}, somebody: {{}}}}\n")
        } else {
            String::new()
        };
        let fallback = |name: &str| if name == fallback { ", fallback: true" } else { "" };
        Proxy::start(&format!(
            "routes: {{a.example: \"{r}\", \"*.b.example\": \"{r}/base\"}}\n\
             providers:\n\
             \x20 p: {{endpoint: \"{p}/v1\", api_keys: [sk-ours-p-1, sk-ours-p-2], models: [shared, only-p]{}}}\n\
             \x20 q: {{provider: anthropic, endpoint: \"{q}\", api_key: sk-ours-q-1, models: [shared, only-q]{}}}\n\
             \x20 c: {{endpoint: \"{c}/v1\", api_key: client, models: [shared, only-c]{}}}\n\
             \x20 g: {{provider: gemini, endpoint: \"{g}\", api_key: sk-ours-g-1, models: [shared, only-g]{}}}\n\
             queue: {{max_wait: 20ms}}\n{clients}",
            fallback("p"),
            fallback("q"),
            fallback("c"),
            fallback("g"),
            r = url("r"),
            p = url("p"),
            q = url("q"),
            c = url("c"),
            g = url("g"),
        ))
    }
}

/// Sends it. The last field tells the upstream which one it is.
async fn ask(proxy: &Proxy, nth: usize, (host, path, model, fields): &Call) -> Answer {
    let body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]}).to_string();
    let call = request(host, path).method(Method::POST).header("content-type", "application/json");
    let call = fields.iter().fold(call, |call, (name, value)| call.header(*name, *value));
    let call = call.header("x-nth", nth).body(text(body)).expect("a valid request");
    Client::connect(proxy.address()).await.fetch(call).await
}

/// What came to an upstream was meant for it. Where there are clients, their token is for the proxy alone.
fn check(name: &str, seen: &[Seen], calls: &[Call], has_clients: bool) -> Result<(), TestCaseError> {
    let own: Vec<&str> = OURS.iter().filter(|(owner, _)| *owner == name).map(|(_, key)| *key).collect();
    for seen in seen {
        let fields = || seen.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("ASCII")));
        let credentials: Vec<_> = fields().filter(|(name, _)| CREDENTIALS.contains(name)).collect();
        let target = seen.uri.to_string();
        for (owner, key) in OURS {
            let holds = fields().filter(|(_, value)| value.contains(key)).count() + usize::from(target.contains(key));
            prop_assert!(holds == 0 || owner == name, "{key} came to {name}: {seen:?}");
        }
        prop_assert!(!has_clients || !fields().any(|(_, value)| value.contains(TOKEN)), "{seen:?}");
        if !own.is_empty() {
            prop_assert_eq!(credentials.len(), 1, "{} got {:?}", name, credentials);
            let (field, value) = credentials[0];
            let value = value.strip_prefix("Bearer ").unwrap_or(value);
            let expected = match name {
                "q" => "x-api-key",
                "g" => "x-goog-api-key",
                _ => "authorization",
            };
            prop_assert!(field == expected && own.contains(&value), "{name} got {credentials:?}");
            let by_model = name != "g" && seen.uri.query().is_some_and(|query| query.contains("key="));
            prop_assert!(name != "g" || !target.contains(CALLERS), "{target}");
            prop_assert!(!by_model, "{target}");
        }
        let told = |field: &str| seen.field(field);
        prop_assert!(["", "te", "upgrade"].contains(&told("connection").as_str()), "{seen:?}");
        prop_assert!(["", "trailers"].contains(&told("te").as_str()), "{seen:?}");
        for between in
            ["proxy-authorization", "keep-alive", "proxy-connection", "x-cooldown-client", "x-cooldown-later"]
        {
            prop_assert_eq!(told(between), "", "{:?}", seen);
        }
        let nth: usize = told("x-nth").parse().expect("a number");
        let named = |field: &str| {
            let lists = calls[nth].3.iter().filter(|(name, _)| *name == "connection");
            lists.flat_map(|(_, list)| list.split(',')).any(|name| name.trim().eq_ignore_ascii_case(field))
        };
        prop_assert!(!named("x-private") || told("x-private").is_empty(), "{seen:?}");
        if own.is_empty() {
            prop_assert!(!named("authorization") || told("authorization").is_empty(), "{seen:?}");
            prop_assert!(!named("x-api-key") || told("x-api-key").is_empty(), "{seen:?}");
        }
    }
    Ok(())
}

#[test]
fn credentials_come_to_whom_they_are_meant_for_and_to_nobody_else() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let upstreams = runtime.block_on(Upstreams::start());
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(80) };
    let statuses = prop::collection::vec(select(&[200_u16, 200, 401, 402, 429, 503, 529, 500][..]), 1..6);
    let fallback = select(&["", "p", "q", "c", "g"][..]);
    let strategy = (prop::collection::vec(call(), 1..6), statuses, any::<bool>(), fallback);
    let outcome =
        proptest::test_runner::TestRunner::new(config).run(&strategy, |(calls, statuses, has_clients, fallback)| {
            *upstreams.statuses.lock() = statuses;
            let before: Vec<usize> = upstreams.all.iter().map(|(_, upstream)| upstream.seen().len()).collect();
            let answers = runtime.block_on(async {
                let proxy = upstreams.proxy(has_clients, fallback);
                let mut answers = Vec::new();
                for (nth, call) in calls.iter().enumerate() {
                    answers.push(ask(&proxy, nth, call).await);
                }
                tokio::task::spawn_blocking(move || drop(proxy)).await.expect("no panic");
                answers
            });
            for ((name, upstream), from) in upstreams.all.iter().zip(before) {
                check(name, &upstream.seen()[from..], &calls, has_clients)?;
            }
            for answer in answers {
                let told = format!("{:?} {:?}", answer.headers, answer.body);
                prop_assert!(!OURS.iter().any(|(_, key)| told.contains(key)) && !told.contains(TOKEN), "{told}");
            }
            Ok(())
        });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let seen: Vec<usize> = upstreams.all.iter().map(|(_, upstream)| upstream.seen().len()).collect();
    assert!(!seen.contains(&0), "all of them were asked: {seen:?}");
}
