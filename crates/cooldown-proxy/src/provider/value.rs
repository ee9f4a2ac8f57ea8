//! The one tolerant reader of times and amounts as upstreams write them. Nonsense is `None`; nothing here can panic.

use std::time::Duration;

use cooldown_pacer::LONGEST_PERIOD;

use super::unix_time::{ABSURD, UnixTime};

/// Longer values are not read.
const LONGEST_TEXT: usize = 256;
/// Larger amounts are nonsense: no API allows as much. All up to here are exact in an `f64`.
pub(super) const LARGEST_AMOUNT: u64 = 1_000_000_000_000_000;
/// Bare numbers from here on are seconds since 1970 (2001), and milliseconds from [`EPOCH_MILLIS`] on.
const EPOCH_SECONDS: f64 = 1e9;
const EPOCH_MILLIS: f64 = 1e12;

/// How a number without a unit is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bare {
    /// By its size: milliseconds since 1970, seconds since 1970, or seconds from now.
    BySize,
    /// Seconds from now.
    Seconds,
    /// Milliseconds from now.
    Millis,
}

/// How a time was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As a span from now.
    Span,
    /// As a point in time.
    Absolute,
}

/// A time as it was told: from now, zero when past, at most [`LONGEST_PERIOD`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) wait: Duration,
    pub(super) form: Form,
}

/// An amount, and the window that was written beside it (`100;w=21600`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) amount: u64,
    pub(super) window: Option<Duration>,
}

/// Reads a time: RFC 3339, a Go duration (`1m26.4s`), a bare number, or an HTTP date, in this order. A reader that tries
/// numbers first takes `2025-08-21T…` for 2025 seconds.
pub(super) fn read_time(text: &str, bare: Bare, now: UnixTime) -> Option<Told> {
    let text = text.trim();
    if text.is_empty() || text.len() > LONGEST_TEXT {
        return None;
    }
    let absolute = |target| now.until(target).map(|wait| Told { wait, form: Form::Absolute });
    if is_rfc3339(text) {
        return absolute(UnixTime::from_rfc3339(text)?);
    }
    if let Ok(number) = text.parse::<f64>() {
        return match bare {
            Bare::BySize if number >= EPOCH_MILLIS => absolute(UnixTime::from_secs_f64(number / 1e3)?),
            Bare::BySize if number >= EPOCH_SECONDS => absolute(UnixTime::from_secs_f64(number)?),
            Bare::BySize | Bare::Seconds => span(number),
            Bare::Millis => span(number / 1e3),
        };
    }
    if let Some(seconds) = go_duration(text) {
        return span(seconds);
    }
    absolute(UnixTime::from_http_date(text)?)
}

/// Reads an amount: `100`, `598.0`, `100;w=21600`, `10, 10;w=1, 50;w=60` (the window is that of the policy with this
/// amount). Negative is zero, but `-1` is how many say "unknown" or "unlimited".
pub(super) fn read_amount(text: &str) -> Option<Amount> {
    if text.len() > LONGEST_TEXT {
        return None;
    }
    let mut policies = text.split(',').map(|policy| {
        let mut parts = policy.split(';');
        (whole(parts.next().unwrap_or_default()), parts.find_map(window_parameter))
    });
    let (amount, window) = policies.next()?;
    let amount = amount?;
    let window = window.or_else(|| policies.find(|(limit, _)| *limit == Some(amount)).and_then(|(_, window)| window));
    Some(Amount { amount, window })
}

/// Reads `used/size`.
pub(super) fn read_used_of(text: &str) -> Option<(u64, u64)> {
    let (used, size) = text.split_once('/')?;
    Some((whole(used)?, whole(size)?))
}

/// A span in seconds: negative is zero, absurd is nothing.
pub(super) fn span(seconds: f64) -> Option<Told> {
    (seconds.abs() <= ABSURD.as_secs_f64()).then(|| {
        let wait = Duration::from_secs_f64(seconds.max(0.0)).min(LONGEST_PERIOD);
        Told { wait, form: Form::Span }
    })
}

/// A whole amount out of a number that may carry a fraction, rounded down.
fn whole(text: &str) -> Option<u64> {
    let number: f64 = text.trim().parse().ok()?;
    (number != -1.0 && number.abs() <= LARGEST_AMOUNT as f64).then_some(number.max(0.0) as u64)
}

/// `w=60` or `window=60`, in seconds.
fn window_parameter(parameter: &str) -> Option<Duration> {
    let (name, seconds) = parameter.split_once('=')?;
    let seconds: f64 = seconds.trim().trim_matches('"').parse().ok()?;
    let named = matches!(name.trim(), "w" | "window");
    named.then(|| span(seconds)).flatten().map(|told| told.wait).filter(|window| !window.is_zero())
}

fn is_rfc3339(text: &str) -> bool {
    let shape = b"0000-00-00T";
    text.len() > shape.len()
        && text
            .bytes()
            .zip(shape)
            .all(|(byte, shape)| if *shape == b'0' { byte.is_ascii_digit() } else { byte == *shape })
}

/// A duration as Go writes it, in seconds: numbers with their units, `m` being minutes and `ms` milliseconds.
pub(super) fn go_duration(text: &str) -> Option<f64> {
    let (sign, mut rest) = text.strip_prefix('-').map_or((1.0, text), |rest| (-1.0, rest));
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        seconds += number.parse::<f64>().ok()? * unit_seconds(unit)?;
        rest = after;
    }
    (!text.is_empty() && text != "-").then_some(sign * seconds)
}

fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "d" => 86_400.0,
        "h" => 3600.0,
        "m" => 60.0,
        "s" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" | "μs" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    /// Thu, 21 Aug 2025 12:41:00 GMT.
    const NOW: UnixTime = UnixTime::from_secs(1_755_780_060);

    fn seconds(text: &str, now: UnixTime) -> Option<f64> {
        read_time(text, Bare::BySize, now).map(|told| told.wait.as_secs_f64())
    }

    #[rstest]
    #[case("12ms", 0.012)]
    #[case("1s", 1.0)]
    #[case("6m0s", 360.0)]
    #[case("0s", 0.0)]
    #[case("1m26.4s", 86.4)]
    #[case("172.799999ms", 0.172_799_999)]
    #[case("12.342857142s", 12.342_857_142)]
    #[case("7.44ms", 0.007_44)]
    #[case("9m38.016s", 578.016)]
    #[case("68.571428ms", 0.068_571_428)]
    #[case("1h30m", 5400.0)]
    #[case("1.5h", 5400.0)]
    #[case("500us", 0.000_5)]
    #[case("500µs", 0.000_5)]
    #[case("-5s", 0.0)]
    #[case("33011.382867097855", 33_011.382_867_097)]
    #[case("30", 30.0)]
    #[case("7.66", 7.66)]
    #[case("2.0", 2.0)]
    #[case("0", 0.0)]
    #[case("-5", 0.0)]
    #[case(" 30 ", 30.0)]
    #[case("2025-08-21T12:40:59Z", 0.0)]
    #[case("2025-08-21T12:42:00Z", 60.0)]
    #[case("2025-08-21T14:42:00+02:00", 60.0)]
    #[case("Thu, 21 Aug 2025 12:41:30 GMT", 30.0)]
    #[case("1755780090", 30.0)]
    #[case("1755780060.25", 0.25)]
    #[case("1755780090000", 30.0)]
    #[case("5000000", 2_678_400.0)] // capped at 31 days
    fn a_time_is_read_in_every_form(#[case] text: &str, #[case] expected: f64) {
        let wait = seconds(text, NOW).expect("a time");
        assert!((wait - expected).abs() < 2e-9, "{text}: {wait}");
    }

    #[rstest]
    #[case("abc")]
    #[case("")]
    #[case("NaN")]
    #[case("inf")]
    #[case("-inf")]
    #[case("1e30")]
    #[case("99999999")] // three years
    #[case("2049-01-01T00:00:00Z")]
    #[case("2025-08-21T")]
    #[case("2025-13-41T99:00:00Z")]
    #[case("m")]
    #[case("1x")]
    #[case("1..5s")]
    #[case("Thu, 99 Aug 2025 12:41:30 GMT")]
    #[case("4102444800")] // 2100
    fn nonsense_is_no_time(#[case] text: &str) {
        assert_eq!(seconds(text, NOW), None);
    }

    #[test]
    fn epochs_are_told_from_spans_by_their_size() {
        let midnight = UnixTime::from_secs(1_788_220_000);
        assert_eq!(seconds("1788220800000", midnight), Some(800.0));
        assert_eq!(seconds("1788220800", midnight), Some(800.0));
        let fraction = seconds("1470173023.123", UnixTime::from_secs(1_470_173_000)).expect("a time");
        assert!((fraction - 23.123).abs() < 1e-6);
        assert_eq!(read_time("1500", Bare::Millis, NOW).map(|told| told.wait), Some(Duration::from_millis(1500)));
        assert_eq!(read_time("1788220800", Bare::Seconds, NOW), None);
    }

    #[rstest]
    #[case("100;w=21600", Some((100, Some(21_600))))]
    #[case("0;w=21600", Some((0, Some(21_600))))]
    #[case("598.0", Some((598, None)))]
    #[case("10, 10;w=1, 50;w=60", Some((10, Some(1))))]
    #[case("1000000000", Some((1_000_000_000, None)))]
    #[case("-7", Some((0, None)))]
    #[case("-1", None)]
    #[case("1e30", None)]
    #[case("NaN", None)]
    #[case("yes", None)]
    #[case("", None)]
    #[case("5;w=-1", Some((5, None)))]
    #[case("5;w=1e-308", Some((5, None)))]
    #[case("5;w=1e300", Some((5, None)))]
    fn an_amount_may_carry_its_window(#[case] text: &str, #[case] expected: Option<(u64, Option<u64>)>) {
        let read = read_amount(text).map(|read| (read.amount, read.window.map(|window| window.as_secs())));
        assert_eq!(read, expected);
    }

    #[test]
    fn used_and_size_are_told_apart() {
        assert_eq!(read_used_of("32/40"), Some((32, 40)));
        assert_eq!(read_used_of("32"), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}|[-0-9.eEhmsuµnTZ:;,=w/+ ]{0,40}") {
            for bare in [Bare::BySize, Bare::Seconds, Bare::Millis] {
                if let Some(told) = read_time(&text, bare, NOW) {
                    prop_assert!(told.wait <= LONGEST_PERIOD);
                }
            }
            let _ = (read_amount(&text), read_used_of(&text));
        }
    }
}
