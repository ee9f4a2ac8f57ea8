//! From a request to a response, whatever happens: errors and panics become answers, and everything is told.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use http::header::CONNECTION;
use http::{HeaderValue, Response, StatusCode};

use super::arrival::Arrival;
use super::arriving::Arriving;
use super::body::{Holding, Passed, Relayed, ResponseBody};
use super::error::{ProxyError, Speech};
use super::forward::{Answer, forward};
use super::kept;
use super::peer::Peer;
use super::record::Record;
use super::request_body::RequestBody;
use super::told::Told;
use super::tunnel::{self, ClientEnd};
use super::unread::Unread;
use super::worker::{InFlight, Worker};
use crate::head::{RequestHead, ResponseHead};
use crate::telemetry::EventKind;

/// How a request came: what its connection knows of it, beside its head and its body.
#[derive(Debug, Default)]
pub struct Delivery {
    /// The client's end, where another protocol may be spoken on it.
    pub end: Option<ClientEnd>,
    /// Its head can be read in two ways.
    pub is_ambiguous: bool,
}

/// What a client gets.
#[derive(Debug)]
pub struct Reply {
    /// The head of the response.
    pub head: ResponseHead,
    /// Its body.
    pub body: ResponseBody,
    /// What the client is told beside its fields.
    pub told: Option<Told>,
}

impl Reply {
    /// The response with all that is told among its fields.
    pub(super) fn whole(self) -> Response<ResponseBody> {
        let Self { head, body, told } = self;
        let mut response = head.into_response(body);
        told.into_iter().for_each(|told| told.tell(response.headers_mut()));
        response
    }
}

impl From<Response<ResponseBody>> for Reply {
    /// An answer of our own.
    fn from(response: Response<ResponseBody>) -> Self {
        let (head, body) = response.into_parts();
        Self { head: head.into(), body, told: None }
    }
}

/// Answers one request.
///
/// What can be done without waiting is done before there is a future, so that what waits is small.
pub fn serve(
    worker: &Rc<Worker>,
    peer: &Rc<Peer>,
    (head, arriving): (Rc<RequestHead>, Arriving),
    delivery: Delivery,
) -> Pin<Box<impl Future<Output = Reply> + use<>>> {
    let Delivery { end, is_ambiguous } = delivery;
    let in_flight = worker.begin(peer);
    let mut record = begin_record(worker, &head);
    let stranger = Speech::of_stranger(&head);
    let body = RequestBody::new(arriving, worker.site.idle_timeout, &worker.site.memory);
    // What follows a head that can be read in two ways is nobody's body.
    let unread = Unread::of(&body, &head.headers).filter(|_| !is_ambiguous);
    let prepared = if is_ambiguous {
        Err(ProxyError::InvalidRequest("its length is stated more than once"))
    } else if worker.is_draining() {
        Err(ProxyError::ShuttingDown)
    } else {
        unpanicked(worker, || Arrival::prepare(worker, peer, head, (body, end), &mut record))
            .and_then(|prepared| prepared)
    };
    // Errors are large, and few.
    let prepared = prepared.map_err(|error| Box::new((error, stranger)));
    let worker = Rc::clone(worker);
    Box::pin(async move {
        let mut reply = match prepared {
            Ok(arrival) if arrival.may_be_kept(&worker.site) => {
                Box::pin(kept::keep(&worker, arrival, record, in_flight)).await
            }
            Ok(arrival) => {
                let speech = arrival.speech();
                let answer = survived(&worker, pin!(forward(&worker, arrival, &mut record))).await;
                match answer {
                    Ok(answer) => relay(&worker, answer, record, in_flight, speech),
                    Err(error) => refuse(&worker, error, record, speech, unread),
                }
            }
            Err(refused) => {
                let (error, stranger) = *refused;
                refuse(&worker, error, record, stranger, unread)
            }
        };
        if worker.is_draining() {
            reply.head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        reply
    })
}

/// Runs a step of a request; a panic in it fails that request alone. What it leaves behind is dropped with the request,
/// and nothing else sees it.
fn unpanicked<R>(worker: &Worker, step: impl FnOnce() -> R) -> Result<R, ProxyError> {
    catch_unwind(AssertUnwindSafe(step)).map_err(|panic| internal(worker, &*panic))
}

/// Runs a part of a request to its end, or to the panic that it ends with.
pub(super) async fn survived<R>(
    worker: &Worker,
    mut part: Pin<&mut impl Future<Output = Result<R, ProxyError>>>,
) -> Result<R, ProxyError> {
    let poll = |cx: &mut Context<'_>| {
        let polled = unpanicked(worker, || part.as_mut().poll(cx));
        polled.unwrap_or_else(|error| Poll::Ready(Err(error)))
    };
    std::future::poll_fn(poll).await
}

