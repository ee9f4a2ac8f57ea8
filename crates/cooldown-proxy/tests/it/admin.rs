//! The admin listener: health, readiness, figures.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::Response;
use tokio::time::sleep;

use crate::support::{Binary, Upstream, empty, fetch, get, plain, request, text, until};

fn config(upstream: &Upstream, admin: &str) -> String {
    format!(
        "server: {{host: 127.0.0.1, port: 0, drain_timeout: 5s}}\n\
         admin: {{host: 127.0.0.1, port: 0{admin}}}\n\
         routes: {{api.example.com: {{upstream: \"{}\", limits: {{requests: \"4/s, burst 1\"}}}}}}\n\
         default_rate_limit: {{requests_per_second: 100}}\n\
         queue: {{max_wait: 2s}}\n",
        upstream.url()
    )
}

/// The value of the metric whose line starts with `name` and contains every one of `labels`.
fn figure(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    let line = metrics.lines().find(|line| {
        let rest = line.strip_prefix(name).unwrap_or_default();
        rest.starts_with(['{', ' ']) && labels.iter().all(|label| rest.contains(label))
    });
    let line = line.unwrap_or_else(|| panic!("no {name} with {labels:?} in:\n{metrics}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no value: {line}"))
}

async fn metrics(admin: SocketAddr) -> String {
    let answer = get(admin, &admin.to_string(), "/metrics").await;
    assert_eq!(answer.status, StatusCode::OK);
    answer.text().to_owned()
}

