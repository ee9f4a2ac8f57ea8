//! What one worker thread owns: its connections to upstreams, and the count of what it has under way.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;

use super::peer::Peer;
use super::site::Site;
use crate::upstream::Pool;

/// One worker's part of the proxy, as one configuration has it. A request keeps the one that it began with.
#[derive(Debug)]
pub struct Worker {
    pub(super) site: Arc<Site>,
    /// By the index of the route; routes to one upstream share a pool.
    pools: Vec<Rc<Pool>>,
    load: Rc<Load>,
}

/// The worker that new requests of a thread go to. A reload puts another one in its place.
#[derive(Debug)]
pub struct Current(RefCell<Rc<Worker>>);

/// What a worker thread has under way, whatever the configuration was when it began.
#[derive(Debug, Default)]
struct Load {
    in_flight: Cell<usize>,
    draining: Cell<bool>,
    /// Told when nothing is under way any more.
    quiet: Notify,
}

/// A request that is under way, from its head to the last byte of its response.
#[derive(Debug)]
pub struct InFlight {
    load: Rc<Load>,
    peer: Rc<Peer>,
}

impl Current {
    /// Starts with a worker for this site.
    pub fn new(site: Arc<Site>) -> Self {
        Self(RefCell::new(Rc::new(Worker::new(site))))
    }

    /// Does something with the worker that is there now.
    pub fn with<R>(&self, act: impl FnOnce(&Rc<Worker>) -> R) -> R {
        act(&self.0.borrow())
    }

    /// From now on requests go by this site. Connections to upstreams that it has as well are kept.
    pub fn replace(&self, site: Arc<Site>) {
        let next = Rc::new(self.with(|worker| worker.reloaded(site)));
        self.0.replace(next);
    }

    /// From now on new requests are refused, and connections close after their responses.
    pub fn drain(&self) {
        self.with(|worker| worker.load.draining.set(true));
    }

    /// Waits until nothing is under way.
    pub async fn quiet(&self) {
        let load = self.with(|worker| Rc::clone(&worker.load));
        while load.in_flight.get() > 0 {
            load.quiet.notified().await;
        }
    }
}

impl Worker {
    fn new(site: Arc<Site>) -> Self {
        let pools = site.pools(&[]);
        Self { site, pools, load: Rc::default() }
    }

    fn reloaded(&self, site: Arc<Site>) -> Self {
        let pools = site.pools(&self.site.with_pools(&self.pools));
        Self { site, pools, load: Rc::clone(&self.load) }
    }

    /// Connections for a route.
    pub(super) fn pool(&self, route: usize) -> &Rc<Pool> {
        &self.pools[route]
    }

    /// Counts a request as under way.
    pub(super) fn begin(&self, peer: &Rc<Peer>) -> InFlight {
        self.load.in_flight.set(self.load.in_flight.get() + 1);
        peer.begin();
        InFlight { load: Rc::clone(&self.load), peer: Rc::clone(peer) }
    }

    /// Whether the worker is about to end.
    pub fn is_draining(&self) -> bool {
        self.load.draining.get()
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

impl InFlight {
    /// Whose request it is.
    pub(super) fn peer(&self) -> &Rc<Peer> {
        &self.peer
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.peer.end();
        let left = self.load.in_flight.get() - 1;
        self.load.in_flight.set(left);
        if left == 0 {
            self.load.quiet.notify_one();
        }
    }
}
