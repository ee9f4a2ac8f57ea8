//! The proxy in this process.

use std::net::SocketAddr;

use cooldown_proxy::config::{self, Config};
use cooldown_proxy::demo::in_process::InProcess;
use cooldown_proxy::reload::Changes;

/// A running proxy on a free port; shut down when dropped.
pub(crate) struct Proxy {
    running: InProcess,
    /// These fields of `server`.
    server: String,
}

impl Proxy {
    /// Starts one with `sections`, the YAML of everything but `server`, `admin` and `log`.
    pub(crate) fn start(sections: &str) -> Self {
        Self::with_server("drain_timeout: 100ms", sections)
    }

    /// The same, with these fields of `server` beside host, port and workers.
    pub(crate) fn with_server(server: &str, sections: &str) -> Self {
        let running = InProcess::start_with(&config(server, sections)).expect("the proxy starts");
        Self { running, server: server.to_owned() }
    }

    /// Puts other sections in force while it runs.
    pub(crate) fn reload(&self, sections: &str) -> Changes {
        match self.running.apply(config(&self.server, sections)) {
            Ok(changes) => changes,
            Err(faults) => panic!("{faults}"),
        }
    }

    /// Where clients reach it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.running.address()
    }
}

fn config(server: &str, sections: &str) -> Config {
    let text = format!(
        "server: {{host: 127.0.0.1, port: 0, workers: 2, {server}}}\n\
         admin: off\n\
         log: {{level: error}}\n\
         {sections}\n"
    );
    config::parse("test.yaml", &text, &|_: &str| None).unwrap_or_else(|faults| panic!("{faults}"))
}
