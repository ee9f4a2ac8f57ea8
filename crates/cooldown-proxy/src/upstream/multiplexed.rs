//! One HTTP/2 connection to an upstream, which carries many requests beside each other.
//!
//! A task of its own drives it, since no request's task lives as long as it does. A request is still written in the same poll
//! that sends it: that instant is what counts for the limits.

use std::cell::{Cell, RefCell};
use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http::header::{CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Uri};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::{TrySendError, http2};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::congested::{Congested, Congestion};
use super::connection::ExchangeError;
use super::deadline::Deadline;
use super::sending::Sending;
use super::sent::{Bond, Sent};
use crate::head::ResponseHead;
use crate::http1::MessageError;
use crate::proxy::request_body::RequestBody;
use crate::stream::Stream;

type Driver = http2::Connection<TokioIo<Congested>, Sent, Tasks>;

/// The longest response head, in bytes.
const LONGEST_HEAD: u32 = 64 * 1024;
/// How much of a response one stream may hold that its client has not taken, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The most requests on one connection, whatever the upstream allows: all of them share one way through the network.
const MOST_STREAMS: usize = 128;
/// How much of a request's body one stream may hold that the upstream has not made room for, in bytes.
const STREAM_BUFFER: usize = 64 * 1024;

/// An established connection.
pub(super) struct Multiplexed {
    sender: http2::SendRequest<Sent>,
    driven: Rc<Driven>,
    /// What waits to be written; a request would wait behind it, long after the instant that counts for its limits.
    congestion: Congestion,
    scheme: Scheme,
    streams: Cell<usize>,
    /// It has carried a request before, so that the upstream may be closing it.
    reused: Cell<bool>,
    /// Since when it carries none.
    pub(super) idle_since: Cell<Instant>,
}

/// What drives a connection.
struct Driven {
    parts: RefCell<Parts>,
    /// Wakes the task that drives it.
    task: RefCell<Option<Waker>>,
    over: Cell<bool>,
}

/// The two halves of a connection, as the library has them.
struct Parts {
    /// Takes requests and makes streams of them; gone once it takes no more, which is what its senders go by.
    driver: Option<Driver>,
    /// Moves bytes.
    connection: Pin<Box<dyn Future<Output = ()>>>,
}

/// The place of one request on a connection. Dropping it resets its stream, if that is not over.
#[derive(Debug)]
pub struct StreamPlace {
    connection: Rc<Multiplexed>,
    bond: Rc<Bond>,
    deadline: Deadline,
    /// The body of its response.
    body: Option<Incoming>,
}

/// Runs what belongs to a connection: the connection itself, which is the first, when it is driven; all else, which is bodies
/// and answers, as tasks of this thread.
#[derive(Clone, Default)]
struct Tasks(Rc<RefCell<First>>);

#[derive(Default)]
enum First {
    #[default]
    Missing,
    Kept(Pin<Box<dyn Future<Output = ()>>>),
    Taken,
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let mut first = self.0.borrow_mut();
        match *first {
            First::Missing => *first = First::Kept(Box::pin(task)),
            First::Kept(_) | First::Taken => drop(tokio::task::spawn_local(task)),
        }
    }
}

impl Multiplexed {
    /// Speaks HTTP/2 over a fresh stream. It is ready when the upstream has said how many requests it takes at once: more
    /// would be turned away.
    pub(super) async fn open(stream: Stream, scheme: Scheme) -> hyper::Result<Self> {
        let tasks = Tasks::default();
        let mut builder = http2::Builder::new(tasks.clone());
        builder
            .initial_max_send_streams(0)
            .max_header_list_size(LONGEST_HEAD)
            .initial_stream_window_size(STREAM_WINDOW)
            // No client that is slow to take its answer may stand in the way of another one's.
            .initial_connection_window_size(MOST_STREAMS as u32 * STREAM_WINDOW)
            .max_send_buf_size(STREAM_BUFFER);
        let (stream, congestion) = Congested::new(stream);
        let (mut sender, driver) = builder.handshake(TokioIo::new(stream)).await?;
        let First::Kept(connection) = tasks.0.replace(First::Taken) else {
            unreachable!("a handshake makes a connection")
        };
        let mut parts = Parts { driver: Some(driver), connection };
        let is_over = std::future::poll_fn(|cx| match parts.poll(cx) {
            Poll::Pending if parts.driver.is_some() && parts.most_streams() == 0 => Poll::Pending,
            _ => Poll::Ready(parts.driver.is_none()),
        });
        if is_over.await {
            // The sender tells that it is closed.
            sender.ready().await?;
        }
        let (parts, task, over) = (RefCell::new(parts), RefCell::new(None), Cell::new(false));
        let driven = Rc::new(Driven { parts, task, over });
        tokio::task::spawn_local(Rc::clone(&driven).drive());
        let (streams, reused, idle_since) = (Cell::new(0), Cell::new(false), Cell::new(Instant::now()));
        Ok(Self { sender, driven, congestion, scheme, streams, reused, idle_since })
    }

    /// Whether it can carry requests, as far as is known.
    pub(super) fn is_usable(&self) -> bool {
        !self.driven.over.get() && !self.sender.is_closed()
    }

    /// How many requests it may carry at once.
    pub(super) fn most_streams(&self) -> usize {
        // They are borrowed only while they are polled, which asks for no place.
        self.driven.parts.try_borrow().map_or(0, |parts| parts.most_streams())
    }