#[tokio::test]
async fn figures_tell_what_happened_per_upstream_and_per_domain() {
    let upstream = Upstream::start(|request| async move {
        let mut response = Response::new(text("hello"));
        if request.uri().path() == "/broken" {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        response
    })
    .await;
    let binary = Binary::serve(&config(&upstream, ""));
    let (proxy, admin) = (binary.address(), binary.admin_address());
    for path in ["/", "/broken", "/"] {
        get(proxy, "api.example.com", path).await;
    }
    let refused = request("api.example.com", "/").header("prefer", "wait=0").body(empty()).expect("a valid request");
    assert_eq!(fetch(proxy, refused).await.status, StatusCode::TOO_MANY_REQUESTS);

    let answer = get(admin, &admin.to_string(), "/metrics").await;
    assert!(answer.field("content-type").contains("text"), "{}", answer.field("content-type"));
    let text = answer.text();
    for (scope, label) in [("upstream", "upstream=\"api.example.com\""), ("domain", "domain=\"api.example.com\"")] {
        let read =
            |name: &str, more: &[&str]| figure(text, &format!("cooldown_{scope}_{name}"), &[&[label], more].concat());
        assert_eq!(read("requests_total", &[]), 4.0, "{scope}");
        assert_eq!(read("delayed_requests_total", &[]), 2.0, "{scope}");
        assert_eq!(read("waiting_requests", &[]), 0.0, "{scope}");
        assert_eq!(read("responses_total", &["class=\"2xx\""]), 2.0, "{scope}");
        assert_eq!(read("responses_total", &["class=\"5xx\""]), 1.0, "{scope}");
        assert_eq!(read("refusals_total", &["code=\"wait_too_long\""]), 1.0, "{scope}");
        assert_eq!(read("attempts_total", &[]), 3.0, "{scope}");
        assert!(read("wait_seconds_sum", &[]) > 0.2, "{scope}");
        assert!(read("last_access_timestamp_seconds", &[]) > 1e9, "{scope}");
    }
    let room = figure(text, "cooldown_upstream_room", &["upstream=\"api.example.com\""]);
    assert!((0.0..=4.0).contains(&room), "{room}");
}

#[tokio::test]
async fn waiting_requests_are_counted_while_they_wait() {
    let upstream = Upstream::start(plain).await;
    let binary = Binary::serve(&config(&upstream, ""));
    let (proxy, admin) = (binary.address(), binary.admin_address());
    let calls: Vec<_> = (0..4).map(|_| tokio::spawn(async move { get(proxy, "api.example.com", "/").await })).collect();
    until("the first one is served", || !upstream.seen().is_empty()).await;
    sleep(Duration::from_millis(50)).await;
    let waiting = figure(&metrics(admin).await, "cooldown_upstream_waiting_requests", &["api.example.com"]);
    assert!((1.0..=3.0).contains(&waiting), "{waiting}");
    for call in calls {
        call.await.expect("no panic");
    }
    assert_eq!(figure(&metrics(admin).await, "cooldown_upstream_waiting_requests", &["api.example.com"]), 0.0);
}

#[tokio::test]
async fn an_unreachable_upstream_is_counted_by_its_kind() {
    let upstream = Upstream::start(plain).await;
    let binary = Binary::serve(&config(&upstream, ""));
    let (proxy, admin) = (binary.address(), binary.admin_address());
    drop(upstream);
    sleep(Duration::from_millis(50)).await;
    assert_eq!(get(proxy, "api.example.com", "/").await.status, StatusCode::BAD_GATEWAY);
    let errors = figure(&metrics(admin).await, "cooldown_upstream_errors_total", &["code=\"upstream_unreachable\""]);
    assert_eq!(errors, 1.0);
}

#[tokio::test]
async fn health_and_readiness_tell_a_draining_proxy_from_a_serving_one() {
    let upstream = Upstream::start(|_| async {
        sleep(Duration::from_millis(1000)).await;
        Response::new(text("finished"))
    })
    .await;
    let binary = Binary::serve(&config(&upstream, ""));
    let (proxy, admin) = (binary.address(), binary.admin_address());
    let host = admin.to_string();
    assert_eq!(get(admin, &host, "/healthz").await.status, StatusCode::OK);
    assert_eq!(get(admin, &host, "/readyz").await.status, StatusCode::OK);
    assert_eq!(get(admin, &host, "/nothing").await.status, StatusCode::NOT_FOUND);

    let call = tokio::spawn(async move { get(proxy, "api.example.com", "/").await });
    until("a request is under way", || upstream.under_way() == 1).await;
    binary.signal("TERM");
    sleep(Duration::from_millis(200)).await;
    assert_eq!(get(admin, &host, "/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE, "no more traffic, please");
    assert_eq!(get(admin, &host, "/healthz").await.status, StatusCode::OK, "but it lives");
    assert_eq!(call.await.expect("no panic").status, StatusCode::OK);
}

#[tokio::test]
async fn a_token_is_asked_for_where_one_is_configured() {
    let upstream = Upstream::start(plain).await;
    let binary = Binary::serve(&config(&upstream, ", token: admin-secret"));
    let admin = binary.admin_address();
    let host = admin.to_string();
    assert_eq!(get(admin, &host, "/metrics").await.status, StatusCode::UNAUTHORIZED);
    let with = |token: &str| {
        request(&host, "/metrics").header("authorization", format!("Bearer {token}")).body(empty()).expect("valid")
    };
    assert_eq!(fetch(admin, with("admin-secrets")).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(fetch(admin, with("admin-secret")).await.status, StatusCode::OK);
}

/// An order to the admin API.
async fn order(admin: SocketAddr, path: &str, body: &str) -> StatusCode {
    let call = Request::post(format!("/api/v1/{path}")).header("host", admin.to_string());
    let call = call.header("content-type", "application/json").body(text(body.to_owned())).expect("a valid request");
    fetch(admin, call).await.status
}

async fn snapshot(admin: SocketAddr) -> serde_json::Value {
    get(admin, &admin.to_string(), "/api/v1/snapshot").await.json()["upstreams"][0].clone()
}

#[tokio::test]
async fn while_an_upstream_is_paused_its_requests_wait_and_then_go_on() {
    let upstream = Upstream::start(plain).await;
    let binary = Binary::serve(&config(&upstream, ""));
    let (proxy, admin) = (binary.address(), binary.admin_address());
    let of_it = r#"{"upstream": "api.example.com"}"#;
    assert_eq!(order(admin, "pause", of_it).await, StatusCode::OK);
    let call = tokio::spawn(async move { get(proxy, "api.example.com", "/").await });
    sleep(Duration::from_millis(500)).await;
    let paused = snapshot(admin).await;
    assert_eq!((&paused["paused"], &paused["line"]["waiting"]), (&true.into(), &1.into()), "{paused}");
    assert!(paused["line"]["oldest_ms"].as_u64().is_some_and(|oldest| oldest >= 300), "{paused}");
    assert!(upstream.seen().is_empty());
    assert_eq!(order(admin, "resume", of_it).await, StatusCode::OK);
    assert_eq!(call.await.expect("no panic").status, StatusCode::OK);

    assert_eq!(order(admin, "pause", of_it).await, StatusCode::OK);
    let refused = get(proxy, "api.example.com", "/").await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::TOO_MANY_REQUESTS, "wait_too_long"));
    let events = get(admin, &admin.to_string(), "/api/v1/events").await.json();
    let told = events["events"].as_array().expect("events").iter().any(|event| event["subject"] == "wait_too_long");
    assert!(told, "{events}");
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_what_is_paused() {
    let upstream = Upstream::start(plain).await;
    let mut binary = Binary::serve(&config(&upstream, "").replace("max_wait: 2s", "max_wait: 60s"));
    let (proxy, admin) = (binary.address(), binary.admin_address());
    assert_eq!(order(admin, "pause", r#"{"upstream": "api.example.com"}"#).await, StatusCode::OK);
    let call = tokio::spawn(async move { get(proxy, "api.example.com", "/").await });
    sleep(Duration::from_millis(300)).await;
    binary.signal("TERM");
    assert_eq!(call.await.expect("no panic").code(), "shutting_down");
    let (status, took) = binary.end();
    assert!(status.success() && took < Duration::from_secs(4), "{status} after {took:?}");
}

#[tokio::test]
async fn a_cooldown_by_hand_holds_requests_until_it_is_released() {
    let upstream = Upstream::start(plain).await;
    let binary = Binary::serve(&config(&upstream, ""));
    let (proxy, admin) = (binary.address(), binary.admin_address());
    assert_eq!(order(admin, "cooldown", r#"{"upstream": "api.example.com", "seconds": 1.5}"#).await, StatusCode::OK);
    let call = tokio::spawn(async move { get(proxy, "api.example.com", "/").await });
    sleep(Duration::from_millis(300)).await;
    assert!(upstream.seen().is_empty());
    assert_eq!(snapshot(admin).await["cooldowns"].as_array().map(Vec::len), Some(1));
    assert_eq!(order(admin, "release", r#"{"upstream": "api.example.com"}"#).await, StatusCode::OK);
    assert_eq!(call.await.expect("no panic").status, StatusCode::OK);
    assert_eq!(snapshot(admin).await["line"]["clients"][0]["served"], 1);
}

#[tokio::test]
async fn the_log_level_changes_while_the_program_runs() {
    let upstream = Upstream::start(plain).await;
    let binary = Binary::serve(&config(&upstream, ""));
    let admin = binary.admin_address();
    let level = || async move { get(admin, &admin.to_string(), "/api/v1/log-level").await.json()["level"].clone() };
    assert_eq!(level().await, "info");
    assert_eq!(order(admin, "log-level", r#"{"level": "warn"}"#).await, StatusCode::OK);
    assert_eq!(level().await, "warn");
    order(admin, "pause", r#"{"upstream": "api.example.com"}"#).await;
    order(admin, "log-level", r#"{"level": "info"}"#).await;
    binary.line("that tells of the level", |line| line.contains("the log level was changed by hand"));
    assert!(!binary.lines().iter().any(|line| line.contains("paused by hand")), "that was no warning");
}

#[tokio::test]
async fn the_proxys_own_port_knows_nothing_of_the_admin_api() {
    let upstream = Upstream::start(plain).await;
    let binary = Binary::serve(&config(&upstream, ""));
    let proxy = binary.address();
    for path in ["/", "/api/v1/snapshot", "/metrics", "/dashboard.js"] {
        let answer = get(proxy, &proxy.to_string(), path).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "no_route"), "{path}");
    }
}

#[tokio::test]
async fn the_configuration_is_put_in_force_anew_by_an_order_and_a_pause_outlives_that() {
    let upstream = Upstream::start(plain).await;
    let before = config(&upstream, "");
    let binary = Binary::serve(&before);
    let admin = binary.admin_address();
    let file = binary.folder().join("config.yaml");
    order(admin, "pause", r#"{"upstream": "api.example.com"}"#).await;

    std::fs::write(&file, before.replace("4/s, burst 1", "7/s, burst 1")).expect("written");
    assert_eq!(order(admin, "reload", "{}").await, StatusCode::OK);
    let after = snapshot(admin).await;
    assert_eq!((&after["limits"][0]["amount"], &after["paused"]), (&7.into(), &true.into()), "{after}");
    let told = get(admin, &admin.to_string(), "/api/v1/config").await.json();
    let limit = told["routes"]["api.example.com"]["limits"][0].as_str().unwrap_or_default().to_owned();
    assert!(limit.starts_with("7 requests a second"), "{told}");

    std::fs::write(&file, "server: {}").expect("written");
    assert_eq!(order(admin, "reload", "{}").await, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(snapshot(admin).await["limits"][0]["amount"], 7, "nothing has changed");
    let events = get(admin, &admin.to_string(), "/api/v1/events").await.text().to_owned();
    assert!(events.contains("configuration not changed: server host is required"), "{events}");
}
