//! From what a client sent to what its upstream gets, and what that asks of limits. Nothing here waits.

use std::rc::Rc;
use std::sync::Arc;

use cooldown_pacer::{Ask, Cost};
use http::header::HOST;
use http::request::Parts;
use http::{HeaderValue, Request, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::body::RequestBody;
use super::budget;
use super::caller::{self, Caller};
use super::error::ProxyError;
use super::headers;
use super::peer::Peer;
use super::record::Record;
use super::route::Matched;
use super::site::{Route, Site};
use super::target::{self, Target};
use super::worker::Worker;
use crate::pacing::{Concern, Keys, Line};

/// A request on its way to its upstream.
pub(super) struct Outgoing {
    /// The index of its route.
    pub route: usize,
    /// What is sent. Boxed, since it is handed on several times.
    pub request: Box<Request<RequestBody>>,
    /// `None` when no limit concerns it.
    pub asked: Option<Asked>,
    /// The client's end, if it asks for another protocol.
    pub upgrade: Option<OnUpgrade>,
}

/// What a request asks of its limits.
pub(super) struct Asked {
    pub line: Arc<Line>,
    pub keys: Keys,
    pub ask: Ask,
}

impl Outgoing {
    /// Finds the request's route and caller, and turns it into what is sent.
    ///
    /// # Errors
    /// When it is malformed, has no route, or comes from a stranger.
    pub(super) fn prepare(
        worker: &Rc<Worker>,
        peer: &Peer,
        request: Request<Incoming>,
        record: &mut Record,
    ) -> Result<Box<Self>, ProxyError> {
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
        let request = Box::new(Request::from_parts(head, RequestBody::new(incoming, site.idle_timeout)));
        Ok(Box::new(Self { route: matched.route, request, asked, upgrade }))
    }
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
