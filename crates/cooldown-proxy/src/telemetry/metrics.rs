//! Figures of each upstream and of each domain, counted without a lock on the way of a request.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use foldhash::HashMap;
use http::StatusCode;
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;

use super::callers::{Caller, Callers};
use super::events::Events;
use super::scrape::Scrape;
use super::snapshot::{SharedView, Totals, WaitView};
use super::waits::{TracedWaits, WAIT_BUCKETS, WaitHistogram};

/// How many domains have figures of their own. Clients choose the domains, so their number is bounded; the rest is
/// counted together.
pub const MAX_DOMAINS: usize = 1000;
/// The name under which domains beyond [`MAX_DOMAINS`] are counted.
pub const OTHER_DOMAINS: &str = "other";
/// All figures of one running proxy. Nothing here is global: two proxies in one process count apart.
pub struct Metrics {
    boards: Arc<Boards>,
    registry: Registry,
    events: Events,
}

/// The state that requests write and that a scrape reads.
pub(super) struct Boards {
    pub(super) upstreams: RwLock<HashMap<Box<str>, Arc<RouteMetrics>>>,
    pub(super) domains: RwLock<HashMap<Box<str>, Arc<RouteMetrics>>>,
    pub(super) limits: OnceLock<LimitSource>,
    pub(super) started: u64,
    pub(super) state: StateMetrics,
}

/// The figures of what is written down to survive a restart.
#[derive(Debug, Default)]
pub struct StateMetrics {
    /// Whether anything is.
    pub(super) is_kept: AtomicBool,
    pub(super) entries: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) faults: AtomicU64,
}

/// Asks the pacers, at each scrape, how their limits stand.
pub type LimitSource = Box<dyn Fn() -> LimitFigures + Send + Sync>;

/// How all limits stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LimitFigures {
    /// What each allows.
    pub room: Vec<RoomFigure>,
    /// What is closed.
    pub cooldowns: Vec<CooldownFigure>,
    /// How it stands with the instances that share limits, if any are shared.
    pub shared: Option<SharedView>,
}

/// An upstream, a key or a model that is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CooldownFigure {
    /// The upstream.
    pub upstream: String,
    /// The API key, if it is one of several.
    pub key: Option<String>,
    /// The model, if it is closed and not all of them.
    pub model: Option<String>,
    /// For how long still.
    pub left: Duration,
}

/// How much one limit allows now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RoomFigure {
    /// What the limit belongs to.
    pub scope: Scope,
    /// The upstream's, domain's or client's name.
    pub name: String,
    /// The API key that it is counted for, if it is one of several.
    pub key: Option<String>,
    /// The model that it is counted for.
    pub model: Option<String>,
    /// How the limit is known: `configured`, `learned` or `found`.
    pub source: &'static str,
    /// The limit in words, as [`cooldown_pacer::Limit`] prints it.
    pub limit: String,
    /// How much may leave in the current window, in the limit's unit; negative while a debt is repaid.
    pub room: i64,
}

/// What a figure is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// A route or provider.
    Upstream,
    /// A host that clients ask for.
    Domain,
    /// A configured client.
    Client,
}

impl Scope {
    /// Its name in figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Domain => "domain",
            Self::Client => "client",
        }
    }
}

/// The figures of one upstream or domain. Get the handle once and keep it: counting is a few relaxed atomic additions.
#[derive(Debug, Default)]
pub struct RouteMetrics {
    pub(super) requests: AtomicU64,
    pub(super) delayed: AtomicU64,
    pub(super) waiting: AtomicU64,
    pub(super) attempts: AtomicU64,
    /// Unix time of the last arrival in seconds; zero = never.
    pub(super) last_access: AtomicU64,
    /// By class: 1xx to 5xx.
    pub(super) responses: [AtomicU64; 5],
    pub(super) wait: WaitHistogram,
    /// Waits of requests that are traced, once there are some.
    pub(super) traced: OnceLock<TracedWaits>,
    pub(super) refusals: Tally,
    pub(super) upstream_errors: Tally,
    /// Why attempts were turned away, and tried again or not.
    pub(super) turned_away: Tally,
    pub(super) retries: AtomicU64,
    /// Tokens of responses whose usage was told, as estimated and as told.
    pub(super) tokens_estimated: AtomicU64,
    pub(super) tokens_actual: AtomicU64,
    /// The sum of what each estimate was off, in tokens.
    pub(super) tokens_off: AtomicU64,
    /// Who has waited. Empty for domains.
    callers: Callers,
}

/// Counts by a code from a small closed set. Locked, since only failures come here.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Vec<(&'static str, u64)>>);

/// Counts one waiting request for as long as it lives.
#[derive(Debug)]
#[must_use = "the request counts as waiting until this is dropped"]
pub struct WaitingGuard(Arc<RouteMetrics>);

