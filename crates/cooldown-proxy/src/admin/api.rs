//! `/api/v1`: how everything stands, and what may be done about it. `openapi.json` describes it.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};

use super::in_force::in_force;
use super::routes::{denied, error, wrong_method};
use super::{AdminState, guard, stream};
use crate::proxy::NoSuchUpstream;
use crate::telemetry::Event;

/// The description of everything here.
const OPENAPI: &str = include_str!("openapi.json");
/// The largest body that is read, in bytes.
const MOST_BODY: usize = 16 * 1024;
/// The longest cooldown by hand, in seconds: a pause has no end.
const LONGEST_COOLDOWN: f64 = 7.0 * 86_400.0;

/// What is done to an upstream.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    upstream: String,
}

/// A cooldown by hand.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CooldownOrder {
    upstream: String,
    seconds: f64,
}

/// The least important level that is logged.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Level {
    level: String,
}

/// An order that says all by its path.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// What a reload changed.
#[derive(Debug, Serialize)]
struct Reloaded {
    in_force: Vec<&'static str>,
    after_restart: Vec<&'static str>,
}

/// The latest events.
#[derive(Debug, Serialize)]
struct Recent {
    events: Vec<Event>,
}

/// What was ordered has been done.
#[derive(Debug, Serialize)]
struct Done {
    done: bool,
}

/// All paths below `/api/v1`.
pub(super) fn router() -> Router<Arc<AdminState>> {
    let orders = Router::new()
        .route("/cooldown", post(cooldown))
        .route("/release", post(release))
        .route("/pause", post(pause))
        .route("/resume", post(resume))
        .route("/log-level", post(set_log_level))
        .route("/reload", post(reload))
        .layer(middleware::from_fn(require_meaning))
        .layer(DefaultBodyLimit::max(MOST_BODY));
    Router::new()
        .route("/openapi.json", get(openapi))
        .route("/snapshot", get(snapshot))
        .route("/events", get(events))
        .route("/stream", get(stream::stream))
        .route("/config", get(config))
        .route("/log-level", get(log_level))
        .merge(orders)
        .method_not_allowed_fallback(wrong_method)
}

async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn snapshot(State(state): State<Arc<AdminState>>) -> Response {
    json(&state.snapshot())
}

async fn events(State(state): State<Arc<AdminState>>) -> Response {
    json(&Recent { events: state.metrics.events().after(0).0 })
}

async fn config(State(state): State<Arc<AdminState>>) -> Response {
    json(&in_force(&state.live.in_force()))
}

async fn cooldown(State(state): State<Arc<AdminState>>, body: Bytes) -> Response {
    let order: CooldownOrder = match read(&body) {
        Ok(order) => order,
        Err(response) => return *response,
    };
    if !(order.seconds > 0.0 && order.seconds <= LONGEST_COOLDOWN) {
        return error(StatusCode::BAD_REQUEST, "invalid_request", "`seconds` must lie between 0 and 604800");
    }
    done(state.live.site().close_by_hand(&order.upstream, Duration::from_secs_f64(order.seconds)))
}

async fn release(State(state): State<Arc<AdminState>>, body: Bytes) -> Response {
    match read::<Order>(&body) {
        Ok(order) => done(state.live.site().open_by_hand(&order.upstream)),
        Err(response) => *response,
    }
}

async fn pause(State(state): State<Arc<AdminState>>, body: Bytes) -> Response {
    match read::<Order>(&body) {
        Ok(order) => done(state.live.site().set_paused(&order.upstream, true)),
        Err(response) => *response,
    }
}

async fn resume(State(state): State<Arc<AdminState>>, body: Bytes) -> Response {
    match read::<Order>(&body) {
        Ok(order) => done(state.live.site().set_paused(&order.upstream, false)),
        Err(response) => *response,
    }
}

/// Reading a file and building everything anew takes milliseconds, which only this thread's other callers wait for.
async fn reload(State(state): State<Arc<AdminState>>, body: Bytes) -> Response {
    if let Err(response) = read::<Nothing>(&body) {
        return *response;
    }
    let Some(reloader) = &state.reloader else {
        return error(StatusCode::CONFLICT, "no_reload", "this proxy has nothing to read its configuration from");
    };
    match reloader.reload_and_tell() {
        Ok(changes) => json(&Reloaded { in_force: changes.in_force, after_restart: changes.after_restart }),
        Err(faults) => error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_configuration", &faults.to_string()),
    }
}

async fn log_level(State(state): State<Arc<AdminState>>) -> Response {
    match &state.log_level {
        Some(level) => json(&Level { level: level.get().to_string().to_lowercase() }),
        None => no_log(),
    }
}

async fn set_log_level(State(state): State<Arc<AdminState>>, body: Bytes) -> Response {
    let wanted = match read::<Level>(&body) {
        Ok(Level { level }) => level,
        Err(response) => return *response,
    };
    let Ok(level) = tracing::Level::from_str(&wanted) else {
        let text = "`level` must be one of error, warn, info, debug and trace";
        return error(StatusCode::BAD_REQUEST, "invalid_request", text);
    };
    match state.log_level.as_ref().map(|log_level| log_level.set(level)) {
        Some(Ok(())) => {
            tracing::info!(%level, "the log level was changed by hand");
            done(Ok(()))
        }
        Some(Err(_)) | None => no_log(),
    }
}

/// What changes something must be meant by whoever sends it.
async fn require_meaning(request: Request, next: Next) -> Response {
    match guard::is_meant(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(denial) => denied(denial),
    }
}

/// The error says what is wrong with the body.
fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Box<Response>> {
    serde_json::from_slice(body).map_err(|fault| {
        let text = format!("the body is not as /api/v1/openapi.json describes it: {fault}");
        Box::new(error(StatusCode::BAD_REQUEST, "invalid_request", &text))
    })
}

fn done(result: Result<(), NoSuchUpstream>) -> Response {
    match result {
        Ok(()) => json(&Done { done: true }),
        Err(fault) => error(StatusCode::NOT_FOUND, "no_such_upstream", &fault.to_string()),
    }
}

fn no_log() -> Response {
    error(StatusCode::CONFLICT, "no_log", "this proxy writes no log whose level could be changed")
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the answer cannot be written"),
    }
}
