//! A request's body on its way out in a stream of HTTP/2, where a task of the connection sends it.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::proxy::body::BodyError;
use crate::proxy::request_body::RequestBody;

/// A body that is sent for as long as somebody uses its stream. Another attempt may send the same body: the task that sends
/// this one must be gone by then.
#[derive(Debug)]
pub(super) struct Sent {
    body: RequestBody,
    bond: Rc<Bond>,
}

/// What the user of a stream and the task that sends its body know of each other.
#[derive(Debug, Default)]
pub(super) struct Bond {
    /// Nobody uses the stream any more.
    released: Cell<bool>,
    /// The body was sent or given up.
    ended: Cell<bool>,
    /// The client broke it off.
    broke: Cell<bool>,
    /// Wakes the task that sends.
    sender: RefCell<Option<Waker>>,
    /// Wakes whoever waits for the body's end.
    user: RefCell<Option<Waker>>,
}

impl Sent {
    pub(super) fn new(body: RequestBody, bond: Rc<Bond>) -> Self {
        Self { body, bond }
    }

    /// The body itself, of which nothing was sent.
    pub(super) fn unsent(mut self) -> RequestBody {
        std::mem::replace(&mut self.body, RequestBody::Empty)
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.bond.ended.set(true);
        self.bond.user.take().into_iter().for_each(Waker::wake);
    }
}

impl Bond {
    /// Ends the sending of the body, if it goes on.
    pub(super) fn release(&self) {
        self.released.set(true);
        self.sender.take().into_iter().for_each(Waker::wake);
    }

    /// Whether the client broke its body off.
    pub(super) fn is_broken(&self) -> bool {
        self.broke.get()
    }

    /// Whether no more of the body will be sent. Wakes when it has come to that.
    pub(super) fn poll_ended(&self, cx: &mut Context<'_>) -> bool {
        if !self.ended.get() {
            *self.user.borrow_mut() = Some(cx.waker().clone());
        }
        self.ended.get()
    }

    /// Whether no more of the body will be sent.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.get()
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.bond.released.get() {
            // The error resets the stream.
            return Poll::Ready(Some(Err(BodyError::Idle)));
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Pending => *self.bond.sender.borrow_mut() = Some(cx.waker().clone()),
            Poll::Ready(Some(Err(_))) => self.bond.broke.set(true),
            Poll::Ready(_) => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
