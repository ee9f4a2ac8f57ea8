//! How long a request may wait, and how urgent it is, in the words of its own fields.

use std::time::Duration;

use cooldown_pacer::Urgency;
use http::HeaderName;

use crate::fields::{Fields, Kind};

const PREFER: HeaderName = HeaderName::from_static("prefer");
/// In which SDKs tell how long they will wait for a response, in seconds. The first one that is there counts.
const TIMEOUTS: [HeaderName; 3] = [
    HeaderName::from_static("x-stainless-read-timeout"),
    HeaderName::from_static("x-stainless-timeout"),
    HeaderName::from_static("x-server-timeout"),
];

/// In which callers of gRPC tell the same: up to eight digits and a unit.
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A client that says it waits longer than this says nothing.
const LONGEST_TIMEOUT: f64 = 7.0 * 24.0 * 3600.0;

/// How long a request may wait in line: the least of `max_wait`, `Prefer: wait=N` (RFC 7240 §4.3), and the client's own
/// time-out less a margin in which the upstream can answer.
pub(super) fn wait_budget(headers: &Fields, max_wait: Duration) -> Duration {
    let preferred = headers.get_all(PREFER).filter_map(|value| value.to_str().ok()).find_map(preferred_wait);
    let patience = TIMEOUTS.iter().filter_map(|name| headers.get(name)?.to_str().ok()).find_map(timeout);
    let of_grpc = headers.get(GRPC_TIMEOUT).and_then(|value| grpc_timeout(value.to_str().ok()?));
    let patience = patience.or(of_grpc);
    [preferred, patience.map(less_margin)].into_iter().flatten().fold(max_wait, Duration::min)
}

/// The urgency that a request states (RFC 9218 §4.1).
pub(super) fn urgency(headers: &Fields) -> Option<Urgency> {
    let members = headers.of_kind(Kind::Priority).filter_map(|value| value.to_str().ok());
    let levels = members.flat_map(|value| value.split(',')).filter_map(|member| {
        let value = member.trim().strip_prefix("u=")?;
        let value = value.split_once(';').map_or(value, |(value, _)| value);
        Urgency::new(value.trim().parse().ok()?)
    });
    // A dictionary: of several members with one name the last counts.
    levels.fold(None, |_, level| Some(level))
}

/// `wait=10` in a list of preferences, each of which may have parameters.
fn preferred_wait(value: &str) -> Option<Duration> {
    value.split(',').find_map(|preference| {
        let preference = preference.split_once(';').map_or(preference, |(preference, _)| preference);
        let (name, seconds) = preference.split_once('=')?;
        if !name.trim().eq_ignore_ascii_case("wait") {
            return None;
        }
        seconds.trim().trim_matches('"').parse().ok().map(Duration::from_secs)
    })
}

/// SDKs also send `NOT_GIVEN`, `None` and the like, where they have no time-out.
fn timeout(value: &str) -> Option<Duration> {
    let seconds: f64 = value.trim().parse().ok()?;
    (seconds > 0.0 && seconds <= LONGEST_TIMEOUT).then(|| Duration::from_secs_f64(seconds))
}

fn grpc_timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let unit = match unit {
        "H" => Duration::from_secs(3600),
        "M" => Duration::from_secs(60),
        "S" => Duration::from_secs(1),
        "m" => Duration::from_millis(1),
        "u" => Duration::from_micros(1),
        "n" => Duration::from_nanos(1),
        _ => return None,
    };
    let is_valid = (1..=8).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit());
    is_valid.then(|| unit.saturating_mul(digits.parse().unwrap_or(u32::MAX)))
}

/// A tenth, at least half a second, but never more than half.
fn less_margin(patience: Duration) -> Duration {
    let margin = (patience / 10).max(Duration::from_millis(500)).min(patience / 2);
    patience - margin
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> Fields {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn every_field_that_is_read_is_known_by_its_kind() {
        for name in TIMEOUTS.into_iter().chain([PREFER, GRPC_TIMEOUT]) {
            assert!(Fields::from_iter([(name, HeaderValue::from_static("1"))]).kinds().has(Kind::Patience));
        }
    }

    #[test]
    fn the_budget_is_the_least_of_what_is_stated() {
        let max = Duration::from_secs(300);
        for (fields, millis) in [
            (&[][..], 300_000),
            (&[("prefer", "wait=10")], 10_000),
            (&[("prefer", "respond-async, WAIT = \"7\"; x=1")], 7_000),
            (&[("prefer", "handling=lenient"), ("prefer", "wait=5")], 5_000),
            (&[("prefer", "wait=999999")], 300_000),
            (&[("prefer", "wait=soon")], 300_000),
            (&[("x-stainless-timeout", "100")], 90_000),
            (&[("x-stainless-read-timeout", "60.0"), ("x-stainless-timeout", "5")], 54_000),
            (&[("x-server-timeout", "2")], 1_500),
            (&[("x-stainless-timeout", "0.4")], 200),
            (&[("x-stainless-read-timeout", "NOT_GIVEN"), ("x-stainless-timeout", "10")], 9_000),
            (&[("x-stainless-timeout", "None")], 300_000),
            (&[("x-stainless-timeout", "inf")], 300_000),
            (&[("x-stainless-timeout", "NaN")], 300_000),
            (&[("x-stainless-timeout", "-3")], 300_000),
            (&[("x-stainless-timeout", "1e300")], 300_000),
            (&[("grpc-timeout", "20S")], 18_000),
            (&[("grpc-timeout", "1500m"), ("prefer", "wait=3")], 1_000),
            (&[("grpc-timeout", "99999999H")], 300_000),
            (&[("grpc-timeout", "123456789S")], 300_000),
            (&[("grpc-timeout", "S")], 300_000),
            (&[("grpc-timeout", "10")], 300_000),
            (&[("x-stainless-timeout", "20"), ("prefer", "wait=3")], 3_000),
        ] {
            assert_eq!(wait_budget(&headers(fields), max), Duration::from_millis(millis), "{fields:?}");
        }
    }

    #[test]
    fn urgency_is_read_from_a_dictionary() {
        for (value, level) in [
            ("u=0", Some(0)),
            ("i, u=7", Some(7)),
            ("u=1;x=2, i", Some(1)),
            ("u=1, u=5", Some(5)),
            ("u=8", None),
            ("u=-1", None),
            ("urgent", None),
        ] {
            assert_eq!(urgency(&headers(&[("priority", value)])).map(Urgency::level), level, "{value}");
        }
    }
}
