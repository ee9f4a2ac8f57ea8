//! What the admin listener answers.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use serde_json::json;

use super::guard::{self, Denial};
use super::{AdminState, Phase, api, dashboard};

/// The format that [`crate::telemetry::Metrics::encode`] writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All paths. `loopback` says that only this machine can connect, so that only local names may be used for it.
pub(super) fn router(state: AdminState, loopback: bool) -> Router {
    let state = Arc::new(state);
    let mut router = Router::new()
        .route("/metrics", get(metrics))
        .nest("/api/v1", api::router())
        .fallback(unknown)
        .layer(middleware::from_fn_with_state(Arc::clone(&state), require_token))
        // What asks for health can rarely show a token, and is told nothing that needs one.
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .merge(dashboard::router())
        .method_not_allowed_fallback(wrong_method);
    if loopback {
        router = router.layer(middleware::from_fn(require_local_name));
    }
    router.layer(middleware::map_response(never_cache)).with_state(state)
}

/// The process lives, whatever it is doing.
async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether new requests are welcome.
async fn readyz(State(state): State<Arc<AdminState>>) -> Response {
    match state.readiness.phase() {
        Phase::Serving => "ready\n".into_response(),
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
        Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
    }
}

async fn metrics(State(state): State<Arc<AdminState>>) -> Response {
    match state.metrics.encode() {
        Ok(text) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the figures cannot be written"),
    }
}

async fn unknown() -> Response {
    error(StatusCode::NOT_FOUND, "not_found", "there are /, /healthz, /readyz, /metrics and /api/v1/openapi.json")
}

pub(super) async fn wrong_method() -> Response {
    let text = "ask with GET; what changes something takes POST";
    error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text)
}

async fn require_token(State(state): State<Arc<AdminState>>, request: Request, next: Next) -> Response {
    match state.token.as_ref().map_or(Ok(()), |token| guard::shows(token, request.headers())) {
        Ok(()) => next.run(request).await,
        Err(denial) => denied(denial),
    }
}

async fn require_local_name(request: Request, next: Next) -> Response {
    match guard::names_this_machine(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(denial) => denied(denial),
    }
}

