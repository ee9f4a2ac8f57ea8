//! The connections of one worker to one upstream.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::connect::{ConnectError, Endpoint};
use super::connection::Connection;

/// How long an unused connection is kept. Below what most upstreams keep it for, so that few are found closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// The most connections that are kept unused.
const MAX_IDLE: usize = 256;
/// The most connections that are being made at once; whoever comes later gets one that another has made or left.
const MAX_CONNECTING: usize = 64;

/// Connections to one upstream, for the use of one worker.
#[derive(Debug)]
pub struct Pool {
    endpoint: Endpoint,
    /// Unused connections, the longest unused one first.
    idle: RefCell<Vec<Idle>>,
    connecting: Cell<usize>,
    /// Who waits for a connection that somebody else makes or leaves.
    wanting: RefCell<VecDeque<oneshot::Sender<Offer>>>,
    /// Whether a task sees to it that unused connections are closed in time.
    swept: Cell<bool>,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

/// What somebody who waits for a connection gets.
#[derive(Debug)]
enum Offer {
    Use(Box<Connection>),
    /// One that others wait for has failed; there is no reason to believe in another one.
    Fail(ConnectError),
    /// Make one yourself.
    Connect,
}

/// The use of a connection. Dropping it returns the connection if it can carry another request, and closes it if not.
#[derive(Debug)]
pub struct Lease {
    connection: Option<Box<Connection>>,
    pool: Rc<Pool>,
}

/// A place among those who wait for a connection. What was offered to one who left meanwhile goes to the next.
struct Wanted {
    offered: oneshot::Receiver<Offer>,
    pool: Rc<Pool>,
}

/// Counts a connection that is being made.
struct Connecting<'a>(&'a Pool);

impl Pool {
    /// A pool without connections.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            idle: RefCell::default(),
            connecting: Cell::new(0),
            wanting: RefCell::default(),
            swept: Cell::new(false),
        }
    }

    /// An unused connection, the last one used first: the others may grow old and be closed.
    pub fn idle(self: &Rc<Self>) -> Option<Lease> {
        loop {
            let mut connection = self.idle.borrow_mut().pop()?.connection;
            if connection.is_usable() {
                return Some(self.lease(connection));
            }
        }
    }

    /// A connection: an unused one, or a new one.
    ///
    /// # Errors
    /// When none can be made.
    pub async fn connection(self: &Rc<Self>) -> Result<Lease, ConnectError> {
        match self.idle() {
            Some(lease) => Ok(lease),
            // Boxed, so that a request only carries the state of a handshake while there is one.
            None => Box::pin(self.made()).await,
        }
    }

    async fn made(self: &Rc<Self>) -> Result<Lease, ConnectError> {
        loop {
            if self.connecting.get() < MAX_CONNECTING {
                return self.fresh().await;
            }
            match Wanted::new(self).next().await {
                Offer::Use(connection) => return Ok(self.lease(connection)),
                Offer::Fail(error) => return Err(error),
                Offer::Connect => {}
            }
            if let Some(lease) = self.idle() {
                return Ok(lease);
            }
        }
    }

    /// A new connection.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn fresh(self: &Rc<Self>) -> Result<Lease, ConnectError> {
        let connecting = Connecting::new(self);
        let opened = match self.endpoint.connect().await {
            Ok(stream) => Connection::open(stream)
                .await
                .map_err(|error| ConnectError::Refused(Arc::new(std::io::Error::other(error)))),
            Err(error) => Err(error),
        };
        match opened {
            Ok(mut connection) => {
                // The first poll makes it ready to send.
                connection.is_usable();
                drop(connecting);
                Ok(self.lease(Box::new(connection)))
            }
            Err(error) => {
                let wanting = std::mem::take(&mut *self.wanting.borrow_mut());
                wanting.into_iter().for_each(|offer| drop(offer.send(Offer::Fail(error.clone()))));
                Err(error)
            }
        }
    }

    fn lease(self: &Rc<Self>, connection: Box<Connection>) -> Lease {
        Lease { connection: Some(connection), pool: Rc::clone(self) }
    }

    fn take_back(self: &Rc<Self>, mut connection: Box<Connection>) {
        while let Some(offer) = self.next_wanting() {
            match offer.send(Offer::Use(connection)) {
                Ok(()) => return,
                Err(Offer::Use(unwanted)) => connection = unwanted,
                Err(_) => return,
            }
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() < MAX_IDLE {
            idle.push(Idle { connection, since: Instant::now() });
            drop(idle);
            self.sweep();
        }
    }

    /// Lets the next one who waits make a connection.
    fn pass_turn(&self) {
        while let Some(offer) = self.next_wanting() {
            if offer.send(Offer::Connect).is_ok() {
                break;
            }
        }
    }

    fn next_wanting(&self) -> Option<oneshot::Sender<Offer>> {
        self.wanting.borrow_mut().pop_front()
    }

    /// Sees to it that unused connections are closed in time, for as long as there are any.
    fn sweep(self: &Rc<Self>) {
        if self.swept.replace(true) {
            return;
        }
        let pool = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            while let Some(next) = Self::close_old(&pool) {
                sleep_until(next).await;
            }
        });
    }

    /// Closes what has been unused for too long; when to look again, or `None` when nothing is left.
    fn close_old(pool: &Weak<Self>) -> Option<Instant> {
        let pool = pool.upgrade()?;
        let now = Instant::now();
        let mut idle = pool.idle.borrow_mut();
        let old = idle.partition_point(|idle| now.saturating_duration_since(idle.since) >= IDLE_TIMEOUT);
        idle.drain(..old);
        let next = idle.first().map(|idle| idle.since + IDLE_TIMEOUT);
        pool.swept.set(next.is_some());
        next
    }
}

impl<'a> Connecting<'a> {
    fn new(pool: &'a Pool) -> Self {
        pool.connecting.set(pool.connecting.get() + 1);
        Self(pool)
    }
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.connecting.set(self.0.connecting.get() - 1);
        // There is room for another one.
        self.0.pass_turn();
    }
}

impl Wanted {
    fn new(pool: &Rc<Pool>) -> Self {
        let (offer, offered) = oneshot::channel();
        pool.wanting.borrow_mut().push_back(offer);
        Self { offered, pool: Rc::clone(pool) }
    }

    async fn next(mut self) -> Offer {
        (&mut self.offered).await.unwrap_or(Offer::Connect)
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        match self.offered.try_recv() {
            Ok(Offer::Use(connection)) => self.pool.take_back(connection),
            Ok(Offer::Connect) => self.pool.pass_turn(),
            Ok(Offer::Fail(_)) | Err(_) => {}
        }
    }
}

impl Lease {
    /// Leaves the use of the connection to another one; this one may only be dropped.
    pub fn hand_over(&mut self) -> Self {
        Self { connection: self.connection.take(), pool: Rc::clone(&self.pool) }
    }

    /// Takes the connection out of its pool for good.
    pub fn keep(mut self) -> Option<Connection> {
        self.connection.take().map(|connection| *connection)
    }
}

impl Deref for Lease {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("only dropping and keeping it take the connection")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("only dropping and keeping it take the connection")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take().filter(|connection| connection.is_reusable()) {
            self.pool.take_back(connection);
        }
    }
}
