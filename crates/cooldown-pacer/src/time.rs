//! Time as an argument: the pacer never asks a clock.

use std::time::Duration;

/// A point on the caller's monotonic clock: nanoseconds since an origin that the caller chooses once.
///
/// All instants given to one [`Pacer`](crate::Pacer) must share that origin. A `now` that lies before an earlier one is
/// treated as that earlier one, so that a stale reading cannot hand out time twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The origin of the caller's clock.
    pub const START: Self = Self(0);
    /// Later than anything that will happen.
    pub const NEVER: Self = Self(u64::MAX);

    /// The instant `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// This instant moved later by `span`; stays at [`Instant::NEVER`] when the sum cannot be told.
    pub const fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }

    /// The time from `earlier` to this instant; zero when `earlier` is not earlier.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A duration in whole nanoseconds, capped at `u64::MAX` (584 years).
pub(crate) const fn nanos(span: Duration) -> u64 {
    let nanos = span.as_nanos();
    if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_saturates_instead_of_wrapping() {
        assert_eq!(Instant::NEVER.after(Duration::from_secs(1)), Instant::NEVER);
        assert_eq!(Instant::START.since(Instant::from_nanos(5)), Duration::ZERO);
        assert_eq!(Instant::from_nanos(5).after(Duration::from_nanos(2)).as_nanos(), 7);
    }
}
