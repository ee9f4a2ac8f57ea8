//! The connections of one worker to one upstream.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use super::carrier::Carrier;
use super::connect::{ConnectError, Endpoint, Opened};
use super::connection::Connection;
use super::multiplexed::Multiplexed;

/// How long an unused connection is kept. Below what most upstreams keep it for, so that few are found closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// The most connections that are kept unused.
const MAX_IDLE: usize = 256;
/// After an upstream that carries requests has refused a further connection, none is asked for so long.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);
/// After so many of them a request does not wait any longer for a place on the connections that there are.
const MOST_REFUSALS: u32 = 10;
/// The most connections that are being made at once; whoever comes later gets one that another has made or left.
const MAX_CONNECTING: usize = 64;

/// Connections to one upstream, for the use of one worker.
#[derive(Debug)]
pub struct Pool {
    endpoint: Endpoint,
    /// The same upstream for those who want another protocol on their connection, which HTTP/2 does not give them; `None` if
    /// this one will do.
    for_upgrades: Option<Rc<Self>>,
    /// Unused connections, the longest unused one first.
    idle: RefCell<Vec<Idle>>,
    /// Connections that carry many requests at once, the oldest first.
    multiplexed: RefCell<Vec<Rc<Multiplexed>>>,
    /// What the upstream speaks, as far as is known.
    spoken: Cell<Spoken>,
    connecting: Cell<usize>,
    /// When a further connection was refused.
    refused: Cell<Option<Instant>>,
    /// Who waits for a connection that somebody else makes or leaves.
    wanting: RefCell<VecDeque<oneshot::Sender<Offer>>>,
    /// Whether a task sees to it that unused connections are closed in time.
    swept: Cell<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    /// A first connection will tell.
    Unknown,
    Http1,
    Http2,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

/// What somebody who waits for a connection gets.
#[derive(Debug)]
enum Offer {
    Use(Carrier),
    /// One that others wait for has failed; there is no reason to believe in another one.
    Fail(ConnectError),
    /// Make one yourself.
    Connect,
}

/// The use of a connection. Dropping it returns the connection if it can carry another request, and closes it if not.
#[derive(Debug)]
pub struct Lease {
    carrier: Option<Carrier>,
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
        let may_agree = endpoint.may_agree_on_http2();
        let spoken = match () {
            () if may_agree => Spoken::Unknown,
            () if endpoint.is_http2_only() => Spoken::Http2,
            () => Spoken::Http1,
        };
        Self {
            for_upgrades: may_agree.then(|| Rc::new(Self::new(endpoint.http1_only()))),
            endpoint,
            multiplexed: RefCell::default(),
            spoken: Cell::new(spoken),
            idle: RefCell::default(),
            connecting: Cell::new(0),
            refused: Cell::new(None),
            wanting: RefCell::default(),
            swept: Cell::new(false),
        }
    }

    /// The pool for a request that asks for another protocol on its connection, if `upgrades`; else this one.
    pub fn of(self: &Rc<Self>, upgrades: bool) -> &Rc<Self> {
        if upgrades { self.for_upgrades.as_ref().unwrap_or(self) } else { self }
    }

    /// An unused connection, the last one used first: the others may grow old and be closed. Or a place on one that is shared.
    pub fn idle(self: &Rc<Self>) -> Option<Lease> {
        loop {
            let Some(idle) = self.idle.borrow_mut().pop() else { return self.place().map(|place| self.lease(place)) };
            let mut connection = idle.connection;
            if connection.is_usable() {
                return Some(self.lease(Carrier::Http1(connection)));
            }
        }
    }

    /// A place on a connection that others use as well, the oldest first.
    fn place(&self) -> Option<Carrier> {
        if self.spoken.get() != Spoken::Http2 {
            return None;
        }
        let mut multiplexed = self.multiplexed.borrow_mut();
        // Those that are closing finish what is on them.
        multiplexed.retain(|connection| connection.is_usable());
        multiplexed.iter().find_map(Multiplexed::place).map(|place| Carrier::Http2(Box::new(place)))
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
        let mut refusals = 0;
        loop {
            if self.connecting.get() < self.most_connecting() {
                match self.fresh().await {
                    // A place on one that it has will do.
                    Err(_) if refusals < MOST_REFUSALS && self.is_refused() && self.carries() => refusals += 1,
                    made => return made,
                }
            }
            match self.offered().await {
                Offer::Use(mut carrier) => {
                    // Its upstream may have closed it before we were woken.
                    if carrier.is_usable() {
                        return Ok(self.lease(carrier));
                    }
                }
                Offer::Fail(error) => return Err(error),
                Offer::Connect => {}
            }
            if let Some(lease) = self.idle() {
                return Ok(lease);
            }
        }
    }

    /// What somebody else makes or leaves; after a refusal, a turn to make one at the latest when it may be tried again.
    async fn offered(self: &Rc<Self>) -> Offer {
        let wanted = Wanted::new(self);
        if !self.is_refused() {
            return wanted.next().await;
        }
        timeout(AFTER_REFUSAL, wanted.next()).await.unwrap_or(Offer::Connect)
    }

    /// Whether the upstream has just refused a further connection.
    fn is_refused(&self) -> bool {
        self.refused.get().is_some_and(|refused| refused.elapsed() < AFTER_REFUSAL)
    }

