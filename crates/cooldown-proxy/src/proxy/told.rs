//! What is told of a message's way beside the fields that it came with.
//!
//! It goes from here to the wire: a map of fields that held it as well would take more time than all that is told.

use std::rc::Rc;
use std::time::Duration;

use http::header::{FORWARDED, VIA};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

use super::headers::{ATTEMPTS, FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO, SOURCE, UPSTREAM, WAIT_MS};
use super::peer::Peer;
use crate::http1::write_field;

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
    /// What the client spoke.
    version: Version,
    host: HeaderValue,
}

/// What a client is told: who answers, by which way, and what it took.
#[derive(Debug)]
pub struct Told {
    /// What the upstream spoke.
    pub(super) version: Version,
    /// The name of its route.
    pub(super) upstream: HeaderValue,
    /// How long the request stood in line.
    pub(super) waited: Duration,
    /// How often it was sent.
    pub(super) attempts: u32,
}

impl Forwarded {
    /// A request of this client, which spoke `version`, for a host as the client named it.
    pub(super) fn new(peer: &Rc<Peer>, version: Version, host: HeaderValue) -> Self {
        Self { peer: Rc::clone(peer), version, host }
    }

    /// Adds it to the request's fields, behind what earlier proxies told.
    pub fn tell(&self, headers: &mut HeaderMap) {
        self.each(|name, value| _ = headers.append(name, value.clone()));
    }

    /// Writes it as lines.
    pub fn write(&self, head: &mut Vec<u8>) {
        self.each(|name, value| write_field(&name, value, head));
    }

    fn each(&self, mut tell: impl FnMut(HeaderName, &HeaderValue)) {
        tell(FORWARDED_FOR, self.peer.ip_value());
        tell(FORWARDED, &self.peer.forwarded(&self.host));
        tell(FORWARDED_PROTO, &self.peer.proto());
        tell(VIA, &via(self.version));
        tell(FORWARDED_HOST, &self.host);
    }
}

impl Told {
    /// Adds it to the response's fields.
    pub fn tell(&self, headers: &mut HeaderMap) {
        self.each(|name, value| _ = headers.append(name, value.clone()));
    }

    /// Writes it as lines.
    pub fn write(&self, head: &mut Vec<u8>) {
        self.each(|name, value| write_field(&name, value, head));
    }

    fn each(&self, mut tell: impl FnMut(HeaderName, &HeaderValue)) {
        tell(VIA, &via(self.version));
        tell(SOURCE, &FROM_UPSTREAM);
        tell(UPSTREAM, &self.upstream);
        tell(WAIT_MS, &number(u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX)));
        tell(ATTEMPTS, &number(u64::from(self.attempts)));
    }
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
        let forwarded = Forwarded::new(&peer, Version::HTTP_2, HeaderValue::from_static("asked:80"));
        let told = [
            "x-forwarded-for: 10.0.0.1",
            "forwarded: for=10.0.0.1;host=\"asked:80\";proto=http",
            "x-forwarded-proto: http",
            "via: 2.0 cooldown",
            "x-forwarded-host: asked:80",
        ];
        assert_eq!(lines(|head| forwarded.write(head)), told);
        assert_eq!(fields(|headers| forwarded.tell(headers)), told);
    }

    #[test]
    fn a_client_is_told_where_its_response_comes_from_and_how_long_it_waited() {
        let upstream = HeaderValue::from_static("api");
        let waited = Duration::from_micros(1_234_567);
        let told = Told { version: Version::HTTP_11, upstream, waited, attempts: 2 };
        let expected = [
            "via: 1.1 cooldown",
            "x-cooldown-source: upstream",
            "x-cooldown-upstream: api",
            "x-cooldown-wait-ms: 1234",
            "x-cooldown-attempts: 2",
        ];
        assert_eq!(lines(|head| told.write(head)), expected);
        assert_eq!(fields(|headers| told.tell(headers)), expected);
    }
}
