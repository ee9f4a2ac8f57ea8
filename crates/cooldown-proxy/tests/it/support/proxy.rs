//! The proxy in this process.

use std::net::SocketAddr;

use cooldown_proxy::config;
use cooldown_proxy::demo::in_process::InProcess;

/// A running proxy on a free port; shut down when dropped.
pub(crate) struct Proxy(InProcess);

impl Proxy {
    /// Starts one with `sections`, the YAML of everything but `server`, `admin` and `log`.
    pub(crate) fn start(sections: &str) -> Self {
        Self::with_server("drain_timeout: 100ms", sections)
    }

    /// The same, with these fields of `server` beside host, port and workers.
    pub(crate) fn with_server(server: &str, sections: &str) -> Self {
        let text = format!(
            "server: {{host: 127.0.0.1, port: 0, workers: 2, {server}}}\n\
             admin: off\n\
             log: {{level: error}}\n\
             {sections}\n"
        );
        let config = match config::parse("test.yaml", &text, &|_: &str| None) {
            Ok(config) => config,
            Err(faults) => panic!("{faults}"),
        };
        Self(InProcess::start_with(&config).expect("the proxy starts"))
    }

    /// Where clients reach it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address()
    }
}
