//! From an arrival and a way to the request that is sent.

use std::borrow::Cow;
use std::rc::Rc;

use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, HOST};
use http::{HeaderValue, Uri};

use super::arrival::Arrival;
use super::call::Call;
use super::caller;
use super::error::ProxyError;
use super::request_body::RequestBody;
use super::site::Route;
use super::told::Forwarded;
use super::way::Way;
use crate::config::model::ProviderKind;
use crate::fields::Kind;
use crate::head::RequestHead;
use crate::http1::length_in;
use crate::provider::{Edit, rewrite};
use crate::upstream::Sending;

/// A request that is ready to be sent.
pub(super) struct Outgoing {
    /// Boxed, since it is handed on several times.
    pub sending: Box<Sending>,
    /// Whether it asks for usage that its client has not asked for.
    pub asks_usage: bool,
}

impl Outgoing {
    /// The request as this way's upstream gets it. `counts_tokens` says that its usage must be told.
    ///
    /// # Errors
    /// When the path makes no sense there, or the body has been sent and is gone.
    pub(super) fn build(arrival: &Arrival, route: &Route, way: &Way, counts_tokens: bool) -> Result<Self, ProxyError> {
        let asked = &arrival.head;
        // Most of it is passed on as it came: what is changed is changed in a copy.
        let mut head = Rc::clone(asked);
        if let Some(uri) = changed_uri(&asked.uri, route, way, arrival.model())? {
            Rc::make_mut(&mut head).uri = uri;
        }
        if route.sends_own_host() || asked.host().is_empty() {
            Rc::make_mut(&mut head).headers.insert(HOST, route.authority.clone());
        } else if let Some(host) = asked.uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
            Rc::make_mut(&mut head).headers.insert(HOST, host);
        }
        if let Some(key) = route.key(way.key) {
            let headers = &mut Rc::make_mut(&mut head).headers;
            caller::remove_credentials(headers);
            headers.insert(key.field.clone(), key.value.clone());
        }
        let forwarded = Some(Forwarded::new(&arrival.peer, asked));
        let mut asks_usage = false;
        let body = match arrival.call.as_deref() {
            Some(call @ Call { body: Some(body), .. }) => {
                let usage = call.ask_usage.clone().filter(|_| counts_tokens);
                asks_usage = usage.is_some();
                let edits: Vec<Edit> = renamed(call, route).into_iter().chain(usage).collect();
                // What comes after the body can be sent in chunks only.
                if !edits.is_empty() && call.trailers.is_none() {
                    RequestHead::remove(&mut head, Kind::TransferEncoding);
                }
                if asks_usage {
                    // What only we asked for is removed again, which takes a response that can be read.
                    Rc::make_mut(&mut head).headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
                }
                let pieces = rewrite(body, edits);
                let length: usize = pieces.iter().map(bytes::Bytes::len).sum();
                let in_chunks = head.headers.has(Kind::TransferEncoding);
                let stated = head.headers.first(Kind::ContentLength).and_then(|length| length_in(length.as_bytes()));
                if !in_chunks && stated != Some(length as u64) {
                    Rc::make_mut(&mut head).headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
                }
                let trailers = call.trailers.clone().filter(|_| in_chunks);
                RequestBody::of(pieces, trailers)
            }
            _ => arrival.body.again().ok_or(ProxyError::Broken)?,
        };
        Ok(Self { sending: Box::new(Sending { head, body, forwarded }), asks_usage })
    }
}

/// The provider's own name in the place of the one that the client used.
fn renamed(call: &Call, route: &Route) -> Option<Edit> {
    let (model, named_at) = (call.model.as_deref()?, call.named_at.clone()?);
    let own = route.own_name(model);
    (own != model).then(|| Edit::model(named_at, own))
}

/// The target at the upstream. What the route's rule leaves of the client's is passed on byte for byte, behind the
/// upstream's own path. `None` if that is what the client asked for.
fn changed_uri(asked: &Uri, route: &Route, way: &Way, model: Option<&str>) -> Result<Option<Uri>, ProxyError> {
    let base =
        if route.base_path_always || way.prefix > 0 || way.by_model { route.upstream.base_path.as_str() } else { "" };
    let path = asked.path_and_query().map_or("/", |path| path.as_str());
    let path = if way.by_model { unified(path, route) } else { Cow::Borrowed(path) };
    let path = renamed_in_path(path, route, model);
    let path = if forgets_query_key(route, way) { without_query_key(path) } else { path };
    if base.is_empty() && way.prefix == 0 && asked.authority().is_none() && matches!(path, Cow::Borrowed(_)) {
        return Ok(None);
    }
    joined(base, &path, way.prefix).map(Some)
}

