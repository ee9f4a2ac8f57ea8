//! A clock that runs while nothing moves.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Frame;
use tokio::time::{Instant, Sleep, sleep};

use super::body::BodyError;
use crate::http1::MessageError;

/// A clock that runs while nothing moves.
#[derive(Debug)]
pub(super) struct Idle {
    limit: Duration,
    /// Started when something is awaited for the first time; most bodies never wait.
    sleep: Option<Pin<Box<Sleep>>>,
    moved: bool,
}

impl Idle {
    /// Rings after `limit`.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, sleep: None, moved: false }
    }

    /// How long nothing may move.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Begins anew: what was before does not count.
    pub(super) fn restart(&mut self) {
        self.moved = true;
    }

    /// Passes on what a body's poll gave, and cuts the body when it has given nothing for too long.
    pub(super) fn watch(
        &mut self,
        polled: Poll<Option<Result<Frame<Bytes>, MessageError>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = polled {
            self.moved = true;
            return Poll::Ready(frame.map(|result| result.map_err(BodyError::from)));
        }
        let limit = self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(limit)));
        if std::mem::take(&mut self.moved) {
            sleep.as_mut().reset(Instant::now() + limit);
        }
        sleep.as_mut().poll(cx).map(|()| Some(Err(BodyError::Idle)))
    }
}
