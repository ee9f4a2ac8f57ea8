//! Numbers with a unit, as people write them: decimals, durations and sizes.

use std::time::Duration;

/// A number that is not negative, exactly as it was written: `mantissa / 10^decimals`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal {
    mantissa: u64,
    decimals: u32,
}

/// Why a text is no quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum QuantityError {
    /// No number where one belongs.
    #[error("no number is found")]
    NotANumber,
    /// More decimals or more digits than can be told apart.
    #[error("the number has too many digits")]
    TooLong,
    /// A number without a unit.
    #[error("the unit is missing")]
    NoUnit,
    /// A unit that is not known.
    #[error("the unit is not known")]
    UnknownUnit,
    /// `M` in a duration: minutes or months?
    #[error("`M` can mean minutes or months")]
    MinutesOrMonths,
    /// `m` in a size: milli or mega?
    #[error("`m` is no unit of size")]
    Milli,
}

impl QuantityError {
    /// What to write instead of a faulty duration.
    pub(super) fn duration_hint(self) -> &'static str {
        match self {
            Self::NoUnit => "add a unit: `60s`, `5m` or `500ms`",
            Self::MinutesOrMonths => "write `m` for minutes; there are no months, `30d` is thirty days",
            _ => "write a duration such as `500ms`, `10s`, `5m`, `1h30m` or `1d`",
        }
    }

    /// What to write instead of a faulty size.
    pub(super) fn size_hint(self) -> &'static str {
        match self {
            Self::Milli => "write `MB` for a million bytes, `MiB` for 1,048,576",
            _ => "write a size such as `64k`, `10MB`, `32MiB`, or a plain number of bytes",
        }
    }
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Units of time and their nanoseconds.
const TIME_UNITS: [(&str, u64); 9] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", NANOS_PER_SECOND),
    ("m", 60 * NANOS_PER_SECOND),
    ("min", 60 * NANOS_PER_SECOND),
    ("h", 3600 * NANOS_PER_SECOND),
    ("d", 86_400 * NANOS_PER_SECOND),
];

/// Units of size and their bytes. `k` is a thousand, as it is in rates.
const SIZE_UNITS: [(&str, u64); 13] = [
    ("", 1),
    ("B", 1),
    ("k", 1_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("M", 1_000_000),
    ("MB", 1_000_000),
    ("G", 1_000_000_000),
    ("GB", 1_000_000_000),
    ("Ki", 1 << 10),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

impl Decimal {
    /// More decimals than this say nothing that a limit could hold.
    const MOST_DECIMALS: usize = 9;

    /// Reads digits with at most one point: `10`, `0.5`. No sign, no exponent.
    pub(super) fn parse(text: &str) -> Result<Self, QuantityError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err(QuantityError::NotANumber);
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > Self::MOST_DECIMALS {
            return Err(QuantityError::TooLong);
        }
        let mantissa = format!("{whole}{fraction}").parse().map_err(|_| QuantityError::TooLong)?;
        Ok(Self { mantissa, decimals: fraction.len() as u32 })
    }

    /// Reads the number that `text` starts with, and gives what follows it.
    pub(super) fn take(text: &str) -> Result<(Self, &str), QuantityError> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, rest) = text.split_at(end);
        Ok((Self::parse(number)?, rest))
    }

    /// Numerator and denominator after multiplying by `factor`, in lowest terms.
    pub(super) fn fraction_of(self, factor: u64) -> (u128, u128) {
        let numerator = u128::from(self.mantissa) * u128::from(factor);
        let denominator = 10u128.pow(self.decimals);
        let divisor = greatest_common_divisor(numerator, denominator);
        (numerator / divisor, denominator / divisor)
    }

    /// The number times `factor`, rounded down; `None` when it does not fit.
    fn times(self, factor: u64) -> Option<u64> {
        let (numerator, denominator) = self.fraction_of(factor);
        u64::try_from(numerator / denominator).ok()
    }
}

/// Reads a duration: one or more numbers with a unit, such as `10s`, `1h30m`, `1.5h`, `500ms`, `1d`.
pub(super) fn duration(text: &str) -> Result<Duration, QuantityError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(QuantityError::NotANumber);
    }
    let mut nanos: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = Decimal::take(rest)?;
        let after = after.trim_start();
        let end = after.find(|c: char| c.is_ascii_digit() || c.is_whitespace()).unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let part = number.times(nanos_in(unit)?).ok_or(QuantityError::TooLong)?;
        nanos = nanos.checked_add(part).ok_or(QuantityError::TooLong)?;
        rest = next.trim_start();
    }
    Ok(Duration::from_nanos(nanos))
}

/// A duration in the largest unit that keeps it whole.
pub(super) fn written(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let unit = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)].into_iter();
    let unit = unit.map(|(name, seconds)| (name, seconds * u128::from(NANOS_PER_SECOND)));
    let unit =
        unit.chain([("ms", 1_000_000), ("us", 1_000)]).find(|(_, unit)| nanos > 0 && nanos.is_multiple_of(*unit));
    match unit {
        Some((name, unit)) => format!("{}{name}", nanos / unit),
        None if nanos == 0 => "0s".to_owned(),
        None => format!("{nanos}ns"),
    }
}

