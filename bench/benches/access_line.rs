//! What one access line costs: formatted by hand, and as an event of `tracing` with the same fields.

use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use cooldown_proxy::config::model::{Log, LogFormat};
use cooldown_proxy::telemetry::{AccessLog, Metrics, Sink};
use criterion::{Criterion, criterion_group, criterion_main};
use http::{Method, StatusCode};

fn by_hand(criterion: &mut Criterion) {
    for (name, format) in [("text", LogFormat::Text), ("json", LogFormat::Json)] {
        let (sink, _guard) = Sink::start(Box::new(io::sink())).expect("a thread");
        let log = AccessLog::new(sink, &Log { level: tracing::Level::INFO, format, access: true });
        let route: Arc<str> = Arc::from("api.example.com");
        criterion.bench_function(&format!("access line, by hand, {name}"), |bencher| {
            bencher.iter(|| {
                let mut line = log.line(&Method::POST, || "api.example.com", black_box("/v1/chat/completions"));
                line.route(&route);
                line.client("alice");
                line.waited(Duration::from_millis(12));
                line.sent();
                line.responded(StatusCode::OK);
                line.bytes(1024);
                line.complete();
            });
        });
    }
}

fn by_tracing(criterion: &mut Criterion) {
    let (sink, _guard) = Sink::start(Box::new(io::sink())).expect("a thread");
    let text = tracing_subscriber::fmt().with_ansi(false).with_writer(sink.clone()).finish();
    tracing::subscriber::with_default(text, || {
        criterion.bench_function("access line, tracing, text", |bencher| bencher.iter(event));
    });
    let json = tracing_subscriber::fmt().json().flatten_event(true).with_writer(sink).finish();
    tracing::subscriber::with_default(json, || {
        criterion.bench_function("access line, tracing, json", |bencher| bencher.iter(event));
    });
}

fn event() {
    tracing::info!(
        target: "access",
        method = "POST",
        host = "api.example.com",
        path = black_box("/v1/chat/completions"),
        status = 200_u16,
        route = "api.example.com",
        client = "alice",
        wait_ms = 12.0,
        upstream_ms = 45.1,
        total_ms = 60.2,
        attempts = 1_u32,
        bytes = 1024_u64,
    );
}

fn figures(criterion: &mut Criterion) {
    let metrics = Metrics::new();
    let (route, domain) = (metrics.route("api.example.com"), metrics.domain("api.example.com"));
    criterion.bench_function("figures of one request, route and domain", |bencher| {
        bencher.iter(|| {
            for figures in [&route, &domain] {
                figures.arrived(1);
                figures.waited(black_box(Duration::ZERO));
                figures.attempt();
                figures.responded(StatusCode::OK);
            }
        });
    });
    criterion.bench_function("handle of a known domain", |bencher| {
        bencher.iter(|| metrics.domain(black_box("api.example.com")));
    });
}

criterion_group!(benches, by_hand, by_tracing, figures);
criterion_main!(benches);
