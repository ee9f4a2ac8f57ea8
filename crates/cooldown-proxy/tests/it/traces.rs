//! Traces: what a collector gets of requests, decoded with the official types, and what upstreams and callers see of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use parking_lot::Mutex;
use prost::Message as _;

use crate::support::{Client, Proxy, Upstream, empty, get, plain, request, text, until};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

/// What collects traces.
struct Collector {
    upstream: Upstream,
    exports: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Collector {
    async fn start() -> Self {
        let exports = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&exports);
        let upstream = Upstream::start(move |request| {
            let kept = Arc::clone(&kept);
            async move {
                assert_eq!(request.uri().path(), "/v1/traces");
                assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                let body: Bytes = request.into_body().collect().await.expect("a body").to_bytes();
                kept.lock().push(ExportTraceServiceRequest::decode(body).expect("OTLP"));
                Response::new(text(""))
            }
        })
        .await;
        Self { upstream, exports }
    }

    fn section(&self, more: &str) -> String {
        format!("telemetry: {{otlp: \"{}\"{more}}}\n", self.upstream.url())
    }

    /// Every span so far.
    fn spans(&self) -> Vec<Span> {
        let exports = self.exports.lock();
        let resources = exports.iter().flat_map(|export| export.resource_spans.clone());
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    /// The spans of `requests` requests, once all are there.
    async fn told(&self, requests: usize) -> Vec<Span> {
        let roots = |spans: &[Span]| spans.iter().filter(|span| span.kind() == SpanKind::Server).count();
        until("the collector has been told", || roots(&self.spans()) >= requests).await;
        self.spans()
    }
}

fn attributes(span: &Span) -> BTreeMap<String, String> {
    let told = span.attributes.iter().map(|attribute| {
        let value = match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(Value::StringValue(text)) => text.clone(),
            Some(Value::IntValue(number)) => number.to_string(),
            other => panic!("{other:?}"),
        };
        (attribute.key.clone(), value)
    });
    told.collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_failed(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == SpanStatus::Error)
}

fn routes(upstream: &Upstream, more: &str) -> String {
    format!("routes: {{\"*\": {{upstream: \"{}\"{more}}}}}\n", upstream.url())
}

