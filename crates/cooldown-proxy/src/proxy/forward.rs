//! The path of a request: each attempt waits for its turn, is sent, and is judged by what its upstream answers.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::HeaderValue;
use hyper::body::Body;
use tokio::time::{Instant, sleep};

use super::arrival::Arrival;
use super::error::ProxyError;
use super::headers;
use super::journey::{Journey, Verdict};
use super::judge::{Attempt, Judged, judge};
use super::meter::Meter;
use super::opening::Opening;
use super::outgoing::Outgoing;
use super::record::Record;
use super::site::Route;
use super::told::Told;
use super::tunnel::ClientEnd;
use super::unread::Unread;
use super::way::Leg;
use super::worker::Worker;
use crate::fields::Kind;
use crate::head::ResponseHead;
use crate::http1::MessageError;
use crate::pacing::{Admission, Outcome, Permit, Place};
use crate::upstream::{ExchangeError, Lease, Pool, Sending};

/// What came of a request that its upstream answered.
pub(super) struct Answer {
    pub head: ResponseHead,
    /// What the client is told beside its fields.
    pub told: Option<Told>,
    /// The connection on which the body arrives.
    pub lease: Lease,
    pub permit: Permit,
    /// What was read of the body.
    pub opening: Opening,
    /// Counts its tokens.
    pub meter: Option<Box<Meter>>,
    /// The client's end, if it asked for another protocol.
    pub upgrade: Option<ClientEnd>,
    /// The protocol that the upstream switched to.
    pub protocol: Option<HeaderValue>,
    /// What may be left of the request's body: an upstream may answer before it has read it.
    pub unread: Option<Unread>,
}

/// A request's turn: everything that it takes to send it.
pub(super) struct Turn {
    pub lease: Lease,
    pub permit: Permit,
    /// Something was awaited since the permit was granted.
    late: bool,
}

/// Takes a request to an upstream, at its time and as often as it takes, and returns with the response's head.
///
/// Dropping this future leaves the line, or breaks off the exchange, and gives back whatever was held.
pub(super) async fn forward(
    worker: &Rc<Worker>,
    mut arrival: Box<Arrival>,
    record: &mut Record,
) -> Result<Box<Answer>, ProxyError> {
    if arrival.call.is_none() && arrival.wants_reading(&worker.site) {
        Box::pin(arrival.read(worker)).await?;
    } else if !arrival.body.is_end_stream() {
        let arrived = Box::pin(arrival.body.arrive()).await;
        arrived.map_err(|_| ProxyError::InvalidRequest("its body ended early"))?;
    }
    let mut journey = Journey::begin(worker, &arrival)?;
    loop {
        let leg = journey.ways.choose(&worker.site, &arrival);
        let verdict = attempt(worker, &leg, &mut journey, &mut arrival, record).await?;
        match verdict {
            Verdict::Pass(answer) => {
                journey.end();
                return Ok(finished(worker, &journey, answer, &mut arrival));
            }
            Verdict::Again(pause) => {
                record.retried();
                // It goes to the head of its flow, with its age.
                arrival.returns = true;
                if !pause.is_zero() {
                    Box::pin(sleep(pause)).await;
                }
            }
            Verdict::Elsewhere => arrival.returns = true,
        }
    }
}

/// One attempt on one way.
async fn attempt(
    worker: &Rc<Worker>,
    leg: &Leg,
    journey: &mut Journey,
    arrival: &mut Arrival,
    record: &mut Record,
) -> Result<Verdict, ProxyError> {
    journey.takes(leg);
    let route = &worker.site.routes[journey.route()];
    let pool = worker.pool(journey.route()).of(arrival.upgrade.is_some());
    record.takes(route);
    let mut turn = match pace(worker, leg, journey, arrival, record).await {
        Ok(Some(turn)) => turn,
        Ok(None) => return Ok(Verdict::Elsewhere),
        Err(error) => return journey.after_failure(leg, error, arrival),
    };
    let counts_tokens = leg.estimate.is_some() && arrival.could_ask_usage() && turn.permit.counts_tokens();
    let mut outgoing = Outgoing::build(arrival, route, journey.ways.get(leg.way), counts_tokens)?;
    record.propagate(&mut outgoing.sending.head);
    journey.sent();
    let head = send(&mut turn, pool, outgoing.sending, route, record).await;
    let head = match head {
        Ok(head) => head,
        Err(error) => return journey.after_failure(leg, error, arrival),
    };
    route.reach.found();
    let attempt = Attempt { leg, turn, head, asked_usage: outgoing.asks_usage };
    Ok(match judge(worker, attempt, journey, arrival, record) {
        Judged::Now(verdict) => verdict,
        Judged::Later(judged) => judged.await,
    })
}