impl Metrics {
    /// No figures yet.
    pub fn new() -> Self {
        let boards = Arc::new(Boards {
            upstreams: RwLock::default(),
            domains: RwLock::default(),
            limits: OnceLock::new(),
            started: unix_seconds(),
            state: StateMetrics::default(),
        });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape(Arc::clone(&boards))));
        Self { boards, registry, events: Events::default() }
    }

    /// What happened lately.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// What is told of the state that survives a restart.
    pub fn state(&self) -> &StateMetrics {
        &self.boards.state
    }

    /// When the program started, in Unix seconds.
    pub fn started(&self) -> u64 {
        self.boards.started
    }

    /// The figures of the route or provider called `name`: from the configuration, so their number is not bounded here.
    pub fn route(&self, name: &str) -> Arc<RouteMetrics> {
        handle(&self.boards.upstreams, name, usize::MAX)
    }

    /// The figures of a domain: the host that a client asked for, in lower case and without port.
    pub fn domain(&self, host: &str) -> Arc<RouteMetrics> {
        handle(&self.boards.domains, host, MAX_DOMAINS)
    }

    /// Names what is asked how the limits stand at every scrape. Only the first call counts.
    pub fn ask_for_limits(&self, source: LimitSource) {
        // A second source would belong to a second proxy, which has its own `Metrics`.
        let _ = self.boards.limits.set(source);
    }

    /// All figures in the OpenMetrics text format, version 1.0.0.
    ///
    /// # Errors
    /// Never in practice: writing to a `String` does not fail.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(16 * 1024);
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl fmt::Debug for Boards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Boards").finish_non_exhaustive()
    }
}

impl StateMetrics {
    /// There is a ledger.
    pub fn is_kept(&self) {
        self.is_kept.store(true, Relaxed);
    }

    /// So many entries were written, or kept until they can be.
    pub fn wrote(&self, entries: u64) {
        self.entries.fetch_add(entries, Relaxed);
    }

    /// The ledger has this many bytes.
    pub fn is_long(&self, bytes: u64) {
        self.bytes.store(bytes, Relaxed);
    }

    /// Something could not be read or written.
    pub fn failed(&self) {
        self.faults.fetch_add(1, Relaxed);
    }
}

impl RouteMetrics {
    /// A request arrived at this Unix time, in seconds.
    pub fn arrived(&self, at: u64) {
        self.requests.fetch_add(1, Relaxed);
        self.last_access.store(at, Relaxed);
    }

    /// A request may leave after `wait` in the line; zero when it left at once.
    pub fn waited(&self, wait: Duration) {
        if !wait.is_zero() {
            self.delayed.fetch_add(1, Relaxed);
        }
        self.wait.observe(wait);
    }

    /// The same request is told as this trace.
    pub fn traced(&self, wait: Duration, trace: String) {
        self.traced.get_or_init(TracedWaits::default).observe(wait, trace);
    }

    /// A request of the client with this flow begins to wait.
    pub fn caller_waits(&self, flow: u64, name: impl FnOnce() -> Box<str>) {
        self.callers.waits(flow, name);
    }

    /// A request of that client has waited and leaves.
    pub fn caller_served(&self, flow: u64) {
        self.callers.served(flow);
    }

    /// Clients that have waited, by the number of their flow.
    pub fn callers(&self) -> Vec<(u64, Caller)> {
        self.callers.all()
    }

    /// All counts.
    pub fn totals(&self) -> Totals {
        let by_code =
            |tally: &Tally| tally.counts().into_iter().map(|(code, count)| (code.to_owned(), count)).collect();
        Totals {
            requests: self.requests.load(Relaxed),
            delayed: self.delayed.load(Relaxed),
            attempts: self.attempts.load(Relaxed),
            retries: self.retries.load(Relaxed),
            responses: std::array::from_fn(|class| self.responses[class].load(Relaxed)),
            refusals: by_code(&self.refusals),
            errors: by_code(&self.upstream_errors),
            turned_away: by_code(&self.turned_away),
            tokens_estimated: self.tokens_estimated.load(Relaxed),
            tokens_actual: self.tokens_actual.load(Relaxed),
            last_access: self.last_access.load(Relaxed),
        }
    }

    /// How long requests waited.
    pub fn waits(&self) -> WaitView {
        let buckets = self.wait.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        WaitView::new(buckets, &WAIT_BUCKETS.map(|seconds| seconds * 1000.0))
    }

    /// A request waits until the guard is dropped.
    pub fn waiting(self: &Arc<Self>) -> WaitingGuard {
        self.waiting.fetch_add(1, Relaxed);
        WaitingGuard(Arc::clone(self))
    }

