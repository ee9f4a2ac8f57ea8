//! What is told of a message's way beside the fields that it came with.
//!
//! It goes from here to the wire, and what hardly changes is ready to be written: a map of fields that held it as well
//! would take more time than reading the message.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{FORWARDED, VIA};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

use super::headers::{FORWARDED_HOST, FORWARDED_PROTO, SOURCE};
use super::peer::Peer;
use crate::fields::write_field;
use crate::head::RequestHead;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const UPSTREAM: HeaderName = HeaderName::from_static("x-cooldown-upstream");
const WAIT_MS: HeaderName = HeaderName::from_static("x-cooldown-wait-ms");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-cooldown-attempts");
const VIA_10: HeaderValue = HeaderValue::from_static("1.0 cooldown");
const VIA_11: HeaderValue = HeaderValue::from_static("1.1 cooldown");
const VIA_20: HeaderValue = HeaderValue::from_static("2.0 cooldown");
const FROM_UPSTREAM: HeaderValue = HeaderValue::from_static("upstream");
const NONE: HeaderValue = HeaderValue::from_static("0");
const ONE: HeaderValue = HeaderValue::from_static("1");

/// What an upstream is told: who asks, for which host, and by which way.
#[derive(Debug)]
pub struct Forwarded {
    peer: Rc<Peer>,
    /// The head that the client sent.
    asked: Rc<RequestHead>,
}

/// By which name clients are told of an upstream.
#[derive(Debug)]
pub(super) struct Named {
    name: HeaderValue,
    /// What is told of it where it speaks HTTP/1.1, as lines.
    lines: Vec<u8>,
}

/// What a client is told: who answers, by which way, and what it took.
#[derive(Debug)]
pub struct Told {
    /// What the upstream spoke.
    pub(super) version: Version,
    /// The name of its route.
    pub(super) upstream: Arc<Named>,
    /// How long the request stood in line.
    pub(super) waited: Duration,
    /// How often it was sent.
    pub(super) attempts: u32,
}

impl Forwarded {
    /// A request of this client, which sent this head.
    pub(super) fn new(peer: &Rc<Peer>, asked: &Rc<RequestHead>) -> Self {
        Self { peer: Rc::clone(peer), asked: Rc::clone(asked) }
    }

    /// Adds it to the request's fields, behind what earlier proxies told.
    pub fn tell(&self, headers: &mut HeaderMap) {
        headers.reserve(5); // as many as `each` tells
        self.each(|name, value| _ = headers.append(name, value.clone()));
    }

    /// Writes it as lines.
    pub fn write(&self, head: &mut Vec<u8>) {
        self.peer.write_told(self.asked.host(), head, |head| self.each_of_peer(line_in(head)));
        write_field(&VIA, &via(self.asked.version), head);
    }

    fn each(&self, mut tell: impl FnMut(HeaderName, &HeaderValue)) {
        self.each_of_peer(&mut tell);
        tell(VIA, &via(self.asked.version));
    }

    /// What is the same for all requests of a client for one host.
    fn each_of_peer(&self, mut tell: impl FnMut(HeaderName, &HeaderValue)) {
        let host = HeaderValue::from_bytes(self.asked.host()).unwrap_or_else(|_| HeaderValue::from_static(""));
        tell(FORWARDED_FOR, self.peer.ip_value());
        tell(FORWARDED, &self.peer.forwarded(&host));
        tell(FORWARDED_PROTO, &self.peer.proto());
        tell(FORWARDED_HOST, &host);
    }
}

impl Named {
    /// The upstream with this name.
    pub(super) fn new(name: &str) -> Arc<Self> {
        let name = HeaderValue::from_str(name).unwrap_or_else(|_| HeaderValue::from_static("route"));
        let mut lines = Vec::new();
        Self::each(&name, Version::HTTP_11, line_in(&mut lines));
        Arc::new(Self { name, lines })
    }

    fn each(name: &HeaderValue, version: Version, mut tell: impl FnMut(HeaderName, &HeaderValue)) {
        tell(VIA, &via(version));
        tell(SOURCE, &FROM_UPSTREAM);
        tell(UPSTREAM, name);
    }
}

impl Told {
    /// Adds it to the response's fields.
    pub fn tell(&self, headers: &mut HeaderMap) {
        self.each(|name, value| _ = headers.append(name, value.clone()));
    }

    /// Writes it as lines.
    pub fn write(&self, head: &mut Vec<u8>) {
        if self.version == Version::HTTP_11 {
            head.extend_from_slice(&self.upstream.lines);
            self.write_cost(head);
        } else {
            self.each(line_in(head));
        }
    }