    /// Whether it carries none.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.get() == 0
    }

    /// A place on it; `None` where there is no room, or where what is sent would not be written at once.
    pub(super) fn place(self: &Rc<Self>) -> Option<StreamPlace> {
        if self.congestion.get() || self.streams.get() >= self.most_streams() {
            return None;
        }
        self.streams.set(self.streams.get() + 1);
        Some(StreamPlace {
            connection: Rc::clone(self),
            bond: Rc::default(),
            deadline: Deadline::default(),
            body: None,
        })
    }

    /// A request in the words of HTTP/2 (RFC 9113 §8.3.1).
    fn to_http2(&self, request: &mut Request<RequestBody>) {
        let headers = request.headers_mut();
        for name in [CONNECTION, UPGRADE, TRANSFER_ENCODING] {
            headers.remove(name);
        }
        let host = headers.remove(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let authority = host.or_else(|| request.uri().authority().cloned());
        let uri = Uri::builder().scheme(self.scheme.clone()).path_and_query(path);
        let uri = authority.into_iter().fold(uri, |uri, authority| uri.authority(authority));
        if let Ok(uri) = uri.build() {
            *request.uri_mut() = uri;
        }
    }
}

/// The same request in the words of HTTP/1.1, for whatever connection comes next.
fn to_http1(request: &mut Request<RequestBody>) {
    let host = request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    host.into_iter().for_each(|host| _ = request.headers_mut().insert(HOST, host));
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = Uri::from(path);
    }
    if request.headers().contains_key(TE) {
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if request.body().size_hint().exact().is_none() {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

impl Parts {
    /// Ready when the connection has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.driver.as_mut().is_some_and(|driver| Pin::new(driver).poll(cx).is_ready()) {
            self.driver = None;
        }
        self.connection.as_mut().poll(cx)
    }

    /// How many requests there may be at once, as far as the upstream has said.
    fn most_streams(&self) -> usize {
        self.driver.as_ref().map_or(0, |driver| driver.current_max_send_streams().min(MOST_STREAMS))
    }
}

impl Driven {
    /// Drives the connection to its end.
    async fn drive(self: Rc<Self>) {
        std::future::poll_fn(|cx| {
            *self.task.borrow_mut() = Some(cx.waker().clone());
            self.poll(cx)
        })
        .await;
    }

    /// Writes what there is to write, without waiting for the turn of the task that drives.
    fn write(&self) {
        let task = self.task.borrow().clone();
        // Before its first turn there is no task to be woken: that turn will write.
        if let Some(task) = task.filter(|_| !self.over.get()) {
            let _ = self.poll(&mut Context::from_waker(&task));
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.over.get() {
            return Poll::Ready(());
        }
        let mut parts = self.parts.borrow_mut();
        let polled = parts.poll(cx);
        // A connection that takes no more requests may still have some.
        self.over.set(polled.is_ready());
        polled
    }
}

impl StreamPlace {
    /// Sends a request and waits for the response head until `deadline`.
    pub(super) async fn exchange(
        &mut self,
        sending: Box<Sending>,
        deadline: Instant,
    ) -> Result<ResponseHead, ExchangeError> {
        let reused = self.connection.reused.replace(true);
        let Sending { head, body, forwarded } = *sending;
        let mut request = head.to_request(body);
        drop(head);
        forwarded.into_iter().for_each(|forwarded| forwarded.tell(request.headers_mut()));
        self.connection.to_http2(&mut request);
        // Each exchange has its own: what was sent before is over.
        self.bond = Rc::default();
        let request = request.map(|body| Sent::new(body, Rc::clone(&self.bond)));
        let mut sender = self.connection.sender.clone();
        let mut answer = pin!(sender.try_send_request(request));
        self.connection.driven.write();
        let answer = std::future::poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(answer.map_err(|error| self.failed(error, reused)));
            }
            self.deadline.poll(deadline, cx).map(|()| Err(ExchangeError::Timeout))
        });
        let (head, body) = answer.await?.into_parts();
        self.body = Some(body);
        Ok(head.into())
    }

    fn failed(&self, mut error: TrySendError<Request<Sent>>, reused: bool) -> ExchangeError {
        match error.take_message() {
            Some(request) if reused => {
                let mut request = request.map(Sent::unsent);
                to_http1(&mut request);
                let (head, body) = request.into_parts();
                return ExchangeError::Unsent(Box::new(Sending { head: Rc::new(head.into()), body, forwarded: None }));
            }
            // An upstream that closes every new connection at once is not asked for ever.
            Some(_) => return ExchangeError::NotAccepted,
            None => {}
        }
        let error = error.into_error();
        match () {
            () if self.bond.is_broken() => ExchangeError::BodyBroken,
            () if is_not_accepted(&error) => ExchangeError::NotAccepted,
            () => ExchangeError::Failed(error.into()),
        }
    }

    /// Whether no others are beside it.
    pub(super) fn is_last(&self) -> bool {
        self.connection.streams.get() == 1
    }

    /// Whether its request's body is not being sent any more. Wakes when it has come to that.
    pub(super) fn poll_sent(&self, cx: &mut Context<'_>) -> bool {
        self.bond.poll_ended(cx)
    }

    /// The same, without waking.
    pub(super) fn is_sent(&self) -> bool {
        self.bond.has_ended()
    }

    /// Polls the body of its response.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, MessageError>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into))),
            None => Poll::Ready(None),
        }
    }

    /// Whether nothing more will come of the body of its response.
    pub(super) fn is_body_over(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    /// How much is left of the body of its response.
    pub(super) fn body_size(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.bond.release();
        let connection = &self.connection;
        connection.streams.set(connection.streams.get() - 1);
        connection.idle_since.set(Instant::now());
    }
}

/// Whether the upstream said that it has not looked at the request (RFC 9113 §8.7): it has no room for it, or is about to go.
fn is_not_accepted(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| {
        cause.is_remote() && (cause.is_go_away() || cause.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

impl fmt::Debug for Multiplexed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Multiplexed").field("streams", &self.streams).finish_non_exhaustive()
    }
}