#[tokio::test]
async fn a_request_its_wait_its_attempts_and_its_stream_are_told() {
    let collector = Collector::start().await;
    let turned_away = Arc::new(Mutex::new(false));
    let upstream = Upstream::start(move |_| {
        let first = !std::mem::replace(&mut *turned_away.lock(), true);
        async move {
            let mut response = Response::new(text("answered"));
            if first {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                response.headers_mut().insert("retry-after", http::HeaderValue::from_static("1"));
            }
            response
        }
    })
    .await;
    let proxy = Proxy::start(&(routes(&upstream, "") + &collector.section(", service_name: tested")));
    let mut client = Client::connect(proxy.address()).await;
    let asked = request("a.example", "/path?secret=1").header("traceparent", PARENT).header("tracestate", "x=1");
    let answer = client.fetch(asked.body(empty()).expect("a valid request")).await;
    assert_eq!(answer.status, StatusCode::OK);

    let spans = collector.told(1).await;
    let root = spans.iter().find(|span| span.kind() == SpanKind::Server).expect("a root");
    assert_eq!(hex(&root.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!((hex(&root.parent_span_id).as_str(), root.trace_state.as_str()), ("00f067aa0ba902b7", "x=1"));
    assert_eq!(root.name, "GET *");
    let told = attributes(root);
    let of = |name: &str| told.get(name).map(String::as_str);
    assert_eq!((of("http.request.method"), of("server.address")), (Some("GET"), Some("a.example")));
    assert_eq!((of("url.path"), of("http.response.status_code")), (Some("/path"), Some("200")));
    assert_eq!((of("cooldown.upstream"), of("cooldown.attempts"), of("error.type")), (Some("*"), Some("2"), None));
    assert!(!is_failed(root));

    let mut attempts: Vec<&Span> = spans.iter().filter(|span| span.kind() == SpanKind::Client).collect();
    attempts.sort_by_key(|span| span.start_time_unix_nano);
    assert_eq!(attempts.len(), 2);
    assert_eq!(attributes(attempts[0])["error.type"], "capacity");
    assert_eq!(attributes(attempts[1])["http.request.resend_count"], "1");
    assert_eq!((is_failed(attempts[0]), is_failed(attempts[1])), (true, false));
    let seen = upstream.seen();
    for (attempt, seen) in attempts.iter().zip(&seen) {
        assert_eq!(hex(&attempt.parent_span_id), hex(&root.span_id));
        let expected = format!("00-{}-{}-01", hex(&root.trace_id), hex(&attempt.span_id));
        assert_eq!(
            seen.headers["traceparent"].to_str().expect("text"),
            expected,
            "the attempt is the upstream's parent"
        );
        assert_eq!(seen.headers["tracestate"], "x=1");
    }
    let named = |name: &str| spans.iter().filter(|span| span.name == name).count();
    assert_eq!((named("wait"), named("stream")), (1, 1), "it waited out what it was told, and was streamed once");
    let wait = spans.iter().find(|span| span.name == "wait").expect("a wait");
    let waited = wait.end_time_unix_nano - wait.start_time_unix_nano;
    assert!(waited > Duration::from_millis(500).as_nanos() as u64, "{waited} ns");
    for span in &spans {
        assert_eq!(span.trace_id, root.trace_id);
        assert!(span.start_time_unix_nano >= root.start_time_unix_nano);
        assert!(span.end_time_unix_nano <= root.end_time_unix_nano);
    }
    let service = collector.exports.lock()[0].resource_spans[0].resource.clone().expect("a resource");
    assert!(format!("{service:?}").contains("tested"), "{service:?}");
    assert!(!format!("{spans:?}").contains("secret"), "the query of a URL is told to nobody");
}

#[tokio::test]
async fn a_caller_who_does_not_trace_is_believed_and_context_passes_as_it_came() {
    let (collector, upstream) = (Collector::start().await, Upstream::start(plain).await);
    let traced = Proxy::start(&(routes(&upstream, "") + &collector.section("")));
    let plain = Proxy::start(&routes(&upstream, ""));
    for (proxy, parent) in [(&traced, UNSAMPLED), (&plain, PARENT), (&plain, UNSAMPLED), (&plain, "nonsense")] {
        let mut client = Client::connect(proxy.address()).await;
        let asked = request("a.example", "/").header("traceparent", parent).header("tracestate", "a=b,c=d");
        assert_eq!(client.fetch(asked.body(empty()).expect("a valid request")).await.status, StatusCode::OK);
        let seen = upstream.seen().pop().expect("a request");
        assert_eq!(seen.headers["traceparent"], parent);
        assert_eq!(seen.headers["tracestate"], "a=b,c=d");
    }
    drop(traced);
    assert!(collector.spans().is_empty());
}

#[tokio::test]
async fn what_has_no_parent_begins_a_trace_and_what_is_not_sampled_none() {
    let (collector, upstream) = (Collector::start().await, Upstream::start(plain).await);
    let always = Proxy::start(&(routes(&upstream, "") + &collector.section("")));
    let never = Proxy::start(&(routes(&upstream, "") + &collector.section(", sample: 0")));
    get(never.address(), "a.example", "/").await;
    assert!(!upstream.seen()[0].headers.contains_key("traceparent"));
    let mut client = Client::connect(always.address()).await;
    let asked = request("a.example", "/").header("traceparent", "nonsense").header("tracestate", "of=nothing");
    client.fetch(asked.body(empty()).expect("a valid request")).await;
    let seen = upstream.seen().pop().expect("a request");
    let root = collector.told(1).await.into_iter().find(|span| span.kind() == SpanKind::Server).expect("a root");
    assert!(root.parent_span_id.is_empty());
    assert!(seen.headers["traceparent"].to_str().expect("text").contains(&hex(&root.trace_id)));
    assert!(!seen.headers.contains_key("tracestate"), "a state belongs to a trace");
}

#[tokio::test]
async fn refusals_and_clients_that_leave_are_told_as_what_they_are() {
    let collector = Collector::start().await;
    let upstream = Upstream::start(|_| std::future::pending::<Response<crate::support::Body>>()).await;
    let proxy = Proxy::start(&(routes(&upstream, ", timeout: 200ms") + &collector.section("")));
    assert_eq!(get(proxy.address(), "a.example", "/slow").await.status, StatusCode::GATEWAY_TIMEOUT);
    let leaves = tokio::time::timeout(Duration::from_millis(50), get(proxy.address(), "a.example", "/leaves")).await;
    assert!(leaves.is_err());
    let spans = collector.told(2).await;
    let root = |path: &str| {
        let found = spans.iter().find(|span| span.kind() == SpanKind::Server && attributes(span)["url.path"] == path);
        found.expect("a root")
    };
    assert_eq!(attributes(root("/slow"))["error.type"], "upstream_timeout");
    assert_eq!(attributes(root("/leaves"))["error.type"], "client_left");
    assert!(is_failed(root("/slow")) && is_failed(root("/leaves")));
}

#[tokio::test]
async fn a_collector_that_is_away_or_stands_still_holds_nobody_up() {
    let upstream = Upstream::start(plain).await;
    let stuck = Upstream::start(|_| std::future::pending::<Response<crate::support::Body>>()).await;
    for collector in ["http://127.0.0.1:9".to_owned(), stuck.url()] {
        let proxy = Proxy::start(&format!("{}telemetry: {{otlp: \"{collector}\"}}\n", routes(&upstream, "")));
        let began = Instant::now();
        for _ in 0..50 {
            assert_eq!(get(proxy.address(), "a.example", "/").await.status, StatusCode::OK);
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let ending = Instant::now();
        tokio::task::spawn_blocking(move || drop(proxy)).await.expect("no panic");
        assert!(ending.elapsed() < Duration::from_secs(5), "its end is bounded: {:?}", ending.elapsed());
    }
}

#[tokio::test]
async fn a_collector_gets_the_token_that_it_wants_and_nobody_else_does() {
    let (collector, upstream) = (Collector::start().await, Upstream::start(plain).await);
    let headers = ", headers: {authorization: \"Bearer t-1\", x-team: two words}";
    let proxy = Proxy::start(&(routes(&upstream, "") + &collector.section(headers)));
    assert_eq!(get(proxy.address(), "a.example", "/").await.status, StatusCode::OK);
    collector.told(1).await;
    let told = collector.upstream.seen().pop().expect("an export");
    assert_eq!((told.field("authorization"), told.field("x-team")), ("Bearer t-1".into(), "two words".into()));
    assert_eq!(upstream.only().field("authorization"), "");
}

#[tokio::test]
async fn a_collector_is_told_over_tls_by_what_the_environment_says() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let certificate = crate::support::Certificate::new();
    certificate.write_to(folder.path());
    let (tls, exports) = (certificate.server(&["http/1.1"], None), Arc::new(Mutex::new(Vec::new())));
    let kept = Arc::clone(&exports);
    let collector = Upstream::bytes(move |stream| {
        let (acceptor, kept) = (tokio_rustls::TlsAcceptor::from(Arc::clone(&tls)), Arc::clone(&kept));
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut head = vec![0; 64 * 1024];
            let length = tokio::io::AsyncReadExt::read(&mut stream, &mut head).await.unwrap_or_default();
            kept.lock().push(String::from_utf8_lossy(&head[..length]).into_owned());
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
        }
    })
    .await;
    let upstream = Upstream::start(plain).await;
    let config = format!("server: {{host: 127.0.0.1, port: 0}}\nadmin: off\n{}", routes(&upstream, ""));
    let roots = folder.path().join("cert.pem");
    let endpoint = format!("https://localhost:{}", collector.address.port());
    let environment = [
        ("SSL_CERT_FILE", roots.to_str().expect("a path in UTF-8")),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20token"),
    ];
    let proxy = crate::support::Binary::serve_with(&config, &[], &environment);
    assert_eq!(get(proxy.address(), "a.example", "/").await.status, StatusCode::OK);
    until("the collector has been told", || !exports.lock().is_empty()).await;
    let told = exports.lock()[0].clone();
    assert!(told.starts_with("POST /v1/traces HTTP/1.1\r\n") && told.contains("api-key: a token\r\n"), "{told}");
    assert!(!proxy.lines().iter().any(|line| line.contains("a token")));
}

#[tokio::test]
async fn the_last_requests_are_told_before_the_end() {
    let (collector, upstream) = (Collector::start().await, Upstream::start(plain).await);
    let proxy = Proxy::start(&(routes(&upstream, "") + &collector.section("")));
    for _ in 0..5 {
        get(proxy.address(), "a.example", "/").await;
    }
    tokio::task::spawn_blocking(move || drop(proxy)).await.expect("no panic");
    assert_eq!(collector.spans().iter().filter(|span| span.kind() == SpanKind::Server).count(), 5);
}
