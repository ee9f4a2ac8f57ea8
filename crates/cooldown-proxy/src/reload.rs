//! Another configuration for a proxy that runs: what stays goes on, nothing that is under way notices.

use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::config::{Config, Faults};
use crate::proxy::Site;
use crate::service;
use crate::telemetry::Metrics;

/// The configuration in force, and how workers are told of the next one.
#[derive(Debug)]
pub struct Live {
    /// The one that the proxy was started with, for what a reload cannot change, and the one in force.
    configs: Mutex<Configs>,
    sites: watch::Sender<Arc<Site>>,
}

#[derive(Debug)]
struct Configs {
    started: Config,
    in_force: Config,
}

/// Reads the configuration again and puts it in force. Clones do the same.
#[derive(Clone)]
pub struct Reloader {
    live: Arc<Live>,
    source: Arc<Source>,
    /// Held from the reading to the end: of two at once, the one that read last is the one in force.
    turn: Arc<Mutex<()>>,
}

type Source = dyn Fn() -> Result<Config, Faults> + Send + Sync;

/// What a reload changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Sections of the configuration that are in force now and were different before.
    pub in_force: Vec<&'static str>,
    /// Fields that are different from those that the proxy was started with, and that only a restart changes.
    pub after_restart: Vec<&'static str>,
}

impl Live {
    /// A proxy that starts with this configuration and this site.
    pub(crate) fn new(config: &Config, site: Site) -> Arc<Self> {
        let configs = Configs { started: config.clone(), in_force: config.clone() };
        Arc::new(Self { configs: Mutex::new(configs), sites: watch::Sender::new(Arc::new(site)) })
    }

    /// The site in force.
    pub(crate) fn site(&self) -> Arc<Site> {
        Arc::clone(&self.sites.borrow())
    }

    /// The configuration in force.
    pub(crate) fn in_force(&self) -> Config {
        self.configs.lock().in_force.clone()
    }

    /// Hears of every site.
    pub(crate) fn sites(&self) -> watch::Receiver<Arc<Site>> {
        self.sites.subscribe()
    }

    /// Lets the figures tell how the limits stand. The figures keep nothing alive.
    pub(crate) fn tell_limits(self: &Arc<Self>, metrics: &Metrics) {
        let live: Weak<Self> = Arc::downgrade(self);
        let figures = move || live.upgrade().map(|live| live.site().limits()).unwrap_or_default();
        metrics.ask_for_limits(Box::new(figures));
    }

    /// Puts a configuration in force: new limits at once, everything else for requests that begin from now on.
    ///
    /// # Errors
    /// When it cannot be put in force; then nothing has changed.
    pub fn apply(&self, config: Config) -> Result<Changes, Faults> {
        // One at a time: each goes on from the one before.
        let mut configs = self.configs.lock();
        let changes = Changes::between(&configs, &config);
        if !changes.in_force.is_empty() {
            let site = self.site().reload(&config).map_err(|error| {
                Faults::without_place("the configuration", vec![(format!("{error:#}"), UNCHANGED.to_owned())])
            })?;
            self.sites.send_replace(Arc::new(site));
        }
        configs.in_force = config;
        Ok(changes)
    }
}

/// What to know about a reload that failed.
const UNCHANGED: &str = "the configuration from before is still in force";

impl Reloader {
    /// Puts in force whatever `source` reads.
    pub(crate) fn new(live: Arc<Live>, source: impl Fn() -> Result<Config, Faults> + Send + Sync + 'static) -> Self {
        Self { live, source: Arc::new(source), turn: Arc::default() }
    }

    /// Reads the configuration again and puts it in force. Takes milliseconds, and reads a file.
    ///
    /// # Errors
    /// Everything that is wrong with it; then nothing has changed.
    pub fn reload(&self) -> Result<Changes, Faults> {
        let _turn = self.turn.lock();
        self.live.apply((self.source)()?)
    }

    /// The same, told in the log and among the events.
    ///
    /// # Errors
    /// Everything that is wrong with it; then nothing has changed.
    pub fn reload_and_tell(&self) -> Result<Changes, Faults> {
        service::reloading();
        let reloaded = self.reload();
        let site = self.live.site();
        match &reloaded {
            Ok(changes) => {
                tracing::info!("configuration read again: {changes}");
                site.tell_reload(format!("configuration read again: {changes}"));
                service::serving(&format!("configuration read again: {changes}"));
            }
            Err(faults) => {
                for fault in faults {
                    let place = fault.place.as_ref();
                    let (line, column) = (place.map(|place| place.line), place.map(|place| place.column));
                    tracing::error!(line, column, hint = fault.hint, "{}", fault.message);
                }
                tracing::error!(faults = faults.iter().count(), "configuration not changed: {UNCHANGED}");
                let first = faults.iter().next().map(|fault| fault.message.as_str()).unwrap_or_default();
                site.tell_reload(format!("configuration not changed: {first}"));
                service::serving(&format!("configuration not changed, {} faults: see the log", faults.iter().count()));
            }
        }
        reloaded
    }
}

impl Changes {
    fn between(configs: &Configs, new: &Config) -> Self {
        let (started, before) = (&configs.started, &configs.in_force);
        let listening = |config: &Config| (config.server.host.clone(), config.server.port, config.server.workers);
        let timing = |config: &Config| {
            let server = &config.server;
            (server.header_timeout, server.drain_timeout, server.max_connections)
        };
        // What the files hold is followed in any case.
        let files = |config: &Config| config.server.tls.as_ref().map(|tls| tls.files.clone());
        let bodies = |config: &Config| (config.server.max_body, config.server.idle_timeout);
        let named = |list: &[(&'static str, bool)]| {
            list.iter().filter(|(_, is_changed)| *is_changed).map(|(name, _)| *name).collect()
        };
        Self {
            in_force: named(&[
                ("server", bodies(before) != bodies(new)),
                ("routes", before.routes != new.routes),
                ("rate_limits", before.domain_limits != new.domain_limits),
                ("default_rate_limit", before.default_limits != new.default_limits),
                ("providers", before.providers != new.providers),
                ("clients", before.clients != new.clients),
                ("queue", before.queue != new.queue),
                ("retry", before.retry != new.retry),
            ]),
            after_restart: named(&[
                ("server: host, port or workers", listening(started) != listening(new)),
                ("server: header_timeout, drain_timeout or max_connections", timing(started) != timing(new)),
                ("server: tls", files(started) != files(new)),
                ("state", started.state != new.state),
                ("admin", started.admin != new.admin),
                ("log", started.log != new.log),
                ("telemetry", started.traces != new.traces),
                ("shared", started.shared != new.shared),
            ]),
        }
    }
}

/// In words: `routes, queue changed; admin changes with a restart`.
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.in_force.as_slice() {
            [] => f.write_str("nothing changed")?,
            sections => write!(f, "{} changed", sections.join(", "))?,
        }
        match self.after_restart.as_slice() {
            [] => Ok(()),
            fields => write!(f, "; {} will change with a restart", fields.join(", ")),
        }
    }
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").finish_non_exhaustive()
    }
}
