//! The program's log: events of `tracing`, as text or as one JSON object a line, on standard output.
//!
//! Standard output, since that is where containers, systemd and pipes look; only what ends the program before the log
//! exists goes to standard error.

use std::cell::Cell;
use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use parking_lot::Mutex;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use super::access::AccessLog;
use super::sink::{Sink, SinkGuard};
use crate::config::model::{Log, LogFormat};

/// The running log. Keep it until the end: dropping it writes what is still buffered.
#[must_use = "lines that wait are lost when this is not kept until the end"]
pub struct Logs {
    access: AccessLog,
    level: LogLevel,
    _guard: SinkGuard,
}

/// The least important level that is written, which can be changed while the program runs. Access lines do not depend on it.
#[derive(Debug, Clone)]
pub struct LogLevel {
    filter: reload::Handle<Targets, Registry>,
    now: Arc<Mutex<Level>>,
}

impl LogLevel {
    /// The level.
    pub fn get(&self) -> Level {
        *self.now.lock()
    }

    /// Changes it.
    ///
    /// # Errors
    /// When the log has ended.
    pub fn set(&self, level: Level) -> anyhow::Result<()> {
        let mut now = self.now.lock();
        self.filter.reload(targets(level))?;
        *now = level;
        Ok(())
    }
}

impl Logs {
    /// Starts logging to standard output, for the whole process.
    ///
    /// # Errors
    /// When logging was started before, or the system gives no thread.
    pub fn start(log: &Log) -> anyhow::Result<Self> {
        let (sink, guard) = Sink::start(Box::new(io::stdout())).context("the log's thread does not start")?;
        let ansi = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let (layer, level) = layer(log, sink.clone(), ansi);
        tracing_subscriber::registry().with(layer).try_init()?;
        Ok(Self { access: AccessLog::new(sink, log), level, _guard: guard })
    }

    /// What changes its level.
    pub fn level(&self) -> &LogLevel {
        &self.level
    }

    /// Where access lines go.
    pub fn access(&self) -> &AccessLog {
        &self.access
    }
}

impl fmt::Debug for Logs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logs").finish_non_exhaustive()
    }
}

/// Details of the libraries drown ours: they stay at `info` even when ours are wanted.
fn targets(level: Level) -> Targets {
    Targets::new().with_default(level.min(Level::INFO)).with_target("cooldown", level)
}

/// What turns events into lines, and what changes how many.
fn layer(log: &Log, sink: Sink, ansi: bool) -> (Box<dyn Layer<Registry> + Send + Sync>, LogLevel) {
    let (levels, filter) = reload::Layer::new(targets(log.level));
    let level = LogLevel { filter, now: Arc::new(Mutex::new(log.level)) };
    let lines = tracing_subscriber::fmt::layer().with_writer(sink).with_timer(Stamp);
    let layer = match log.format {
        LogFormat::Text => lines.with_ansi(ansi).with_filter(levels).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(levels).boxed(),
    };
    (layer, level)
}

/// The time of a line: RFC 3339, UTC, milliseconds.
pub(super) struct Stamp;

impl Stamp {
    /// Hands `2026-11-22T20:58:01.123Z` to `write`. Only the milliseconds are formatted anew for each line.
    pub(super) fn now<T>(write: impl FnOnce(&str) -> T) -> T {
        thread_local! {
            static SECOND: Cell<(u64, [u8; 24])> = const { Cell::new((u64::MAX, [0; 24])) };
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (mut second, mut text) = SECOND.get();
        if second != since.as_secs() {
            second = since.as_secs();
            text = whole_second(second);
            SECOND.set((second, text));
        }
        let millis = since.subsec_millis();
        for (place, unit) in [(20, 100), (21, 10), (22, 1)] {
            text[place] = b'0' + (millis / unit % 10) as u8;
        }
        write(std::str::from_utf8(&text).unwrap_or_default())
    }
}

/// `2026-11-22T20:58:01.000Z`.
fn whole_second(second: u64) -> [u8; 24] {
    let stamp = i64::try_from(second).ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
    let mut text = *b"0000-00-00T00:00:00.000Z";
    let date = stamp.unwrap_or_default().to_string();
    // Years beyond 9999 do not fit, and do not matter.
    if date.len() == "0000-00-00T00:00:00Z".len() {
        text[..19].copy_from_slice(&date.as_bytes()[..19]);
    }
    text
}

impl FormatTime for Stamp {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        Self::now(|stamp| writer.write_str(stamp))
    }
}

#[cfg(test)]
mod tests {
    use super::super::sink::tests::Page;
    use super::*;

    fn logged(log: &Log, events: impl FnOnce()) -> String {
        let page = Page::default();
        let (sink, guard) = Sink::start(Box::new(page.clone())).expect("a thread");
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer(log, sink, false).0), events);
        drop(guard);
        page.text()
    }

    #[test]
    fn text_lines_tell_time_level_and_message() {
        let log = Log { level: Level::INFO, format: LogFormat::Text, access: true };
        let text = logged(&log, || {
            tracing::info!(target: "cooldown_proxy::app", port = 8080, "listening");
            tracing::debug!(target: "cooldown_proxy::app", "not wanted");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert_eq!(&text[23..], "Z  INFO cooldown_proxy::app: listening port=8080\n");
    }

    #[test]
    fn the_level_can_be_changed_while_the_program_runs() {
        let log = Log { level: Level::INFO, format: LogFormat::Text, access: true };
        let page = Page::default();
        let (sink, guard) = Sink::start(Box::new(page.clone())).expect("a thread");
        let (layer, level) = layer(&log, sink, false);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let detail = |text: &str| tracing::debug!(target: "cooldown_proxy", "{text}");
            detail("too early");
            level.set(Level::DEBUG).expect("the log runs");
            detail("wanted");
            level.set(Level::WARN).expect("the log runs");
            detail("too late");
        });
        drop(guard);
        assert_eq!(level.get(), Level::WARN);
        assert_eq!(page.text().lines().count(), 1, "{}", page.text());
        assert!(page.text().contains("wanted"));
    }

    #[test]
    fn json_lines_are_one_object_each() {
        let log = Log { level: Level::INFO, format: LogFormat::Json, access: true };
        let text = logged(&log, || tracing::warn!(target: "cooldown_proxy", reason = "a \"quote\"", "careful"));
        let line: serde_json::Value = serde_json::from_str(&text).expect("one JSON object");
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["message"], "careful");
        assert_eq!(line["reason"], "a \"quote\"");
    }

    #[test]
    fn details_are_told_of_the_program_and_not_of_its_libraries() {
        let log = Log { level: Level::DEBUG, format: LogFormat::Text, access: true };
        let text = logged(&log, || {
            tracing::debug!(target: "cooldown_proxy::pacing", "ours");
            tracing::debug!(target: "rustls::client", "theirs");
        });
        assert!(text.contains("ours") && !text.contains("theirs"), "{text}");
    }

    #[test]
    fn a_stamp_is_rfc_3339() {
        assert_eq!(&whole_second(0), b"1970-01-01T00:00:00.000Z");
        assert_eq!(&whole_second(1_795_381_081), b"2026-11-22T20:58:01.000Z");
        assert_eq!(&whole_second(u64::MAX), b"1970-01-01T00:00:00.000Z", "nonsense is told as the epoch");
        Stamp::now(|stamp| assert!(stamp.parse::<jiff::Timestamp>().is_ok(), "{stamp}"));
    }
}
