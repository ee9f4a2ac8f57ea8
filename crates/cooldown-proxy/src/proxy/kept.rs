//! Signs of life for a streaming client whose request waits for long: the head of the response is committed, and what
//! nobody reads as content flows until the upstream's first byte. See `queue.keepalive`.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use hyper::body::{Body, Frame};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::arrival::Arrival;
use super::body::{BodyError, ResponseBody};
use super::error::{ProxyError, Speech};
use super::forward::{Answer, forward};
use super::headers;
use super::opening::Opening;
use super::record::Record;
use super::retold::Retold;
use super::serve::{self, Reply};
use super::unread::Unread;
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
    /// Something of the answer was passed on.
    begun: bool,
    state: State,
}

enum State {
    /// There is no answer yet.
    Waiting(Story),
    /// The upstream's answer is passed on. Until something of it is, it is waited for like the answer itself.
    Relaying(Pin<Box<dyn Body<Data = Bytes, Error = BodyError>>>, Retold),
    /// Only this is left to say; then the record is dropped.
    Saying(VecDeque<Bytes>, Option<Box<Record>>),
}

/// Answers a request whose client may be given signs of life after every silence.
pub(super) async fn keep(
    worker: &Rc<Worker>,
    mut arrival: Box<Arrival>,
    mut record: Record,
    in_flight: InFlight,
) -> Reply {
    let speech = arrival.speech();
    let unread = Unread::of(&arrival.body, &arrival.head.headers);
    if arrival.wants_reading(&worker.site)
        && let Err(error) = serve::survived(worker, pin!(arrival.read(worker))).await
    {
        return serve::refuse(worker, error, record, speech, unread);
    }
    let streams = arrival.wants_stream();
    if streams {
        // What follows signs of life cannot be compressed: the head that comes before them says nothing of it.
        Rc::make_mut(&mut arrival.head).headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    let silence = worker.site.keepalive.unwrap_or(Duration::MAX);
    let shared = Rc::clone(worker);
    let mut story: Story = Box::pin(async move {
        let answer = serve::survived(&shared, pin!(answered(&shared, arrival, &mut record))).await;
        Ending { answer, record, in_flight }
    });
    let patience = sleep(silence);
    let ending = tokio::select! {
        ending = &mut story => ending,
        () = patience, if streams => {
            let response = head(Kept::new(Rc::clone(worker), speech, silence, State::Waiting(story)));
            return Reply::from(response);
        }
    };
    let Ending { answer, record, in_flight } = ending;
    match answer {
        Ok(answer) => serve::relay(worker, answer, record, in_flight, speech),
        Err(error) => serve::refuse(worker, error, record, speech, unread),
    }
}

/// The answer, with what an error says: that is needed where it must be told in the stream.
async fn answered(worker: &Rc<Worker>, arrival: Box<Arrival>, record: &mut Record) -> Result<Box<Answer>, ProxyError> {
    let mut answer = forward(worker, arrival, record).await?;
    if answer.head.status.as_u16() >= 400 && answer.opening.is_empty() {
        answer.opening = Opening::of_error(&mut answer.lease).await;
    }
    Ok(answer)
}

fn head(kept: Kept) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Kept(Box::new(kept)));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers::say_proxy(fields);
    response
}

impl Kept {
    fn new(worker: Rc<Worker>, speech: Speech, silence: Duration, state: State) -> Self {
        // The first sign is due at once.
        let tick = Box::pin(sleep(Duration::ZERO));
        Self { worker, speech, silence, tick, begun: false, state }
    }