    /// The proxy answered itself, with this error code.
    pub fn refused(&self, code: &'static str) {
        self.refusals.count(code);
    }

    /// One try is sent to the upstream.
    pub fn attempt(&self) {
        self.attempts.fetch_add(1, Relaxed);
    }

    /// The upstream's response head came.
    pub fn responded(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5);
        self.responses[class - 1].fetch_add(1, Relaxed);
    }

    /// The upstream turned an attempt away: this word says why.
    pub fn turned_away(&self, why: &'static str) {
        self.turned_away.count(why);
    }

    /// A request that was turned away is tried again.
    pub fn retried(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    /// A response told how many tokens it took; so many had been estimated.
    pub fn tokens(&self, estimated: u64, actual: u64) {
        self.tokens_estimated.fetch_add(estimated, Relaxed);
        self.tokens_actual.fetch_add(actual, Relaxed);
        self.tokens_off.fetch_add(estimated.abs_diff(actual), Relaxed);
    }

    /// The upstream failed without a response: this error code says how.
    pub fn upstream_error(&self, code: &'static str) {
        self.upstream_errors.count(code);
    }
}

impl Tally {
    fn count(&self, code: &'static str) {
        let mut counts = self.0.lock();
        match counts.iter_mut().find(|(known, _)| *known == code) {
            Some((_, count)) => *count += 1,
            None => counts.push((code, 1)),
        }
    }

    /// The counts so far, in the order in which the codes first came.
    pub(super) fn counts(&self) -> Vec<(&'static str, u64)> {
        self.0.lock().clone()
    }
}

