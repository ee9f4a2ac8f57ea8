//! How everything stands at one moment: what the admin API tells, the dashboard draws and `status` prints.
//!
//! Times are milliseconds. Fields are only ever added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The whole proxy at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The program's version.
    pub version: String,
    /// When, in Unix milliseconds.
    pub now_ms: u64,
    /// How long the program has run.
    pub uptime_ms: u64,
    /// `starting`, `serving` or `draining`.
    pub phase: String,
    /// Upper bounds of the wait histograms' buckets; one more bucket has none.
    pub wait_bounds_ms: Vec<f64>,
    /// Routes in the order of the configuration, then providers.
    pub upstreams: Vec<UpstreamView>,
    /// Limits of domains and of configured clients.
    pub limits: Vec<LimitView>,
    /// How it stands with the instances that share limits; absent where none are shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedView>,
}

/// Limits that other instances use too.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SharedView {
    /// How it stands with the store: `connecting`, `reached` or `lost`.
    pub store: String,
    /// How many instances share a limit, as the store last said.
    pub instances: u64,
    /// Of how many limits, counted by key, this instance holds a part.
    pub limits: u64,
    /// How often the store was lost.
    pub losses: u64,
    /// How often the store had lost its memory.
    pub lost_memories: u64,
    /// How often this instance told what it holds, and had an answer.
    pub renewals: u64,
    /// The same without an answer.
    pub unanswered: u64,
    /// How often a closing was told to the others.
    pub closings_told: u64,
    /// How often the others told of one.
    pub closings_heard: u64,
}

/// One route or provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpstreamView {
    /// Its name in the configuration.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Whether somebody has paused it.
    pub paused: bool,
    /// Its limits, configured and learned.
    pub limits: Vec<LimitView>,
    /// Who waits for it.
    pub line: LineView,
    /// What of it is closed.
    pub cooldowns: Vec<CooldownView>,
    /// Our keys for it.
    pub keys: Vec<KeyView>,
    /// What was counted since the start.
    pub totals: Totals,
    /// How long requests waited.
    pub waits: WaitView,
}

/// One limit and what is left of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitView {
    /// What it belongs to: `upstream`, `domain` or `client`.
    pub scope: String,
    /// The name of that.
    pub of: String,
    /// The limit in words.
    pub limit: String,
    /// How it is known: `configured`, `learned` or `found`.
    pub source: String,
    /// What it counts: `requests`, `tokens`, `input tokens`, `output tokens`, or `in flight`.
    pub unit: String,
    /// How much it allows.
    pub amount: u64,
    /// In which time; absent for a number in flight.
    pub period_ms: Option<u64>,
    /// How much of it is taken in the window that ends now; more than `amount` while a debt is repaid.
    pub used: u64,
    /// What may still leave; negative while a debt is repaid.
    pub room: i64,
    /// When one more may leave; absent if that depends on a response.
    pub free_in_ms: Option<u64>,
    /// The API key, by its number, if it is one of several.
    pub key: Option<String>,
    /// The model, if it holds for one.
    pub model: Option<String>,
}

/// Those who wait.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LineView {
    /// How many.
    pub waiting: u64,
    /// For how long the one that waits longest has waited.
    pub oldest_ms: u64,
    /// When the last one will probably leave.
    pub predicted_ms: u64,
    /// Clients that have waited lately, those with most requests in line first.
    pub clients: Vec<ClientView>,
    /// How many clients there are beside these.
    pub more_clients: u64,
}

/// One client's part of a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientView {
    /// What it is called: a configured name, the one that it gives, its address, or a part of a hash of its credentials.
    pub name: String,
    /// How many of its requests wait.
    pub waiting: u64,
    /// How many left after waiting.
    pub served: u64,
}

/// Something that is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CooldownView {
    /// The API key, by its number, if it is one of several.
    pub key: Option<String>,
    /// The model, if it is closed and not all of them.
    pub model: Option<String>,
    /// For how long still.
    pub left_ms: u64,
}

/// One of our keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// Its number, counted from 1.
    pub number: u64,
    /// The first 32 bits of its SHA-256, in hexadecimal: enough to tell which it is, and nothing of what it is.
    pub fingerprint: String,
    /// Whether it is left alone, since its money or its permission is gone.
    pub rests: bool,
}

/// Counts since the start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Requests that arrived.
    pub requests: u64,
    /// Those that waited before they left.
    pub delayed: u64,
    /// Tries that were sent.
    pub attempts: u64,
    /// Requests that were turned away and tried again.
    pub retries: u64,
    /// Responses by class of their status, 1xx to 5xx.
    pub responses: [u64; 5],
    /// Requests that the proxy answered itself, by error code.
    pub refusals: BTreeMap<String, u64>,
    /// Attempts that failed without a response, by error code.
    pub errors: BTreeMap<String, u64>,
    /// Attempts that the upstream turned away, by reason.
    pub turned_away: BTreeMap<String, u64>,
    /// Tokens of responses, as estimated beforehand.
    pub tokens_estimated: u64,
    /// The same as they told.
    pub tokens_actual: u64,
    /// Unix time of the last request, in seconds; 0 if there was none.
    pub last_access: u64,
}

/// How long requests waited, since the start.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct WaitView {
    /// How many fell into each bucket; not added up.
    pub buckets: Vec<u64>,
    /// Half of the requests waited no longer than this, as far as the buckets tell.
    pub p50_ms: f64,
    /// Nine in ten.
    pub p90_ms: f64,
    /// Ninety-nine in a hundred.
    pub p99_ms: f64,
}

impl WaitView {
    /// From the counts of the buckets with these upper bounds, in milliseconds.
    pub fn new(buckets: Vec<u64>, bounds: &[f64]) -> Self {
        let at = |part| quantile(&buckets, bounds, part);
        let (p50_ms, p90_ms, p99_ms) = (at(0.5), at(0.9), at(0.99));
        Self { buckets, p50_ms, p90_ms, p99_ms }
    }
}

/// The value that this part of all lies below, taken to be spread evenly within a bucket. What left at once is in the first.
fn quantile(buckets: &[u64], bounds: &[f64], part: f64) -> f64 {
    let total: u64 = buckets.iter().sum();
    let wanted = part * total as f64;
    let mut below = 0.0;
    for (nth, count) in buckets.iter().map(|count| *count as f64).enumerate() {
        if below + count >= wanted && count > 0.0 {
            let least = if nth == 0 { 0.0 } else { bounds[nth - 1] };
            let most = bounds.get(nth).copied().unwrap_or(least);
            return if nth == 0 { 0.0 } else { least + (most - least) * (wanted - below) / count };
        }
        below += count;
    }
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_where_the_buckets_say() {
        let bounds = [1.0, 10.0, 100.0];
        let waits = WaitView::new(vec![50, 0, 40, 10], &bounds);
        assert_eq!((waits.p50_ms, waits.p90_ms, waits.p99_ms), (0.0, 100.0, 100.0));
        let waits = WaitView::new(vec![0, 100, 0, 0], &bounds);
        assert_eq!(waits.p50_ms, 5.5);
        assert_eq!(WaitView::new(vec![0; 4], &bounds).p99_ms, 0.0, "nobody has waited");
    }
}
