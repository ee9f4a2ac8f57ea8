//! Signs of life for a streaming client whose request waits for long: the head of the response is committed, and what
//! nobody reads as content flows until the upstream's first byte. See `queue.keepalive`.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response};
use hyper::body::{Body, Frame};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::arrival::Arrival;
use super::body::{BodyError, ResponseBody};
use super::error::{ProxyError, Speech};
use super::forward::{Answer, forward};
use super::headers;
use super::opening::Opening;
use super::record::Record;
use super::serve;
use super::worker::{InFlight, Worker};

/// A request on its way, whatever becomes of it.
type Story = Pin<Box<dyn Future<Output = Ending>>>;

/// What became of a request.
struct Ending {
    answer: Result<Box<Answer>, ProxyError>,
    record: Record,
    in_flight: InFlight,
}

/// A response that began before there was an answer.
pub struct Kept {
    worker: Rc<Worker>,
    speech: Speech,
    silence: Duration,
    tick: Pin<Box<Sleep>>,
    state: State,
}

enum State {
    /// There is no answer yet.
    Waiting(Story),
    /// The upstream's answer is passed on. Until its first byte has come, it is waited for like the answer itself.
    Relaying { body: Box<ResponseBody>, events: bool, begun: bool },
    /// Only this is left to say; then the record is dropped.
    Saying(VecDeque<Bytes>, Option<Box<Record>>),
}

/// Answers a request whose client may be given signs of life after every `silence`.
pub(super) async fn keep(
    worker: Rc<Worker>,
    mut arrival: Box<Arrival>,
    mut record: Record,
    in_flight: InFlight,
    silence: Duration,
) -> Response<ResponseBody> {
    if arrival.wants_reading(&worker.site)
        && let Err(error) = arrival.read(&worker).await
    {
        return serve::refuse(&worker, error, record, arrival.speech());
    }
    let (speech, streams) = (arrival.speech(), arrival.wants_stream());
    let shared = Rc::clone(&worker);
    let mut story: Story = Box::pin(async move {
        let mut answer = forward(&shared, arrival, &mut record).await;
        if let Ok(answer) = &mut answer {
            read_error(answer).await;
        }
        Ending { answer, record, in_flight }
    });
    let patience = sleep(silence);
    let ending = tokio::select! {
        ending = &mut story => ending,
        () = patience, if streams => {
            return head(Kept::new(worker, speech, silence, story));
        }
    };
    let Ending { answer, record, in_flight } = ending;
    match answer {
        Ok(answer) => serve::relay(&worker, answer, record, in_flight, speech),
        Err(error) => serve::refuse(&worker, error, record, speech),
    }
}

/// What an error says is needed where it must be told in the stream.
async fn read_error(answer: &mut Answer) {
    if answer.response.status().as_u16() >= 400 && answer.opening.is_empty() {
        answer.opening = Opening::of_error(&mut answer.lease, answer.response.body_mut()).await;
    }
}

fn head(kept: Kept) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Kept(Box::new(kept)));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers::say_source(fields, "proxy");
    response
}

impl Kept {
    fn new(worker: Rc<Worker>, speech: Speech, silence: Duration, story: Story) -> Self {
        // The first sign is due at once.
        let tick = Box::pin(sleep(Duration::ZERO));
        Self { worker, speech, silence, tick, state: State::Waiting(story) }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            match &mut self.state {
                State::Waiting(story) => match catch_unwind(AssertUnwindSafe(|| story.as_mut().poll(cx))) {
                    Ok(Poll::Ready(ending)) => self.state = self.after(ending),
                    Ok(Poll::Pending) => return self.sign_of_life(cx),
                    Err(panic) => {
                        let error = serve::internal(&self.worker, &*panic);
                        self.state = State::Saying([self.speech.event_of(&error)].into(), None);
                    }
                },
                State::Relaying { body, events, begun } => {
                    let polled = Pin::new(&mut **body).poll_frame(cx);
                    if polled.is_pending() && !*begun {
                        return self.sign_of_life(cx);
                    }
                    *begun |= polled.is_ready();
                    let events = *events;
                    return polled.map(|frame| frame.map(|frame| frame.map(|frame| as_events(frame, events))));
                }
                State::Saying(words, record) => {
                    let next = words.pop_front();
                    if let Some(record) = record {
                        record.bytes(next.as_ref().map_or(0, Bytes::len));
                        record.complete();
                    }
                    return Poll::Ready(next.map(|words| Ok(Frame::data(words))));
                }
            }
        }
    }

    /// What goes on once there is an answer. A refusal can only be told in the stream: its head is gone.
    fn after(&self, ending: Ending) -> State {
        let Ending { answer, mut record, in_flight } = ending;
        match answer {
            Ok(answer) if answer.response.status().is_success() => {
                let events = is_event_stream(answer.response.headers());
                let response = serve::relay(&self.worker, answer, record, in_flight, self.speech);
                State::Relaying { body: Box::new(response.into_body()), events, begun: false }
            }
            Ok(answer) => {
                let body = answer.opening.decoded(answer.response.headers());
                let words = self.speech.event_of_upstream(answer.response.status(), &body);
                State::Saying([words].into(), Some(Box::new(record)))
            }
            Err(error) => {
                record.failed(&error);
                State::Saying([self.speech.event_of(&error)].into(), Some(Box::new(record)))
            }
        }
    }

    fn sign_of_life(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.tick.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.tick.set(sleep_until(Instant::now() + self.silence));
        // It must be polled to be heard of.
        let _ = self.tick.as_mut().poll(cx);
        Poll::Ready(Some(Ok(Frame::data(self.speech.sign_of_life()))))
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

/// An upstream that answers in one piece although a stream was asked for is quoted as one event.
fn as_events(frame: Frame<Bytes>, events: bool) -> Frame<Bytes> {
    if events {
        return frame;
    }
    frame.map_data(|data| {
        let lines = data.split(|byte| *byte == b'\n').flat_map(|line| [b"data: ", line, b"\n"].concat());
        lines.chain(*b"\n").collect()
    })
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("speech", &self.speech).finish_non_exhaustive()
    }
}
