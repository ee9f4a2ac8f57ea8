//! Upstream URLs: where an API is.

use super::host;

/// The parts of an upstream's URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    /// Whether the scheme is https.
    pub(super) tls: bool,
    /// Host name or address, lower case; an IPv6 address without brackets.
    pub(super) host: String,
    /// Port, the scheme's own where none is given.
    pub(super) port: u16,
    /// Empty, or starting with `/` and not ending in one.
    pub(super) base_path: String,
}

/// Why a text is no upstream URL. The text itself is not told: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum UrlError {
    /// No `http://` or `https://`.
    #[error("this is no http(s) URL")]
    Scheme,
    /// No valid host.
    #[error("the URL has no valid host")]
    Host,
    /// A port that is no number from 1 to 65535.
    #[error("the URL has no valid port")]
    Port,
    /// User name or password in the URL.
    #[error("the URL must not hold a user name or password")]
    UserInfo,
    /// `?` and what follows.
    #[error("the URL must not hold a query")]
    Query,
    /// `#` and what follows.
    #[error("the URL must not hold a fragment")]
    Fragment,
    /// Characters that a path cannot have.
    #[error("the path of the URL is not valid")]
    Path,
}

impl UrlError {
    /// What to write instead.
    pub(super) fn hint(self) -> &'static str {
        match self {
            Self::UserInfo => "clients send their own credentials; providers take an `api_key`",
            Self::Query | Self::Fragment => "the query of each request is passed on; write the URL without one",
            Self::Path => "write other characters in their %-form",
            _ => "write a URL such as `https://api.example.com` or `http://127.0.0.1:9000/base`",
        }
    }
}

/// Reads `http(s)://host[:port][/base]`.
pub(super) fn parse(text: &str) -> Result<Url, UrlError> {
    let (tls, rest) = scheme(text.trim()).ok_or(UrlError::Scheme)?;
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err(UrlError::UserInfo);
    }
    if path.contains('#') {
        return Err(UrlError::Fragment);
    }
    if path.contains('?') {
        return Err(UrlError::Query);
    }
    let (host, port) = host_and_port(authority)?;
    let base_path = path.trim_end_matches('/').to_owned();
    if !base_path.bytes().all(|byte| byte.is_ascii_graphic()) || path.parse::<http::Uri>().is_err() && !path.is_empty()
    {
        return Err(UrlError::Path);
    }
    Ok(Url { tls, host, port: port.unwrap_or(if tls { 443 } else { 80 }), base_path })
}

fn scheme(text: &str) -> Option<(bool, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Some((false, rest)),
        "https" => Some((true, rest)),
        _ => None,
    }
}

fn host_and_port(authority: &str) -> Result<(String, Option<u16>), UrlError> {
    // The last colon of `[::1]` belongs to the address.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_bare_ipv6 = host.contains(':') && !host.starts_with('[');
    let host = host::host(host).ok().filter(|_| !is_bare_ipv6).ok_or(UrlError::Host)?;
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|port| *port != 0).ok_or(UrlError::Port)?),
        None => None,
    };
    Ok((host.trim_matches(['[', ']']).to_owned(), port))
}

/// A text of which characters may be written in their %-form; `None` where that is broken, or stands for a control character.
pub(super) fn percent_decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("https://api.example.com", true, "api.example.com", 443, "")]
    #[case("HTTP://API.example.com/", false, "api.example.com", 80, "")]
    #[case("http://127.0.0.1:9000/base/", false, "127.0.0.1", 9000, "/base")]
    #[case("https://[::1]:8443/a/b%2Fc", true, "::1", 8443, "/a/b%2Fc")]
    #[case("http://[::1]", false, "::1", 80, "")]
    fn upstreams_read_as_people_write_them(
        #[case] text: &str,
        #[case] tls: bool,
        #[case] host: &str,
        #[case] port: u16,
        #[case] base_path: &str,
    ) {
        assert_eq!(parse(text), Ok(Url { tls, host: host.into(), port, base_path: base_path.into() }));
    }

    #[rstest]
    #[case("api.example.com", UrlError::Scheme)]
    #[case("ftp://api.example.com", UrlError::Scheme)]
    #[case("", UrlError::Scheme)]
    #[case("https://", UrlError::Host)]
    #[case("https:///path", UrlError::Host)]
    #[case("https://a b", UrlError::Host)]
    #[case("https://*.example.com", UrlError::Host)]
    #[case("https://::1", UrlError::Host)]
    #[case("https://a:0", UrlError::Port)]
    #[case("https://a:65536", UrlError::Port)]
    #[case("https://a:", UrlError::Port)]
    #[case("https://me:pw@a", UrlError::UserInfo)]
    #[case("https://a/b?c", UrlError::Query)]
    #[case("https://a?c", UrlError::Query)]
    #[case("https://a/b#c", UrlError::Fragment)]
    #[case("https://a/b c", UrlError::Path)]
    #[case("https://a/é", UrlError::Path)]
    fn a_faulty_upstream_is_told_why(#[case] text: &str, #[case] why: UrlError) {
        assert_eq!(parse(text), Err(why));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_url_panic(text in "(https?://)?[a-z0-9.:/@?#\\[\\]%é -]{0,30}") {
            let _ = parse(&text);
        }
    }
}
