//! What a scrape says: every figure of every board, with its name, its help and its labels.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::metrics::{Boards, CooldownFigure, LimitFigures, RoomFigure, RouteMetrics, Scope, StateMetrics};
use super::snapshot::SharedView;
use super::waits::{WAIT_BUCKETS, WaitHistogram};

/// Reads the boards when it is asked; nothing is copied before.
#[derive(Debug)]
pub(super) struct Scrape(pub(super) Arc<Boards>);

/// The entries of one board, sorted by name so that two scrapes can be compared.
type Entries = Vec<(Box<str>, Arc<RouteMetrics>)>;

/// Values of the label `class`, in the order of [`RouteMetrics::responses`].
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        encode_process(&mut encoder, self.0.started)?;
        encode_state(&mut encoder, &self.0.state)?;
        let LimitFigures { room, cooldowns, shared } = self.0.limits.get().map(|source| source()).unwrap_or_default();
        for (scope, board) in [(Scope::Upstream, &self.0.upstreams), (Scope::Domain, &self.0.domains)] {
            let mut entries: Entries =
                board.read().iter().map(|(name, figures)| (name.clone(), Arc::clone(figures))).collect();
            entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            if !entries.is_empty() {
                encode_board(&mut encoder, scope, &entries)?;
            }
        }
        for scope in [Scope::Upstream, Scope::Domain, Scope::Client] {
            encode_room(&mut encoder, scope, &room)?;
        }
        encode_cooldowns(&mut encoder, &cooldowns)?;
        shared.map_or(Ok(()), |shared| encode_shared(&mut encoder, &shared))
    }
}

fn encode_process(encoder: &mut DescriptorEncoder<'_>, started: u64) -> fmt::Result {
    let mut info = encoder.encode_descriptor("cooldown_build", "The program that runs", None, MetricType::Info)?;
    info.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
    let help = "Unix time of the start";
    let start = encoder.encode_descriptor("cooldown_start_timestamp_seconds", help, None, MetricType::Gauge)?;
    ConstGauge::new(started).encode(start)
}

fn encode_state(encoder: &mut DescriptorEncoder<'_>, state: &StateMetrics) -> fmt::Result {
    if !state.is_kept.load(Relaxed) {
        return Ok(());
    }
    let mut counter = |name: &str, help: &str, count: &AtomicU64| {
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(count.load(Relaxed)).encode(metric)
    };
    counter("cooldown_state_entries", "Entries of the ledger that survives a restart", &state.entries)?;
    counter("cooldown_state_faults", "Times that the ledger could not be read or written", &state.faults)?;
    let metric =
        encoder.encode_descriptor("cooldown_state_bytes", "The size of the ledger's file", None, MetricType::Gauge)?;
    ConstGauge::new(state.bytes.load(Relaxed)).encode(metric)
}

fn encode_board(encoder: &mut DescriptorEncoder<'_>, scope: Scope, entries: &Entries) -> fmt::Result {
    let mut board = Board { encoder, scope, entries };
    board.counter("requests", "Requests that arrived", |figures| &figures.requests)?;
    board.counter("delayed_requests", "Requests that waited before they left", |figures| &figures.delayed)?;
    board.counter("attempts", "Tries that were sent to the upstream", |figures| &figures.attempts)?;
    board.gauge("waiting_requests", "Requests that wait now", |figures| &figures.waiting)?;
    let help = "Unix time of the last request";
    board.gauge("last_access_timestamp_seconds", help, |figures| &figures.last_access)?;
    board.waits()?;
    board.traced_waits()?;
    board.responses()?;
    board.codes("refusals", "Requests that the proxy answered itself, by error code", |figures| {
        figures.refusals.counts()
    })?;
    board.codes("errors", "Attempts that failed without a response, by error code", |figures| {
        figures.upstream_errors.counts()
    })?;
    board.codes("turned_away", "Attempts that the upstream turned away, by reason", |figures| {
        figures.turned_away.counts()
    })?;
    board.counter("retries", "Requests that were turned away and tried again", |figures| &figures.retries)?;
    board.tokens()
}

/// One scope's entries on their way out.
struct Board<'a, 'b> {
    encoder: &'a mut DescriptorEncoder<'b>,
    scope: Scope,
    entries: &'a Entries,
}

