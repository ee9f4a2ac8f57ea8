//! Who is paced by what: from the configuration to pacers, and from a request to an ask.
//!
//! Everything here is shared by all workers. A request is concerned by its route's limits, by those of the domain that
//! the client asked for, and by its client's own; `plan` sees to it that all of them live in one pacer.

mod alarm;
mod clock;
mod line;
mod plan;
mod room;

use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use cooldown_pacer::{Key, LimitsId};
use foldhash::quality::RandomState;
use smallvec::SmallVec;

pub use clock::Clock;
pub use line::{Admission, Line, Outcome, Permit, Place};

use crate::config::Config;
use crate::proxy::route::HostTable;
use alarm::AlarmThread;

/// Everything that is paced.
#[derive(Debug)]
pub struct Pacing {
    clock: Clock,
    /// By the index of the route.
    routes: Vec<RouteLimits>,
    domains: HostTable<DomainEntry>,
    /// By the index of the client.
    clients: Vec<Option<LimitsId>>,
    lines: Vec<Arc<Line>>,
    /// Keys that a person could name.
    named: Vec<room::Named>,
    hasher: RandomState,
    _alarm: AlarmThread,
}

/// What paces the requests of one route.
#[derive(Debug, Clone, Default)]
struct RouteLimits {
    /// The line that its requests wait in; `None` when nothing can concern them.
    line: Option<Arc<Line>>,
    /// Its own limits.
    own: Option<(LimitsId, Counted)>,
    /// The limits of domains without an entry.
    default: Option<LimitsId>,
}

/// What a route's own limits are counted per.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    /// All requests together.
    Together,
    /// Each set of credentials apart.
    PerCredentials,
}

/// One entry of `rate_limits`.
#[derive(Debug, Clone, Copy)]
struct DomainEntry {
    /// `None` when no request can reach it.
    limits: Option<LimitsId>,
    per_host: bool,
}

/// What a request is, as far as limits are concerned.
#[derive(Debug, Clone, Copy)]
pub struct Concern<'a> {
    /// The index of its route: routes first, then providers.
    pub route: usize,
    /// The domain that the client asked for: lower case, no port.
    pub host: &'a str,
    /// The index of the configured client.
    pub client: Option<usize>,
    /// A hash of the credentials that are sent upstream.
    pub credentials: u64,
}

/// The keys that concern one request.
pub type Keys = SmallVec<[Key; 4]>;

impl Pacing {
    /// Builds the pacers and starts their alarm.
    ///
    /// # Errors
    /// When the alarm's thread cannot be started.
    pub fn new(config: &Config) -> io::Result<Self> {
        plan::Plan::of(config).build(config)
    }

    /// The clock that everything here goes by.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// A number for an identity, the same on every worker and different in every process.
    pub fn hash(&self, identity: &[u8]) -> u64 {
        self.hasher.hash_one(identity)
    }

    /// The line that a request waits in and the keys that concern it; `None` when no limit does.
    pub fn concern(&self, request: Concern<'_>) -> Option<(&Arc<Line>, Keys)> {
        let route = &self.routes[request.route];
        let line = route.line.as_ref()?;
        let mut keys = Keys::new();
        if let Some((limits, counted)) = route.own {
            let subject = if counted == Counted::PerCredentials { request.credentials } else { 0 };
            keys.push(Key { limits, subject });
        }
        keys.extend(self.domain_key(route, request.host));
        keys.extend(request.client.and_then(|client| self.clients[client]).map(Key::whole));
        (!keys.is_empty()).then_some((line, keys))
    }

    /// Sends away everybody who would not leave within `drain_timeout`.
    pub fn shut_down(&self, drain_timeout: Duration) {
        let deadline = self.clock.now().after(drain_timeout);
        self.lines.iter().for_each(|line| line.shut_down(deadline));
    }

    fn domain_key(&self, route: &RouteLimits, host: &str) -> Option<Key> {
        let Some(entry) = self.domains.find(host) else {
            return route.default.map(|limits| Key { limits, subject: self.hash(host.as_bytes()) });
        };
        let subject = if entry.per_host { self.hash(host.as_bytes()) } else { 0 };
        entry.limits.map(|limits| Key { limits, subject })
    }
}