async fn never_cache(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) fn denied(denial: Denial) -> Response {
    let mut response = error(denial.status(), denial.code(), denial.message());
    if denial == Denial::Unauthorized {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// The shape of every error of this program.
pub(super) fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let fault = json!({"type": "admin_error", "code": code, "message": message, "param": null});
    let body = json!({"type": "error", "error": fault}).to_string();
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};

    use super::*;
    use crate::admin::{self, Readiness};
    use crate::config;
    use crate::proxy::Site;
    use crate::reload::Live;
    use crate::telemetry::{AccessLog, Metrics};

    struct Running {
        address: SocketAddr,
        readiness: Arc<Readiness>,
        metrics: Arc<Metrics>,
        stop: tokio::sync::oneshot::Sender<()>,
        thread: std::thread::JoinHandle<()>,
    }

    fn start(token: Option<&str>) -> Running {
        let token = token.map(|token| format!(", token: {token}")).unwrap_or_default();
        let text = format!(
            "server: {{host: localhost, port: 0}}\n\
             admin: {{host: 127.0.0.1, port: 0{token}}}\n\
             routes: {{/api: {{upstream: \"http://127.0.0.1:9\", limits: {{requests: 5/s}}}}}}\n"
        );
        let config = config::parse("config.yaml", &text, &|_| None).unwrap_or_else(|faults| panic!("{faults}"));
        let listener = admin::bind(config.admin.as_ref().expect("it is on")).expect("a port");
        let address = listener.local_addr().expect("an address");
        let metrics = Arc::new(Metrics::new());
        let site = Site::new(&config, Arc::clone(&metrics), AccessLog::off()).expect("a site");
        let state = AdminState::new(&config, Arc::clone(&metrics), Live::new(&config, site));
        let readiness = Arc::clone(&state.readiness);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let shutdown = async move { drop(stopped.await) };
        let thread = admin::serve(listener, state, shutdown).expect("a thread");
        Running { address, readiness, metrics, stop, thread }
    }

    /// Status and whole response.
    fn ask(running: &Running, head: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(running.address).expect("a connection");
        write!(stream, "{head}\r\nconnection: close\r\n\r\n").expect("written");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("a response");
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("a status"), text)
    }

    fn get(running: &Running, path: &str) -> (u16, String) {
        ask(running, &format!("GET {path} HTTP/1.1\r\nhost: localhost"))
    }

    #[test]
    fn readiness_follows_the_life_of_the_program_and_health_does_not() {
        let running = start(None);
        for (phase, ready) in [(Phase::Starting, 503), (Phase::Serving, 200), (Phase::Draining, 503)] {
            running.readiness.enter(phase);
            assert_eq!(get(&running, "/readyz").0, ready, "{phase:?}");
            assert_eq!(get(&running, "/healthz").0, 200, "{phase:?}");
        }
    }

    #[test]
    fn metrics_come_in_the_format_that_they_say() {
        let running = start(None);
        running.metrics.route("api").arrived(1);
        let (status, text) = get(&running, "/metrics");
        assert_eq!(status, 200);
        assert!(text.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{text}");
        assert!(text.contains("cooldown_upstream_requests_total{upstream=\"api\"} 1"), "{text}");
    }

    #[test]
    fn what_is_not_there_is_told_in_json() {
        let running = start(None);
        let (status, text) = get(&running, "/nothing");
        assert_eq!(status, 404);
        let body = text.split("\r\n\r\n").nth(1).expect("a body");
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["error"]["code"], "not_found");
        assert_eq!(ask(&running, "POST /metrics HTTP/1.1\r\nhost: localhost").0, 405);
    }

    #[test]
    fn a_page_from_elsewhere_cannot_ask_through_a_browser() {
        let running = start(None);
        let (status, text) = ask(&running, "GET /metrics HTTP/1.1\r\nhost: evil.example");
        assert_eq!(status, 403, "{text}");
    }

    #[test]
    fn figures_need_the_token_and_health_does_not() {
        let running = start(Some("s3cret"));
        assert_eq!(get(&running, "/metrics").0, 401);
        assert_eq!(get(&running, "/nothing").0, 401, "what exists is not told either");
        assert_eq!(get(&running, "/healthz").0, 200);
        let with_token = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer s3cret";
        assert_eq!(ask(&running, with_token).0, 200);
    }

    /// Status and body of an order.
    fn order(running: &Running, path: &str, body: &str, fields: &str) -> (u16, serde_json::Value) {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n{fields}");
        let mut stream = TcpStream::connect(running.address).expect("a connection");
        write!(stream, "{head}connection: close\r\n\r\n{body}").expect("written");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("a response");
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let body = text.split("\r\n\r\n").nth(1).expect("a body");
        (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}")))
    }

    fn body_of(running: &Running, path: &str) -> serde_json::Value {
        let (status, text) = get(running, path);
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(text.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON")
    }

    const JSON: &str = "content-type: application/json\r\n";

    #[test]
    fn what_is_ordered_is_done_and_shows() {
        let running = start(None);
        let upstream = || body_of(&running, "/api/v1/snapshot")["upstreams"][0].clone();
        assert_eq!(upstream()["limits"][0]["amount"], 5);
        let (order_of, of_it) = (|path: &str, body: &str| order(&running, path, body, JSON), r#"{"upstream": "/api"}"#);
        assert_eq!(order_of("/api/v1/pause", of_it).0, 200);
        assert_eq!(upstream()["paused"], true);
        assert_eq!(order_of("/api/v1/resume", of_it).0, 200);
        assert_eq!(order_of("/api/v1/cooldown", r#"{"upstream": "/api", "seconds": 60}"#).0, 200);
        assert_eq!(
            (upstream()["paused"].clone(), upstream()["cooldowns"].as_array().map(Vec::len)),
            (false.into(), Some(1))
        );
        assert_eq!(order_of("/api/v1/release", of_it).0, 200);
        assert_eq!(upstream()["cooldowns"], serde_json::json!([]));
        let events = body_of(&running, "/api/v1/events");
        assert_eq!(events["events"].as_array().map(Vec::len), Some(4), "{events}");
    }

    #[test]
    fn orders_that_cannot_be_followed_are_told_why() {
        let running = start(None);
        for (path, body, status, code) in [
            ("/api/v1/pause", r#"{"upstream": "nobody"}"#, 404, "no_such_upstream"),
            ("/api/v1/pause", r#"{"upstream": "/api", "more": 1}"#, 400, "invalid_request"),
            ("/api/v1/pause", "", 400, "invalid_request"),
            ("/api/v1/cooldown", r#"{"upstream": "/api", "seconds": -1}"#, 400, "invalid_request"),
            ("/api/v1/cooldown", r#"{"upstream": "/api", "seconds": 1e300}"#, 400, "invalid_request"),
            ("/api/v1/log-level", r#"{"level": "loud"}"#, 400, "invalid_request"),
            ("/api/v1/log-level", r#"{"level": "info"}"#, 409, "no_log"),
            ("/api/v1/reload", "{}", 409, "no_reload"),
            ("/api/v1/snapshot", "{}", 405, "method_not_allowed"),
        ] {
            let (told, answer) = order(&running, path, body, JSON);
            assert_eq!((told, answer["error"]["code"].as_str()), (status, Some(code)), "{path} {body}: {answer}");
        }
    }

    #[test]
    fn a_page_from_elsewhere_cannot_give_orders_through_a_browser() {
        let running = start(None);
        for (fields, status) in [
            ("content-type: text/plain\r\n".to_owned(), 415),
            (format!("{JSON}origin: http://evil.example\r\n"), 403),
            (format!("{JSON}sec-fetch-site: cross-site\r\n"), 403),
            (format!("{JSON}sec-fetch-site: same-origin\r\norigin: http://localhost\r\n"), 200),
        ] {
            assert_eq!(order(&running, "/api/v1/resume", r#"{"upstream": "/api"}"#, &fields).0, status, "{fields}");
        }
    }

    #[test]
    fn everything_that_is_described_is_there() {
        let running = start(None);
        let described = body_of(&running, "/api/v1/openapi.json");
        let paths = described["paths"].as_object().expect("paths");
        for (path, methods) in paths {
            for method in methods.as_object().expect("methods").keys() {
                let status = match (method.as_str(), path.as_str()) {
                    // It does not end.
                    (_, "/api/v1/stream") => continue,
                    ("get", _) => get(&running, path).0,
                    _ => order(&running, path, "?", JSON).0,
                };
                assert!(![404, 405].contains(&status), "{method} {path}: {status}");
            }
        }
        assert!(paths.len() >= 10, "{}", paths.len());
    }

    #[test]
    fn a_listener_hears_how_things_stand_and_what_happens() {
        let running = start(None);
        let mut stream = TcpStream::connect(running.address).expect("a connection");
        write!(stream, "GET /api/v1/stream HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("written");
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a timeout");
        let mut heard = String::new();
        let mut until = |what: &str| {
            let mut chunk = [0; 4096];
            while !heard.contains(what) {
                let read = stream.read(&mut chunk).expect("it goes on");
                assert!(read > 0, "it ended before {what}: {heard}");
                heard.push_str(&String::from_utf8_lossy(&chunk[..read]));
            }
        };
        until("event: snapshot");
        assert_eq!(order(&running, "/api/v1/pause", r#"{"upstream": "/api"}"#, JSON).0, 200);
        until("paused by hand");
        until("\"paused\":true");
    }

    #[test]
    fn the_dashboard_is_there_without_a_token_and_holds_nothing() {
        let running = start(Some("s3cret"));
        let (status, text) = get(&running, "/");
        assert_eq!(status, 200);
        assert!(text.contains("content-security-policy: default-src 'none'"), "{text}");
        assert_eq!(get(&running, "/dashboard.css").0, 200);
        assert_eq!(get(&running, "/dashboard.js").0, 200);
        assert_eq!(get(&running, "/api/v1/snapshot").0, 401);
    }

    #[test]
    fn the_thread_ends_when_it_is_told_to() {
        let running = start(None);
        let idle = TcpStream::connect(running.address).expect("a connection");
        running.stop.send(()).expect("it serves");
        running.thread.join().expect("no panic");
        assert!(TcpStream::connect(running.address).is_err(), "the port is free again");
        drop(idle);
    }
}
