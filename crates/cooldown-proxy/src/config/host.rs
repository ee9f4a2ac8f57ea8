//! Hosts: names, addresses, wildcards, and the keys of routes.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::model::Match;

/// Why a text names no hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum HostError {
    /// A port behind the host.
    #[error("a host without a port is expected")]
    Port,
    /// A scheme in front of the host.
    #[error("a host is expected, not a URL")]
    Url,
    /// A `*` that is not the first label.
    #[error("`*` can only stand for the first part of a host")]
    Wildcard,
    /// Not a host name or address.
    #[error("this is no host name")]
    Name,
    /// Not a path of whole segments.
    #[error("this is no path prefix")]
    Path,
}

impl HostError {
    /// What to write instead.
    pub(super) fn hint(self) -> &'static str {
        match self {
            Self::Port => "leave the port out: requests match by host, whatever their port",
            Self::Url => "write the host alone, such as `api.example.com`",
            Self::Wildcard => "write `*.example.com` for all hosts under example.com, or `\"*\"` for all hosts",
            Self::Name => "use letters, digits, `-` and dots; names in other scripts go in their `xn--` form",
            Self::Path => "write whole segments such as `/internal`, without query; for every request write `\"*\"`",
        }
    }
}

/// Reads the key of a route: a host, a wildcard, a path prefix or `*`.
pub(super) fn route_key(text: &str) -> Result<Match, HostError> {
    if text.starts_with('/') { path_prefix(text).map(Match::Path) } else { domain(text) }
}

/// Reads a domain: a host, a wildcard or `*`.
pub(super) fn domain(text: &str) -> Result<Match, HostError> {
    if text == "*" {
        return Ok(Match::Any);
    }
    match text.strip_prefix("*.") {
        Some(parent) => Ok(Match::Subdomains(format!(".{}", host(parent)?))),
        None if text.contains('*') => Err(HostError::Wildcard),
        None => host(text).map(Match::Host),
    }
}

/// Reads a host name or address. The name is given in lower case without its last dot; an IPv6 address in brackets, as
/// it stands in `Host`.
pub(super) fn host(text: &str) -> Result<String, HostError> {
    if text.contains("//") {
        return Err(HostError::Url);
    }
    if text.contains('*') {
        return Err(HostError::Wildcard);
    }
    let address = text.strip_prefix('[').map_or(Some(text), |rest| rest.strip_suffix(']'));
    if let Some(address) = address.and_then(|address| address.parse::<Ipv6Addr>().ok()) {
        return Ok(format!("[{address}]"));
    }
    if text.contains(':') {
        return Err(HostError::Port);
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let numbers_only = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let valid =
        name.len() <= 253 && name.split('.').all(is_label) && (!numbers_only || name.parse::<Ipv4Addr>().is_ok());
    valid.then_some(name).ok_or(HostError::Name)
}

/// One to 63 letters, digits, `-` and `_` (RFC 1035, and what is in use).
fn is_label(label: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=63).contains(&label.len()) && label.bytes().all(known) && !label.starts_with('-') && !label.ends_with('-')
}

fn path_prefix(text: &str) -> Result<String, HostError> {
    let path = text.strip_suffix('/').unwrap_or(text);
    let segments = path.strip_prefix('/').ok_or(HostError::Path)?;
    let known = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'*' | b'\\');
    let valid = segments.split('/').all(|segment| !segment.is_empty() && segment.bytes().all(known));
    valid.then(|| path.to_owned()).ok_or(HostError::Path)
}

impl Match {
    /// Whether every host that `other` matches is matched by this too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, Self::Host(_) | Self::Subdomains(_) | Self::Any) => true,
            (Self::Subdomains(parent), Self::Host(host)) => {
                host.len() > parent.len() && host.ends_with(parent.as_str())
            }
            (Self::Subdomains(parent), Self::Subdomains(below)) => below.ends_with(parent.as_str()),
            _ => self == other,
        }
    }

    /// Orders rules that match the same host: the larger one is the more exact, and holds.
    pub(super) fn precision(&self) -> usize {
        match self {
            Self::Host(_) => usize::MAX,
            Self::Subdomains(parent) => parent.len(),
            Self::Path(_) | Self::Any => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("API.Example.com", Match::Host("api.example.com".into()))]
    #[case("example.com.", Match::Host("example.com".into()))]
    #[case("localhost", Match::Host("localhost".into()))]
    #[case("127.0.0.1", Match::Host("127.0.0.1".into()))]
    #[case("[::1]", Match::Host("[::1]".into()))]
    #[case("::1", Match::Host("[::1]".into()))]
    #[case("*.Example.com", Match::Subdomains(".example.com".into()))]
    #[case("*", Match::Any)]
    #[case("/internal", Match::Path("/internal".into()))]
    #[case("/internal/v1/", Match::Path("/internal/v1".into()))]
    fn keys_of_routes_read_as_people_write_them(#[case] text: &str, #[case] rule: Match) {
        assert_eq!(route_key(text), Ok(rule));
    }

    #[rstest]
    #[case("example.com:8080", HostError::Port)]
    #[case("*.example.com:8080", HostError::Port)]
    #[case("[::1]:8080", HostError::Port)]
    #[case("https://example.com", HostError::Url)]
    #[case("api.*.com", HostError::Wildcard)]
    #[case("*example.com", HostError::Wildcard)]
    #[case("*.*.com", HostError::Wildcard)]
    #[case("", HostError::Name)]
    #[case("a..b", HostError::Name)]
    #[case("-a.b", HostError::Name)]
    #[case("bücher.example", HostError::Name)]
    #[case("1.2.3", HostError::Name)]
    #[case("me@example.com", HostError::Name)]
    #[case("/", HostError::Path)]
    #[case("/a//b", HostError::Path)]
    #[case("/a?b", HostError::Path)]
    fn a_faulty_key_is_told_why(#[case] text: &str, #[case] why: HostError) {
        assert_eq!(route_key(text), Err(why));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_key_panic(text in any::<String>()) {
            let _ = route_key(&text);
        }
    }
}
