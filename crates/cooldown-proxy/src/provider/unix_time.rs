//! Wall-clock time as a value: what absolute resets are measured against.

use std::time::{Duration, SystemTime};

use cooldown_pacer::LONGEST_PERIOD;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::fields::{Fields, Kind};

/// Farther away than this, in either direction, a time is taken for nonsense.
pub(super) const ABSURD: Duration = Duration::from_secs(366 * 24 * 3600);

/// A point in time: the time since 1970-01-01 00:00 UTC. Comes from a response or from the caller; nothing here asks a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixTime(Duration);

impl UnixTime {
    /// This many seconds after 1970.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// This many seconds after 1970, with their fraction; `None` when negative, not a number or out of range.
    pub(super) fn from_secs_f64(seconds: f64) -> Option<Self> {
        Duration::try_from_secs_f64(seconds).ok().map(Self)
    }

    /// An RFC 3339 time with its offset.
    pub(super) fn from_rfc3339(text: &str) -> Option<Self> {
        SystemTime::from(text.parse::<Timestamp>().ok()?).try_into().ok()
    }

    /// A date of RFC 9110 §5.6.7, in any of its three forms.
    pub(super) fn from_http_date(text: &str) -> Option<Self> {
        httpdate::parse_http_date(text).ok()?.try_into().ok()
    }

    /// When the response was made, by its own `Date`, so that the clocks of both sides need not agree; else `received`.
    pub(super) fn of_response(headers: &Fields, received: Self) -> Self {
        let date = headers.first(Kind::Date).and_then(|date| date.to_str().ok());
        date.and_then(Self::from_http_date).unwrap_or(received)
    }

    /// The time until `target`: zero when it is past, at most [`LONGEST_PERIOD`], `None` when it is absurdly far away.
    pub(super) fn until(self, target: Self) -> Option<Duration> {
        (self.0.abs_diff(target.0) <= ABSURD).then(|| target.0.saturating_sub(self.0).min(LONGEST_PERIOD))
    }

    /// The time until the next midnight in Los Angeles, where Google's days end; 23 to 25 hours when daylight saving changes.
    pub(super) fn until_pacific_midnight(self) -> Option<Duration> {
        let now = Timestamp::try_from(SystemTime::UNIX_EPOCH.checked_add(self.0)?).ok()?;
        let pacific = now.to_zoned(TimeZone::get("America/Los_Angeles").ok()?);
        let midnight = pacific.tomorrow().ok()?.start_of_day().ok()?;
        self.until(SystemTime::from(midnight.timestamp()).try_into().ok()?)
    }
}

impl TryFrom<SystemTime> for UnixTime {
    type Error = std::time::SystemTimeError;

    /// # Errors
    /// When the time lies before 1970.
    fn try_from(time: SystemTime) -> Result<Self, Self::Error> {
        time.duration_since(SystemTime::UNIX_EPOCH).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn at(rfc3339: &str) -> UnixTime {
        UnixTime::from_rfc3339(rfc3339).expect("a time")
    }

    #[rstest]
    #[case("2026-03-08T08:00:00Z", 23.0)] // the clocks go forward: midnight PST to midnight PDT
    #[case("2026-11-01T07:00:00Z", 25.0)] // the clocks go back
    #[case("2026-07-01T06:59:00Z", 1.0 / 60.0)]
    #[case("2026-11-22T20:00:00Z", 12.0)]
    fn googles_day_ends_at_midnight_in_los_angeles(#[case] now: &str, #[case] hours: f64) {
        let wait = at(now).until_pacific_midnight().expect("a midnight");
        assert_eq!(wait, Duration::from_secs_f64((hours * 3600.0).round()));
    }

    #[test]
    fn a_time_is_past_ahead_or_absurd() {
        let now = at("2026-01-01T00:00:00Z");
        assert_eq!(now.until(at("2025-12-31T23:59:59Z")), Some(Duration::ZERO));
        assert_eq!(now.until(at("2026-01-01T00:00:01.5Z")), Some(Duration::from_millis(1500)));
        assert_eq!(now.until(at("2026-12-01T00:00:00Z")), Some(LONGEST_PERIOD));
        assert_eq!(now.until(at("2028-01-01T00:00:00Z")), None);
        assert_eq!(now.until(at("2001-01-01T00:00:00Z")), None);
    }

    #[rstest]
    #[case("Wed, 21 Oct 2026 07:28:00 GMT")]
    #[case("Wednesday, 21-Oct-26 07:28:00 GMT")]
    #[case("Wed Oct 21 07:28:00 2026")]
    fn all_three_forms_of_a_date_are_read(#[case] date: &str) {
        assert_eq!(UnixTime::from_http_date(date), Some(at("2026-10-21T07:28:00Z")));
    }
}
