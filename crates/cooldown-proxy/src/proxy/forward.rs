//! The path of a request from its turn in line to its response's head, one call a step.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use cooldown_pacer::Observation;
use http::header::UPGRADE;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use super::body::RequestBody;
use super::compact;
use super::error::ProxyError;
use super::headers;
use super::outgoing::{Asked, Outgoing};
use super::record::Record;
use super::site::Route;
use super::worker::Worker;
use crate::pacing::{Admission, Keys, Line, Outcome, Permit, Place};
use crate::upstream::{ExchangeError, Lease, Pool};

/// What came of a request that its upstream answered.
pub(super) struct Answer {
    pub response: Response<Incoming>,
    /// The connection on which the body arrives.
    pub lease: Lease,
    pub permit: Permit,
    /// The client's end, if it asked for another protocol.
    pub upgrade: Option<OnUpgrade>,
    /// The protocol that the upstream switched to.
    pub protocol: Option<HeaderValue>,
}

/// A request's turn: everything that it takes to send it.
struct Turn {
    lease: Lease,
    permit: Permit,
    /// Something was awaited since the permit was granted.
    late: bool,
    waited: Duration,
    /// The limits that it was taken from, for what the upstream may say about them.
    limits: Option<(Arc<Line>, Keys)>,
}

/// Takes a request to its upstream, at its time, and returns with the response's head.
///
/// Dropping this future leaves the line, or breaks off the exchange, and gives back whatever was held.
pub(super) async fn forward(
    worker: &Rc<Worker>,
    mut outgoing: Box<Outgoing>,
    record: &mut Record,
) -> Result<Answer, ProxyError> {
    let route = &worker.site.routes[outgoing.route];
    let pool = worker.pool(outgoing.route);
    let mut turn = pace(worker, pool, &mut outgoing, record).await?;
    let mut response = send(&mut turn, pool, outgoing.request, route, record).await?;
    observe(&mut turn, &response);
    let protocol = outgoing.upgrade.as_ref().and_then(|_| response.headers_mut().remove(UPGRADE));
    headers::to_client(response.headers_mut(), &route.name_value, turn.waited, 1);
    Ok(Answer { response, lease: turn.lease, permit: turn.permit, upgrade: outgoing.upgrade, protocol })
}

/// Waits for the request's turn. It is in line at once and has a connection when its turn comes.
async fn pace(
    worker: &Rc<Worker>,
    pool: &Rc<Pool>,
    outgoing: &mut Outgoing,
    record: &mut Record,
) -> Result<Turn, ProxyError> {
    // The connection first: what counts for the limits is the write, which then follows the permit at once.
    let lease = pool.connection().await.map_err(ProxyError::Unreachable)?;
    let Some(Asked { line, keys, ask }) = outgoing.asked.take() else {
        return Ok(Turn { lease, permit: Permit::unpaced(), late: false, waited: Duration::ZERO, limits: None });
    };
    match line.admit(ask) {
        Admission::Go(permit) => {
            record.waited(Duration::ZERO);
            Ok(Turn { lease, permit, late: false, waited: Duration::ZERO, limits: Some((line, keys)) })
        }
        Admission::Refuse(refusal) => Err(ProxyError::Refused(refusal)),
        Admission::Wait(place) => {
            // Whoever goes first may have it; connections that were made for waiters stay open for waiters.
            drop(lease);
            let began = Instant::now();
            let permit = wait(worker, place, &mut outgoing.request, record).await?;
            let waited = began.elapsed();
            record.waited(waited);
            let lease = pool.connection().await.map_err(ProxyError::Unreachable)?;
            Ok(Turn { lease, permit, late: true, waited, limits: Some((line, keys)) })
        }
    }
}

/// Stands in line, and reads the body meanwhile as far as memory allows.
async fn wait(
    worker: &Rc<Worker>,
    mut place: Place,
    request: &mut Request<RequestBody>,
    record: &mut Record,
) -> Result<Permit, ProxyError> {
    let _waiting = record.waiting();
    compact::headers(request.headers_mut());
    compact::uri(request.uri_mut());
    let outcome = std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = Pin::new(&mut place).poll(cx) {
            return Poll::Ready(Ok(outcome));
        }
        match request.body_mut().poll_ahead(&worker.memory, cx) {
            Poll::Ready(Err(_)) => Poll::Ready(Err(ProxyError::InvalidRequest("its body ended early"))),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    });
    match outcome.await? {
        Outcome::Go(permit) => Ok(permit),
        Outcome::Refuse(refusal) => Err(ProxyError::Refused(refusal)),
        Outcome::ShutDown => Err(ProxyError::ShuttingDown),
    }
}

/// Sends the request and waits for the response's head. An idle connection that turns out to have been closed before
/// anything was written costs no attempt.
async fn send(
    turn: &mut Turn,
    pool: &Rc<Pool>,
    mut request: Box<Request<RequestBody>>,
    route: &Route,
    record: &mut Record,
) -> Result<Response<Incoming>, ProxyError> {
    let timeout = route.upstream.timeout;
    let deadline = Instant::now() + timeout;
    record.sent();
    loop {
        turn.permit.sent(turn.late);
        match turn.lease.exchange(request, deadline).await {
            Ok(response) => {
                record.responded(response.status());
                return Ok(response);
            }
            Err(ExchangeError::Unsent(unsent)) => {
                turn.permit.unsent();
                turn.lease = Box::pin(pool.fresh()).await.map_err(ProxyError::Unreachable)?;
                turn.late = true;
                request = unsent;
            }
            Err(ExchangeError::Timeout) => return Err(ProxyError::UpstreamTimeout(timeout)),
            Err(ExchangeError::Failed(error)) => {
                tracing::debug!(route = &*route.name, %error, "the exchange with the upstream failed");
                return Err(failure(&error));
            }
        }
    }
}

/// Hears what the response says about limits.
fn observe(turn: &mut Turn, response: &Response<Incoming>) {
    if let Some((_, keys)) = &turn.limits
        && response.status() == StatusCode::TOO_MANY_REQUESTS
    {
        for &key in keys {
            turn.permit.observe(Observation::Refused { key, unit: None, until: None });
        }
    }
}

fn failure(error: &hyper::Error) -> ProxyError {
    if error.is_user() {
        // Only bodies are ours to break: the client's did.
        ProxyError::InvalidRequest("its body ended early")
    } else if error.is_parse() {
        ProxyError::UpstreamProtocol
    } else {
        ProxyError::Broken
    }
}
