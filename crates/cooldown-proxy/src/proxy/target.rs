//! What a request asks for: its host and path, read in the one way in which it can be read, or not at all.

use std::borrow::Cow;

use http::{Method, Version};

use super::error::ProxyError;

use crate::fields::{Fields, Kind, Kinds};
use crate::head::RequestHead;

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    /// The host: lower case, without port or trailing dot; an IPv6 address keeps its brackets. Empty for an HTTP/1.0
    /// request that names none.
    pub host: Cow<'a, str>,
    /// The port, if one was named.
    pub port: Option<u16>,
    /// Whether the request line carried the host (RFC 9112 §3.2.2), as requests to a forward proxy do.
    pub absolute: bool,
}

/// Reads what a request asks for.
///
/// # Errors
/// When it could be read in two ways, or asks for a tunnel.
pub(super) fn read<'a>(head: &'a RequestHead, kinds: Kinds) -> Result<Target<'a>, ProxyError> {
    if head.method == Method::CONNECT {
        return Err(ProxyError::ConnectUnsupported);
    }
    if kinds.has(Kind::TransferEncoding) {
        check_framing(&head.headers)?;
    }
    named(head)
}

/// The host that a request asks for, which could be read before.
pub(super) fn host(head: &RequestHead) -> Option<Cow<'_, str>> {
    named(head).ok().map(|target| target.host)
}

fn named(head: &RequestHead) -> Result<Target<'_>, ProxyError> {
    let named = host_field(head)?;
    // RFC 9112 §3.2.2: what the request line says overrides the field.
    let (host, port) = match head.uri.authority() {
        Some(authority) => {
            split(authority.as_str()).ok_or(ProxyError::InvalidRequest("the host is no host name or address"))?
        }
        None => named,
    };
    Ok(Target { host: lower_case(host), port, absolute: head.uri.authority().is_some() })
}

/// The last coding is taken for the framing; one that reads several differently must not stand behind us.
fn check_framing(headers: &Fields) -> Result<(), ProxyError> {
    let mut codings = headers.of_kind(Kind::TransferEncoding);
    let Some(first) = codings.next() else { return Ok(()) };
    if codings.next().is_some() {
        return Err(ProxyError::InvalidRequest("`transfer-encoding` is repeated"));
    }
    if !first.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
        return Err(ProxyError::InvalidRequest("only the transfer coding `chunked` is known"));
    }
    Ok(())
}

/// Host and port of the field.
fn host_field(head: &RequestHead) -> Result<(&str, Option<u16>), ProxyError> {
    let mut hosts = head.headers.of_kind(Kind::Host);
    let host = match hosts.next() {
        Some(host) => host.to_str().map_err(|_| ProxyError::InvalidRequest("`host` is not plain text"))?,
        None if head.version == Version::HTTP_10 => "",
        None => return Err(ProxyError::InvalidRequest("`host` is missing")),
    };
    if hosts.next().is_some() {
        return Err(ProxyError::InvalidRequest("`host` is repeated"));
    }
    // Also where the request line overrides it: whoever reads the field instead must not be led elsewhere.
    split(host).ok_or(ProxyError::InvalidRequest("`host` is no host name or address"))
}

/// Host and port of `host[:port]`; `None` when it is malformed or carries user information.
fn split(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')?;
            rest[..end].parse::<std::net::Ipv6Addr>().ok()?;
            authority.split_at(end + 2)
        }
        None => {
            let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
            // What follows a name must be a port.
            let end = authority.bytes().take_while(plain).count();
            let (name, port) = authority.split_at_checked(end)?;
            (name.strip_suffix('.').unwrap_or(name), port)
        }
    };
    match port.strip_prefix(':') {
        // RFC 3986 §3.2.3: a port may be empty.
        Some("") => Some((host, None)),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some((host, Some(digits.parse().ok()?))),
        Some(_) => None,
        None => port.is_empty().then_some((host, None)),
    }
}

fn lower_case(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(method: &str, uri: &str, fields: &[(&'static str, &str)]) -> RequestHead {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0.into()
    }

    fn read(head: &RequestHead) -> Result<Target<'_>, ProxyError> {
        super::read(head, head.headers.kinds())
    }

    #[test]
    fn a_host_is_read_without_port_case_and_trailing_dot() {
        for (field, host) in [
            ("api.example.com", "api.example.com"),
            ("API.Example.COM:8080", "api.example.com"),
            ("api.example.com.", "api.example.com"),
            ("[::1]:8080", "[::1]"),
            ("127.0.0.1:80", "127.0.0.1"),
        ] {
            let parts = parts("GET", "/", &[("host", field)]);
            assert_eq!(read(&parts).expect("a target").host, host);
        }
    }

    #[test]
    fn the_request_line_overrides_the_host_field() {
        let parts = parts("GET", "http://api.example.com/x?", &[("host", "localhost:8080")]);
        let target = read(&parts).expect("a target");
        assert_eq!((&*target.host, target.absolute), ("api.example.com", true));
    }

    #[test]
    fn requests_that_can_be_read_in_two_ways_are_refused() {
        let host = ("host", "a");
        for fields in [
            &[][..],
            &[host, host],
            &[("host", "user@a")],
            &[("host", "a:80:80")],
            &[("host", "a/b")],
            &[("host", "a, b")],
            &[("host", "[::1")],
            &[host, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[host, ("transfer-encoding", "gzip, chunked")],
            &[host, ("transfer-encoding", "xchunked")],
        ] {
            let parts = parts("POST", "/", fields);
            assert!(matches!(read(&parts), Err(ProxyError::InvalidRequest(_))), "{fields:?}");
        }
        let userinfo = parts("GET", "http://user@a/", &[host]);
        assert!(matches!(read(&userinfo), Err(ProxyError::InvalidRequest(_))));
    }

    #[test]
    fn a_tunnel_is_not_offered() {
        let parts = parts("CONNECT", "a:443", &[("host", "a:443")]);
        assert!(matches!(read(&parts), Err(ProxyError::ConnectUnsupported)));
    }
}
