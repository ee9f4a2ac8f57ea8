//! Google's violated quotas: their names tell axis, window and whether a day has to pass.

use std::time::Duration;

use cooldown_pacer::Unit;
use serde_json::Value;

use super::Scope;
use crate::provider::limits::{Basis, Reset, Statement};
use crate::provider::unix_time::UnixTime;

/// One member of `google.rpc.QuotaFailure.violations`.
#[derive(Debug)]
pub(super) struct Violation {
    /// `GenerateRequestsPerDayPerProjectPerModel-FreeTier` and the like.
    quota: String,
    limit: Option<u64>,
}

impl Violation {
    pub(super) fn read(json: &Value) -> Option<Self> {
        let quota = json.get("quotaId").or_else(|| json.get("quotaMetric"))?.as_str()?;
        let limit = json.get("quotaValue").and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok()));
        (quota.len() <= 256).then(|| Self { quota: quota.to_owned(), limit })
    }

    /// Whether it holds for a day: then a delay of seconds that comes with it is wrong.
    pub(super) fn is_daily(&self) -> bool {
        self.quota.contains("PerDay")
    }

    /// Whether this quota allows nothing at all.
    pub(super) fn allows_nothing(&self) -> bool {
        self.limit == Some(0)
    }

    /// What it counts.
    pub(super) fn axis(&self) -> Unit {
        match () {
            () if self.quota.contains("OutputToken") => Unit::OutputTokens,
            // Google counts tokens of the input only.
            () if self.quota.contains("Token") || self.quota.contains("_token") => Unit::InputTokens,
            () => Unit::Requests,
        }
    }

    /// The limit that it names, used up until `wait` has passed.
    pub(super) fn statement(&self, wait: Option<Duration>) -> Statement {
        let minute = self.quota.contains("PerMinute").then_some(Duration::from_secs(60));
        let day = self.is_daily().then_some(Duration::from_secs(24 * 3600));
        Statement {
            axis: self.axis(),
            scope: if self.quota.contains("PerModel") { Scope::Model } else { Scope::Key },
            limit: self.limit.filter(|limit| *limit > 0),
            window: day.or(minute),
            basis: Basis::Stated,
            remaining: Some(0),
            reset: wait.map(Reset::WindowEnd),
        }
    }
}

/// The violation that takes longest, and how long that is: a day ends at midnight in Los Angeles, whatever `told` says.
pub(super) fn worst(violations: &[Violation], told: Option<Duration>, now: UnixTime) -> Option<Statement> {
    let daily = violations.iter().find(|violation| violation.is_daily());
    let wait = if daily.is_some() { now.until_pacific_midnight() } else { told };
    daily.or_else(|| violations.first()).map(|violation| violation.statement(wait))
}
