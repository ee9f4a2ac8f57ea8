//! A client's connection, as its task and the body of its present request share it.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use hyper::body::{Bytes, Frame, SizeHint};
use tokio::io::AsyncWrite;

use super::request::{Asked, read_request};
use super::{Decoder, LONGEST_HEAD, MessageError, Reader};
use crate::stream::Stream;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A client's connection. One task reads heads from it and writes answers; the bodies of requests are read by whoever has the
/// [`ClientBody`], and by nobody else for as long as there is one.
#[derive(Debug)]
pub(crate) struct Side {
    stream: Stream,
    reader: Reader,
    /// The body of the present request.
    body: Decoder,
    /// Which request that is.
    number: u64,
    /// What the client waits for before it sends the body.
    due: &'static [u8],
    /// Somebody has the body.
    held: bool,
    /// Nothing that follows can be read any more.
    failed: bool,
    /// Wakes the connection's task when the body is over or given up.
    waiting: Option<Waker>,
}

/// The body of a request, as it comes.
#[derive(Debug)]
pub struct ClientBody {
    side: Rc<RefCell<Side>>,
    number: u64,
}

impl Side {
    /// The connection on this stream.
    pub(crate) fn new(stream: Stream) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            stream,
            reader: Reader::default(),
            body: Decoder::default(),
            number: 0,
            due: b"",
            held: false,
            failed: false,
            waiting: None,
        }))
    }

    /// What answers are written to.
    pub(crate) fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// The next request; `None` if the client has closed.
    pub(crate) fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Asked>, MessageError>> {
        loop {
            if let Some(asked) = read_request(&mut self.reader)? {
                return Poll::Ready(Ok(Some(asked)));
            }
            if ready!(self.reader.poll_read(&mut self.stream, cx))? == 0 {
                let is_between = self.reader.bytes().iter().all(|byte| matches!(byte, b'\r' | b'\n'));
                return Poll::Ready(if is_between { Ok(None) } else { Err(MessageError::Ended) });
            }
        }
    }

    /// Ready when the client has gone. It may send requests ahead, as far as there is room for one.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.failed {
            return Poll::Ready(());
        }
        if !self.body.is_over() {
            self.waits(cx);
            return Poll::Pending;
        }
        while self.reader.bytes().len() < LONGEST_HEAD {
            match ready!(self.reader.poll_read(&mut self.stream, cx)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
        Poll::Pending
    }

    /// The body of the present request will not be wanted: nobody tells the client to send it.
    pub(crate) fn answers(&mut self) {
        if self.due.len() == CONTINUE.len() {
            self.due = b"";
            // A client that was not told may send it all the same, or not.
            self.failed = !self.body.is_over();
        }
    }

    /// Whether all of the present request has been read.
    pub(crate) fn is_body_over(&self) -> bool {
        self.body.is_over()
    }

    /// Whether nothing of what has come is left.
    pub(crate) fn is_drained(&self) -> bool {
        self.body.is_over() && self.reader.is_empty() && !self.failed
    }

    /// Whether what follows cannot be read.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Leaves what is left of a body out, once nobody has it. Ready when it is over; false if what follows it is lost.
    pub(crate) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            if self.failed || self.body.is_over() {
                return Poll::Ready(!self.failed);
            }
            if self.held {
                self.waits(cx);
                return Poll::Pending;
            }
            let frame = ready!(self.body.poll_frame(&mut self.reader, &mut self.stream, cx));
            self.failed |= matches!(frame, Some(Err(_)));
        }
    }

    /// Reads what the client still sends for nobody, at most `most` bytes. Ready when that is done, or it has closed.
    pub(crate) fn poll_linger(&mut self, most: &mut usize, cx: &mut Context<'_>) -> Poll<()> {
        while *most > 0
            && let Ok(count @ 1..) = ready!(self.reader.poll_read(&mut self.stream, cx))
        {
            self.reader.clear();
            *most = most.saturating_sub(count);
        }
        Poll::Ready(())
    }

    /// Says that nothing more will be written.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// The stream, and what was read of it.
    pub(crate) fn into_stream(mut self) -> (Stream, Bytes) {
        let early = self.reader.take(self.reader.bytes().len());
        (self.stream, early)
    }

    fn waits(&mut self, cx: &mut Context<'_>) {
        if self.waiting.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            self.waiting = Some(cx.waker().clone());
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, MessageError>>> {
        while !self.due.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, self.due)) {
                Ok(count) => self.due = &self.due[count..],
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
        let polled = self.body.poll_frame(&mut self.reader, &mut self.stream, cx);
        self.failed |= matches!(polled, Poll::Ready(Some(Err(_))));
        if self.failed || self.body.is_over() {
            self.waiting.take().into_iter().for_each(Waker::wake);
        }
        polled
    }
}

impl ClientBody {
    /// The body of a request that has come on this connection.
    pub(crate) fn begin(side: &Rc<RefCell<Side>>, body: Decoder, wants_continue: bool) -> Self {
        let mut present = side.borrow_mut();
        present.number += 1;
        present.held = !body.is_over();
        present.body = body;
        present.due = if wants_continue { CONTINUE } else { b"" };
        Self { side: Rc::clone(side), number: present.number }
    }

    /// The next piece, or the trailers; `None` when it is over.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, MessageError>>> {
        let mut side = self.side.borrow_mut();
        if side.number == self.number { side.poll_body(cx) } else { Poll::Ready(None) }
    }

    /// Whether all of it has been read.
    pub fn is_end_stream(&self) -> bool {
        let side = self.side.borrow();
        side.number != self.number || side.body.is_over()
    }

    /// How much is left of it, as far as that is known.
    pub fn size_hint(&self) -> SizeHint {
        let side = self.side.borrow();
        if side.number == self.number { side.body.size_hint() } else { SizeHint::with_exact(0) }
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        let mut side = self.side.borrow_mut();
        if side.number == self.number {
            side.held = false;
            side.waiting.take().into_iter().for_each(Waker::wake);
        }
    }
}
