//! A snapshot in words and bars.

use std::fmt;

use crate::telemetry::snapshot::{LimitView, Snapshot, UpstreamView};

/// The width of a bar, in characters.
const BAR: usize = 24;

/// A snapshot as it is drawn.
#[derive(Debug)]
pub(super) struct Picture<'a> {
    pub snapshot: &'a Snapshot,
    /// Whether colours are used.
    pub colour: bool,
}

/// How a word is meant.
#[derive(Debug, Clone, Copy)]
enum Tone {
    Good,
    Warm,
    Bad,
    Strong,
    Quiet,
}

impl fmt::Display for Picture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Snapshot { version, phase, uptime_ms, upstreams, limits, .. } = self.snapshot;
        let title = self.paint(Tone::Strong, &format!("Cooldown Proxy {version}"));
        writeln!(f, "{title}  {phase} for {}", Span(*uptime_ms))?;
        for upstream in upstreams {
            self.upstream(f, upstream)?;
        }
        if !limits.is_empty() {
            writeln!(f, "\n{}", self.paint(Tone::Strong, "Domains and clients"))?;
            limits.iter().try_for_each(|limit| self.limit(f, limit))?;
        }
        Ok(())
    }
}

impl Picture<'_> {
    fn upstream(&self, f: &mut fmt::Formatter<'_>, upstream: &UpstreamView) -> fmt::Result {
        let UpstreamView { name, url, line, totals, waits, .. } = upstream;
        let whole = upstream.cooldowns.iter().find(|closed| closed.key.is_none() && closed.model.is_none());
        let state = match (upstream.paused, whole) {
            (true, _) => self.paint(Tone::Bad, "paused"),
            (false, Some(closed)) => self.paint(Tone::Warm, &format!("closed for {}", Span(closed.left_ms))),
            (false, None) => self.paint(Tone::Good, "open"),
        };
        let (name, url) = (self.paint(Tone::Strong, name), self.paint(Tone::Quiet, url));
        writeln!(f, "\n{name}  {state}  {url}")?;
        upstream.limits.iter().try_for_each(|limit| self.limit(f, limit))?;
        for closed in upstream.cooldowns.iter().filter(|closed| closed.key.is_some() || closed.model.is_some()) {
            let text = format!("closed for {}{}", Span(closed.left_ms), part(&closed.key, &closed.model));
            writeln!(f, "  {}", self.paint(Tone::Warm, &text))?;
        }
        write!(f, "  {} waiting", line.waiting)?;
        if line.waiting > 0 {
            write!(f, ", the oldest for {}", Span(line.oldest_ms))?;
            if !upstream.paused {
                write!(f, ", the last leaves in {}", Span(line.predicted_ms))?;
            }
        }
        let [p50, p90, p99] = [waits.p50_ms, waits.p90_ms, waits.p99_ms].map(|wait| Span(wait as u64));
        writeln!(f, "; waits p50 {p50}, p90 {p90}, p99 {p99}")?;
        for client in line.clients.iter().filter(|client| client.waiting > 0).take(5) {
            writeln!(f, "    {:<24} {:>6} waiting {:>8} served", client.name, client.waiting, client.served)?;
        }
        let refused: u64 = totals.refusals.values().sum();
        let turned_away: u64 = totals.turned_away.values().sum();
        let text = format!(
            "{} requests, {} delayed, {refused} refused here, {turned_away} turned away there, {} retries",
            totals.requests, totals.delayed, totals.retries
        );
        writeln!(f, "  {}", self.paint(Tone::Quiet, &text))
    }

    fn limit(&self, f: &mut fmt::Formatter<'_>, limit: &LimitView) -> fmt::Result {
        let used = limit.used.min(limit.amount) as f64 / limit.amount.max(1) as f64;
        let filled = (used * BAR as f64).round() as usize;
        let tone = if limit.room < 0 { Tone::Warm } else { Tone::Good };
        let bar = self.paint(tone, &"█".repeat(filled)) + &self.paint(Tone::Quiet, &"░".repeat(BAR - filled));
        let amounts = format!("{} of {}", limit.used, limit.amount);
        let of = if limit.scope == "upstream" { String::new() } else { format!(" {}", limit.of) };
        let source = if limit.source == "configured" { String::new() } else { format!(", {}", limit.source) };
        let part = part(&limit.key, &limit.model);
        let words = limit.limit.split(':').next().unwrap_or_default();
        writeln!(f, "  {bar} {amounts:>18}  {words}{source}{part}{of}")
    }

    fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Warm => "33",
            Tone::Bad => "31",
            Tone::Strong => "1",
            Tone::Quiet => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Which key and model something holds for.
fn part(key: &Option<String>, model: &Option<String>) -> String {
    let key = key.as_ref().map(|key| format!(", key {key}")).unwrap_or_default();
    let model = model.as_ref().map(|model| format!(", {model}")).unwrap_or_default();
    key + &model
}

/// A time in milliseconds, as people say it.
struct Span(u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0;
        match millis {
            0..1000 => write!(f, "{millis} ms"),
            1000..10_000 => write!(f, "{:.1} s", millis as f64 / 1000.0),
            10_000..120_000 => write!(f, "{} s", millis / 1000),
            120_000..7_200_000 => write!(f, "{} min", millis / 60_000),
            7_200_000..172_800_000 => write!(f, "{} h", millis / 3_600_000),
            _ => write!(f, "{} days", millis / 86_400_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::snapshot::{ClientView, CooldownView, LineView, Totals, WaitView};

    fn snapshot() -> Snapshot {
        let limit = LimitView {
            scope: "upstream".to_owned(),
            of: "groq".to_owned(),
            limit: "30 requests a minute: 3 at once, then one every 2 s".to_owned(),
            source: "learned".to_owned(),
            unit: "requests".to_owned(),
            amount: 30,
            period_ms: Some(60_000),
            used: 15,
            room: 15,
            free_in_ms: Some(0),
            key: None,
            model: Some("llama".to_owned()),
        };
        let clients = vec![ClientView { name: "alice".to_owned(), waiting: 2, served: 7 }];
        let upstream = UpstreamView {
            name: "groq".to_owned(),
            url: "https://api.groq.com".to_owned(),
            paused: false,
            limits: vec![limit],
            line: LineView { waiting: 2, oldest_ms: 1500, predicted_ms: 4000, clients, more_clients: 0 },
            cooldowns: vec![CooldownView { key: None, model: None, left_ms: 12_000 }],
            keys: Vec::new(),
            totals: Totals { requests: 9, delayed: 8, ..Totals::default() },
            waits: WaitView::default(),
        };
        Snapshot {
            version: "1.0.0".to_owned(),
            now_ms: 0,
            uptime_ms: 61_000,
            phase: "serving".to_owned(),
            wait_bounds_ms: Vec::new(),
            upstreams: vec![upstream],
            limits: Vec::new(),
            shared: None,
        }
    }

    #[test]
    fn a_snapshot_is_drawn_in_words_and_bars() {
        let text = Picture { snapshot: &snapshot(), colour: false }.to_string();
        for part in [
            "Cooldown Proxy 1.0.0  serving for 61 s",
            "groq  closed for 12 s  https://api.groq.com",
            "████████████░░░░░░░░░░░░           15 of 30  30 requests a minute, learned, llama",
            "2 waiting, the oldest for 1.5 s, the last leaves in 4.0 s",
            "alice                         2 waiting        7 served",
            "9 requests, 8 delayed, 0 refused here",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(!text.contains('\x1b'));
        assert!(Picture { snapshot: &snapshot(), colour: true }.to_string().contains("\x1b[32m"));
    }
}
