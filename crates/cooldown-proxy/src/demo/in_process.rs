//! The proxy inside this process, on a port that the system chose.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, anyhow};
use tokio::sync::oneshot;

use crate::app::App;
use crate::config::{self, Config, Faults};
use crate::reload::{Changes, Live};
use crate::telemetry::AccessLog;

/// A running proxy. It is shut down when it is dropped: what is under way is finished, within the configured
/// `drain_timeout`.
#[derive(Debug)]
pub struct InProcess {
    address: SocketAddr,
    live: Arc<Live>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl InProcess {
    /// Starts one with `sections`, the YAML of everything but `server`, `admin` and `log`: on any free port, without the
    /// admin listener.
    ///
    /// # Errors
    /// When the configuration is faulty, or no port can be listened on.
    pub fn start(sections: &str) -> anyhow::Result<Self> {
        let server = "server: {host: 127.0.0.1, port: 0, drain_timeout: 100ms}\nadmin: off\n";
        let config =
            config::parse("demo", &format!("{server}{sections}"), &|_| None).map_err(|faults| anyhow!("{faults}"))?;
        Self::start_with(&config)
    }

    /// Starts one with this configuration. It writes no access lines, whatever the configuration says.
    ///
    /// # Errors
    /// When it cannot listen where the configuration says.
    pub fn start_with(config: &Config) -> anyhow::Result<Self> {
        let app = App::bind(config, AccessLog::off())?;
        let address = *app.addresses().first().context("the proxy listens nowhere")?;
        let live = Arc::clone(app.live());
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("proxy".to_owned()).spawn(move || {
            runtime.block_on(app.run(async {
                let _ = stopped.await;
            }))
        })?;
        Ok(Self { address, live, stop: Some(stop), thread: Some(thread) })
    }

    /// Puts another configuration in force while it runs.
    ///
    /// # Errors
    /// When it cannot be put in force; then nothing has changed.
    pub fn apply(&self, config: Config) -> Result<Changes, Faults> {
        self.live.apply(config)
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
