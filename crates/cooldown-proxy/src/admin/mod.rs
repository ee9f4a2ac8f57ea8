//! The admin listener: health, readiness, figures, the API and the dashboard, on a thread and a runtime of its own.

mod api;
mod dashboard;
mod guard;
mod in_force;
mod listener;
mod readiness;
mod routes;
mod stream;

use std::future::{Future, IntoFuture};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context;
use tokio::sync::Semaphore;

pub use readiness::{Phase, Readiness};

use crate::config::Config;
use crate::config::model::Admin;
use crate::config::secret::Secret;
use crate::reload::{Live, Reloader};
use crate::telemetry::snapshot::Snapshot;
use crate::telemetry::{LogLevel, Metrics};
use listener::BoundedListener;

/// What the admin listener tells, to whom, and what it acts on.
#[derive(Debug, Clone)]
pub struct AdminState {
    /// The figures behind `/metrics`.
    pub metrics: Arc<Metrics>,
    /// What `/readyz` answers from.
    pub readiness: Arc<Readiness>,
    /// What is looked at, and acted on by hand.
    live: Arc<Live>,
    /// What puts the configuration in force anew; `None` where there is nothing to read it from.
    reloader: Option<Reloader>,
    /// What changes how much is logged; `None` where nothing is.
    log_level: Option<LogLevel>,
    /// What a caller must show, if anything.
    token: Option<Secret>,
    /// A place for each who may listen to the live stream.
    listeners: Arc<Semaphore>,
}

impl AdminState {
    /// What there is to tell of a proxy as configured.
    pub(crate) fn new(config: &Config, metrics: Arc<Metrics>, live: Arc<Live>) -> Self {
        Self {
            metrics,
            readiness: Arc::new(Readiness::default()),
            live,
            reloader: None,
            log_level: None,
            token: config.admin.as_ref().and_then(|admin| admin.token.clone()),
            listeners: Arc::new(Semaphore::new(stream::MOST_LISTENERS)),
        }
    }

    /// The same, with a log whose level can be changed.
    #[must_use]
    pub fn with_log_level(self, level: LogLevel) -> Self {
        Self { log_level: Some(level), ..self }
    }

    /// The same, with what reads the configuration again.
    #[must_use]
    pub fn with_reloader(self, reloader: Reloader) -> Self {
        Self { reloader: Some(reloader), ..self }
    }

    fn snapshot(&self) -> Snapshot {
        self.live.site().snapshot(self.readiness.phase().name())
    }
}

/// Opens the admin listener. It serves nothing before [`serve`].
///
/// # Errors
/// When the host has no address, or none of its addresses can be listened on.
pub fn bind(admin: &Admin) -> anyhow::Result<TcpListener> {
    let place = || format!("the admin listener cannot open {}:{}", admin.host, admin.port);
    let addresses: Vec<SocketAddr> = (admin.host.as_str(), admin.port).to_socket_addrs().with_context(place)?.collect();
    TcpListener::bind(addresses.as_slice()).with_context(place)
}

/// Serves until `shutdown` completes, on a thread of its own, so that a scrape never delays a request.
///
/// # Errors
/// When the system gives no thread or no runtime, or the listener is not usable.
pub fn serve(
    listener: TcpListener,
    state: AdminState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    listener.set_nonblocking(true)?;
    let loopback = listener.local_addr()?.ip().is_loopback();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
        runtime.block_on(async move {
            let listener = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => BoundedListener::new(listener),
                Err(error) => return tracing::error!(%error, "the admin listener does not start"),
            };
            // Connections that are still open are dropped with the runtime: a scrape can be repeated.
            tokio::select! {
                served = axum::serve(listener, routes::router(state, loopback)).into_future() => {
                    if let Err(error) = served {
                        tracing::error!(%error, "the admin listener ended");
                    }
                }
                () = shutdown => {}
            }
        });
    })
}
