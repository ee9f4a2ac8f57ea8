//! The whole program in a value: bound, then run until told to stop.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::admin::{self, AdminState};
use crate::config::model::Server;
use crate::config::{Config, Faults, IdentityFiles};
use crate::proxy::Site;
use crate::reload::{Live, Reloader};
use crate::server::{Http, Listeners, Phase, Tls, WorkerThread};
use crate::service::{self, Sockets};
use crate::telemetry::{AccessLog, Exporter, LogLevel, Metrics};

/// A proxy that has its ports and serves nothing yet.
#[derive(Debug)]
pub struct App {
    listeners: Listeners,
    admin: Option<TcpListener>,
    admin_state: AdminState,
    live: Arc<Live>,
    tls: Option<(Tls, IdentityFiles)>,
    exporter: Option<Exporter>,
    header_timeout: Duration,
    drain_timeout: Duration,
    max_connections: usize,
}

/// What runs.
struct Running {
    workers: Vec<WorkerThread>,
    phase: watch::Sender<Phase>,
    admin: Option<(JoinHandle<()>, oneshot::Sender<()>)>,
}

impl App {
    /// Opens the ports and prepares everything that serving needs.
    ///
    /// # Errors
    /// When a port cannot be opened, or the system refuses a thread.
    pub fn bind(config: &Config, access: AccessLog) -> anyhow::Result<Self> {
        Self::on(Sockets::default(), config, access)
    }

    /// The same, on sockets that are open already, as far as there are some.
    ///
    /// # Errors
    /// The same, and when a socket is of no use.
    pub fn on(sockets: Sockets, config: &Config, access: AccessLog) -> anyhow::Result<Self> {
        let server = &config.server;
        let listeners = listen(sockets.clients, server)?;
        let admin = match (&config.admin, sockets.admin) {
            (Some(admin), Some(listener)) => Some(admin::adopt(listener, admin)?),
            (Some(admin), None) => Some(admin::bind(admin)?),
            (None, Some(_)) => {
                bail!("a socket for the admin listener was passed, and the configuration says `admin: off`")
            }
            (None, None) => None,
        };
        let metrics = Arc::new(Metrics::new());
        let (tracer, exporter) = config.traces.as_ref().map(Exporter::start).transpose()?.unzip();
        let live = Live::new(config, Site::new(config, Arc::clone(&metrics), access)?.traced(tracer));
        live.tell_limits(&metrics);
        let admin_state = AdminState::new(config, metrics, Arc::clone(&live));
        let tls = server.tls.as_ref().map(|tls| Ok((Tls::new(&tls.identity)?, tls.files.clone())));
        let tls = tls.transpose().map_err(|error: rustls::Error| error).context("TLS cannot be set up")?;
        let (header_timeout, drain_timeout) = (server.header_timeout, server.drain_timeout);
        let max_connections = server.max_connections;
        Ok(Self { listeners, admin, admin_state, live, tls, exporter, header_timeout, drain_timeout, max_connections })
    }

    /// The same, with a log whose level the admin API can change.
    #[must_use]
    pub fn with_log_level(mut self, level: LogLevel) -> Self {
        self.admin_state = self.admin_state.with_log_level(level);
        self
    }

    /// The same, with what the admin API puts the configuration in force anew by.
    #[must_use]
    pub fn with_reloader(mut self, reloader: Reloader) -> Self {
        self.admin_state = self.admin_state.with_reloader(reloader);
        self
    }

    /// Where clients connect.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.listeners.addresses
    }

    /// Where the admin listener is, if there is one.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Puts another configuration in force while the proxy runs.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Puts in force whatever `source` reads, each time that it is told to.
    pub fn reloader(&self, source: impl Fn() -> Result<Config, Faults> + Send + Sync + 'static) -> Reloader {
        Reloader::new(Arc::clone(&self.live), source)
    }

    /// Its figures.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.admin_state.metrics
    }

    /// Serves until `shutdown` completes, then finishes what is under way within `drain_timeout`.
    ///
    /// # Errors
    /// When a worker cannot be started, or dies.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let readiness = Arc::clone(&self.admin_state.readiness);
        let (live, drain_timeout) = (Arc::clone(&self.live), self.drain_timeout);
        let status = self.status();
        // Dropped last: it tells of the last requests.
        let _exporter = self.exporter.take();
        let mut running = self.start()?;
        readiness.enter(admin::Phase::Serving);
        service::serving(&status);
        let died = tokio::select! {
            () = shutdown => false,
            () = any_ended(&mut running.workers) => true,
        };
        readiness.enter(admin::Phase::Draining);
        service::stopping();
        tracing::info!("finishing what is under way");
        running.phase.send_replace(Phase::Draining(Instant::now() + drain_timeout));
        live.site().pacing().shut_down(drain_timeout);
        let ended = running.end().await;
        live.site().pacing().leave();
        live.site().pacing().close_ledger();
        if died {
            bail!("a worker died; its last words are in the log");
        }
        ended
    }

    fn status(&self) -> String {
        let addresses = self.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        format!("listening on {addresses}")
    }

    fn start(self) -> anyhow::Result<Running> {
        let pulse = service::watched();
        let (phase, told) = watch::channel(Phase::Serving);
        // Each worker has its part; clients find their worker by chance.
        let connections = self.max_connections.div_ceil(self.listeners.workers.len().max(1));
        let http = Http::new(self.header_timeout, connections, self.tls.as_ref().map(|(tls, _)| tls.clone()));
        if let Some((tls, files)) = self.tls {
            // It ends with the runtime.
            tokio::spawn(tls.follow(files));
        }
        let mut workers = Vec::with_capacity(self.listeners.workers.len());
        for (index, listeners) in self.listeners.workers.into_iter().enumerate() {
            let sites = self.live.sites();
            let worker = WorkerThread::start(index, listeners, sites, http.clone(), told.clone(), pulse.clone());
            workers.push(worker.context("a worker cannot be started")?);
        }
        let admin = match self.admin {
            Some(listener) => {
                let (stop, stopped) = oneshot::channel();
                let stopped = async { drop(stopped.await) };
                let thread = admin::serve(listener, self.admin_state, stopped);
                Some((thread.context("the admin listener cannot be started")?, stop))
            }
            None => None,
        };
        Ok(Running { workers, phase, admin })
    }
}

/// The listeners of all workers: on sockets that are open, or where the configuration says.
fn listen(open: Vec<TcpListener>, server: &Server) -> anyhow::Result<Listeners> {
    let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let workers = server.workers.unwrap_or_else(cores).get();
    if !open.is_empty() {
        return Listeners::adopt(open, workers).context("a socket that was passed is of no use");
    }
    Listeners::bind(&server.host, server.port, workers)
        .with_context(|| format!("cannot listen on {}:{}", server.host, server.port))
}

/// Completes when one of the workers has ended, for whatever reason.
async fn any_ended(workers: &mut [WorkerThread]) {
    std::future::poll_fn(|cx| {
        let ended = workers.iter_mut().any(|worker| Pin::new(&mut worker.ended).poll(cx).is_ready());
        if ended { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

impl Running {
    /// Waits for all workers and ends the admin listener.
    async fn end(self) -> anyhow::Result<()> {
        let mut died = false;
        for worker in self.workers {
            if !worker.ended.is_terminated() {
                // Ended is ended; joining tells whether it panicked.
                let _ = worker.ended.await;
            }
            died |= worker.thread.join().is_err();
        }
        if let Some((thread, stop)) = self.admin {
            drop(stop);
            died |= thread.join().is_err();
        }
        if died { bail!("a thread died; its last words are in the log") } else { Ok(()) }
    }
}
