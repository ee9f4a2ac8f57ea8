//! What one worker thread owns: its connections to upstreams, and the count of what it has under way.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;

use super::peer::Peer;
use super::site::Site;
use crate::upstream::Pool;

/// One worker's part of the proxy.
#[derive(Debug)]
pub struct Worker {
    pub(super) site: Arc<Site>,
    /// By the index of the route; routes to one upstream share a pool.
    pools: Vec<Rc<Pool>>,
    in_flight: Cell<usize>,
    draining: Cell<bool>,
    /// Told when nothing is under way any more.
    quiet: Notify,
}

/// A request that is under way, from its head to the last byte of its response.
#[derive(Debug)]
pub struct InFlight {
    worker: Rc<Worker>,
    peer: Rc<Peer>,
}

impl Worker {
    /// One of the workers for this site.
    pub fn new(site: Arc<Site>) -> Self {
        let pools = site.pools();
        let (in_flight, draining, quiet) = (Cell::new(0), Cell::new(false), Notify::new());
        Self { site, pools, in_flight, draining, quiet }
    }

    /// Connections for a route.
    pub(super) fn pool(&self, route: usize) -> &Rc<Pool> {
        &self.pools[route]
    }

    /// Counts a request as under way.
    pub(super) fn begin(self: &Rc<Self>, peer: &Rc<Peer>) -> InFlight {
        self.in_flight.set(self.in_flight.get() + 1);
        peer.begin();
        InFlight { worker: Rc::clone(self), peer: Rc::clone(peer) }
    }

    /// From now on new requests are refused, and connections close after their responses.
    pub fn drain(&self) {
        self.draining.set(true);
    }

    /// Whether the worker is about to end.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Waits until nothing is under way.
    pub async fn quiet(&self) {
        while self.in_flight.get() > 0 {
            self.quiet.notified().await;
        }
    }
}

#[cfg(test)]
impl Worker {
    /// The worker of a site with one route, for tests that send nothing.
    pub(super) fn idle() -> Rc<Self> {
        use crate::telemetry::{AccessLog, Metrics};
        let text = "server: {host: localhost, port: 1}\nroutes: {\"*\": \"http://localhost\"}";
        let config =
            crate::config::parse("test.yaml", text, &|_: &str| None).unwrap_or_else(|faults| panic!("{faults}"));
        let site = Site::new(&config, Arc::new(Metrics::new()), AccessLog::off()).expect("a thread");
        Rc::new(Self::new(Arc::new(site)))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.peer.end();
        let left = self.worker.in_flight.get() - 1;
        self.worker.in_flight.set(left);
        if left == 0 {
            self.worker.quiet.notify_one();
        }
    }
}
