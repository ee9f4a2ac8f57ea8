//! A worker: one thread, one single-threaded runtime, its own listeners and upstream connections.

use std::cell::Cell;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::connection::Http;
use crate::proxy::{Current, Site};

/// After a failed accept (no file descriptors, mostly) this long is waited, so that the worker does not spin.
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(50);
/// Once nothing is under way, connections get this long to deliver what they still hold.
const LAST_BYTES: Duration = Duration::from_secs(1);
/// Threads for name look-ups; the only thing that blocks.
const LOOK_UP_THREADS: usize = 8;

/// What workers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Serve.
    Serving,
    /// Accept no more, refuse what is new, finish what is under way, and be gone by then.
    Draining(Instant),
}

/// A running worker.
#[derive(Debug)]
pub struct WorkerThread {
    /// Completes when the worker has ended; with an error if it died.
    pub ended: oneshot::Receiver<()>,
    /// The thread itself.
    pub thread: JoinHandle<()>,
}

/// A worker's open connections.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Cell<usize>,
    is_closing: Cell<bool>,
    closing: Notify,
    /// Those that carry many requests are told first: they finish what they have and take no more.
    is_leaving: Cell<bool>,
    leaving: Notify,
    /// Told when the last one has closed.
    none: Notify,
}

/// Counts a connection as open.
#[derive(Debug)]
pub(super) struct Open(Rc<Connections>);

impl WorkerThread {
    /// Starts a worker on these listeners. It goes by the latest of `sites`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        index: usize,
        listeners: Vec<TcpListener>,
        mut sites: watch::Receiver<Arc<Site>>,
        http: Http,
        phase: watch::Receiver<Phase>,
    ) -> io::Result<Self> {
        let (end, ended) = oneshot::channel();
        let run = move || {
            let served = runtime().and_then(|runtime| {
                let first = Arc::clone(&sites.borrow_and_update());
                let current = Rc::new(Current::new(first));
                let served = runtime.block_on(serve(current, sites, listeners, http, phase));
                // What is still open after the deadline ends with its tasks.
                runtime.shutdown_background();
                served
            });
            match served {
                Ok(()) => drop(end.send(())),
                Err(error) => tracing::error!(%error, "a worker cannot serve"),
            }
        };
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(run)?;
        Ok(Self { ended, thread })
    }
}

/// A runtime whose tasks never leave its thread.
fn runtime() -> io::Result<LocalRuntime> {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(LOOK_UP_THREADS).build_local(LocalOptions::default())
}

/// Serves until told to drain, then drains.
async fn serve(
    current: Rc<Current>,
    sites: watch::Receiver<Arc<Site>>,
    listeners: Vec<TcpListener>,
    http: Http,
    mut phase: watch::Receiver<Phase>,
) -> io::Result<()> {
    let connections = Rc::new(Connections::default());
    let http = Rc::new(http);
    let mut accepting = Vec::new();
    for listener in listeners {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let accept = accept(Rc::clone(&current), Rc::clone(&connections), Rc::clone(&http), listener);
        accepting.push(tokio::task::spawn_local(accept));
    }
    tokio::task::spawn_local(follow(sites, Rc::clone(&current)));
    let deadline = draining(&mut phase).await;
    current.drain();
    connections.leave();
    accepting.iter().for_each(tokio::task::JoinHandle::abort);
    // Late is late: what does not finish in time is cut by the end of the runtime.
    let _ = timeout_at(deadline, current.quiet()).await;
    connections.close();
    let _ = timeout_at(deadline.min(Instant::now() + LAST_BYTES), connections.none()).await;
    Ok(())
}

/// Waits for the order to drain; its sender's end is one as well.
async fn draining(phase: &mut watch::Receiver<Phase>) -> Instant {
    loop {
        if let Phase::Draining(deadline) = *phase.borrow_and_update() {
            return deadline;
        }
        if phase.changed().await.is_err() {
            return Instant::now();
        }
    }
}

/// Goes by the latest site, for as long as there may be another.
async fn follow(mut sites: watch::Receiver<Arc<Site>>, current: Rc<Current>) {
    while sites.changed().await.is_ok() {
        let site = Arc::clone(&sites.borrow_and_update());
        current.replace(site);
    }
}

async fn accept(current: Rc<Current>, connections: Rc<Connections>, http: Rc<Http>, listener: tokio::net::TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                let (current, connections, http) = (Rc::clone(&current), Rc::clone(&connections), Rc::clone(&http));
                tokio::task::spawn_local(async move { http.serve(current, connections, stream, address).await });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                sleep(AFTER_FAILED_ACCEPT).await;
            }
        }
    }
}

impl Connections {
    pub(super) fn opened(self: Rc<Self>) -> Open {
        self.open.set(self.open.get() + 1);
        Open(self)
    }

    /// Completes when connections shall close.
    pub(super) async fn closing(&self) {
        self.closing.notified().await;
    }

    /// Whether they shall.
    pub(super) fn is_closing(&self) -> bool {
        self.is_closing.get()
    }

    /// Completes when connections shall take no more requests.
    pub(super) async fn leaving(&self) {
        self.leaving.notified().await;
    }

    /// Whether they shall take no more.
    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.get()
    }

    fn leave(&self) {
        self.is_leaving.set(true);
        self.leaving.notify_waiters();
    }

    fn close(&self) {
        self.is_closing.set(true);
        self.closing.notify_waiters();
    }

    async fn none(&self) {
        while self.open.get() > 0 {
            self.none.notified().await;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let left = self.0.open.get() - 1;
        self.0.open.set(left);
        if left == 0 {
            self.0.none.notify_one();
        }
    }
}
