//! One HTTP/1.1 connection to an upstream, driven by whoever uses it.
//!
//! The task that serves the client also drives the upstream's connection: a request is written in the same poll that
//! sends it, an answer wakes the client's task itself, and a dropped request closes the connection. A task of its own
//! for each connection would cost two more wake-ups a request.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::deadline::Deadline;
use crate::proxy::request_body::RequestBody;
use crate::stream::Stream;

type Driver = http1::Connection<TokioIo<Stream>, RequestBody>;

/// The longest response head, and how much of a body is read at once, in bytes.
const READ_BUFFER: usize = 128 * 1024;

/// An established connection that carries one request at a time.
#[derive(Debug)]
pub struct Connection {
    sender: http1::SendRequest<RequestBody>,
    driver: Driver,
    /// The driver has ended: nothing more can be sent, and it may not be polled again.
    over: bool,
    /// It has carried a request before, so that the upstream may be closing it.
    reused: bool,
    /// When the present request's response head must have come.
    deadline: Deadline,
}

/// Why there is no response head.
#[derive(Debug)]
pub enum ExchangeError {
    /// The upstream had closed this idle connection before anything was written: here is the request again.
    Unsent(Box<Request<RequestBody>>),
    /// The connection failed, or what came was no HTTP.
    Failed(hyper::Error),
    /// Nothing came in time.
    Timeout,
    /// The upstream said that it has not looked at the request.
    NotAccepted,
    /// The client broke off the request's body.
    BodyBroken,
}

impl ExchangeError {
    fn of(mut error: TrySendError<Request<RequestBody>>, reused: bool) -> Self {
        match error.take_message().filter(|_| reused) {
            Some(request) => Self::Unsent(Box::new(request)),
            None => Self::Failed(error.into_error()),
        }
    }
}

impl Connection {
    /// Speaks HTTP/1.1 over a fresh stream.
    ///
    /// # Errors
    /// Never in practice: HTTP/1.1 begins without an exchange.
    pub async fn open(stream: Stream) -> hyper::Result<Self> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(READ_BUFFER);
        let (sender, driver) = builder.handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, driver, over: false, reused: false, deadline: Deadline::default() })
    }

    /// Whether a request can be sent now. Notices a connection that the upstream has closed.
    pub fn is_usable(&mut self) -> bool {
        // Nobody needs waking: whoever sends polls again with a waker of its own.
        self.drive(&mut Context::from_waker(Waker::noop()));
        !self.over && self.sender.is_ready()
    }

    /// Whether it stands ready for another request, as far as is known.
    pub fn is_reusable(&self) -> bool {
        !self.over && self.sender.is_ready()
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Moves bytes in both directions.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        if !self.over && self.driver.poll_without_shutdown(cx).is_ready() {
            // An error has been handed to the waiting response or body.
            self.over = true;
        }
    }

    /// Sends a request and waits for the response head until `deadline`. The request is on the wire when this is first
    /// polled.
    ///
    /// # Errors
    /// When no response head comes.
    pub async fn exchange(
        &mut self,
        request: Box<Request<RequestBody>>,
        deadline: Instant,
    ) -> Result<Response<Incoming>, ExchangeError> {
        let reused = std::mem::replace(&mut self.reused, true);
        let mut answer = pin!(self.sender.try_send_request(*request));
        std::future::poll_fn(|cx| {
            if !self.over && self.driver.poll_without_shutdown(cx).is_ready() {
                self.over = true;
            }
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(answer.map_err(|error| ExchangeError::of(error, reused)));
            }
            self.deadline.poll(deadline, cx).map(|()| Err(ExchangeError::Timeout))
        })
        .await
    }

    /// The stream after a `101 Switching Protocols`, and what was already read from it.
    pub fn into_stream(mut self) -> (Stream, Bytes) {
        // The driver ends by itself once it has seen the switch; without that poll it would still own what follows.
        self.drive(&mut Context::from_waker(Waker::noop()));
        let parts = self.driver.into_parts();
        (parts.io.into_inner(), parts.read_buf)
    }

    /// Polls a response body that arrives on this connection.
    pub fn poll_body(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<hyper::body::Frame<Bytes>>>> {
        use hyper::body::Body;
        // First the body: it tells the connection that more is wanted. Then the connection, which may bring it.
        if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        self.drive(cx);
        Pin::new(body).poll_frame(cx)
    }
}
