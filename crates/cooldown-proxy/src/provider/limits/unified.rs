//! Anthropic's subscription limits (`anthropic-ratelimit-unified-*`): no amounts, only how far a window is used.

use std::time::Duration;

use cooldown_pacer::Unit;
use smallvec::SmallVec;

use super::{Reset, Scope, Statement, text};
use crate::fields::Fields;
use crate::provider::unix_time::UnixTime;
use crate::provider::value::{Bare, read_time};

/// A window as fields name it, as `representative-claim` names it, and its length in hours.
const WINDOWS: [(&str, &str, u64); 2] = [("5h", "five_hour", 5), ("7d", "seven_day", 7 * 24)];

/// Reads each window that is told. One that is used up has nothing remaining; of others only the end is known.
pub(super) fn read(headers: &Fields, now: UnixTime, statements: &mut SmallVec<[Statement; 4]>) {
    let Some(status) = text(headers, "anthropic-ratelimit-unified-status") else { return };
    let get = |suffix: &str| text(headers, &format!("anthropic-ratelimit-unified-{suffix}"));
    let claim = get("representative-claim").unwrap_or_default();
    let reset = |suffix: &str| read_time(get(suffix)?, Bare::BySize, now).map(|told| told.wait);
    let rejected = status.eq_ignore_ascii_case("rejected");
    let mut blamed = false;
    for (name, claimed, hours) in WINDOWS {
        let utilization = get(&format!("{name}-utilization")).and_then(|text| text.trim().parse::<f64>().ok());
        let Some(end) = reset(&format!("{name}-reset")) else { continue };
        let spent = utilization.is_some_and(|used| used >= 1.0) || (rejected && claim.starts_with(claimed));
        blamed |= spent;
        let window = Some(Duration::from_secs(hours * 3600));
        statements.push(Statement { window, ..window_end(end, spent) });
    }
    if let Some(end) = reset("reset").filter(|_| rejected && !blamed) {
        statements.push(window_end(end, true));
    }
}

fn window_end(end: Duration, spent: bool) -> Statement {
    Statement {
        remaining: spent.then_some(0),
        reset: Some(Reset::WindowEnd(end)),
        ..Statement::new(Unit::Tokens, Scope::Key)
    }
}