impl Board<'_, '_> {
    fn counter(&mut self, name: &str, help: &str, of: fn(&RouteMetrics) -> &AtomicU64) -> fmt::Result {
        let name = full_name(self.scope, name);
        let mut metric = self.encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
        for (entry, figures) in self.entries {
            let labels = [(label(self.scope), entry.as_ref())];
            ConstCounter::new(of(figures).load(Relaxed)).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn tokens(&mut self) -> fmt::Result {
        if self.entries.iter().all(|(_, figures)| figures.tokens_actual.load(Relaxed) == 0) {
            return Ok(());
        }
        let help = "Tokens that responses took, as estimated beforehand";
        self.counter("tokens_estimated", help, |figures| &figures.tokens_estimated)?;
        self.counter("tokens_actual", "Tokens that responses took, as they told", |figures| &figures.tokens_actual)?;
        let help = "Tokens by which estimates were off, above or below";
        self.counter("tokens_estimate_error", help, |figures| &figures.tokens_off)
    }

    fn gauge(&mut self, name: &str, help: &str, of: fn(&RouteMetrics) -> &AtomicU64) -> fmt::Result {
        let name = full_name(self.scope, name);
        let mut metric = self.encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
        for (entry, figures) in self.entries {
            let labels = [(label(self.scope), entry.as_ref())];
            ConstGauge::new(of(figures).load(Relaxed)).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn waits(&mut self) -> fmt::Result {
        let name = full_name(self.scope, "wait_seconds");
        let help = "How long requests waited before they left; zero when they left at once";
        let mut metric = self.encoder.encode_descriptor(&name, help, None, MetricType::Histogram)?;
        for (entry, figures) in self.entries {
            let labels = [(label(self.scope), entry.as_ref())];
            let WaitHistogram { buckets, sum } = &figures.wait;
            // The library takes counts bucket by bucket and adds them up itself.
            let bounds = WAIT_BUCKETS.iter().copied().chain([f64::INFINITY]);
            let counts: Vec<(f64, u64)> = bounds.zip(buckets.iter().map(|bucket| bucket.load(Relaxed))).collect();
            let seconds = sum.load(Relaxed) as f64 / 1e6;
            let total = counts.iter().map(|(_, count)| count).sum();
            metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(seconds, total, &counts, None)?;
        }
        Ok(())
    }

    fn traced_waits(&mut self) -> fmt::Result {
        let traced = |(_, figures): &(_, Arc<RouteMetrics>)| figures.traced.get().is_some();
        if !self.entries.iter().any(traced) {
            return Ok(());
        }
        let name = full_name(self.scope, "traced_wait_seconds");
        let help = "How long those requests waited that are traced, with traces of some as exemplars";
        let mut metric = self.encoder.encode_descriptor(&name, help, None, MetricType::Histogram)?;
        for (entry, figures) in self.entries {
            let labels = [(label(self.scope), entry.as_ref())];
            if let Some(traced) = figures.traced.get() {
                traced.0.encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn responses(&mut self) -> fmt::Result {
        let name = full_name(self.scope, "responses");
        let help = "Responses of the upstream, by class of their status";
        let mut metric = self.encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
        for (entry, figures) in self.entries {
            for (class, count) in CLASSES.iter().zip(&figures.responses) {
                let labels = [(label(self.scope), entry.as_ref()), ("class", *class)];
                ConstCounter::new(count.load(Relaxed)).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn codes(&mut self, name: &str, help: &str, of: fn(&RouteMetrics) -> Vec<(&'static str, u64)>) -> fmt::Result {
        let name = full_name(self.scope, name);
        let mut metric = self.encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
        for (entry, figures) in self.entries {
            for (code, count) in of(figures) {
                let labels = [(label(self.scope), entry.as_ref()), ("code", code)];
                ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn encode_room(encoder: &mut DescriptorEncoder<'_>, scope: Scope, room: &[RoomFigure]) -> fmt::Result {
    let mut of_scope = room.iter().filter(|figure| figure.scope == scope).peekable();
    if of_scope.peek().is_none() {
        return Ok(());
    }
    let name = full_name(scope, "room");
    let help = "How much a limit allows now, in its own unit; negative while a debt is repaid";
    let mut metric = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
    for figure in of_scope {
        let mut labels = vec![(label(scope), figure.name.clone())];
        labels.extend([("limit", figure.limit.clone()), ("source", figure.source.to_owned())]);
        labels.extend(narrowed(figure.key.as_deref(), figure.model.as_deref()));
        ConstGauge::new(figure.room).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn encode_cooldowns(encoder: &mut DescriptorEncoder<'_>, cooldowns: &[CooldownFigure]) -> fmt::Result {
    if cooldowns.is_empty() {
        return Ok(());
    }
    let name = full_name(Scope::Upstream, "closed_seconds");
    let help = "For how long an upstream, one of its keys or one of its models stays closed";
    let mut metric = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
    for figure in cooldowns {
        let mut labels = vec![(label(Scope::Upstream), figure.upstream.clone())];
        labels.extend(narrowed(figure.key.as_deref(), figure.model.as_deref()));
        ConstGauge::new(figure.left.as_secs_f64()).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn encode_shared(encoder: &mut DescriptorEncoder<'_>, shared: &SharedView) -> fmt::Result {
    let reached = u64::from(shared.store == "reached");
    for (name, help, value) in [
        ("reached", "1 while the store of shared limits answers, 0 while it does not", reached),
        ("instances", "How many instances share a limit, as the store last said", shared.instances),
        ("limits", "Of how many limits this instance holds a part", shared.limits),
    ] {
        let name = format!("cooldown_shared_{name}");
        let metric = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(metric)?;
    }
    for (name, help, value) in [
        ("losses", "How often the store of shared limits was lost", shared.losses),
        ("lost_memories", "How often the store of shared limits had lost its memory", shared.lost_memories),
        ("renewals", "How often the store heard what this instance holds", shared.renewals),
        ("unanswered", "How often it did not answer", shared.unanswered),
        ("closings_told", "How often a closing was told to other instances", shared.closings_told),
        ("closings_heard", "How often other instances told of a closing", shared.closings_heard),
    ] {
        let name = format!("cooldown_shared_{name}");
        let metric = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)?;
    }
    Ok(())
}

/// The labels of what holds for one key or one model only.
fn narrowed(key: Option<&str>, model: Option<&str>) -> impl Iterator<Item = (&'static str, String)> {
    let key = key.map(|key| ("key", key.to_owned()));
    key.into_iter().chain(model.map(|model| ("model", model.to_owned())))
}

fn full_name(scope: Scope, name: &str) -> String {
    format!("cooldown_{}_{name}", label(scope))
}

fn label(scope: Scope) -> &'static str {
    scope.name()
}