    /// A new connection.
    async fn fresh(self: &Rc<Self>) -> Result<Lease, ConnectError> {
        let connecting = Connecting::new(self);
        match self.endpoint.open().await {
            Ok(Opened::Http1(connection)) => {
                self.spoken.set(Spoken::Http1);
                drop(connecting);
                Ok(self.lease(Carrier::Http1(connection)))
            }
            Ok(Opened::Http2(connection)) => {
                let connection = Rc::new(connection);
                let place = connection.place();
                self.spoken.set(Spoken::Http2);
                self.multiplexed.borrow_mut().push(connection);
                self.offer_places();
                drop(connecting);
                // There is no place on a connection that has ended meanwhile.
                place.map(|place| self.lease(Carrier::Http2(Box::new(place)))).ok_or_else(ConnectError::gone)
            }
            Err(error) if self.carries() => {
                self.refused.set(Some(Instant::now()));
                Err(error)
            }
            Err(error) => {
                let wanting = std::mem::take(&mut *self.wanting.borrow_mut());
                wanting.into_iter().for_each(|offer| drop(offer.send(Offer::Fail(error.clone()))));
                Err(error)
            }
        }
    }

    /// Whether there is a connection that others use as well.
    fn carries(&self) -> bool {
        self.spoken.get() == Spoken::Http2 && self.multiplexed.borrow().iter().any(|connection| connection.is_usable())
    }

    /// How many connections may be made at once. One tells whether others are needed: it may carry all who wait.
    fn most_connecting(&self) -> usize {
        match self.spoken.get() {
            _ if self.is_refused() && self.carries() => 0,
            Spoken::Unknown => 1,
            Spoken::Http1 => MAX_CONNECTING,
            Spoken::Http2 => {
                let places = self.multiplexed.borrow().last().map_or(usize::MAX, |one| one.most_streams().max(1));
                (1 + self.wanting.borrow().len() / places).min(MAX_CONNECTING)
            }
        }
    }

    fn lease(self: &Rc<Self>, carrier: Carrier) -> Lease {
        Lease { carrier: Some(carrier), pool: Rc::clone(self) }
    }

    fn take_back(self: &Rc<Self>, carrier: Carrier) {
        match carrier {
            Carrier::Http1(connection) if connection.is_reusable() => self.keep(connection),
            Carrier::Http1(_) => {}
            Carrier::Http2(place) => {
                let is_last = place.is_last();
                drop(place);
                self.offer_places();
                if is_last {
                    self.sweep();
                }
            }
        }
    }

    fn keep(self: &Rc<Self>, mut connection: Box<Connection>) {
        while let Some(offer) = self.next_wanting() {
            match offer.send(Offer::Use(Carrier::Http1(connection))) {
                Ok(()) => return,
                Err(Offer::Use(Carrier::Http1(unwanted))) => connection = unwanted,
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

    /// Gives the places that there are to those who wait.
    fn offer_places(&self) {
        while !self.wanting.borrow().is_empty()
            && let Some(mut place) = self.place()
        {
            while let Some(offer) = self.next_wanting() {
                match offer.send(Offer::Use(place)) {
                    Ok(()) => break,
                    Err(Offer::Use(unwanted)) => place = unwanted,
                    Err(_) => return,
                }
            }
        }
    }

    /// Lets as many of those who wait make a connection as may.
    fn pass_turns(&self) {
        let mut free = self.most_connecting().saturating_sub(self.connecting.get());
        while free > 0
            && let Some(offer) = self.next_wanting()
        {
            free -= usize::from(offer.send(Offer::Connect).is_ok());
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
        let next = next.into_iter().chain(pool.close_old_multiplexed(now)).min();
        pool.swept.set(next.is_some());
        next
    }
}

impl Pool {
    /// The same for connections that are shared.
    fn close_old_multiplexed(&self, now: Instant) -> Option<Instant> {
        let mut multiplexed = self.multiplexed.borrow_mut();
        let is_old = |one: &Multiplexed| one.is_idle() && now >= one.idle_since.get() + IDLE_TIMEOUT;
        multiplexed.retain(|one| one.is_usable() && !is_old(one));
        multiplexed.iter().filter(|one| one.is_idle()).map(|one| one.idle_since.get() + IDLE_TIMEOUT).min()
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
        self.0.pass_turns();
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
            Ok(Offer::Use(carrier)) => self.pool.take_back(carrier),
            Ok(Offer::Connect) => self.pool.pass_turns(),
            Ok(Offer::Fail(_)) | Err(_) => {}
        }
    }
}

impl Lease {
    /// Takes the connection out of its pool for good; `None` if it carries others as well.
    pub fn keep(mut self) -> Option<Connection> {
        match self.carrier.take()? {
            Carrier::Http1(connection) => Some(*connection),
            Carrier::Http2(_) => None,
        }
    }

    /// Leaves the use of the connection to another one; this one may only be dropped.
    pub fn hand_over(&mut self) -> Self {
        Self { carrier: self.carrier.take(), pool: Rc::clone(&self.pool) }
    }
}

impl Deref for Lease {
    type Target = Carrier;

    fn deref(&self) -> &Carrier {
        self.carrier.as_ref().expect("only dropping and keeping it take what carries it")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Carrier {
        self.carrier.as_mut().expect("only dropping and keeping it take what carries it")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.carrier.take().into_iter().for_each(|carrier| self.pool.take_back(carrier));
    }
}