fn begin_record(worker: &Worker, head: &RequestHead) -> Record {
    let host = || std::str::from_utf8(head.host()).unwrap_or_default();
    let (method, path) = (&head.method, head.uri.path());
    let record = Record::begin(&worker.site.access, method, host, path);
    match &worker.site.tracer {
        Some(tracer) => record.traced(tracer.begin(&head.headers, method, host(), path)),
        None => record,
    }
}

/// The response to a request that its upstream answered.
pub(super) fn relay(
    worker: &Rc<Worker>,
    answer: Box<Answer>,
    record: Record,
    in_flight: InFlight,
    speech: Speech,
) -> Reply {
    if answer.head.status == StatusCode::SWITCHING_PROTOCOLS {
        return match tunnel::switch(answer, record, in_flight) {
            Ok(reply) => reply,
            Err((error, record)) => refuse(worker, error, record, speech, None),
        };
    }
    let idle_timeout = worker.site.idle_timeout;
    let Answer { head, told, lease, permit, opening, meter, unread, .. } = *answer;
    let peer = Rc::clone(in_flight.peer());
    let holding = Holding { opening, lease, meter, permit, unread, record, in_flight };
    let relayed = Relayed::new(holding, idle_timeout);
    Reply { head, body: ResponseBody::Relayed(Passed::new(relayed, peer)), told }
}

/// The response to a request that the proxy answers itself, though its body may not have been read.
pub(super) fn refuse(
    worker: &Worker,
    error: ProxyError,
    mut record: Record,
    speech: Speech,
    unread: Option<Unread>,
) -> Reply {
    // What follows a malformed request is not read on: the connection is closed.
    let unread = unread.filter(|_| !matches!(error, ProxyError::InvalidRequest(_)));
    unread.into_iter().for_each(Unread::discard);
    record.failed(&error);
    tell(worker, &error, &record);
    if let ProxyError::Unreachable(cause) = &error {
        tracing::warn!(%cause, "an upstream cannot be reached");
    }
    let response = error.into_response(worker.site.pacing().random(), speech);
    if let ResponseBody::Whole(Some(body)) = response.body() {
        record.bytes(body.len());
    }
    record.complete();
    Reply::from(response)
}

/// Tells people of an answer of our own, unless it is the client's doing or was told before.
pub(super) fn tell(worker: &Worker, error: &ProxyError, record: &Record) {
    let kind = match error {
        ProxyError::Refused(_) | ProxyError::TooManyBodies | ProxyError::Internal(_) => EventKind::Refused,
        ProxyError::Broken
        | ProxyError::NotAccepted
        | ProxyError::UpstreamProtocol
        | ProxyError::UpstreamTimeout(_) => EventKind::Unreachable,
        _ => return,
    };
    let route = worker.site.routes.iter().find(|route| record.has_taken(route));
    worker.site.metrics.events().tell(kind, route.map(|route| &*route.name), error.code(), error.to_string());
}

/// A bug, told in the log under an id that the client gets.
pub(super) fn internal(worker: &Worker, panic: &(dyn Any + Send)) -> ProxyError {
    let id = worker.site.pacing().random();
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    tracing::error!(id = format_args!("{id:016x}"), message, "a request met a bug");
    ProxyError::Internal(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_fails_the_request_that_it_happens_in() {
        let worker = Worker::idle();
        let part = async {
            tokio::task::yield_now().await;
            if worker.is_draining() { Ok(()) } else { panic!("a bug") }
        };
        let survived = survived(&worker, pin!(part)).await;
        assert!(matches!(survived, Err(ProxyError::Internal(_))), "{survived:?}");
    }

    type Came = (Rc<RequestHead>, Arriving);

    /// The size of what a function returns, without calling it.
    fn size_of_answer<F: Future>(
        _: &dyn Fn(&'static Rc<Worker>, &'static Rc<Peer>, Came, Delivery) -> Pin<Box<F>>,
    ) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_answers_is_small() {
        let sizes = [
            // It holds `forward`, the record, and little else.
            ("a request that waits", size_of_answer(&serve), 1720),
            ("its record", size_of::<Record>(), 40),
            ("a response that is streamed", size_of::<Relayed>(), 320),
            ("a response's body", size_of::<ResponseBody>(), 48),
        ];
        for (what, size, most) in sizes {
            println!("{what}: {size} of {most} bytes");
            assert!(size <= most, "{what}: {size} bytes");
        }
    }
}
