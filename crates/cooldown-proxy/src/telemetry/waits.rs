//! How long requests waited, as histograms.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::exemplar::HistogramWithExemplars;

/// Upper bounds of the wait histogram's buckets, in seconds.
pub const WAIT_BUCKETS: [f64; 17] =
    [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// How long requests waited. The library's histogram takes a mutex for each observation; this one adds to two atomics.
#[derive(Debug, Default)]
pub(super) struct WaitHistogram {
    /// One for each of [`WAIT_BUCKETS`], and one beyond.
    pub(super) buckets: [AtomicU64; WAIT_BUCKETS.len() + 1],
    /// The sum, in microseconds.
    pub(super) sum: AtomicU64,
}

/// The same of requests that are traced, with the trace of the last one in each bucket. The library's own: its mutex is taken
/// for these alone.
#[derive(Debug)]
pub(super) struct TracedWaits(pub(super) HistogramWithExemplars<[(&'static str, String); 1]>);

impl WaitHistogram {
    pub(super) fn observe(&self, wait: Duration) {
        let seconds = wait.as_secs_f64();
        let bucket = WAIT_BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(WAIT_BUCKETS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        if !wait.is_zero() {
            self.sum.fetch_add(wait.as_micros().try_into().unwrap_or(u64::MAX), Relaxed);
        }
    }
}

impl TracedWaits {
    pub(super) fn observe(&self, wait: Duration, trace: String) {
        self.0.observe(wait.as_secs_f64(), Some([("trace_id", trace)]), Some(SystemTime::now()));
    }
}

impl Default for TracedWaits {
    fn default() -> Self {
        Self(HistogramWithExemplars::new(WAIT_BUCKETS.into_iter()))
    }
}
