//! Heads of messages, whichever version of HTTP they came in.

use std::rc::Rc;

use http::{Method, Request, Response, StatusCode, Uri, Version, request, response};
use hyper::ext::ReasonPhrase;

use crate::fields::{Fields, Kind, Kinds, Value};

/// What comes before the body of a request.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// What shall be done.
    pub method: Method,
    /// With what.
    pub uri: Uri,
    /// The version of HTTP that it came in.
    pub version: Version,
    /// Its fields.
    pub headers: Fields,
}

/// What comes before the body of a response.
#[derive(Debug)]
pub struct ResponseHead {
    /// What came of the request.
    pub status: StatusCode,
    /// The version of HTTP that it came in.
    pub version: Version,
    /// The words of the status, where they are not the usual ones.
    pub reason: Option<ReasonPhrase>,
    /// Its fields.
    pub headers: Fields,
}

impl RequestHead {
    /// The host as its sender named it; nothing if it names none. What the request line says overrides the field
    /// (RFC 9112 §3.2.2).
    pub fn host(&self) -> &[u8] {
        match self.uri.authority() {
            Some(authority) => authority.as_str().as_bytes(),
            None => self.headers.first(Kind::Host).map_or(&[], Value::as_bytes),
        }
    }

    /// The request of this head and a body, for what sends it in HTTP/2.
    pub fn to_request<B>(&self, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.headers_mut() = self.headers.to_map();
        (*request.method_mut(), *request.uri_mut()) = (self.method.clone(), self.uri.clone());
        request
    }

    /// Takes a field away that a shared head hardly ever has.
    pub fn remove(head: &mut Rc<Self>, kind: Kind) {
        if head.headers.has(kind) {
            Rc::make_mut(head).headers.remove_kinds(Kinds::of(&[kind]));
        }
    }
}

impl ResponseHead {
    /// The response of this head and a body, for what sends it in HTTP/2.
    pub fn into_response<B>(self, body: B) -> Response<B> {
        let mut response = Response::new(body);
        *response.headers_mut() = self.headers.to_map();
        (*response.status_mut(), *response.version_mut()) = (self.status, self.version);
        response
    }
}

impl From<request::Parts> for RequestHead {
    fn from(parts: request::Parts) -> Self {
        let request::Parts { method, uri, version, headers, .. } = parts;
        Self { method, uri, version, headers: Fields::from(&headers) }
    }
}

impl From<response::Parts> for ResponseHead {
    fn from(mut parts: response::Parts) -> Self {
        let reason = parts.extensions.remove();
        Self { status: parts.status, version: parts.version, reason, headers: Fields::from(&parts.headers) }
    }
}