impl Drop for WaitingGuard {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// The entry called `name`; the one for all others when the board already has `most` entries.
fn handle(board: &RwLock<HashMap<Box<str>, Arc<RouteMetrics>>>, name: &str, most: usize) -> Arc<RouteMetrics> {
    if let Some(known) = board.read().get(name) {
        return Arc::clone(known);
    }
    let mut board = board.write();
    let name = if board.len() < most || board.contains_key(name) { name } else { OTHER_DOMAINS };
    Arc::clone(board.entry(name.into()).or_default())
}

/// The time of day, in Unix seconds; 0 for a clock before 1970.
pub fn unix_seconds() -> u64 {
    // A clock before 1970 is told as "never".
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The time of day, in Unix milliseconds.
pub fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis().try_into().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(metrics: &Metrics) -> String {
        metrics.encode().expect("writing to a string does not fail")
    }

    #[test]
    fn every_figure_of_an_upstream_is_told_with_its_name() {
        let metrics = Metrics::new();
        let route = metrics.route("api.example.com");
        route.arrived(unix_seconds());
        route.waited(Duration::ZERO);
        route.arrived(unix_seconds());
        route.waited(Duration::from_millis(20));
        route.attempt();
        route.responded(StatusCode::OK);
        route.responded(StatusCode::BAD_GATEWAY);
        route.refused("queue_full");
        route.refused("queue_full");
        route.upstream_error("upstream_timeout");
        route.turned_away("limit");
        route.retried();
        route.tokens(100, 130);
        route.tokens(100, 90);

        let text = scrape(&metrics);
        assert!(!text.contains("traced"), "{text}");
        for line in [
            r#"cooldown_upstream_requests_total{upstream="api.example.com"} 2"#,
            r#"cooldown_upstream_delayed_requests_total{upstream="api.example.com"} 1"#,
            r#"cooldown_upstream_waiting_requests{upstream="api.example.com"} 0"#,
            r#"cooldown_upstream_attempts_total{upstream="api.example.com"} 1"#,
            r#"cooldown_upstream_responses_total{upstream="api.example.com",class="2xx"} 1"#,
            r#"cooldown_upstream_responses_total{upstream="api.example.com",class="5xx"} 1"#,
            r#"cooldown_upstream_refusals_total{upstream="api.example.com",code="queue_full"} 2"#,
            r#"cooldown_upstream_errors_total{upstream="api.example.com",code="upstream_timeout"} 1"#,
            r#"cooldown_upstream_turned_away_total{upstream="api.example.com",code="limit"} 1"#,
            r#"cooldown_upstream_retries_total{upstream="api.example.com"} 1"#,
            r#"cooldown_upstream_tokens_estimated_total{upstream="api.example.com"} 200"#,
            r#"cooldown_upstream_tokens_actual_total{upstream="api.example.com"} 220"#,
            r#"cooldown_upstream_tokens_estimate_error_total{upstream="api.example.com"} 40"#,
            r#"cooldown_upstream_wait_seconds_count{upstream="api.example.com"} 2"#,
            r#"cooldown_upstream_wait_seconds_sum{upstream="api.example.com"} 0.02"#,
            r#"cooldown_upstream_wait_seconds_bucket{le="0.01",upstream="api.example.com"} 1"#,
            r#"cooldown_upstream_wait_seconds_bucket{le="0.025",upstream="api.example.com"} 2"#,
            r#"cooldown_upstream_wait_seconds_bucket{le="+Inf",upstream="api.example.com"} 2"#,
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(text.contains("cooldown_upstream_last_access_timestamp_seconds{"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn a_trace_is_named_beside_the_bucket_of_its_wait() {
        let metrics = Metrics::new();
        let route = metrics.route("r");
        route.arrived(unix_seconds());
        route.traced(Duration::from_millis(20), "4bf92f3577b34da6a3ce929d0e0e4736".to_owned());
        route.traced(Duration::ZERO, "00f067aa0ba902b700f067aa0ba902b7".to_owned());
        metrics.route("other").arrived(unix_seconds());
        let text = scrape(&metrics);
        let bucket = r#"cooldown_upstream_traced_wait_seconds_bucket{le="0.025",upstream="r"} 2 # {trace_id="4bf92f3577b34da6a3ce929d0e0e4736"} 0.02 "#;
        assert!(text.contains(bucket), "{text}");
        assert!(
            text.contains(r#"{le="0.001",upstream="r"} 1 # {trace_id="00f067aa0ba902b700f067aa0ba902b7"} 0.0 "#),
            "{text}"
        );
        assert!(!text.contains(r#"traced_wait_seconds_count{upstream="other"}"#), "{text}");
    }

    #[test]
    fn one_handle_serves_all_who_ask_for_the_same_name() {
        let metrics = Metrics::new();
        metrics.domain("a.example").arrived(unix_seconds());
        metrics.domain("a.example").arrived(unix_seconds());
        assert!(scrape(&metrics).contains(r#"cooldown_domain_requests_total{domain="a.example"} 2"#));
    }

    #[test]
    fn a_request_counts_as_waiting_until_its_guard_is_dropped() {
        let route = Metrics::new().route("r");
        let guards = [route.waiting(), route.waiting()];
        assert_eq!(route.waiting.load(Relaxed), 2);
        drop(guards);
        assert_eq!(route.waiting.load(Relaxed), 0);
    }

    #[test]
    fn domains_that_clients_invent_are_counted_together_beyond_the_bound() {
        let metrics = Metrics::new();
        for number in 0..MAX_DOMAINS + 50 {
            metrics.domain(&format!("{number}.example")).arrived(unix_seconds());
        }
        metrics.domain("0.example").arrived(unix_seconds());
        let text = scrape(&metrics);
        assert!(text.contains(r#"cooldown_domain_requests_total{domain="other"} 50"#), "the rest is one entry");
        assert!(text.contains(r#"cooldown_domain_requests_total{domain="0.example"} 2"#), "known ones keep counting");
        assert!(metrics.boards.domains.read().len() <= MAX_DOMAINS + 1);
    }

    #[test]
    fn limits_are_asked_for_at_each_scrape() {
        let metrics = Metrics::new();
        assert!(!scrape(&metrics).contains("_room"));
        let room = |scope, name: &str, key: Option<&str>, model: Option<&str>, source| RoomFigure {
            scope,
            name: name.to_owned(),
            key: key.map(str::to_owned),
            model: model.map(str::to_owned),
            source,
            limit: "10 requests a second".to_owned(),
            room: -3,
        };
        metrics.ask_for_limits(Box::new(move || LimitFigures {
            shared: Some(SharedView { store: "reached".to_owned(), instances: 3, ..SharedView::default() }),
            room: vec![
                room(Scope::Domain, "api.example.com", None, None, "configured"),
                room(Scope::Upstream, "openai", Some("2"), Some("gpt-4o"), "learned"),
            ],
            cooldowns: vec![CooldownFigure {
                upstream: "openai".to_owned(),
                key: Some("2".to_owned()),
                model: None,
                left: Duration::from_millis(1500),
            }],
        }));
        let text = scrape(&metrics);
        for line in [
            r#"cooldown_domain_room{domain="api.example.com",limit="10 requests a second",source="configured"} -3"#,
            r#"cooldown_upstream_room{upstream="openai",limit="10 requests a second",source="learned",key="2",model="gpt-4o"} -3"#,
            r#"cooldown_upstream_closed_seconds{upstream="openai",key="2"} 1.5"#,
            "cooldown_shared_reached 1",
            "cooldown_shared_instances 3",
            "cooldown_shared_losses_total 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_name_cannot_break_out_of_its_label() {
        let metrics = Metrics::new();
        metrics.domain("a\"} 1\nfake_total 7").arrived(unix_seconds());
        assert!(!scrape(&metrics).contains("\nfake_total"));
    }
}
