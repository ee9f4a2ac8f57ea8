//! A client's end of a connection.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Weak;

use http::HeaderValue;
use tokio::time::Instant;

use super::body::Passed;

/// Before there are more, it is seen which of them are over.
const FEW_PASSED: usize = 16;

/// What upstreams are told about a client is kept if it is no longer than this, in bytes: the host is what the client says.
const LONGEST_KEPT: usize = 1024;

/// A client's end of a connection, in the forms in which upstreams are told about it.
#[derive(Debug)]
pub struct Peer {
    ip: String,
    ip_value: HeaderValue,
    /// What upstreams are told about it, as lines, for the host that was asked for last; it hardly changes on one connection.
    told: RefCell<Option<ToldOf>>,
    /// How many requests have begun.
    requests: Cell<u64>,
    /// How many of them have not ended.
    under_way: Cell<u32>,
    /// Responses that were not over with their first bytes.
    passed: RefCell<Vec<Weak<Passed>>>,
    /// It is spoken to over TLS.
    secure: bool,
}

/// What upstreams are told about a client for one host.
#[derive(Debug)]
struct ToldOf {
    host: Box<[u8]>,
    lines: Box<[u8]>,
}

impl Peer {
    /// The client at this address; `secure` says that it is spoken to over TLS.
    pub fn new(address: SocketAddr, secure: bool) -> Self {
        // An IPv4 client of a dual-stack listener is known by its IPv4 address.
        let ip = address.ip().to_canonical().to_string();
        let ip_value = HeaderValue::from_str(&ip).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        let (told, requests, under_way) = (RefCell::new(None), Cell::new(0), Cell::new(0));
        Self { ip, ip_value, told, requests, under_way, passed: RefCell::default(), secure }
    }

    /// Its address in text.
    pub fn ip(&self) -> &str {
        &self.ip
    }

    /// The same for `x-forwarded-for`.
    pub(super) fn ip_value(&self) -> &HeaderValue {
        &self.ip_value
    }

    /// What it speaks to us, for `x-forwarded-proto`.
    pub(super) fn proto(&self) -> HeaderValue {
        const HTTP: HeaderValue = HeaderValue::from_static("http");
        const HTTPS: HeaderValue = HeaderValue::from_static("https");
        if self.secure { HTTPS } else { HTTP }
    }

    /// How many requests have begun on the connection.
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Whether a request is under way on it.
    pub fn is_busy(&self) -> bool {
        self.under_way.get() > 0
    }

    /// A response is passed on to it in pieces.
    pub(super) fn passes(&self, response: Weak<Passed>) {
        let mut passed = self.passed.borrow_mut();
        if passed.len() >= FEW_PASSED && passed.len() == passed.capacity() {
            passed.retain(|response| response.strong_count() > 0);
        }
        passed.push(response);
    }

    /// Whether responses may be under way that are passed on in pieces.
    pub fn takes_pieces(&self) -> bool {
        !self.passed.borrow().is_empty()
    }

    /// Lets go of responses of which it has taken nothing for too long.
    pub fn let_go_of_stalled(&self) {
        let now = Instant::now();
        let passed = std::mem::take(&mut *self.passed.borrow_mut());
        let alive: Vec<Weak<Passed>> = passed.into_iter().filter(|response| response.strong_count() > 0).collect();
        alive.iter().filter_map(Weak::upgrade).for_each(|response| response.look_after(now));
        self.passed.borrow_mut().extend(alive);
    }

    pub(super) fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
        self.under_way.set(self.under_way.get() + 1);
    }

    pub(super) fn end(&self) {
        self.under_way.set(self.under_way.get() - 1);
    }

    /// Writes what upstreams are told about it with a request for this host, which `write` would write anew.
    pub(super) fn write_told(&self, host: &[u8], head: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        let mut last = self.told.borrow_mut();
        if let Some(told) = last.as_ref().filter(|told| *told.host == *host) {
            return head.extend_from_slice(&told.lines);
        }
        let start = head.len();
        write(head);
        let lines = Some(&head[start..]).filter(|lines| lines.len() <= LONGEST_KEPT);
        *last = lines.map(|lines| ToldOf { host: host.into(), lines: lines.into() });
    }

    /// `forwarded` (RFC 7239) for a request that asks for this host.
    pub(super) fn forwarded(&self, host: &HeaderValue) -> HeaderValue {
        let (host, proto) = (host.to_str().unwrap_or_default(), if self.secure { "https" } else { "http" });
        // RFC 7239 §6: an IPv6 address is bracketed and quoted.
        let (open, close) = if self.ip.contains(':') { ("\"[", "]\"") } else { ("", "") };
        let text = format!("for={open}{}{close};host=\"{host}\";proto={proto}", self.ip);
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("for=unknown"))
    }
}

#[cfg(test)]
impl Peer {
    /// How much is kept of what upstreams are told, in bytes.
    pub(super) fn holds_told(&self) -> usize {
        self.told.borrow().as_ref().map_or(0, |told| told.host.len() + told.lines.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_by_its_address_and_by_what_it_speaks() {
        let peer = Peer::new("[2001:db8::1]:1".parse().expect("an address"), false);
        let value = peer.forwarded(&HeaderValue::from_static("a"));
        assert_eq!(value, "for=\"[2001:db8::1]\";host=\"a\";proto=http");
        let secure = Peer::new("1.2.3.4:1".parse().expect("an address"), true);
        assert_eq!(secure.forwarded(&HeaderValue::from_static("a")), "for=1.2.3.4;host=\"a\";proto=https");
        let mapped = Peer::new("[::ffff:1.2.3.4]:1".parse().expect("an address"), false);
        assert_eq!(mapped.ip(), "1.2.3.4");
    }
}