/// The path of the API that all models share, as this provider has it.
fn unified<'a>(path: &'a str, route: &Route) -> Cow<'a, str> {
    let base = route.api.as_ref().map_or("/v1", |api| api.unified_base);
    match path.strip_prefix("/v1").filter(|rest| rest.starts_with('/') && base != "/v1") {
        Some(rest) => Cow::Owned([base, rest].concat()),
        None => Cow::Borrowed(path),
    }
}

/// The provider's own name of a model that the path names.
fn renamed_in_path<'a>(path: Cow<'a, str>, route: &Route, model: Option<&str>) -> Cow<'a, str> {
    let Some((model, own)) = model.map(|model| (model, route.own_name(model))).filter(|(model, own)| model != own)
    else {
        return path;
    };
    let named = [["/models/", model, ":"].concat(), ["/deployments/", model, "/"].concat()];
    let found = named.iter().find(|named| path.contains(named.as_str()));
    found.map_or(path.clone(), |named| Cow::Owned(path.replacen(named, &named.replacen(model, own, 1), 1)))
}

/// Whether a caller's `?key=` is no business of this way's upstream: a key of ours goes in its place, or the model led away
/// from Google, whose own way of sending credentials it is.
fn forgets_query_key(route: &Route, way: &Way) -> bool {
    let is_google = route.kind == ProviderKind::Gemini;
    (is_google && way.key.is_some()) || (!is_google && way.by_model)
}

fn without_query_key(path: Cow<'_, str>) -> Cow<'_, str> {
    let Some((asked, query)) = path.split_once('?').filter(|(_, query)| query.split('&').any(is_key)) else {
        return path;
    };
    let kept: Vec<&str> = query.split('&').filter(|parameter| !is_key(parameter)).collect();
    let mark = if kept.is_empty() { "" } else { "?" };
    Cow::Owned([asked, mark, &kept.join("&")].concat())
}

fn is_key(parameter: &str) -> bool {
    parameter == "key" || parameter.starts_with("key=")
}

fn joined(base: &str, path: &str, prefix: usize) -> Result<Uri, ProxyError> {
    if path == "*" {
        return Ok(Uri::from_static("*"));
    }
    let rest = &path[prefix..];
    let root = if !rest.starts_with('/') && (base.is_empty() || prefix == 0) { "/" } else { "" };
    let joined = [base, root, rest].concat();
    joined.parse().map_err(|_| ProxyError::InvalidRequest("the path is no path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_go_byte_for_byte_behind_the_upstreams() {
        let uri = |path: &str, base: &str, prefix: &str| joined(base, path, prefix.len()).expect("a URI").to_string();
        assert_eq!(uri("/a%2fb//c/../d?", "", ""), "/a%2fb//c/../d?");
        assert_eq!(uri("/a?x=%20&&y", "/base", ""), "/base/a?x=%20&&y");
        assert_eq!(uri("/internal/a//b?q", "/base", "/internal"), "/base/a//b?q");
        assert_eq!(uri("/internal", "/base", "/internal"), "/base");
        assert_eq!(uri("/internal?q", "/base", "/internal"), "/base?q");
        assert_eq!(uri("/internal", "", "/internal"), "/");
        assert_eq!(uri("/internal?q", "", "/internal"), "/?q");
        assert_eq!(uri("/internal/", "", "/internal"), "/");
        assert_eq!(uri("/?y", "/base", ""), "/base/?y");
        assert_eq!(uri("*", "/base", ""), "*");
    }

    #[test]
    fn credentials_of_a_query_are_left_out_and_nothing_else() {
        let left = |path: &'static str| without_query_key(Cow::Borrowed(path));
        assert_eq!(left("/m:generateContent?alt=sse&key=AIza&x=%20"), "/m:generateContent?alt=sse&x=%20");
        assert_eq!(left("/m:generateContent?key=AIza"), "/m:generateContent");
        assert!(matches!(left("/m?keys=1&monkey=2"), Cow::Borrowed("/m?keys=1&monkey=2")));
        assert!(matches!(left("/m?"), Cow::Borrowed("/m?")));
    }
}
