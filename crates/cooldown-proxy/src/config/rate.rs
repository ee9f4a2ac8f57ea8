//! Limits as people write them: `10/s`, `60k tokens/min`, `1M/day, burst 20k`, `8 concurrent`.

use std::num::NonZeroU32;
use std::time::Duration;

use cooldown_pacer::{LARGEST_AMOUNT, Limit, Rate, RateError, Unit};

use super::quantity::{self, Decimal, QuantityError};

/// Why a text is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum LimitError {
    /// Zero or below.
    #[error("the rate must be positive")]
    NotPositive,
    /// The amount is no number.
    #[error("the amount is no number")]
    Amount,
    /// An unknown suffix or unit behind the amount.
    #[error("`requests`, `tokens`, `input tokens` or `output tokens` may follow the amount, nothing else")]
    UnknownUnit,
    /// The unit is named by the field and again in the value.
    #[error("the unit is named twice")]
    UnitTwice,
    /// No `/PERIOD`.
    #[error("the period is missing")]
    NoPeriod,
    /// A period that is not known.
    #[error("the period is not known")]
    Period,
    /// `m` as a period: minute or month?
    #[error("`m` can mean minute or month")]
    MinuteOrMonth,
    /// Months have no fixed length.
    #[error("a month has no fixed length")]
    Month,
    /// What follows the comma is no burst.
    #[error("`burst` and a whole number must follow the comma")]
    Burst,
    /// A number in flight that is zero, or too large.
    #[error("the number in flight must be from 1 to {MOST_IN_FLIGHT}")]
    Concurrency,
    /// Outside the bounds of a rate.
    #[error(transparent)]
    Bounds(#[from] RateError),
}

/// The largest number in flight that can be configured.
pub(super) const MOST_IN_FLIGHT: u32 = 1_000_000;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

impl LimitError {
    /// What to write instead.
    pub(super) fn hint(self) -> &'static str {
        match self {
            Self::MinuteOrMonth => "write `min` for a minute, `30d` for thirty days",
            Self::Month => "write `30d` for any thirty days; limits by the calendar come in a later version",
            Self::UnitTwice => "write the rate alone, such as `60k/min`; the field says what is counted",
            Self::Bounds(RateError::Burst) => {
                "a burst above the amount would break the limit; give a longer period, such as `600/min, burst 20`"
            }
            Self::Bounds(RateError::Period) => "write a period from `100ms` to `31d`",
            Self::Burst => "write a rate such as `30k/min, burst 5k`",
            Self::Concurrency => "write a whole number, such as `8`",
            _ => "write a rate such as `10/s`, `600/min`, `60/10s`, `14400/day` or `1M/day, burst 20k`",
        }
    }
}

/// Reads `AMOUNT[k|M]/PERIOD[, burst B]` for a unit that is known already.
pub(super) fn rate(text: &str, unit: Unit) -> Result<Rate, LimitError> {
    match parse(text)? {
        (None, rate) => rate.build(unit),
        (Some(_), _) => Err(LimitError::UnitTwice),
    }
}

/// Reads a limit that names its own unit: `10/s` (requests), `60k tokens/min`, `8 concurrent`.
pub(super) fn limit(text: &str) -> Result<Limit, LimitError> {
    if let Some(number) = text.trim().strip_suffix("concurrent") {
        return concurrency(number).map(Limit::Concurrency);
    }
    let (unit, rate) = parse(text)?;
    rate.build(unit.unwrap_or(Unit::Requests)).map(Limit::Rate)
}

/// Reads a plain number of requests a second, which may be a fraction: `0.5` is one in two seconds.
pub(super) fn per_second(text: &str) -> Result<Rate, LimitError> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err(LimitError::NotPositive);
    }
    let amount = Decimal::parse(text).map_err(LimitError::from)?;
    Written { amount, factor: 1, period: SECOND, burst: None }.build(Unit::Requests)
}

/// Reads a number in flight.
pub(super) fn concurrency(text: &str) -> Result<NonZeroU32, LimitError> {
    let number = text.trim().parse().ok().filter(|number| *number <= MOST_IN_FLIGHT);
    number.and_then(NonZeroU32::new).ok_or(LimitError::Concurrency)
}

/// A rate as it was written.
struct Written {
    amount: Decimal,
    factor: u64,
    period: Duration,
    burst: Option<u64>,
}

