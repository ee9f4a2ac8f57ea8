//! What a proxy changes in the fields that it passes on (RFC 9110 §7.6).

use std::collections::HashSet;

use foldhash::fast::RandomState;
use http::header::{CONNECTION, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::fields::{Fields, Kind, Kinds, Value};

/// By which a client names itself.
pub(super) const CLIENT: HeaderName = HeaderName::from_static("x-cooldown-client");
pub(super) const SOURCE: HeaderName = HeaderName::from_static("x-cooldown-source");

pub(super) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What no upstream gets as its client has sent it. The 100 (Continue) is ours to send, when the body is read.
const NOT_TO_UPSTREAM: Kinds = Kinds::of(&[
    Kind::Connection,
    Kind::TransferEncoding,
    Kind::Te,
    Kind::Upgrade,
    Kind::Expect,
    Kind::HopByHop,
    Kind::Forwarded,
    Kind::Ours,
]);

/// What no client gets as its upstream has sent it.
const NOT_TO_CLIENT: Kinds =
    Kinds::of(&[Kind::Connection, Kind::TransferEncoding, Kind::Te, Kind::Upgrade, Kind::HopByHop, Kind::Ours]);

/// Turns a client's fields into those that every upstream may get. `upgrade` says that its wish for another protocol is
/// passed on. What the upstream is told of the way comes beside them: see [`Forwarded`](super::told::Forwarded).
pub(super) fn to_upstream(headers: &mut Fields, upgrade: bool) {
    let kinds = headers.kinds();
    let protocol = upgrade.then(|| headers.first(Kind::Upgrade).and_then(Value::to_value)).flatten();
    let trailers = kinds.has(Kind::Te) && accepts_trailers(headers);
    remove(headers, kinds, NOT_TO_UPSTREAM);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if kinds.has(Kind::TransferEncoding) {
        // The body is framed anew. That must be told for methods that seldom have one.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Whether `connection` asks for another protocol (RFC 9110 §7.8).
pub(super) fn names_upgrade(headers: &Fields) -> bool {
    let values = headers.of_kind(Kind::Connection).filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|option| option.trim().eq_ignore_ascii_case("upgrade"))
}

/// Turns an upstream's fields into those for the client. What the client is told of its request comes beside them: see
/// [`Told`](super::told::Told).
pub(super) fn to_client(headers: &mut Fields) {
    let kinds = headers.kinds();
    remove(headers, kinds, NOT_TO_CLIENT);
}

/// Tells a client that the proxy itself answers.
pub(super) fn say_proxy(headers: &mut HeaderMap) {
    headers.insert(SOURCE, HeaderValue::from_static("proxy"));
}

/// Removes what is `not_passed` of the kinds that there are.
fn remove(headers: &mut Fields, kinds: Kinds, not_passed: Kinds) {
    if kinds.has(Kind::Connection) {
        remove_named(headers);
    }
    if kinds.meets(not_passed) {
        headers.remove_kinds(not_passed);
    }
}

/// Removes what `connection` names, except what a message cannot do without. Names are collected first: there may be as many as a
/// head has room for, and each of them as often.
fn remove_named(headers: &mut Fields) {
    // What nearly every message says names no field, and `keep-alive` goes anyway.
    let telling = headers.of_kind(Kind::Connection).filter(|value| *value != "keep-alive" && *value != "close");
    let options = telling.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let options = options.map(|option| option.trim_ascii().to_ascii_lowercase());
    let named: HashSet<Vec<u8>, RandomState> = options.filter(|option| !is_needed(option)).collect();
    if !named.is_empty() {
        headers.remove_where(|name| named.contains(name));
    }
}

/// Whether the upstream would read another message than we did without a field of this name.
fn is_needed(name: &[u8]) -> bool {
    matches!(name, b"host" | b"content-length" | b"transfer-encoding" | b"trailer" | b"te" | b"upgrade")
}

/// Whether `te` says that trailers are welcome (RFC 9110 §10.1.4).
fn accepts_trailers(headers: &Fields) -> bool {
    let values = headers.of_kind(Kind::Te).filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|member| {
        let coding = member.split_once(';').map_or(member, |(coding, _)| coding);
        coding.trim().eq_ignore_ascii_case("trailers")
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::rc::Rc;

    use proptest::prelude::*;

    use super::super::peer::Peer;
    use super::super::told::Forwarded;
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> Fields {
        let mut headers = Fields::default();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn sent(fields: &[(&'static str, &'static str)], upgrade: bool) -> Fields {
        let mut headers = map(fields);
        let peer = Rc::new(Peer::new(SocketAddr::from(([10, 0, 0, 1], 5555)), false));
        to_upstream(&mut headers, upgrade);
        let mut all = headers.to_map();
        let asked = http::Request::builder().uri("http://asked:80/").body(()).expect("a request").into_parts().0;
        Forwarded::new(&peer, &Rc::new(asked.into())).tell(&mut all);
        Fields::from(&all)
    }

    fn text<'a>(headers: &'a Fields, name: &str) -> Vec<&'a str> {
        headers.get_all(name).map(|value| value.to_str().expect("text")).collect()
    }

    #[test]
    fn fields_between_neighbours_end_here() {
        let headers = sent(
            &[
                ("connection", "close, X-Private , host"),
                ("x-private", "1"),
                ("keep-alive", "timeout=5"),
                ("proxy-authorization", "Basic x"),
                ("proxy-connection", "keep-alive"),
                ("te", "gzip"),
                ("expect", "100-continue"),
                ("upgrade", "h2c"),
                ("x-cooldown-client", "alice"),
                ("x-cooldown-later", "1"),
                ("authorization", "Bearer x"),
                ("trailer", "digest"),
            ],
            false,
        );
        let mut names: Vec<_> = headers.names().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        names.sort_unstable();
        let kept = [
            "authorization",
            "forwarded",
            "trailer",
            "via",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
        ];
        assert_eq!(names, kept);
    }

    #[test]
    fn the_way_is_told_after_what_earlier_proxies_told() {
        let headers = sent(
            &[
                ("via", "1.0 first"),
                ("x-forwarded-for", "1.2.3.4"),
                ("forwarded", "for=1.2.3.4"),
                ("x-forwarded-proto", "https"),
            ],
            false,
        );
        assert_eq!(text(&headers, "via"), ["1.0 first", "1.1 cooldown"]);
        assert_eq!(text(&headers, "x-forwarded-for"), ["1.2.3.4", "10.0.0.1"]);
        assert_eq!(text(&headers, "forwarded"), ["for=1.2.3.4", "for=10.0.0.1;host=\"asked:80\";proto=http"]);
        assert_eq!(text(&headers, "x-forwarded-host"), ["asked:80"]);
        assert_eq!(text(&headers, "x-forwarded-proto"), ["http"]);
    }

    #[test]
    fn trailers_chunks_and_upgrades_are_agreed_on_anew() {
        let headers = sent(&[("te", "trailers, gzip;q=0.5"), ("transfer-encoding", "chunked")], false);
        assert_eq!(text(&headers, "te"), ["trailers"]);
        assert_eq!(text(&headers, "connection"), ["te"]);
        assert_eq!(text(&headers, "transfer-encoding"), ["chunked"]);
        let headers = sent(&[("connection", "Upgrade"), ("upgrade", "websocket")], true);
        assert_eq!(text(&headers, "connection"), ["upgrade"]);
        assert_eq!(text(&headers, "upgrade"), ["websocket"]);
    }

    #[test]
    fn what_an_upstream_says_to_its_neighbour_ends_here() {
        let mut headers = map(&[
            ("connection", "keep-alive"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("x-cooldown-source", "someone else"),
            ("retry-after", "3"),
        ]);
        to_client(&mut headers);
        assert_eq!(headers, map(&[("retry-after", "3")]));
    }

    /// Fields that matter, in any number and company, with what may be told of them.
    fn any_fields() -> impl Strategy<Value = Vec<(HeaderName, HeaderValue)>> {
        const NAMES: [&str; 24] = [
            "connection",
            "keep-alive",
            "proxy-connection",
            "proxy-authorization",
            "proxy-authenticate",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "expect",
            "x-cooldown-client",
            "x-cooldown-",
            "x-cooldown-wait-ms",
            "x-a",
            "x-b",
            "host",
            "content-length",
            "authorization",
            "via",
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "cookie",
        ];
        const VALUES: [&str; 12] = [
            "",
            "close",
            "keep-alive",
            "upgrade, x-a",
            "X-B ,, host",
            "te, trailer, content-length",
            "x-cooldown-client",
            "trailers",
            "chunked",
            "authorization",
            "transfer-encoding",
            "1",
        ];
        let name = prop::sample::select(&NAMES[..]).prop_map(HeaderName::from_static);
        let value = prop_oneof![
            3 => prop::sample::select(&VALUES[..]).prop_map(HeaderValue::from_static),
            1 => "[ -~]{0,20}".prop_map(|text| HeaderValue::try_from(text).expect("visible ASCII")),
        ];
        prop::collection::vec((name, value), 0..20)
    }

    /// The fields that `connection` names.
    fn named(headers: &Fields) -> Vec<HeaderName> {
        let values = headers.get_all(CONNECTION).flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        values.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
    }

    proptest! {
        #[test]
        fn nothing_between_neighbours_ever_passes(fields in any_fields(), upgrade: bool) {
            let mut headers: Fields = fields.into_iter().collect();
            let (before, named) = (headers.clone(), named(&headers));
            to_upstream(&mut headers, upgrade);
            prop_assert!(headers.names().all(|name| !name.starts_with(b"x-cooldown-")));
            for name in ["keep-alive", "proxy-connection", "proxy-authorization", "expect"] {
                prop_assert!(!headers.contains_key(name), "{}", name);
            }
            // Only what we agree on ourselves.
            let told = |name: &str| text(&headers, name);
            prop_assert!(told("connection").iter().all(|value| matches!(*value, "te" | "upgrade")));
            prop_assert!(told("te").iter().all(|value| *value == "trailers"));
            prop_assert!(upgrade || told("upgrade").is_empty());
            for name in ["x-a", "x-b", "authorization", "cookie"] {
                let is_named = named.iter().any(|other| other == name);
                prop_assert_eq!(headers.contains_key(name), before.contains_key(name) && !is_named, "{}", name);
            }
            // The length of a body is told in one way, and as it was.
            prop_assert!(told("transfer-encoding").len() <= 1);
            prop_assert!(told("transfer-encoding").iter().all(|value| *value == "chunked"));
            prop_assert_eq!(headers.contains_key("transfer-encoding"), before.contains_key("transfer-encoding"));
            prop_assert_eq!(told("content-length"), text(&before, "content-length"));
            prop_assert_eq!(told("host"), text(&before, "host"));
        }

        #[test]
        fn nothing_between_neighbours_ever_returns(fields in any_fields()) {
            let mut headers: Fields = fields.into_iter().collect();
            to_client(&mut headers);
            for name in ["connection", "keep-alive", "proxy-connection", "proxy-authenticate", "transfer-encoding", "te"] {
                prop_assert!(!headers.contains_key(name), "{}", name);
            }
            prop_assert!(headers.names().all(|name| !name.starts_with(b"x-cooldown-")), "what only we may say");
        }
    }
}
