//! Windows and resets: what follows from the numbers where words are missing.

use std::time::Duration;

use super::{Basis, Reset, Statement};

/// What a reset means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The time until the bucket is full again.
    ToFull,
    /// The time until the window ends.
    WindowEnd,
    /// Not known.
    Unknown,
}

impl Meaning {
    pub(super) const fn of(self, after: Duration) -> Reset {
        match self {
            Self::ToFull => Reset::ToFull(after),
            Self::WindowEnd => Reset::WindowEnd(after),
            Self::Unknown => Reset::Unknown(after),
        }
    }
}

/// The windows that limits have, in seconds.
const KNOWN_WINDOWS: [f64; 10] = [1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0];
/// How far an inferred window may lie from a known one. Resets are rounded to milliseconds, which is much of a short one.
const WINDOW_TOLERANCE: f64 = 1.2;

/// The window of a bucket that is full again after `to_full`: `limit × to_full / used`, snapped to a known window.
/// `None` where nothing was used, or where the result is near none.
pub(super) fn infer_window(limit: u64, remaining: u64, to_full: Duration) -> Option<Duration> {
    let used = limit.checked_sub(remaining).filter(|used| *used > 0)?;
    let window = limit as f64 * to_full.as_secs_f64() / used as f64;
    let near = |known: &f64| window / known < WINDOW_TOLERANCE && known / window < WINDOW_TOLERANCE;
    KNOWN_WINDOWS.into_iter().find(near).map(Duration::from_secs_f64)
}

/// The window of a bucket that is full again after `to_full`, where `known` is said of all limits of its kind: that, unless
/// much is used and the time to a full bucket speaks against it.
pub(super) fn likely_window(
    known: Option<Duration>,
    limit: u64,
    remaining: u64,
    to_full: Duration,
) -> (Option<Duration>, Basis) {
    let used = limit.saturating_sub(remaining);
    let Some(window) = known else { return (infer_window(limit, remaining, to_full), Basis::Inferred) };
    if used.saturating_mul(2) < limit {
        return (known, Basis::Assumed);
    }
    let expected = window.mul_f64(used as f64 / limit.max(1) as f64);
    if to_full.saturating_mul(3) >= expected {
        (known, Basis::Stated)
    } else {
        (infer_window(limit, remaining, to_full), Basis::Inferred)
    }
}

/// The longest that a reset of this window is believed: ten times a short one, an hour more than a long one.
pub(super) fn believable(window: Duration) -> Duration {
    (window * 10).max(Duration::from_secs(600)).min(window + Duration::from_secs(3600))
}

/// Tells what the resets of a limit mean, out of two statements about it that were made `apart` from each other.
///
/// The end of a window comes nearer by exactly the time that passed, whatever was used; the time to a full bucket is in
/// proportion to what is used, or never comes nearer while more is used. `None` while both would explain what was seen.
pub fn tell_apart(earlier: &Statement, later: &Statement, apart: Duration) -> Option<Meaning> {
    let limit = earlier.limit.filter(|limit| later.limit == Some(*limit))?;
    let used = |said: &Statement| Some(limit.saturating_sub(said.remaining?) as f64);
    let (used_before, used_after) = (used(earlier)?, used(later)?);
    let before = earlier.reset?.after().as_secs_f64();
    let after = later.reset?.after().as_secs_f64();
    if used_before == 0.0 || before <= apart.as_secs_f64() {
        return None;
    }
    let as_window_end = before - apart.as_secs_f64();
    let as_to_full = before * used_after / used_before;
    // Resets are often whole seconds, and the two responses were under way for differing times.
    let is_whole = before.fract() == 0.0 && after.fract() == 0.0;
    let tolerance = f64::max(if is_whole { 1.5 } else { 0.05 }, before * 0.02);
    let fits = |expected: f64| (after - expected).abs() <= tolerance;
    // Where so little time has passed, a reset that stands still looks like one that runs down.
    if !is_whole && apart.as_secs_f64() <= 2.0 * tolerance {
        return None;
    }
    match (fits(as_window_end), fits(as_to_full)) {
        (true, false) => Some(Meaning::WindowEnd),
        (false, true) => Some(Meaning::ToFull),
        // An end that moves away before it has come is none. A sliding window is full again a window after the last request,
        // however much is used.
        (false, false) if after > as_window_end + tolerance => Some(Meaning::ToFull),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::limits::Scope;
    use cooldown_pacer::Unit;
    use rstest::rstest;

    #[rstest]
    #[case(5000, 4999, 0.012, Some(60))]
    #[case(500_000, 499_999, 0.172_799_999, Some(86_400))]
    #[case(1000, 999, 86.4, Some(86_400))]
    #[case(7000, 6992, 0.068_571_428, Some(60))]
    #[case(250_000, 249_969, 0.007_44, Some(60))]
    #[case(800_000, 799_986, 0.001, Some(60))] // 57 s: a reset of one millisecond is rounded
    #[case(200, 199, 432.0, Some(86_400))]
    #[case(5000, 5000, 0.0, None)]
    #[case(5000, 5001, 1.0, None)]
    #[case(100, 50, 15.0, None)] // 30 s is no window that is known
    #[case(5000, 4999, 0.0, None)]
    fn the_window_follows_from_what_one_use_takes_to_refill(
        #[case] limit: u64,
        #[case] remaining: u64,
        #[case] to_full: f64,
        #[case] window: Option<u64>,
    ) {
        let inferred = infer_window(limit, remaining, Duration::from_secs_f64(to_full));
        assert_eq!(inferred, window.map(Duration::from_secs));
    }

    #[rstest]
    #[case((90, 40.0), (50, 30.0), 10, Some(Meaning::WindowEnd))]
    #[case((50, 30.0), (75, 15.0), 5, Some(Meaning::ToFull))]
    #[case((50, 30.0), (67, 20.0), 10, None)] // both explain it
    #[case((100, 30.0), (90, 20.0), 10, None)] // nothing was used
    #[case((50, 30.0), (40, 58.0), 40, None)] // the window has ended in between
    #[case((50, 30.0), (50, 5.0), 10, None)] // neither explains it
    #[case((90, 0.9), (80, 0.6), 0, None)]
    fn two_responses_tell_what_a_reset_means(
        #[case] earlier: (u64, f64),
        #[case] later: (u64, f64),
        #[case] apart: u64,
        #[case] expected: Option<Meaning>,
    ) {
        let said = |(remaining, reset)| Statement {
            limit: Some(100),
            remaining: Some(remaining),
            reset: Some(Reset::Unknown(Duration::from_secs_f64(reset))),
            ..Statement::new(Unit::Requests, Scope::Key)
        };
        assert_eq!(tell_apart(&said(earlier), &said(later), Duration::from_secs(apart)), expected);
    }
}
