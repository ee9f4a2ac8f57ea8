//! How everything stands, for those who look on, and what they may do about it by hand.

use std::time::Duration;

use super::site::{Route, Site};
use crate::telemetry::snapshot::{CooldownView, KeyView, LimitView, Snapshot, UpstreamView};
use crate::telemetry::{CooldownFigure, EventKind, Scope, WAIT_BUCKETS, unix_millis};

/// No route or provider has this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no upstream has this name; /api/v1/snapshot tells all names")]
pub struct NoSuchUpstream;

impl Site {
    /// How everything stands now. Takes each pacer's lock a few times for a moment. `phase` says where the program is in its
    /// life.
    pub fn snapshot(&self, phase: &str) -> Snapshot {
        let now_ms = unix_millis();
        let (of_upstreams, limits): (Vec<_>, Vec<_>) =
            self.pacing.limits().into_iter().partition(|limit| limit.scope == Scope::Upstream.name());
        let cooldowns = self.pacing.cooldowns();
        let views = self.routes.iter().enumerate();
        Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now_ms,
            uptime_ms: now_ms.saturating_sub(self.metrics.started().saturating_mul(1000)),
            phase: phase.to_owned(),
            wait_bounds_ms: WAIT_BUCKETS.map(|seconds| seconds * 1000.0).to_vec(),
            upstreams: views.map(|(index, route)| self.view(index, route, &of_upstreams, &cooldowns)).collect(),
            limits,
            shared: self.pacing.shared(),
        }
    }

    fn view(&self, index: usize, route: &Route, limits: &[LimitView], cooldowns: &[CooldownFigure]) -> UpstreamView {
        UpstreamView {
            name: (*route.name).to_owned(),
            url: route.upstream.to_string(),
            paused: self.pacing.is_paused(index),
            limits: limits.iter().filter(|limit| limit.of == *route.name).cloned().collect(),
            line: self.pacing.line_view(index, route.metrics.callers()),
            cooldowns: cooldowns.iter().filter(|closed| closed.upstream == *route.name).map(cooldown_view).collect(),
            keys: self.key_views(route),
            totals: route.metrics.totals(),
            waits: route.metrics.waits(),
        }
    }

    fn key_views(&self, route: &Route) -> Vec<KeyView> {
        let now = self.pacing.clock().now();
        let keys = route.api.iter().flat_map(|api| &api.keys).enumerate();
        let view = |(index, fingerprint): (usize, &str)| KeyView {
            number: index as u64 + 1,
            fingerprint: fingerprint.to_owned(),
            rests: route.rests(Some(index), now),
        };
        keys.map(|(index, key)| view((index, &key.fingerprint))).collect()
    }

    /// Closes an upstream for this long, if it is not closed for longer. Requests for it wait, or go another way.
    ///
    /// # Errors
    /// When there is none with this name.
    pub fn close_by_hand(&self, upstream: &str, lasting: Duration) -> Result<(), NoSuchUpstream> {
        self.pacing.close(self.named(upstream)?, lasting);
        self.tell_by_hand(upstream, &format!("closed by hand for {} s", lasting.as_secs_f64()));
        Ok(())
    }

    /// Opens an upstream with all its keys and models; keys that are left alone are tried again.
    ///
    /// # Errors
    /// When there is none with this name.
    pub fn open_by_hand(&self, upstream: &str) -> Result<(), NoSuchUpstream> {
        let index = self.named(upstream)?;
        self.pacing.open(index);
        self.routes[index].wake_keys();
        (0..self.routes[index].keys()).for_each(|key| self.pacing.note_rest(index, key, Duration::ZERO));
        self.tell_by_hand(upstream, "released by hand");
        Ok(())
    }

    /// Pauses an upstream or lets it go on. While it is paused, requests for it wait as long as their budgets last.
    ///
    /// # Errors
    /// When there is none with this name.
    pub fn set_paused(&self, upstream: &str, paused: bool) -> Result<(), NoSuchUpstream> {
        self.pacing.set_paused(self.named(upstream)?, paused);
        self.tell_by_hand(upstream, if paused { "paused by hand" } else { "resumed by hand" });
        Ok(())
    }

    /// The configuration was read again, with this outcome.
    pub fn tell_reload(&self, outcome: String) {
        self.metrics.events().tell(EventKind::Reload, None, "", outcome);
    }

    fn named(&self, upstream: &str) -> Result<usize, NoSuchUpstream> {
        self.routes.iter().position(|route| *route.name == *upstream).ok_or(NoSuchUpstream)
    }

    fn tell_by_hand(&self, upstream: &str, text: &str) {
        tracing::info!(upstream, "{text}");
        // Each is told by itself: who acts twice wants to see both.
        self.metrics.events().tell(EventKind::ByHand, Some(upstream), text, text.to_owned());
    }
}

fn cooldown_view(figure: &CooldownFigure) -> CooldownView {
    let left_ms = figure.left.as_millis().try_into().unwrap_or(u64::MAX);
    CooldownView { key: figure.key.clone(), model: figure.model.clone(), left_ms }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config;
    use crate::telemetry::{AccessLog, Metrics};

    fn site() -> Site {
        let text = "server: {host: localhost, port: 0}\n\
                    routes: {a.example: {upstream: \"http://a\", limits: {requests: 30/min, concurrency: 4}}}\n\
                    providers: {openai: {api_keys: [sk-first, sk-second], limits: {tokens: 60k/min}}}\n";
        let config = config::parse("config.yaml", text, &|_| None).unwrap_or_else(|faults| panic!("{faults}"));
        Site::new(&config, Arc::new(Metrics::new()), AccessLog::off()).expect("a site")
    }

    #[test]
    fn a_snapshot_tells_limits_in_full_and_keys_by_their_fingerprints() {
        let snapshot = site().snapshot("serving");
        let [route, provider] = &snapshot.upstreams[..] else { panic!("{snapshot:?}") };
        let (rate, slots) = (&route.limits[0], &route.limits[1]);
        assert_eq!((rate.unit.as_str(), rate.amount, rate.period_ms, rate.used), ("requests", 30, Some(60_000), 0));
        assert_eq!((slots.unit.as_str(), slots.amount, slots.period_ms, slots.room), ("in flight", 4, None, 4));
        assert_eq!(provider.limits.len(), 2, "each key has its own");
        assert_eq!(provider.keys.len(), 2);
        assert_ne!(provider.keys[0].fingerprint, provider.keys[1].fingerprint);
        assert_eq!(provider.keys[0].fingerprint.len(), 8);
        let json = serde_json::to_string(&snapshot).expect("JSON");
        assert!(!json.contains("sk-"), "{json}");
    }

    #[test]
    fn what_is_done_by_hand_shows_and_is_told() {
        let site = site();
        let upstream = |site: &Site| site.snapshot("serving").upstreams[0].clone();
        assert_eq!(site.set_paused("nobody", true), Err(NoSuchUpstream));
        site.set_paused("a.example", true).expect("it is there");
        assert!(upstream(&site).paused);
        site.set_paused("a.example", false).expect("it is there");
        site.close_by_hand("a.example", Duration::from_secs(30)).expect("it is there");
        let closed = upstream(&site);
        assert!(!closed.paused && closed.cooldowns[0].left_ms > 29_000, "{closed:?}");
        site.open_by_hand("a.example").expect("it is there");
        assert!(upstream(&site).cooldowns.is_empty());
        let (events, _) = site.metrics.events().after(0);
        assert_eq!(events.len(), 4, "{events:?}");
    }
}
