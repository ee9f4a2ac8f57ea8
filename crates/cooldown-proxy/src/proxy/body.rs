//! Bodies on their way through: streamed frame by frame, never collected.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::readahead::{Ahead, AheadMemory};
use super::record::Record;
use super::worker::InFlight;
use crate::pacing::Permit;
use crate::upstream::Lease;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The side that sends it broke off.
    #[error("the body broke off: {0}")]
    Broken(#[from] hyper::Error),
    /// Nothing moved for `server.idle_timeout`.
    #[error("the body stood still for too long")]
    Idle,
}

/// A request's body on its way to the upstream: what was read while the request waited, then the rest as it comes.
#[derive(Debug)]
pub struct RequestBody {
    ahead: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    /// `None` once its end has been read.
    rest: Option<Incoming>,
    /// What `ahead` takes of the memory that all waiting bodies share.
    held: Ahead,
    idle: Idle,
}

/// A response's body on its way to the client.
#[derive(Debug)]
pub enum ResponseBody {
    /// Our own words.
    Whole(Option<Bytes>),
    /// The upstream's.
    Relayed(Box<Relayed>),
}

/// An upstream's body and everything that its request holds until the last byte: dropping it gives all of that back.
#[derive(Debug)]
pub struct Relayed {
    incoming: Incoming,
    lease: Lease,
    idle: Idle,
    record: Record,
    _permit: Permit,
    _in_flight: InFlight,
}

/// A clock that runs while nothing moves.
#[derive(Debug)]
struct Idle {
    limit: Duration,
    /// Started when something is awaited for the first time; most bodies never wait.
    sleep: Option<Pin<Box<Sleep>>>,
    moved: bool,
}

impl RequestBody {
    /// The body of a request, of which nothing has been read yet.
    pub(super) fn new(incoming: Incoming, idle_limit: Duration) -> Self {
        let rest = (!incoming.is_end_stream()).then_some(incoming);
        let (ahead, trailers) = (VecDeque::new(), None);
        Self { ahead, trailers, rest, held: Ahead::default(), idle: Idle::new(idle_limit) }
    }

    /// Reads on while the request waits, as far as the memory for that allows. Without it the end of a client that hangs
    /// up would stay hidden behind its unread body. Ready when no more will be read.
    pub(super) fn poll_ahead(&mut self, memory: &Rc<AheadMemory>, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        while let Some(rest) = self.rest.as_mut() {
            if !self.held.may_grow(memory) {
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(rest).poll_frame(cx)) {
                Some(Ok(frame)) => self.keep(frame, memory),
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => self.rest = None,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn keep(&mut self, frame: Frame<Bytes>, memory: &Rc<AheadMemory>) {
        match frame.into_data() {
            Ok(data) => {
                let data = self.held.keep(data, memory);
                self.ahead.push_back(data);
            }
            Err(frame) => self.trailers = frame.into_trailers().ok(),
        }
        if self.rest.as_ref().is_some_and(Body::is_end_stream) {
            self.rest = None;
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(data) = this.ahead.pop_front() {
            this.held.release(data.len());
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(rest) = this.rest.as_mut() {
            let polled = Pin::new(rest).poll_frame(cx);
            return this.idle.watch(polled, cx);
        }
        Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.trailers.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let ahead: u64 = self.ahead.iter().map(|data| data.len() as u64).sum();
        let rest = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(ahead));
        }
        hint.set_lower(rest.lower().saturating_add(ahead));
        hint
    }
}

impl Relayed {
    /// The body of a response that arrives on `lease`'s connection.
    pub(super) fn new(
        incoming: Incoming,
        lease: Lease,
        permit: Permit,
        record: Record,
        in_flight: InFlight,
        idle_limit: Duration,
    ) -> Self {
        Self { incoming, lease, idle: Idle::new(idle_limit), record, _permit: permit, _in_flight: in_flight }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.lease.poll_body(&mut self.incoming, cx);
        let polled = self.idle.watch(polled, cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.record.bytes(frame.data_ref().map_or(0, Bytes::len)),
            Poll::Ready(None) => self.record.complete(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        // hyper does not ask for more once it knows that nothing follows.
        if self.incoming.is_end_stream() {
            self.record.complete();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Relayed(relayed) => relayed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Relayed(relayed) => relayed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Relayed(relayed) => relayed.incoming.size_hint(),
        }
    }
}

impl Idle {
    fn new(limit: Duration) -> Self {
        Self { limit, sleep: None, moved: false }
    }

    /// Passes on what a body's poll gave, and cuts the body when it has given nothing for too long.
    fn watch(
        &mut self,
        polled: Poll<Option<Result<Frame<Bytes>, hyper::Error>>>,
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
