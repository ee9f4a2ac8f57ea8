//! Who may ask the admin listener: those who name it by a local name where it is local, and who show the token where one
//! is configured.

use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::{HeaderMap, StatusCode, Uri};

use crate::config::model::is_loopback;
use crate::config::secret::Secret;

/// Why a caller is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denial {
    /// The Host is a public name for a local listener: a web page that a browser was tricked into (DNS rebinding).
    ForeignHost,
    /// The token is missing or wrong.
    Unauthorized,
}

impl Denial {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::ForeignHost => StatusCode::FORBIDDEN,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
        }
    }

    pub(super) fn code(self) -> &'static str {
        match self {
            Self::ForeignHost => "foreign_host",
            Self::Unauthorized => "unauthorized",
        }
    }

    pub(super) fn message(self) -> &'static str {
        match self {
            Self::ForeignHost => "this listener is local: ask for it as localhost or by its address",
            Self::Unauthorized => "show the admin token: authorization: Bearer <token>",
        }
    }
}

/// Whether the request names a local listener by a local name.
pub(super) fn names_this_machine(uri: &Uri, headers: &HeaderMap) -> Result<(), Denial> {
    let mut hosts = headers.get_all(HOST).iter();
    let field = hosts.next().and_then(|host| host.to_str().ok());
    let named = uri.authority().map(axum::http::uri::Authority::as_str).or(field);
    match named {
        Some(host) if hosts.next().is_none() && is_loopback(without_port(host)) => Ok(()),
        _ => Err(Denial::ForeignHost),
    }
}

/// Whether the request shows the token.
pub(super) fn shows(token: &Secret, headers: &HeaderMap) -> Result<(), Denial> {
    let given = headers.get(AUTHORIZATION).and_then(|field| bearer(field.as_bytes()));
    match given {
        Some(given) if token.matches(given) => Ok(()),
        _ => Err(Denial::Unauthorized),
    }
}

/// RFC 9110 §11.1: the scheme's name is case-insensitive.
fn bearer(field: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = field.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token.trim_ascii())
}

/// The host of `host:port`, an IPv6 address without its brackets.
fn without_port(host: &str) -> &str {
    if let Some(address) = host.strip_prefix('[') {
        return address.split(']').next().unwrap_or_default();
    }
    host.split(':').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: axum::http::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().expect("a field value"))])
    }

    #[test]
    fn only_local_names_reach_a_local_listener() {
        let uri = Uri::from_static("/metrics");
        for host in ["localhost", "LOCALHOST:9900", "127.0.0.1:9900", "127.8.8.8", "[::1]:9900"] {
            assert_eq!(names_this_machine(&uri, &with(HOST, host)), Ok(()), "{host}");
        }
        for host in ["evil.example", "evil.example:9900", "localhost.evil.example", "10.0.0.1", "", "[", "[::2]"] {
            assert_eq!(names_this_machine(&uri, &with(HOST, host)), Err(Denial::ForeignHost), "{host}");
        }
        assert_eq!(names_this_machine(&uri, &HeaderMap::new()), Err(Denial::ForeignHost));
        let absolute = Uri::from_static("http://evil.example/metrics");
        assert_eq!(names_this_machine(&absolute, &with(HOST, "localhost")), Err(Denial::ForeignHost));
    }

    #[test]
    fn only_the_right_token_opens() {
        let token = Secret::new("s3cret".to_owned());
        for right in ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret"] {
            assert_eq!(shows(&token, &with(AUTHORIZATION, right)), Ok(()), "{right}");
        }
        for wrong in ["Bearer s3cre", "Bearer s3crets", "Basic s3cret", "s3cret", "Bearer", ""] {
            assert_eq!(shows(&token, &with(AUTHORIZATION, wrong)), Err(Denial::Unauthorized), "{wrong}");
        }
        assert_eq!(shows(&token, &HeaderMap::new()), Err(Denial::Unauthorized));
    }
}
