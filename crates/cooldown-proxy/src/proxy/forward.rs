//! The path of a request, one call a step.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use cooldown_pacer::{Ask, Cost};
use http::header::{HOST, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use super::body::RequestBody;
use super::budget;
use super::caller::{self, Caller};
use super::error::ProxyError;
use super::headers::{self, Peer};
use super::record::Record;
use super::route::Matched;
use super::site::{Route, Site};
use super::target::{self, Target};
use super::worker::Worker;
use crate::pacing::{Admission, Concern, Keys, Line, Outcome, Permit, Place};
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

/// What a request asks of its limits.
struct Asked {
    line: Arc<Line>,
    keys: Keys,
    ask: Ask,
}

/// A request's turn: everything that it takes to send it.
struct Turn {
    lease: Lease,
    permit: Permit,
    /// Something was awaited since the permit was granted.
    late: bool,
    waited: Duration,
}

/// Takes a request to its upstream, at its time, and returns with the response's head.
///
/// Dropping this future leaves the line, or breaks off the exchange, and gives back whatever was held.
pub(super) async fn forward(
    worker: &Rc<Worker>,
    peer: &Peer,
    request: Request<Incoming>,
    record: &mut Record,
) -> Result<Answer, ProxyError> {
    let site = &*worker.site;
    let (mut head, incoming) = request.into_parts();
    let target = target::read(&head)?;
    let matched = site.route(&target, head.uri.path())?;
    let route = &site.routes[matched.route];
    record.matched(route, &target.host, &site.metrics);
    let caller = site.callers.identify(&head.headers, peer, &site.pacing)?;
    caller.client.and_then(|client| site.callers.name(client)).inspect(|name| record.client(name));
    let asked = ask(site, &head, matched, &target, &caller);
    let upgrade = wanted_upgrade(&mut head);
    rewrite(&mut head, route, matched, peer, &caller, upgrade.is_some())?;

    // Boxed, since it is handed on several times and what waits should be small.
    let mut request = Box::new(Request::from_parts(head, RequestBody::new(incoming, site.idle_timeout)));
    let pool = worker.pool(matched.route);
    let keys = asked.as_ref().map(|asked| (Arc::clone(&asked.line), asked.keys.clone()));
    let mut turn = pace(worker, pool, asked, &mut request, record).await?;
    let mut response = send(&mut turn, pool, request, route, record).await?;
    if let Some((line, keys)) = keys.filter(|_| response.status() == StatusCode::TOO_MANY_REQUESTS) {
        line.refused_by_upstream(&keys);
    }
    let protocol = upgrade.as_ref().and_then(|_| response.headers_mut().remove(UPGRADE));
    headers::to_client(response.headers_mut(), &route.name_value, turn.waited, 1);
    Ok(Answer { response, lease: turn.lease, permit: turn.permit, upgrade, protocol })
}

/// What the request asks of its limits; `None` when no limit concerns it.
fn ask(site: &Site, head: &Parts, matched: Matched, target: &Target<'_>, caller: &Caller) -> Option<Asked> {
    let credentials = caller::credentials(&head.headers).map_or(0, |value| site.pacing.hash(value.as_bytes()));
    let concern = Concern { route: matched.route, host: &target.host, client: caller.client, credentials };
    let (line, keys) = site.pacing.concern(concern)?;
    let budget = budget::wait_budget(&head.headers, site.max_wait);
    let ask = Ask {
        keys: keys.clone(),
        flow: caller.flow,
        weight: caller.weight,
        urgency: budget::urgency(&head.headers).unwrap_or(caller.urgency),
        cost: Cost::ONE_REQUEST,
        latest: Some(site.pacing.clock().now().after(budget)),
        since: None,
    };
    Some(Asked { line: Arc::clone(line), keys, ask })
}

/// The client's end of another protocol, if it asks for one (RFC 9110 §7.8).
fn wanted_upgrade(head: &mut Parts) -> Option<OnUpgrade> {
    let upgrade = head.extensions.remove::<OnUpgrade>()?;
    headers::names_upgrade(&head.headers).then_some(upgrade)
}

/// Turns the client's head into the one for the upstream.
fn rewrite(
    head: &mut Parts,
    route: &Route,
    matched: Matched,
    peer: &Peer,
    caller: &Caller,
    upgrade: bool,
) -> Result<(), ProxyError> {
    let host = asked_host(head).unwrap_or_else(|| route.authority.clone());
    let base = if route.base_path_always || matched.prefix > 0 { route.upstream.base_path.as_str() } else { "" };
    head.uri = upstream_uri(std::mem::take(&mut head.uri), base, matched.prefix)?;
    let version = std::mem::replace(&mut head.version, Version::HTTP_11);
    head.extensions.clear();
    let own_host = route.sends_own_host().then_some(&route.authority);
    headers::to_upstream(&mut head.headers, version, peer, host, own_host, upgrade);
    if let Some(field) = &caller.token_field {
        head.headers.remove(field);
    }
    if let Some((field, credentials)) = &route.credentials {
        caller::remove_credentials(&mut head.headers);
        head.headers.insert(field, credentials.clone());
    }
    Ok(())
}

/// The host as the client named it.
fn asked_host(head: &Parts) -> Option<HeaderValue> {
    match head.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => head.headers.get(HOST).cloned(),
    }
}

