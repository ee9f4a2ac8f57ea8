//! Who may ask the admin listener: those who name it by a local name where it is local, and who show the token where one
//! is configured.

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri};

use crate::config::model::is_loopback;
use crate::config::secret::Secret;

/// What a browser says of the page that makes it ask (Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why a caller is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denial {
    /// The Host is a public name for a local listener: a web page that a browser was tricked into (DNS rebinding).
    ForeignHost,
    /// The token is missing or wrong.
    Unauthorized,
    /// A page of another site makes a browser ask to change something.
    ForeignPage,
    /// What is to be changed is not told in JSON, which a page of another site could not send unasked.
    NotJson,
}

impl Denial {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::ForeignHost | Self::ForeignPage => StatusCode::FORBIDDEN,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
        }
    }

    pub(super) fn code(self) -> &'static str {
        match self {
            Self::ForeignHost => "foreign_host",
            Self::Unauthorized => "unauthorized",
            Self::ForeignPage => "foreign_page",
            Self::NotJson => "not_json",
        }
    }

    pub(super) fn message(self) -> &'static str {
        match self {
            Self::ForeignHost => "this listener is local: ask for it as localhost or by its address",
            Self::ForeignPage => "pages of other sites may change nothing here",
            Self::NotJson => "send a JSON object with content-type: application/json",
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

/// Whether a request that changes something was meant by whoever sends it: browsers tell what page makes them ask, and let
/// pages of other sites send JSON only where it is allowed to them, which it never is here.
pub(super) fn is_meant(headers: &HeaderMap) -> Result<(), Denial> {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if text(&SEC_FETCH_SITE).is_some_and(|site| site != "same-origin" && site != "none") {
        return Err(Denial::ForeignPage);
    }
    let host = text(&HOST).unwrap_or_default();
    let is_own = |origin: &str| origin.split_once("://").is_some_and(|(_, authority)| authority == host);
    if text(&ORIGIN).is_some_and(|origin| !is_own(origin)) {
        return Err(Denial::ForeignPage);
    }
    let kind = text(&CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default();
    if kind.trim().eq_ignore_ascii_case("application/json") { Ok(()) } else { Err(Denial::NotJson) }
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
    fn only_pages_of_our_own_change_anything() {
        let with = |fields: &[(HeaderName, &str)]| {
            let mut headers = with(HOST, "localhost:9900");
            headers.insert(CONTENT_TYPE, "application/json; charset=utf-8".parse().expect("a field value"));
            for (name, value) in fields {
                headers.insert(name, value.parse().expect("a field value"));
            }
            is_meant(&headers)
        };
        assert_eq!(with(&[]), Ok(()), "a program");
        assert_eq!(with(&[(SEC_FETCH_SITE, "same-origin"), (ORIGIN, "http://localhost:9900")]), Ok(()));
        for site in ["cross-site", "same-site", ""] {
            assert_eq!(with(&[(SEC_FETCH_SITE, site)]), Err(Denial::ForeignPage), "{site}");
        }
        for origin in ["http://evil.example", "null", "http://localhost:8080", "http://evil.example/?localhost:9900"] {
            assert_eq!(with(&[(ORIGIN, origin)]), Err(Denial::ForeignPage), "{origin}");
        }
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
            assert_eq!(with(&[(CONTENT_TYPE, kind)]), Err(Denial::NotJson), "{kind}");
        }
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
