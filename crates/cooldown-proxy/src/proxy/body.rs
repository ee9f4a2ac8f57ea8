//! Responses' bodies on their way to the client: streamed frame by frame, never collected.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use cooldown_pacer::Spent;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::idle::Idle;
use super::kept::Kept;
use super::meter::Meter;
use super::opening::Opening;
use super::peer::Peer;
use super::record::Record;
use super::unread::Unread;
use super::worker::InFlight;
use crate::http1::MessageError;
use crate::pacing::Permit;
use crate::upstream::Lease;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The side that sends it broke off.
    #[error("the body broke off: {0}")]
    Broken(#[from] MessageError),
    /// Nothing moved for `server.idle_timeout`.
    #[error("the body stood still for too long")]
    Idle,
}

/// A response's body on its way to the client.
#[derive(Debug)]
pub enum ResponseBody {
    /// Our own words.
    Whole(Option<Bytes>),
    /// The upstream's.
    Relayed(Rc<Passed>),
    /// Signs of life while the request waits, then what its upstream answers.
    Kept(Box<Kept>),
}

/// An upstream's body, as its client takes it. One that stops taking is let go of: nobody polls a body whose client makes no
/// room for more, so that the body's own clock stands still.
#[derive(Debug)]
pub struct Passed {
    /// `None` once it was let go of.
    relayed: RefCell<Option<Relayed>>,
    peer: Rc<Peer>,
    /// Its peer knows of it: it was not over with its first bytes.
    known: Cell<bool>,
    /// Something was taken since the last look.
    moved: Cell<bool>,
    /// Since when nothing was.
    still_since: Cell<Option<Instant>>,
}

/// An upstream's body and everything that its request holds until the last byte: dropping it gives all of that back.
#[derive(Debug)]
pub struct Relayed {
    /// What was read of it before its head was passed on.
    opening: Opening,
    lease: Lease,
    idle: Idle,
    meter: Option<Box<Meter>>,
    record: Record,
    permit: Option<Permit>,
    unread: Option<Unread>,
    _in_flight: InFlight,
}

/// What a response holds until its last byte.
pub(super) struct Holding {
    pub opening: Opening,
    pub lease: Lease,
    pub meter: Option<Box<Meter>>,
    pub permit: Permit,
    pub unread: Option<Unread>,
    pub record: Record,
    pub in_flight: InFlight,
}

impl Relayed {
    /// The body of a response that arrives on a lease's connection.
    pub(super) fn new(holding: Holding, idle_limit: Duration) -> Self {
        let Holding { opening, lease, meter, permit, unread, record, in_flight } = holding;
        let idle = Idle::new(idle_limit);
        let permit = Some(permit);
        Self { opening, lease, idle, meter, record, permit, unread, _in_flight: in_flight }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let frame = match ready!(self.poll_upstream(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(self.finish().map(|rest| Ok(Frame::data(rest)))),
            };
            if let Some(frame) = self.pass(frame) {
                return Poll::Ready(Some(Ok(frame)));
            }
        }
    }

    /// What comes next, already read or not.
    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(frame) = self.opening.pop() {
            return Poll::Ready(Some(frame.map_err(BodyError::from)));
        }
        let polled = self.lease.poll_body(cx);
        let polled = self.idle.watch(polled, cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(meter)) = (&polled, &mut self.meter) {
            meter.read(frame.data_ref().map_or(&[][..], |data| data));
        }
        polled
    }

    /// What goes on to the client in the place of a frame; `None` if all of it is held back.
    fn pass(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let frame = match &mut self.meter {
            Some(meter) if meter.hides() => match frame.into_data() {
                Ok(data) => Frame::data(Some(meter.pass(data)).filter(|data| !data.is_empty())?),
                Err(frame) => frame,
            },
            _ => frame,
        };
        self.record.bytes(frame.data_ref().map_or(0, Bytes::len));
        Some(frame)
    }

    /// The last byte has come: everything is settled at once. What was held back still goes on.
    fn finish(&mut self) -> Option<Bytes> {
        self.record.complete();
        let rest = self.meter.as_mut().map(|meter| meter.rest()).filter(|rest| !rest.is_empty());
        self.record.bytes(rest.as_ref().map_or(0, Bytes::len));
        self.settle(true);
        rest
    }

    fn settle(&mut self, complete: bool) {
        let Some(mut permit) = self.permit.take() else { return };
        if let Some((refusal, why)) = self.meter.as_mut().and_then(|meter| meter.late_refusal()) {
            self.record.turned_away(why);
            permit.observe(refusal);
        }
        let spent = self.meter.take().map(|mut meter| meter.settle(complete, &self.record));
        permit.settle(spent.unwrap_or(Spent::AsEstimated));
    }

    fn is_end_stream(&self) -> bool {
        let holds_back = self.meter.as_ref().is_some_and(|meter| meter.hides());
        self.opening.is_empty() && !holds_back && self.lease.is_body_over()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        if self.meter.as_ref().is_some_and(|meter| meter.hides()) {
            return hint;
        }
        let (rest, read) = (self.lease.body_size(), self.opening.left());
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint
    }
}

impl Passed {
    pub(super) fn new(relayed: Relayed, peer: Rc<Peer>) -> Rc<Self> {
        let (known, moved) = (Cell::new(false), Cell::new(false));
        Rc::new(Self { relayed: RefCell::new(Some(relayed)), peer, known, moved, still_since: Cell::new(None) })
    }

    /// Lets go of it if nothing was taken of it for its idle time; looked at now and then.
    pub(super) fn look_after(&self, now: Instant) {
        if self.moved.replace(false) || self.still_since.get().is_none() {
            self.still_since.set(Some(now));
            return;
        }
        let still = self.still_since.get().map_or(Duration::ZERO, |since| now.duration_since(since));
        // One that is being polled just now moves.
        let Ok(mut relayed) = self.relayed.try_borrow_mut() else { return };
        let gone = relayed.take_if(|relayed| still >= relayed.idle.limit());
        drop(relayed);
        drop(gone);
    }

    fn poll_frame(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut relayed = self.relayed.borrow_mut();
        let Some(body) = relayed.as_mut() else { return Poll::Ready(Some(Err(BodyError::Idle))) };
        let polled = body.poll_frame(cx);
        self.moved.set(true);
        if !self.known.get() && !body.is_end_stream() {
            self.known.set(true);
            self.peer.passes(Rc::downgrade(self));
        }
        polled
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        // Nobody asks for more once it is known that nothing follows.
        let complete = self.is_end_stream();
        if complete {
            self.record.complete();
        }
        self.settle(complete);
        if let Some(unread) = self.unread.take().filter(|unread| complete && !unread.is_empty()) {
            unread.send_on(self.lease.hand_over());
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Relayed(passed) => passed.poll_frame(cx),
            Self::Kept(kept) => kept.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Relayed(passed) => passed.relayed.borrow().as_ref().is_some_and(Relayed::is_end_stream),
            Self::Kept(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Relayed(passed) => passed.relayed.borrow().as_ref().map(Relayed::size_hint).unwrap_or_default(),
            Self::Kept(_) => SizeHint::default(),
        }
    }
}