/// Reads a plain number of seconds, `60` or `0.5`.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    Decimal::parse(text.trim()).ok()?.times(NANOS_PER_SECOND).map(Duration::from_nanos)
}

/// Reads a size in bytes: `32MiB`, `10MB`, `64k`, `4096`.
pub(super) fn size(text: &str) -> Result<u64, QuantityError> {
    let (number, unit) = Decimal::take(text.trim())?;
    let unit = unit.trim_start();
    if unit == "m" || unit == "mb" || unit == "mib" {
        return Err(QuantityError::Milli);
    }
    let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or(QuantityError::UnknownUnit)?;
    number.times(*bytes).ok_or(QuantityError::TooLong)
}

fn nanos_in(unit: &str) -> Result<u64, QuantityError> {
    match unit {
        "" => Err(QuantityError::NoUnit),
        "M" => Err(QuantityError::MinutesOrMonths),
        _ => TIME_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, n)| *n).ok_or(QuantityError::UnknownUnit),
    }
}

fn greatest_common_divisor(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("10s", 10_000)]
    #[case("500ms", 500)]
    #[case("1h30m", 5_400_000)]
    #[case("1h 30min", 5_400_000)]
    #[case("1.5h", 5_400_000)]
    #[case("1d", 86_400_000)]
    #[case("1h30m0s", 5_400_000)]
    #[case(" 5m ", 300_000)]
    #[case("0s", 0)]
    fn durations_read_as_people_write_them(#[case] text: &str, #[case] millis: u64) {
        assert_eq!(duration(text), Ok(Duration::from_millis(millis)));
    }

    #[rstest]
    #[case("", QuantityError::NotANumber)]
    #[case("5", QuantityError::NoUnit)]
    #[case("10M", QuantityError::MinutesOrMonths)]
    #[case("-5s", QuantityError::NotANumber)]
    #[case("s", QuantityError::NotANumber)]
    #[case("1..5s", QuantityError::NotANumber)]
    #[case("10 parsecs", QuantityError::UnknownUnit)]
    #[case("99999999999d", QuantityError::TooLong)]
    #[case("99999999999999999999999s", QuantityError::TooLong)]
    fn a_faulty_duration_is_told_why(#[case] text: &str, #[case] why: QuantityError) {
        assert_eq!(duration(text), Err(why));
    }

    #[rstest]
    #[case("4096", 4096)]
    #[case("64k", 64_000)]
    #[case("10MB", 10_000_000)]
    #[case("10M", 10_000_000)]
    #[case("32MiB", 33_554_432)]
    #[case("1.5 KiB", 1536)]
    #[case("2GiB", 2_147_483_648)]
    fn sizes_read_as_people_write_them(#[case] text: &str, #[case] bytes: u64) {
        assert_eq!(size(text), Ok(bytes));
    }

    #[rstest]
    #[case("10m", QuantityError::Milli)]
    #[case("10 bananas", QuantityError::UnknownUnit)]
    #[case("MiB", QuantityError::NotANumber)]
    #[case("99999999999999999999", QuantityError::TooLong)]
    #[case("99999999999999GiB", QuantityError::TooLong)]
    fn a_faulty_size_is_told_why(#[case] text: &str, #[case] why: QuantityError) {
        assert_eq!(size(text), Err(why));
    }

    proptest! {
        #[test]
        fn a_duration_that_is_written_in_parts_reads_back(h in 0u64..1000, m in 0u64..60, s in 0u64..60, ms in 0u64..1000) {
            let expected = Duration::from_millis(((h * 60 + m) * 60 + s) * 1000 + ms);
            prop_assert_eq!(duration(&format!("{h}h{m}m{s}s{ms}ms")), Ok(expected));
            prop_assert_eq!(duration(&format!("{h}h {m}m {s}.{ms:03}s")), Ok(expected));
        }

        #[test]
        fn a_duration_reads_back_as_it_is_written(
            nanos in prop_oneof![any::<u64>(), (0..10_000u64).prop_map(|s| s * NANOS_PER_SECOND)],
        ) {
            let expected = Duration::from_nanos(nanos);
            prop_assert_eq!(duration(&written(expected)), Ok(expected));
        }

        #[test]
        fn a_size_in_bytes_reads_back(bytes in any::<u64>()) {
            prop_assert_eq!(size(&bytes.to_string()), Ok(bytes));
        }

        #[test]
        fn no_text_makes_a_quantity_panic(text in any::<String>()) {
            let _ = (duration(&text), size(&text), seconds(&text));
        }

        #[test]
        fn no_text_of_digits_and_units_makes_a_quantity_panic(text in "[0-9.]{0,30}[kMGmshdi ]{0,4}[0-9.]{0,5}[a-zµ]{0,3}") {
            let _ = (duration(&text), size(&text), seconds(&text));
        }
    }
}