impl Written {
    /// Fractions stay exact: the period is multiplied until the amount is whole. The default burst is that of the rate
    /// as it was written, since a period that was stretched for its arithmetic must not allow a larger one.
    fn build(self, unit: Unit) -> Result<Rate, LimitError> {
        let (amount, stretch) = self.amount.fraction_of(self.factor);
        if amount == 0 {
            return Err(LimitError::NotPositive);
        }
        let whole = u64::try_from(amount).ok().filter(|amount| *amount <= LARGEST_AMOUNT).ok_or(RateError::Amount)?;
        let period = u32::try_from(stretch).ok().and_then(|stretch| self.period.checked_mul(stretch));
        let rate = Rate::new(unit, whole, period.ok_or(RateError::Period)?)?;
        let burst = match self.burst {
            Some(burst) => burst,
            None if stretch == 1 => rate.burst(),
            None => default_burst(whole, rate.period(), (amount / stretch) as u64),
        };
        Ok(rate.with_burst(burst)?)
    }
}

/// The larger of what one second allows and a tenth of what was written, at least 1.
fn default_burst(amount: u64, period: Duration, written: u64) -> u64 {
    let per_second = u128::from(amount) * SECOND.as_nanos() / period.as_nanos();
    (per_second.min(u128::from(amount)) as u64).max(written / 10).max(1)
}

fn parse(text: &str) -> Result<(Option<Unit>, Written), LimitError> {
    let (rate, burst) = match text.split_once(',') {
        Some((rate, burst)) => (rate, Some(burst_of(burst)?)),
        None => (text, None),
    };
    let (amount, period) = match rate.split_once('/') {
        Some((amount, period)) => (amount.trim(), Some(period.trim())),
        None => (rate.trim(), None),
    };
    let (amount, factor, words) = amount_of(amount)?;
    let unit = unit_of(words)?;
    let period = period_of(period.ok_or(LimitError::NoPeriod)?)?;
    Ok((unit, Written { amount, factor, period, burst }))
}

/// The number, the factor that its suffix stands for, and the words that follow.
fn amount_of(text: &str) -> Result<(Decimal, u64, &str), LimitError> {
    if text.starts_with('-') {
        return Err(LimitError::NotPositive);
    }
    let (amount, rest) = Decimal::take(text)?;
    let (factor, words) = match rest.chars().next() {
        Some('k') => (1_000, &rest[1..]),
        Some('M') => (1_000_000, &rest[1..]),
        _ => (1, rest),
    };
    Ok((amount, factor, words.trim()))
}

fn unit_of(words: &str) -> Result<Option<Unit>, LimitError> {
    Ok(match words {
        "" => None,
        "request" | "requests" => Some(Unit::Requests),
        "token" | "tokens" => Some(Unit::Tokens),
        "input token" | "input tokens" => Some(Unit::InputTokens),
        "output token" | "output tokens" => Some(Unit::OutputTokens),
        _ => return Err(LimitError::UnknownUnit),
    })
}

fn period_of(text: &str) -> Result<Duration, LimitError> {
    match text {
        "" => Err(LimitError::NoPeriod),
        "s" | "sec" | "second" => Ok(SECOND),
        "min" | "minute" => Ok(60 * SECOND),
        "h" | "hour" => Ok(3600 * SECOND),
        "d" | "day" => Ok(DAY),
        "w" | "week" => Ok(7 * DAY),
        "m" | "M" => Err(LimitError::MinuteOrMonth),
        "mo" | "month" => Err(LimitError::Month),
        _ => quantity::duration(text).map_err(|why| match why {
            QuantityError::MinutesOrMonths => LimitError::MinuteOrMonth,
            _ => LimitError::Period,
        }),
    }
}

/// `burst B`, a whole number with `k` or `M`.
fn burst_of(text: &str) -> Result<u64, LimitError> {
    let number = text.trim().strip_prefix("burst").ok_or(LimitError::Burst)?;
    let (amount, factor, words) = amount_of(number.trim_start()).map_err(|_| LimitError::Burst)?;
    match amount.fraction_of(factor) {
        (burst, 1) if words.is_empty() => u64::try_from(burst).map_err(|_| LimitError::Burst),
        _ => Err(LimitError::Burst),
    }
}

