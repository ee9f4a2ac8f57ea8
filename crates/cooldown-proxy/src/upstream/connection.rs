//! One HTTP/1.1 connection to an upstream, driven by whoever uses it.
//!
//! The task that serves the client also drives the upstream's connection: a request is written in the same poll that
//! sends it, an answer wakes the client's task itself, and a dropped request closes the connection. A task of its own
//! for each connection would cost two more wake-ups a request.

use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Method};
use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::time::Instant;

use super::deadline::Deadline;
use super::sending::Sending;
use crate::fields::Kind;
use crate::head::{RequestHead, ResponseHead};
use crate::http1::{Coding, Decoder, MessageError, Reader, USUAL_HEAD, WriteError, Writer, length_in, read_answer};
use crate::proxy::Forwarded;
use crate::proxy::request_body::RequestBody;
use crate::stream::Stream;

/// An established connection that carries one request at a time.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    reader: Reader,
    /// The request on its way.
    writer: Writer<RequestBody>,
    /// The answer on its way, behind its head.
    body: Decoder,
    awaited: Awaited,
    /// Another request may follow the present one.
    keeps: bool,
    /// Nothing more can be sent or read.
    over: bool,
    /// When the present request's response head must have come.
    deadline: Deadline,
}

/// Which head is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    None,
    Answer,
    /// The answer to a HEAD, which has no body whatever it says.
    HeadOnly,
}

/// Why there is no response head.
#[derive(Debug)]
pub enum ExchangeError {
    /// The upstream was about to close this connection and has taken nothing: here is the request again.
    Unsent(Box<Sending>),
    /// The connection failed, or what came was no HTTP.
    Failed(MessageError),
    /// Nothing came in time.
    Timeout,
    /// The upstream said that it has not looked at the request.
    NotAccepted,
    /// The client broke off the request's body.
    BodyBroken,
}

impl Connection {
    /// Speaks HTTP/1.1 over a fresh stream.
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            reader: Reader::default(),
            writer: Writer::default(),
            body: Decoder::default(),
            awaited: Awaited::None,
            keeps: true,
            over: false,
            deadline: Deadline::default(),
        }
    }

    /// Whether a request can be sent now. Notices a connection that the upstream has closed, or on which it has said something
    /// that nobody had asked for.
    pub fn is_usable(&mut self) -> bool {
        // Nobody needs waking: whoever sends polls again with a waker of its own.
        let cx = &mut Context::from_waker(Waker::noop());
        self.over |= self.is_reusable() && self.reader.poll_read(&mut self.stream, cx).is_ready();
        self.is_reusable()
    }

    /// Whether it stands ready for another request, as far as is known.
    pub fn is_reusable(&self) -> bool {
        let is_answered = self.awaited == Awaited::None && self.body.is_over() && self.reader.is_empty();
        is_answered && self.keeps && !self.over && self.writer.is_idle()
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.over || (!self.keeps && self.awaited == Awaited::None && self.body.is_over())
    }

    /// Sends on what is left of the request.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        // What came of it shows in what is asked of the connection.
        let _ = self.poll_write(cx);
    }

    /// Sends a request and waits for the response head until `deadline`. The request is on the wire when this is first
    /// polled.
    ///
    /// # Errors
    /// When no response head comes.
    pub async fn exchange(&mut self, sending: Box<Sending>, deadline: Instant) -> Result<ResponseHead, ExchangeError> {
        self.begin(*sending);
        std::future::poll_fn(|cx| {
            if self.poll_write(cx).is_err() {
                return Poll::Ready(Err(ExchangeError::BodyBroken));
            }
            match self.poll_head(cx) {
                Poll::Pending => self.deadline.poll(deadline, cx).map(|()| Err(ExchangeError::Timeout)),
                Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
                Poll::Ready(Err(error)) => {
                    self.over = true;
                    Poll::Ready(Err(ExchangeError::Failed(error)))
                }
            }
        })
        .await
    }

    fn begin(&mut self, sending: Sending) {
        let Sending { mut head, body, forwarded } = sending;
        self.awaited = if head.method == Method::HEAD { Awaited::HeadOnly } else { Awaited::Answer };
        let body = Some(body).filter(|body| !body.is_end_stream());
        let coding = coding(&mut head, body.as_ref());
        let mut out = Vec::with_capacity(USUAL_HEAD + coding.room());
        write_head(&head, forwarded.as_ref(), &mut out);
        self.writer.begin(out, body, coding);
    }

    /// Writes what there is to write. What stands in the way of that matters only if no answer comes either: an upstream may
    /// answer and take no more.
    ///
    /// # Errors
    /// When the client broke off its body.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), ()> {
        if self.writer.is_idle() {
            return Ok(());
        }
        match self.writer.poll(&mut self.stream, cx) {
            Poll::Pending | Poll::Ready(Ok(())) => Ok(()),
            Poll::Ready(Err(WriteError::Connection(_))) => {
                self.writer.give_up();
                self.keeps = false;
                Ok(())
            }
            Poll::Ready(Err(WriteError::Body)) => {
                self.over = true;
                Err(())
            }
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, MessageError>> {
        loop {
            let has_body = self.awaited == Awaited::Answer;
            if let Some(answer) = read_answer(&mut self.reader, has_body)? {
                self.awaited = Awaited::None;
                self.keeps &= answer.keeps;
                self.body = answer.body;
                return Poll::Ready(Ok(answer.head));
            }
            if ready!(self.reader.poll_read(&mut self.stream, cx))? == 0 {
                return Poll::Ready(Err(MessageError::Ended));
            }
        }
    }

    /// Polls the body of the response.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, MessageError>>> {
        self.drive(cx);
        let polled = self.body.poll_frame(&mut self.reader, &mut self.stream, cx);
        self.over |= matches!(polled, Poll::Ready(Some(Err(_))));
        polled
    }

    /// Whether all of the response's body has been read.
    pub fn is_body_over(&self) -> bool {
        self.body.is_over()
    }

    /// How much is left of the response's body.
    pub fn body_size(&self) -> SizeHint {
        self.body.size_hint()
    }

    /// The stream after a `101 Switching Protocols`, and what was already read from it.
    pub fn into_stream(mut self) -> (Stream, Bytes) {
        let early = self.reader.take(self.reader.bytes().len());
        (self.stream, early)
    }
}

/// How the upstream is told where the body ends. Says so in the fields where nobody has.
fn coding(head: &mut Rc<RequestHead>, body: Option<&RequestBody>) -> Coding {
    let Some(body) = body else {
        RequestHead::remove(head, Kind::TransferEncoding);
        return Coding::Length(0);
    };
    if head.headers.has(Kind::TransferEncoding) {
        RequestHead::remove(head, Kind::ContentLength);
        return Coding::chunked(&head.headers);
    }
    let stated = head.headers.first(Kind::ContentLength).and_then(|length| length_in(length.as_bytes()));
    if let Some(length) = stated {
        return Coding::Length(length);
    }
    if let Some(length) = body.size_hint().exact() {
        Rc::make_mut(head).headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        return Coding::Length(length);
    }
    Rc::make_mut(head).headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    Coding::chunked(&head.headers)
}

/// Writes a request's head as it is sent (RFC 9112 §3).
fn write_head(head: &RequestHead, forwarded: Option<&Forwarded>, out: &mut Vec<u8>) {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.uri.path_and_query().map_or("/", |target| target.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    head.headers.write(out, |_, _| true);
    forwarded.into_iter().for_each(|forwarded| forwarded.write(out));
    out.extend_from_slice(b"\r\n");
}
