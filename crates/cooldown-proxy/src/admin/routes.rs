//! What the admin listener answers.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::guard::{self, Denial};
use super::{AdminState, Phase};

/// The format that [`crate::telemetry::Metrics::encode`] writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All paths. `loopback` says that only this machine can connect, so that only local names may be used for it.
pub(super) fn router(state: AdminState, loopback: bool) -> Router {
    let state = Arc::new(state);
    let mut router = Router::new()
        .route("/metrics", get(metrics))
        .fallback(unknown)
        .layer(middleware::from_fn_with_state(Arc::clone(&state), require_token))
        // What asks for health can rarely show a token, and is told nothing that needs one.
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
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
    error(StatusCode::NOT_FOUND, "not_found", "there are /healthz, /readyz and /metrics")
}

async fn wrong_method() -> Response {
    error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "ask with GET")
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

fn denied(denial: Denial) -> Response {
    let mut response = error(denial.status(), denial.code(), denial.message());
    if denial == Denial::Unauthorized {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// The shape of every error of this program. The texts are ours and need no escaping.
fn error(status: StatusCode, code: &'static str, message: &'static str) -> Response {
    let body = format!(
        r#"{{"type":"error","error":{{"type":"admin_error","code":"{code}","message":"{message}","param":null}}}}"#
    );
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};

    use super::*;
    use crate::admin::{self, Readiness};
    use crate::config::model::Admin;
    use crate::config::secret::Secret;
    use crate::telemetry::Metrics;

    struct Running {
        address: SocketAddr,
        readiness: Arc<Readiness>,
        metrics: Arc<Metrics>,
        stop: tokio::sync::oneshot::Sender<()>,
        thread: std::thread::JoinHandle<()>,
    }

    fn start(token: Option<&str>) -> Running {
        let admin = Admin { host: "127.0.0.1".to_owned(), port: 0, token: None };
        let listener = admin::bind(&admin).expect("a port");
        let address = listener.local_addr().expect("an address");
        let (readiness, metrics) = (Arc::new(Readiness::default()), Arc::new(Metrics::new()));
        let state = AdminState {
            metrics: Arc::clone(&metrics),
            readiness: Arc::clone(&readiness),
            token: token.map(|token| Secret::new(token.to_owned())),
        };
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