/// The upstream's path in front of what the route's rule left of the request's; that is passed on byte for byte.
fn upstream_uri(uri: Uri, base: &str, prefix: usize) -> Result<Uri, ProxyError> {
    let path = uri.path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    if base.is_empty() && prefix == 0 {
        return Ok(if uri.authority().is_none() { uri } else { Uri::from(path) });
    }
    if path.as_str() == "*" {
        return Ok(uri);
    }
    let rest = &path.as_str()[prefix..];
    let root = if !rest.starts_with('/') && (base.is_empty() || prefix == 0) { "/" } else { "" };
    let joined = [base, root, rest].concat();
    joined.parse().map_err(|_| ProxyError::InvalidRequest("the path is no path"))
}

/// Waits for the request's turn. It is in line at once and has a connection when its turn comes.
async fn pace(
    worker: &Rc<Worker>,
    pool: &Rc<Pool>,
    asked: Option<Asked>,
    request: &mut Request<RequestBody>,
    record: &mut Record,
) -> Result<Turn, ProxyError> {
    // The connection first: what counts for the limits is the write, which then follows the permit at once.
    let lease = pool.connection().await.map_err(ProxyError::Unreachable)?;
    let Some(Asked { line, ask, .. }) = asked else {
        return Ok(Turn { lease, permit: Permit::unpaced(), late: false, waited: Duration::ZERO });
    };
    match line.admit(ask) {
        Admission::Go(permit) => {
            record.waited(Duration::ZERO);
            Ok(Turn { lease, permit, late: false, waited: Duration::ZERO })
        }
        Admission::Refuse(refusal) => Err(ProxyError::Refused(refusal)),
        Admission::Wait(place) => {
            // Whoever goes first may have it; connections that were made for waiters stay open for waiters.
            drop(lease);
            let began = Instant::now();
            let permit = wait(worker, place, request, record).await?;
            let waited = began.elapsed();
            record.waited(waited);
            let lease = pool.connection().await.map_err(ProxyError::Unreachable)?;
            Ok(Turn { lease, permit, late: true, waited })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_go_byte_for_byte_behind_the_upstreams() {
        let uri = |uri: &str, base: &str, prefix: &str| {
            upstream_uri(uri.parse().expect("a URI"), base, prefix.len()).expect("a URI").to_string()
        };
        assert_eq!(uri("/a%2fb//c/../d?", "", ""), "/a%2fb//c/../d?");
        assert_eq!(uri("/a?x=%20&&y", "/base", ""), "/base/a?x=%20&&y");
        assert_eq!(uri("/internal/a//b?q", "/base", "/internal"), "/base/a//b?q");
        assert_eq!(uri("/internal", "/base", "/internal"), "/base");
        assert_eq!(uri("/internal?q", "/base", "/internal"), "/base?q");
        assert_eq!(uri("/internal", "", "/internal"), "/");
        assert_eq!(uri("/internal?q", "", "/internal"), "/?q");
        assert_eq!(uri("/internal/", "", "/internal"), "/");
        assert_eq!(uri("http://api.example.com/x?y", "", ""), "/x?y");
        assert_eq!(uri("http://api.example.com?y", "/base", ""), "/base/?y");
        assert_eq!(uri("*", "/base", ""), "*");
    }
}