    fn each(&self, mut tell: impl FnMut(HeaderName, &HeaderValue)) {
        Named::each(&self.upstream.name, self.version, &mut tell);
        self.each_cost(tell);
    }

    fn write_cost(&self, head: &mut Vec<u8>) {
        // Most leave at once, and once.
        if self.waited.is_zero() && self.attempts == 1 {
            return head.extend_from_slice(b"x-cooldown-wait-ms: 0\r\nx-cooldown-attempts: 1\r\n");
        }
        self.each_cost(line_in(head));
    }

    fn each_cost(&self, mut tell: impl FnMut(HeaderName, &HeaderValue)) {
        tell(WAIT_MS, &number(u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX)));
        tell(ATTEMPTS, &number(u64::from(self.attempts)));
    }
}

/// Tells by writing.
fn line_in(head: &mut Vec<u8>) -> impl FnMut(HeaderName, &HeaderValue) {
    |name, value| write_field(&name, value, head)
}

/// RFC 9110 §7.6.3: the protocol in which a message was received.
fn via(version: Version) -> HeaderValue {
    match version {
        Version::HTTP_2 => VIA_20,
        Version::HTTP_10 => VIA_10,
        _ => VIA_11,
    }
}

fn number(number: u64) -> HeaderValue {
    match number {
        0 => NONE,
        1 => ONE,
        number => HeaderValue::from(number),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn asked(version: Version, host: &str) -> Rc<RequestHead> {
        let request = http::Request::builder().version(version).header(http::header::HOST, host).body(());
        Rc::new(request.expect("a request").into_parts().0.into())
    }

    fn lines(write: impl Fn(&mut Vec<u8>)) -> Vec<String> {
        let mut head = Vec::new();
        write(&mut head);
        String::from_utf8(head).expect("text").lines().map(str::to_owned).collect()
    }

    fn fields(tell: impl Fn(&mut HeaderMap)) -> Vec<String> {
        let mut headers = HeaderMap::new();
        tell(&mut headers);
        let line = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().expect("text"));
        headers.iter().map(line).collect()
    }

    #[test]
    fn an_upstream_is_told_who_asks_and_how_in_either_version() {
        let peer = Rc::new(Peer::new(SocketAddr::from(([10, 0, 0, 1], 5555)), false));
        let forwarded = Forwarded::new(&peer, &asked(Version::HTTP_2, "asked:80"));
        let told = [
            "x-forwarded-for: 10.0.0.1",
            "forwarded: for=10.0.0.1;host=\"asked:80\";proto=http",
            "x-forwarded-proto: http",
            "x-forwarded-host: asked:80",
            "via: 2.0 cooldown",
        ];
        let first = |forwarded: &Forwarded| {
            let mut lines = lines(|head| {
                head.extend_from_slice(b"GET / HTTP/1.1\r\n");
                forwarded.write(head);
            });
            assert_eq!(lines.remove(0), "GET / HTTP/1.1");
            lines
        };
        assert_eq!(first(&forwarded), told);
        assert_eq!(first(&forwarded), told, "again, as it is kept");
        let later = Forwarded::new(&peer, &asked(Version::HTTP_11, "other"));
        assert_eq!(first(&later)[3..], ["x-forwarded-host: other", "via: 1.1 cooldown"]);
        assert_eq!(first(&forwarded), told, "and again");
        first(&Forwarded::new(&peer, &asked(Version::HTTP_11, &"a".repeat(60_000))));
        assert!(peer.holds_told() < 2_000, "a client keeps no long hosts");
        assert_eq!(fields(|headers| forwarded.tell(headers)), told);
    }

    #[test]
    fn a_client_is_told_where_its_response_comes_from_and_how_long_it_waited() {
        let (upstream, waited) = (Named::new("api"), Duration::from_micros(1_234_567));
        for (version, via) in [(Version::HTTP_11, "via: 1.1 cooldown"), (Version::HTTP_2, "via: 2.0 cooldown")] {
            let told = Told { version, upstream: Arc::clone(&upstream), waited, attempts: 2 };
            let expected = [
                via,
                "x-cooldown-source: upstream",
                "x-cooldown-upstream: api",
                "x-cooldown-wait-ms: 1234",
                "x-cooldown-attempts: 2",
            ];
            assert_eq!(lines(|head| told.write(head)), expected);
            assert_eq!(fields(|headers| told.tell(headers)), expected);
        }
        let at_once = Told { version: Version::HTTP_11, upstream, waited: Duration::ZERO, attempts: 1 };
        assert_eq!(lines(|head| at_once.write(head)), fields(|headers| at_once.tell(headers)));
    }
}
