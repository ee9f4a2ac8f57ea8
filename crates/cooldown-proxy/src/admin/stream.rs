//! The live stream: a snapshot once a second, and events as they come. Nothing runs while nobody listens.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::AdminState;
use super::routes::error;

/// So many may listen at once: others than listeners must find a connection too.
pub(super) const MOST_LISTENERS: usize = 24;
const EVERY: Duration = Duration::from_secs(1);

/// Somebody who listens.
struct Listener {
    state: Arc<AdminState>,
    ticks: Interval,
    news: watch::Receiver<u64>,
    /// The latest change of events that was told.
    heard: u64,
    /// What is to be sent before anything is waited for.
    ready: VecDeque<sse::Event>,
    _place: OwnedSemaphorePermit,
}

/// `GET /api/v1/stream`.
pub(super) async fn stream(State(state): State<Arc<AdminState>>) -> Response {
    let Ok(place) = Arc::clone(&state.listeners).try_acquire_owned() else {
        let text = "as many as may are listening already";
        return error(StatusCode::SERVICE_UNAVAILABLE, "too_many_listeners", text);
    };
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let news = state.metrics.events().listen();
    let listener = Listener { state, ticks, news, heard: 0, ready: VecDeque::new(), _place: place };
    let told = stream::unfold(listener, |mut listener| async move {
        let event = listener.next().await;
        Some((Ok::<_, Infallible>(event), listener))
    });
    Sse::new(told).into_response()
}

impl Listener {
    async fn next(&mut self) -> sse::Event {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            let is_time = tokio::select! {
                _ = self.ticks.tick() => true,
                // The events live as long as what is listened to.
                _ = self.news.changed() => false,
            };
            self.tell_events();
            if is_time {
                self.ready.extend(told("snapshot", &self.state.snapshot()));
            }
        }
    }

    /// Those that came, and those that happened again.
    fn tell_events(&mut self) {
        let (events, latest) = self.state.metrics.events().after(self.heard);
        self.heard = latest;
        if !events.is_empty() {
            self.ready.extend(told("events", &events));
        }
    }
}

fn told(name: &str, data: &impl Serialize) -> Option<sse::Event> {
    let data = serde_json::to_string(data).ok()?;
    Some(sse::Event::default().event(name).data(data))
}
