//! HTTP/2 requests in the words of HTTP/1.1, which is what the rest of the proxy reads, and their responses back.
//!
//! What a message says is the same in both versions (RFC 9110); only its framing and a few fields differ. They are
//! translated once at the border, so that every request is routed, judged and guarded in one way.

use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;

use aws_lc_rs::rand;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::body::{Body, Incoming};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;

use super::arriving::Arriving;
use super::body::ResponseBody;
use super::error::{ProxyError, Speech};
use super::peer::Peer;
use super::serve::{Delivery, serve};
use super::tunnel::ClientEnd;
use super::worker::Worker;

/// How the client's stream becomes something else than a request and its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// It does not.
    Answer,
    /// Its response has no body: for HTTP/2, hyper does not see to it.
    Head,
    /// It carries another protocol, as an upgrade does in HTTP/1.1 (RFC 8441).
    Tunnel,
}

/// Answers one request of an HTTP/2 connection.
pub fn serve_stream(
    worker: &Rc<Worker>,
    peer: &Rc<Peer>,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> + use<> {
    let is_ambiguous = request.headers().get_all(CONTENT_LENGTH).iter().count() > 1;
    let wish = to_http1(&mut request);
    let end = request.extensions_mut().remove::<OnUpgrade>().map(ClientEnd::Http2);
    let (head, body) = request.into_parts();
    let answered = serve(worker, peer, (Rc::new(head.into()), Arriving::Http2(body)), Delivery { end, is_ambiguous });
    async move {
        let response = answered.await.whole();
        Ok(match wish {
            Wish::Answer => response,
            Wish::Head => without_body(response),
            Wish::Tunnel => tunnelled(response),
        })
    }
}

/// The same response to a HEAD: with the length of what it would have said.
fn without_body(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    if let ResponseBody::Whole(words) = response.body_mut()
        && let Some(words) = words.take()
    {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(words.len()));
    }
    response
}

fn to_http1(request: &mut Request<Incoming>) -> Wish {
    let wish = match *request.method() {
        Method::CONNECT => to_upgrade(request),
        Method::HEAD => Wish::Head,
        _ => Wish::Answer,
    };
    to_origin_form(request);
    join_cookies(request.headers_mut());
    let is_unknown = !request.body().is_end_stream() && !request.headers().contains_key(CONTENT_LENGTH);
    if is_unknown && wish != Wish::Tunnel {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    wish
}

/// `:authority` as `host`. Where both are given and differ, both are left, which nobody accepts (RFC 9113 §8.3.1).
fn to_origin_form(request: &mut Request<Incoming>) {
    // What is left of CONNECT has no path, and is refused.
    if request.method() == Method::CONNECT {
        return;
    }
    let Some(authority) = request.uri().authority() else { return };
    let named = HeaderValue::from_str(authority.as_str());
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = Uri::from(path);
    }
    if let Ok(named) = named
        && request.headers().get(HOST) != Some(&named)
    {
        request.headers_mut().append(HOST, named);
    }
}

/// One field of what may have come in several (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() < 2 {
        return;
    }
    if let Ok(mut joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        joined.set_sensitive(true);
        headers.insert(COOKIE, joined);
    }
}

/// A CONNECT that names a protocol as the upgrade that it stands for. One that names none is left as it is.
fn to_upgrade(request: &mut Request<Incoming>) -> Wish {
    let Some(protocol) = request.extensions_mut().remove::<Protocol>() else { return Wish::Answer };
    let Ok(protocol) = HeaderValue::from_str(protocol.as_str()) else { return Wish::Answer };
    *request.method_mut() = Method::GET;
    let is_websocket = protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
    if is_websocket {
        headers.insert(SEC_WEBSOCKET_KEY, websocket_key());
    }
    Wish::Tunnel
}

/// What proves in HTTP/1.1 that the other side understands WebSocket (RFC 6455 §4.1): sixteen random bytes in base 64.
fn websocket_key() -> HeaderValue {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = [0; 18];
    // Without randomness it proves less, and still is a key.
    let _ = rand::fill(&mut bytes[..16]);
    let digits = bytes.chunks(3).flat_map(|three| {
        let bits = u32::from(three[0]) << 16 | u32::from(three[1]) << 8 | u32::from(three[2]);
        [18, 12, 6, 0].map(|shift| DIGITS[(bits >> shift & 63) as usize])
    });
    let mut text: Vec<u8> = digits.collect();
    text.splice(22.., *b"==");
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA=="))
}

/// The answer to an upgrade as that to a CONNECT: 200 in the place of 101. Another success would open a tunnel to nowhere.
fn tunnelled(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        *response.status_mut() = StatusCode::OK;
        for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
            response.headers_mut().remove(name);
        }
    } else if response.status().is_success() {
        return ProxyError::UpstreamProtocol.into_response(0, Speech::Chat);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crumbs_are_one_cookie() {
        let crumbs = ["a=1", "b=2", "c=3"].map(|crumb| (COOKIE, HeaderValue::from_static(crumb)));
        let mut headers = HeaderMap::new();
        crumbs.into_iter().for_each(|(name, value)| _ = headers.append(name, value));
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }

    #[test]
    fn a_websocket_key_is_sixteen_bytes_in_base_64() {
        let (one, other) = (websocket_key(), websocket_key());
        assert_ne!(one, other);
        assert_eq!((one.len(), &one.as_bytes()[22..]), (24, &b"=="[..]));
        // Of the last digit only two bits count.
        assert!(b"AQgw".contains(&one.as_bytes()[21]), "{one:?}");
    }
}