    /// What comes next. A panic fails this response alone.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = catch_unwind(AssertUnwindSafe(|| self.poll_words(cx)));
        let polled = polled.unwrap_or_else(|panic| {
            let error = serve::internal(&self.worker, &*panic);
            Poll::Ready(Some(self.failed(&error)))
        });
        polled.map(|words| words.map(|words| Ok(Frame::data(words))))
    }

    fn poll_words(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match &mut self.state {
                State::Waiting(story) => match story.as_mut().poll(cx) {
                    Poll::Ready(ending) => self.state = self.after(ending),
                    Poll::Pending => return self.sign_of_life(cx),
                },
                State::Relaying(body, retold) => match body.as_mut().poll_frame(cx) {
                    Poll::Ready(Some(frame)) => match frame.map_err(untold).and_then(|frame| told(retold, frame)) {
                        Ok(words) if words.is_empty() => {}
                        Ok(words) => {
                            self.begun = true;
                            return Poll::Ready(Some(words));
                        }
                        Err(error) => return Poll::Ready(Some(self.failed(&error))),
                    },
                    Poll::Ready(None) => self.state = State::Saying(retold.rest().into_iter().collect(), None),
                    Poll::Pending if self.begun => return Poll::Pending,
                    Poll::Pending => return self.sign_of_life(cx),
                },
                State::Saying(words, record) => {
                    let next = words.pop_front();
                    if let Some(record) = record {
                        record.bytes(next.as_ref().map_or(0, Bytes::len));
                        record.complete();
                    }
                    return Poll::Ready(next);
                }
            }
        }
    }

    /// What goes on once there is an answer. A refusal can only be told in the stream: its head is gone.
    fn after(&self, ending: Ending) -> State {
        let Ending { answer, mut record, in_flight } = ending;
        let answer = answer.and_then(|answer| match answer.head.status.is_success() {
            true => Ok((Some(Retold::of(self.speech, &answer.head.headers)?), answer)),
            false => Ok((None, answer)),
        });
        match answer {
            Ok((Some(retold), answer)) => {
                let reply = serve::relay(&self.worker, answer, record, in_flight, self.speech);
                State::Relaying(Box::pin(reply.body), retold)
            }
            Ok((None, answer)) => {
                let body = answer.opening.decoded(&answer.head.headers);
                let words = self.speech.event_of_upstream(answer.head.status, &body);
                State::Saying([words].into(), Some(Box::new(record)))
            }
            Err(error) => {
                record.failed(&error);
                serve::tell(&self.worker, &error, &record);
                State::Saying([self.speech.event_of(&error)].into(), Some(Box::new(record)))
            }
        }
    }

    /// The last words where nothing more can be passed on.
    fn failed(&mut self, error: &ProxyError) -> Bytes {
        self.state = State::Saying(VecDeque::new(), None);
        let event = self.speech.event_of(error);
        // What was passed on may have ended in the middle of an event.
        if self.begun { [b"\n\n", &event[..]].concat().into() } else { event }
    }

    fn sign_of_life(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.tick.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.tick.set(sleep_until(Instant::now() + self.silence));
        // It must be polled to be heard of.
        let _ = self.tick.as_mut().poll(cx);
        Poll::Ready(Some(self.speech.sign_of_life()))
    }
}

/// What goes on in the place of a frame. Trailers do not: the head that was committed announces none.
fn told(retold: &mut Retold, frame: Frame<Bytes>) -> Result<Bytes, ProxyError> {
    frame.into_data().map_or(Ok(Bytes::new()), |data| retold.pass(data))
}

fn untold(error: BodyError) -> ProxyError {
    ProxyError::Untold(match error {
        BodyError::Broken(_) => "it broke off",
        BodyError::Idle => "it stood still for too long",
    })
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("speech", &self.speech).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    /// A body of these pieces; in the place of one that is missing it panics.
    struct Pieces(VecDeque<Option<Result<&'static str, BodyError>>>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            let next = self.0.pop_front();
            Poll::Ready(next.map(|piece| piece.expect("a bug").map(|piece| Frame::data(Bytes::from(piece)))))
        }
    }

    /// What a client gets whose response goes on like this.
    async fn got(state: State) -> String {
        let kept = Kept::new(Worker::idle(), Speech::Chat, Duration::from_secs(60), state);
        let whole = head(kept).into_body().collect().await.expect("it does not break off");
        String::from_utf8(whole.to_bytes().to_vec()).expect("text")
    }

    async fn relayed(pieces: impl IntoIterator<Item = Option<Result<&'static str, BodyError>>>) -> String {
        let fields = [(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"))];
        let retold = Retold::of(Speech::Chat, &fields.into_iter().collect()).expect("no coding");
        got(State::Relaying(Box::pin(Pieces(pieces.into_iter().collect())), retold)).await
    }

    #[tokio::test]
    async fn a_panic_is_told_in_the_stream_whenever_it_happens() {
        let waiting = got(State::Waiting(Box::pin(async { panic!("a bug") }))).await;
        assert!(waiting.starts_with("data: {") && waiting.contains("\"internal\""), "{waiting}");
        let relaying = relayed([Some(Ok("data: 1\n\ndata: 2")), None]).await;
        let rest = relaying.strip_prefix("data: 1\n\ndata: 2\n\ndata: {").expect("an event of its own");
        assert!(rest.contains("\"internal\"") && rest.ends_with("\n\n"), "{rest}");
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_says_so_in_the_stream() {
        let told = relayed([Some(Ok("data: 1\n\n")), Some(Err(BodyError::Idle)), Some(Ok("data: 2\n\n"))]).await;
        let rest = told.strip_prefix("data: 1\n\n").expect("what came before").trim_start();
        assert!(rest.starts_with("data: {") && rest.contains("upstream_protocol_error"), "{rest}");
        assert!(!told.contains("data: 2"), "it is the last word");
    }
}
