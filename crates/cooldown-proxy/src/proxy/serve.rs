//! From a request to a response, whatever happens: errors and panics become answers, and everything is told.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::body::{Relayed, ResponseBody};
use super::error::ProxyError;
use super::forward::{Answer, forward};
use super::outgoing::Outgoing;
use super::peer::Peer;
use super::record::Record;
use super::tunnel;
use super::worker::{InFlight, Worker};

/// Answers one request. `ambiguous` says that its head could be read in two ways, which only its raw bytes show.
///
/// What can be done without waiting is done before there is a future, so that what waits is small.
pub fn serve(
    worker: &Rc<Worker>,
    peer: &Rc<Peer>,
    ambiguous: bool,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> + use<> {
    let in_flight = worker.begin(peer);
    let mut record = begin_record(worker, &request);
    let prepared = if ambiguous {
        Err(ProxyError::InvalidRequest("its length is stated more than once"))
    } else if worker.is_draining() {
        Err(ProxyError::ShuttingDown)
    } else {
        unpanicked(worker, || Outgoing::prepare(worker, peer, request, &mut record)).and_then(|prepared| prepared)
    };
    let worker = Rc::clone(worker);
    async move {
        let answer = match prepared {
            Ok(outgoing) => {
                let mut story = pin!(forward(&worker, outgoing, &mut record));
                let poll = |cx: &mut Context<'_>| match unpanicked(&worker, || story.as_mut().poll(cx)) {
                    Ok(polled) => polled,
                    Err(error) => Poll::Ready(Err(error)),
                };
                std::future::poll_fn(poll).await
            }
            Err(error) => Err(error),
        };
        let mut response = match answer {
            Ok(answer) => relay(&worker, answer, record, in_flight),
            Err(error) => refuse(&worker, error, record),
        };
        if worker.is_draining() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}

/// Runs a step of a request; a panic in it fails that request alone. What it leaves behind is dropped with the request,
/// and nothing else sees it.
fn unpanicked<R>(worker: &Worker, step: impl FnOnce() -> R) -> Result<R, ProxyError> {
    catch_unwind(AssertUnwindSafe(step)).map_err(|panic| internal(worker, &*panic))
}

fn begin_record(worker: &Worker, request: &Request<Incoming>) -> Record {
    let named = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = request.uri().authority().map(|authority| authority.as_str()).or(named).unwrap_or_default();
    Record::begin(&worker.site.access, request.method(), host, request.uri().path())
}

fn relay(worker: &Rc<Worker>, answer: Answer, record: Record, in_flight: InFlight) -> Response<ResponseBody> {
    if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return match tunnel::switch(answer, record, in_flight) {
            Ok(response) => response,
            Err((error, record)) => refuse(worker, error, record),
        };
    }
    let idle_timeout = worker.site.idle_timeout;
    answer.response.map(|incoming| {
        let relayed = Relayed::new(incoming, answer.lease, answer.permit, record, in_flight, idle_timeout);
        ResponseBody::Relayed(Box::new(relayed))
    })
}

fn refuse(worker: &Worker, error: ProxyError, mut record: Record) -> Response<ResponseBody> {
    record.failed(&error);
    if let ProxyError::Unreachable(cause) = &error {
        tracing::warn!(%cause, "an upstream cannot be reached");
    }
    let pacing = worker.site.pacing();
    let random = pacing.hash(&pacing.clock().now().as_nanos().to_ne_bytes());
    let response = error.into_response(random);
    if let ResponseBody::Whole(Some(body)) = response.body() {
        record.bytes(body.len());
    }
    record.complete();
    response
}

fn internal(worker: &Worker, panic: &(dyn Any + Send)) -> ProxyError {
    let pacing = worker.site.pacing();
    let id = pacing.hash(&pacing.clock().now().as_nanos().to_ne_bytes());
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    tracing::error!(id = format_args!("{id:016x}"), message, "a request met a bug");
    ProxyError::Internal(id)
}
