//! Limits as they are stated: an amount of a unit per period, or a number in flight. Values that make no sense cannot be built.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::cost::Unit;

/// The shortest period that a rate may have.
pub const SHORTEST_PERIOD: Duration = Duration::from_millis(100);
/// The longest period that a rate may have: the longest month.
pub const LONGEST_PERIOD: Duration = Duration::from_secs(31 * 24 * 3600);
/// The largest amount that a rate may allow in one period.
pub const LARGEST_AMOUNT: u64 = 1_000_000_000;

/// An allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// An amount of a unit in every trailing period.
    Rate(Rate),
    /// A number of requests between their departure and the last byte of their response.
    Concurrency(NonZeroU32),
}

/// At most [`amount`](Rate::amount) of a unit in every trailing [`period`](Rate::period), of which [`burst`](Rate::burst)
/// may leave at once after idling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    unit: Unit,
    amount: u64,
    period: Duration,
    burst: u64,
}

/// Why a rate cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// The amount is zero or above [`LARGEST_AMOUNT`].
    #[error("the amount must be between 1 and 1,000,000,000")]
    Amount,
    /// The period is shorter than [`SHORTEST_PERIOD`] or longer than [`LONGEST_PERIOD`].
    #[error("the period must be between 100 ms and 31 days")]
    Period,
    /// The burst is zero or larger than the amount.
    #[error("the burst must be between 1 and the amount per period")]
    Burst,
}

impl Rate {
    /// A rate with the default burst: the larger of what one second allows and a tenth of the amount, at least 1.
    ///
    /// # Errors
    /// When amount or period lie outside their bounds.
    pub fn new(unit: Unit, amount: u64, period: Duration) -> Result<Self, RateError> {
        if amount == 0 || amount > LARGEST_AMOUNT {
            return Err(RateError::Amount);
        }
        if !(SHORTEST_PERIOD..=LONGEST_PERIOD).contains(&period) {
            return Err(RateError::Period);
        }
        let per_second = (u128::from(amount) * 1_000_000_000 / period.as_nanos()).min(u128::from(amount)) as u64;
        let burst = per_second.max(amount / 10).max(1);
        Ok(Self { unit, amount, period, burst })
    }

    /// The same rate with another burst.
    ///
    /// # Errors
    /// When the burst is zero or larger than the amount.
    pub fn with_burst(self, burst: u64) -> Result<Self, RateError> {
        if burst == 0 || burst > self.amount {
            return Err(RateError::Burst);
        }
        Ok(Self { burst, ..self })
    }

    /// What is counted.
    pub const fn unit(&self) -> Unit {
        self.unit
    }

    /// How much every trailing period allows.
    pub const fn amount(&self) -> u64 {
        self.amount
    }

    /// The length of the trailing window.
    pub const fn period(&self) -> Duration {
        self.period
    }

    /// How much may leave at once after idling.
    pub const fn burst(&self) -> u64 {
        self.burst
    }
}

impl From<Rate> for Limit {
    fn from(rate: Rate) -> Self {
        Self::Rate(rate)
    }
}

/// In words: `30 requests a minute: 3 at once, then one every 2 s`.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(rate) => rate.fmt(f),
            Self::Concurrency(max) => write!(f, "{max} in flight"),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = Words(self.period);
        if self.unit == Unit::Requests {
            let spacing = Spacing(self.period.as_secs_f64() / self.amount as f64);
            let noun = if self.amount == 1 { "request" } else { "requests" };
            write!(f, "{} {noun} {per}: {} at once, then one every {spacing}", self.amount, self.burst)
        } else {
            write!(f, "{} {} {per}, {} at once", self.amount, self.unit, self.burst)
        }
    }
}

/// A period as people say it: `a minute`, `in 10 s`.
struct Words(Duration);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.as_secs(), self.0.subsec_nanos()) {
            (1, 0) => f.write_str("a second"),
            (60, 0) => f.write_str("a minute"),
            (3600, 0) => f.write_str("an hour"),
            (86_400, 0) => f.write_str("a day"),
            _ => write!(f, "in {}", Spacing(self.0.as_secs_f64())),
        }
    }
}

/// Seconds with the unit that keeps the number short: `2 s`, `100 ms`, `1.5 min`.
struct Spacing(f64);

impl fmt::Display for Spacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, unit) = match self.0 {
            s if s < 1e-3 => (s * 1e6, "µs"),
            s if s < 1.0 => (s * 1e3, "ms"),
            s if s < 120.0 => (s, "s"),
            s if s < 7200.0 => (s / 60.0, "min"),
            s if s < 172_800.0 => (s / 3600.0, "h"),
            s => (s / 86_400.0, "days"),
        };
        let rounded = (number * 100.0).round() / 100.0;
        write!(f, "{rounded} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(amount: u64, seconds: u64) -> Rate {
        Rate::new(Unit::Requests, amount, Duration::from_secs(seconds)).expect("a valid rate")
    }

    #[test]
    fn the_default_burst_is_a_second_or_a_tenth_whichever_is_larger() {
        assert_eq!(requests(10, 1).burst(), 10);
        assert_eq!(requests(30, 60).burst(), 3);
        assert_eq!(requests(600, 60).burst(), 60);
        assert_eq!(requests(1, 86_400).burst(), 1);
        let short = Rate::new(Unit::Requests, 5, Duration::from_millis(100)).expect("a valid rate");
        assert_eq!(short.burst(), 5, "a burst never exceeds the amount");
    }

    #[test]
    fn values_that_make_no_sense_cannot_be_built() {
        let second = Duration::from_secs(1);
        assert_eq!(Rate::new(Unit::Tokens, 0, second), Err(RateError::Amount));
        assert_eq!(Rate::new(Unit::Tokens, LARGEST_AMOUNT + 1, second), Err(RateError::Amount));
        assert_eq!(Rate::new(Unit::Tokens, 1, Duration::from_millis(99)), Err(RateError::Period));
        assert_eq!(Rate::new(Unit::Tokens, 1, LONGEST_PERIOD + second), Err(RateError::Period));
        assert_eq!(requests(10, 1).with_burst(0), Err(RateError::Burst));
        assert_eq!(requests(10, 1).with_burst(11), Err(RateError::Burst));
    }

    #[test]
    fn limits_are_told_in_words() {
        let say = |rate: Rate| Limit::from(rate).to_string();
        assert_eq!(say(requests(30, 60)), "30 requests a minute: 3 at once, then one every 2 s");
        assert_eq!(say(requests(10, 1)), "10 requests a second: 10 at once, then one every 100 ms");
        assert_eq!(say(requests(60, 10)), "60 requests in 10 s: 6 at once, then one every 166.67 ms");
        let tokens = Rate::new(Unit::Tokens, 60_000, Duration::from_secs(60)).expect("a valid rate");
        assert_eq!(say(tokens), "60000 tokens a minute, 6000 at once");
    }
}