/// Waits for the request's turn. It is in line at once and has a connection when its turn comes. `None` if this way has
/// closed meanwhile and there are others, or if other limits concern the request now.
async fn pace(
    worker: &Rc<Worker>,
    leg: &Leg,
    journey: &mut Journey,
    arrival: &mut Arrival,
    record: &mut Record,
) -> Result<Option<Turn>, ProxyError> {
    let pool = worker.pool(journey.route()).of(arrival.upgrade.is_some());
    // The connection first: what counts for the limits is the write, which then follows the permit at once.
    let lease = pool.connection().await.map_err(ProxyError::Unreachable)?;
    match leg.line.admit(leg.ask(arrival), journey.ways.are_several(), leg.configuration) {
        Admission::Go(permit) => {
            record.goes(journey.waited);
            Ok(Some(Turn { lease, permit, late: false }))
        }
        // While the connection was made.
        Admission::Outdated => Ok(None),
        // While the connection was made, before anybody could tell it in its place.
        Admission::Wait(_) | Admission::Refuse(_) if journey.ways.has_shut(&worker.site, leg) => Ok(None),
        Admission::Refuse(refusal) => Err(ProxyError::Refused(refusal)),
        Admission::Wait(place) => {
            // Whoever goes first may have it; connections that were made for waiters stay open for waiters.
            drop(lease);
            let began = Instant::now();
            let route = &worker.site.routes[journey.route()];
            route.metrics.caller_waits(arrival.caller.flow.0, || worker.site.called(arrival));
            let permit = wait(place, arrival, record).await;
            journey.waits(began.elapsed(), record);
            let Some(permit) = permit? else { return Ok(None) };
            route.metrics.caller_served(arrival.caller.flow.0);
            record.goes(journey.waited);
            let lease = pool.connection().await.map_err(ProxyError::Unreachable)?;
            Ok(Some(Turn { lease, permit, late: true }))
        }
    }
}

/// Stands in line, and reads the body meanwhile as far as memory allows. `None` if another way may be better now.
async fn wait(mut place: Place, arrival: &mut Arrival, record: &mut Record) -> Result<Option<Permit>, ProxyError> {
    let _waiting = record.waiting();
    arrival.compact();
    let outcome = std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = Pin::new(&mut place).poll(cx) {
            return Poll::Ready(Ok(outcome));
        }
        match arrival.body.poll_ahead(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(Err(ProxyError::InvalidRequest("its body ended early"))),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    });
    match outcome.await? {
        Outcome::Go(permit) => Ok(Some(permit)),
        Outcome::Elsewhere => Ok(None),
        Outcome::Refuse(refusal) => Err(ProxyError::Refused(refusal)),
        Outcome::ShutDown => Err(ProxyError::ShuttingDown),
    }
}

/// Sends the request and waits for the response's head. A connection that its upstream was about to close, and on which
/// nothing was taken, costs no attempt.
async fn send(
    turn: &mut Turn,
    pool: &Rc<Pool>,
    mut sending: Box<Sending>,
    route: &Route,
    record: &mut Record,
) -> Result<ResponseHead, ProxyError> {
    let timeout = route.upstream.timeout;
    let deadline = Instant::now() + timeout;
    record.sent();
    loop {
        turn.permit.sent(turn.late);
        match turn.lease.exchange(sending, deadline).await {
            Ok(head) => {
                record.responded(head.status);
                return Ok(head);
            }
            Err(ExchangeError::Unsent(unsent)) => {
                turn.permit.unsent();
                turn.lease = pool.connection().await.map_err(ProxyError::Unreachable)?;
                turn.late = true;
                sending = unsent;
            }
            Err(ExchangeError::Timeout) => return Err(ProxyError::UpstreamTimeout(timeout)),
            Err(ExchangeError::NotAccepted) => return Err(ProxyError::NotAccepted),
            Err(ExchangeError::BodyBroken) => return Err(ProxyError::InvalidRequest("its body ended early")),
            Err(ExchangeError::Failed(error)) => {
                tracing::debug!(route = &*route.name, %error, "the exchange with the upstream failed");
                return Err(failure(&error));
            }
        }
    }
}

/// Makes the response's head the client's.
fn finished(worker: &Worker, journey: &Journey, mut answer: Box<Answer>, arrival: &mut Arrival) -> Box<Answer> {
    let route = &worker.site.routes[journey.route()];
    answer.upgrade = arrival.upgrade.take();
    answer.unread = Unread::of(&arrival.body, &arrival.head.headers).filter(|unread| !unread.is_empty());
    let (version, headers) = (answer.head.version, &mut answer.head.headers);
    answer.protocol = answer.upgrade.as_ref().and_then(|_| headers.first(Kind::Upgrade)?.to_value());
    if answer.meter.as_ref().is_some_and(|meter| meter.hides()) {
        headers.remove(http::header::CONTENT_LENGTH);
    }
    headers::to_client(headers);
    let (upstream, waited, attempts) = (Arc::clone(&route.named), journey.waited, journey.attempts);
    answer.told = Some(Told { version, upstream, waited, attempts });
    answer
}

fn failure(error: &MessageError) -> ProxyError {
    match error {
        MessageError::Malformed(_) | MessageError::TooLong => ProxyError::UpstreamProtocol,
        // Only bodies are ours to break: the client's did.
        MessageError::Http2(error) if error.is_user() => ProxyError::InvalidRequest("its body ended early"),
        MessageError::Http2(error) if error.is_parse() => ProxyError::UpstreamProtocol,
        MessageError::Http2(_) | MessageError::Connection(_) | MessageError::Ended => ProxyError::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what a function returns, without calling it.
    fn size_of_answer<F: Future>(_: &dyn Fn(&'static Rc<Worker>, Box<Arrival>, &'static mut Record) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_waits_is_small() {
        // Thousands may wait, each with this and with its arrival.
        assert!(size_of_answer(&forward) <= 1600, "{} bytes", size_of_answer(&forward));
        assert!(size_of::<Arrival>() <= 512, "{} bytes", size_of::<Arrival>());
    }
}
