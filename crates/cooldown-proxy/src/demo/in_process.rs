//! The proxy inside this process, on a port that the system chose.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::oneshot;

use crate::app::App;
use crate::config::{self, Config};
use crate::telemetry::AccessLog;

/// A running proxy. It is shut down when it is dropped: what is under way is finished, within the configured
/// `drain_timeout`.
#[derive(Debug)]
pub struct InProcess {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl InProcess {
    /// Starts one as `cooldown-proxy --upstream … --limit …` does, but on any free port, without the admin listener.
    ///
    /// # Errors
    /// When the flags are wrong or no port can be listened on.
    pub fn start(upstream: &str, limit: &str) -> anyhow::Result<Self> {
        let mut config = config::from_flags(upstream, &[limit.to_owned()]).map_err(|faults| anyhow!("{faults}"))?;
        config.server.host = "127.0.0.1".to_owned();
        config.server.port = 0;
        config.server.drain_timeout = Duration::ZERO;
        config.admin = None;
        Self::start_with(&config)
    }

    /// Starts one with this configuration. It writes no access lines, whatever the configuration says.
    ///
    /// # Errors
    /// When it cannot listen where the configuration says.
    pub fn start_with(config: &Config) -> anyhow::Result<Self> {
        let app = App::bind(config, AccessLog::off())?;
        let address = *app.addresses().first().context("the proxy listens nowhere")?;
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("proxy".to_owned()).spawn(move || {
            runtime.block_on(app.run(async {
                let _ = stopped.await;
            }))
        })?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of that thread was already shown where it happened.
            let _ = thread.join();
        }
    }
}
