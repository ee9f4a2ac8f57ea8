//! Reads limits: the general form, and the classic requests per second.

use cooldown_pacer::{LARGEST_AMOUNT, Limit, Rate, RateError, Unit};

use super::fault::Report;
use super::field::{Field, Fields};
use super::model::Limits;
use super::rate::{self, LimitError};

/// The general form: `{requests: 10/s, tokens: [60k/min, "1M/day"], concurrency: 8, shared: false}`.
pub(super) fn general(field: Field<'_>, report: &mut Report) -> Limits {
    let mut limits = Limits::default();
    let at = field.at();
    let path = field.path().to_owned();
    let Some(mut fields) = field.fields(report) else { return limits };
    let units = [
        ("requests", Unit::Requests),
        ("tokens", Unit::Tokens),
        ("input_tokens", Unit::InputTokens),
        ("output_tokens", Unit::OutputTokens),
    ];
    let mut is_empty = true;
    for (name, unit) in units {
        let stated = fields.take(name).map(Field::items).unwrap_or_default();
        is_empty &= stated.is_empty();
        limits.all.extend(stated.into_iter().filter_map(|stated| rate_of(&stated, unit, report)).map(Limit::Rate));
    }
    if let Some(field) = fields.take("concurrency") {
        is_empty = false;
        let number = field.text(report).map(rate::concurrency);
        limits.all.extend(number.and_then(|number| checked(&field, number, report)).map(Limit::Concurrency));
    }
    limits.shared = shared(&mut fields, report);
    fields.close(report);
    if is_empty {
        report.fault(
            at,
            format!("`{path}`: no limit is given"),
            "write a limit such as `requests: 10/s`, or remove it",
        );
    }
    limits
}

/// Whether other instances use these limits too, where instances share any.
pub(super) fn shared(fields: &mut Fields<'_>, report: &mut Report) -> bool {
    fields.take("shared").and_then(|field| field.flag(report)).unwrap_or(true)
}

/// The classic form: `requests_per_second` and `burst`.
pub(super) fn classic(fields: &mut Fields<'_>, report: &mut Report) -> Option<Limit> {
    let stated = fields.take("requests_per_second");
    let burst = fields.take("burst");
    let Some(stated) = stated else {
        if let Some(burst) = burst {
            burst.fault(report, "a burst needs `requests_per_second`", "in `limits`, write `10/s, burst 5`");
        }
        return None;
    };
    let rate = per_second(&stated, report)?;
    let Some(burst) = burst else { return Some(rate.into()) };
    let number = burst.whole(1..=LARGEST_AMOUNT, report)?;
    checked(&burst, rate.with_burst(number).map_err(LimitError::from), report).map(Limit::Rate)
}

/// A plain number of requests a second.
pub(super) fn per_second(field: &Field<'_>, report: &mut Report) -> Option<Rate> {
    match rate::per_second(field.text(report)?) {
        Err(LimitError::Amount) => {
            let hint = "write requests per second, such as `10` or `0.5`; `limits` takes other periods and units";
            field.fault(report, "a plain number is expected", hint);
            None
        }
        rate => checked(field, rate, report),
    }
}

fn rate_of(field: &Field<'_>, unit: Unit, report: &mut Report) -> Option<Rate> {
    if field.is_map() {
        let message = format!("`{}`: limits by the calendar are not supported by this version", field.path());
        report.fault(field.at(), message, "write a rate such as `1000/day`, which holds for every 24 hours");
        return None;
    }
    let rate = rate::rate(field.text(report)?, unit);
    checked(field, rate, report)
}

fn checked<T>(field: &Field<'_>, value: Result<T, LimitError>, report: &mut Report) -> Option<T> {
    value.map_err(|why| field.fault(report, why, hint(why))).ok()
}

fn hint(why: LimitError) -> &'static str {
    match why {
        LimitError::Bounds(RateError::Amount) => "write an amount from 1 to 1,000,000,000, such as `600/min`",
        _ => why.hint(),
    }
}