impl From<QuantityError> for LimitError {
    fn from(why: QuantityError) -> Self {
        match why {
            QuantityError::TooLong => Self::Bounds(RateError::Amount),
            _ => Self::Amount,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("10/s", 10, 1_000, 10)]
    #[case("600/min", 600, 60_000, 60)]
    #[case("60/10s", 60, 10_000, 6)]
    #[case("14400/day", 14_400, 86_400_000, 1440)]
    #[case("1M/day", 1_000_000, 86_400_000, 100_000)]
    #[case("30k/min, burst 5k", 30_000, 60_000, 5_000)]
    #[case("1.5k/min", 1_500, 60_000, 150)]
    #[case("5 / 100ms", 5, 100, 5)]
    #[case("100/1h30m", 100, 5_400_000, 10)]
    #[case("0.5/s", 1, 2_000, 1)]
    #[case("2.5/s", 5, 2_000, 2)]
    #[case("0.333/s", 333, 1_000_000, 1)]
    #[case("7/w", 7, 604_800_000, 1)]
    fn rates_read_as_people_write_them(
        #[case] text: &str,
        #[case] amount: u64,
        #[case] millis: u64,
        #[case] burst: u64,
    ) {
        let rate = rate(text, Unit::Requests).expect(text);
        assert_eq!((rate.amount(), rate.period(), rate.burst()), (amount, Duration::from_millis(millis), burst));
    }

    #[rstest]
    #[case("0/s", LimitError::NotPositive)]
    #[case("-1/s", LimitError::NotPositive)]
    #[case("0.0/s", LimitError::NotPositive)]
    #[case("10", LimitError::NoPeriod)]
    #[case("10/", LimitError::NoPeriod)]
    #[case("60/m", LimitError::MinuteOrMonth)]
    #[case("60/1M", LimitError::MinuteOrMonth)]
    #[case("60/month", LimitError::Month)]
    #[case("60/fortnight", LimitError::Period)]
    #[case("ten/s", LimitError::Amount)]
    #[case("nan/s", LimitError::Amount)]
    #[case("10x/s", LimitError::UnknownUnit)]
    #[case("10 requests/s", LimitError::UnitTwice)]
    #[case("10/s, burst", LimitError::Burst)]
    #[case("10/s, burst 1.5", LimitError::Burst)]
    #[case("10/s, 5", LimitError::Burst)]
    #[case("10/s, burst 0", LimitError::Bounds(RateError::Burst))]
    #[case("10/s, burst 11", LimitError::Bounds(RateError::Burst))]
    #[case("10/40d", LimitError::Bounds(RateError::Period))]
    #[case("10/10ms", LimitError::Bounds(RateError::Period))]
    #[case("0.1/30d", LimitError::Bounds(RateError::Period))]
    #[case("1000000000000000000M/s", LimitError::Bounds(RateError::Amount))]
    fn a_faulty_rate_is_told_why(#[case] text: &str, #[case] why: LimitError) {
        assert_eq!(rate(text, Unit::Requests), Err(why));
    }

    #[rstest]
    #[case("10/s", "10 requests a second: 10 at once, then one every 100 ms")]
    #[case("60k tokens/min", "60000 tokens a minute, 6000 at once")]
    #[case("30k input tokens/min, burst 1k", "30000 input tokens a minute, 1000 at once")]
    #[case("8 concurrent", "8 in flight")]
    fn a_limit_names_its_own_unit_on_the_command_line(#[case] text: &str, #[case] words: &str) {
        assert_eq!(limit(text).expect(text).to_string(), words);
    }

    #[test]
    fn requests_per_second_may_be_a_fraction() {
        assert_eq!(per_second("0.5").map(|rate| (rate.amount(), rate.period())), Ok((1, 2 * SECOND)));
        assert_eq!(per_second("10").map(|rate| (rate.amount(), rate.burst())), Ok((10, 10)));
        assert_eq!(per_second("-3"), Err(LimitError::NotPositive));
        assert_eq!(per_second("0"), Err(LimitError::NotPositive));
        assert_eq!(per_second("10/s"), Err(LimitError::Amount));
        assert_eq!(limit("0 concurrent"), Err(LimitError::Concurrency));
    }

    proptest! {
        #[test]
        fn a_rate_that_is_written_reads_back(amount in 1u64..=LARGEST_AMOUNT, ms in 100u64..2_678_400_000, part in 0.0..1.0f64) {
            let burst = ((amount as f64 * part) as u64).max(1);
            let expected = Rate::new(Unit::Tokens, amount, Duration::from_millis(ms)).and_then(|rate| rate.with_burst(burst));
            prop_assert_eq!(rate(&format!("{amount}/{ms}ms, burst {burst}"), Unit::Tokens).ok(), expected.ok());
        }

        #[test]
        fn a_fraction_allows_exactly_what_was_written(thousandths in 1u64..1_000_000) {
            let text = format!("{}.{:03}/s", thousandths / 1000, thousandths % 1000);
            let rate = rate(&text, Unit::Requests).expect("a valid rate");
            prop_assert_eq!(u128::from(rate.amount()) * 1_000_000_000_000, rate.period().as_nanos() * u128::from(thousandths));
        }

        #[test]
        fn no_text_makes_a_limit_panic(text in any::<String>()) {
            let _ = (limit(&text), per_second(&text));
        }

        #[test]
        fn no_text_that_looks_like_a_limit_panics(text in "[-0-9.kM]{0,25} ?[a-zµ]{0,8}/?[0-9.]{0,20}[a-z]{0,3}(, ?burst [0-9kM]{0,25})?") {
            let _ = (limit(&text), per_second(&text));
        }
    }
}
