//! Who is paced by what: from the configuration to pacers, and from a request to the keys that it asks for.
//!
//! Everything here is shared by all workers. A request is concerned by its route's limits, by those of its API key and
//! its model, by those of the domain that the client asked for, and by its client's own; `plan` sees to it that all of
//! them live in one pacer.

mod alarm;
mod carried;
mod change;
mod clock;
mod hand;
mod keys;
mod line;
mod plan;
mod room;
mod shared;
mod succession;

use std::hash::BuildHasher;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cooldown_pacer::{Key, LimitsId};
use foldhash::quality::RandomState;
use smallvec::SmallVec;

pub use clock::Clock;
pub use keys::{Credential, Keys, Label};
pub use line::{Admission, Line, Outcome, Permit, Place};
pub use succession::{Asked, Concern, Wanted};

use crate::config::{Config, ModelGlob};
use crate::proxy::route::HostTable;
use crate::telemetry::Metrics;
use crate::telemetry::snapshot::SharedView;
use alarm::AlarmThread;
use carried::{Carried, Owner};
use keys::Pools;
use plan::Group;
use room::Labels;
use shared::Sharing;
use succession::Next;

/// Everything that is paced.
#[derive(Debug)]
pub struct Pacing {
    clock: Clock,
    /// By the index of the route: routes first, then providers.
    routes: Vec<RouteLimits>,
    domains: HostTable<DomainEntry>,
    /// By the index of the client.
    clients: Vec<Option<LimitsId>>,
    lines: Vec<Arc<Line>>,
    /// Keys that a person could name.
    named: Vec<room::Named>,
    labels: Labels,
    hasher: RandomState,
    /// What a reload finds again.
    carried: Carried,
    alarm: Arc<AlarmThread>,
    /// Which lists each line holds.
    groups: Vec<Group>,
    /// By the index of the route.
    owners: Vec<Owner>,
    /// By the index of the client.
    client_names: Vec<String>,
    /// How many reloads came before.
    number: u32,
    /// What is in force in its place.
    next: OnceLock<Next>,
    /// What shares its limits with other instances, if they are shared.
    sharing: Option<Arc<Sharing>>,
}

/// What paces the requests of one route. Each list may be empty: then there is only what its upstream teaches.
#[derive(Debug, Clone)]
struct RouteLimits {
    /// The line that its requests wait in.
    line: Arc<Line>,
    lists: Lists,
    /// The limits of domains without an entry.
    default: Option<LimitsId>,
    /// Which groups of requests its upstream forms.
    pools: Arc<Pools>,
}

/// The lists of limits that one route's requests can be concerned by.
#[derive(Debug, Clone)]
struct Lists {
    /// Of all its requests together.
    upstream: LimitsId,
    /// Of each API key.
    key: LimitsId,
    /// What each key of ours is counted under.
    subjects: Vec<u64>,
    /// Of each model, for each API key.
    model: LimitsId,
    /// The same, as configured for the models that a glob matches.
    globs: Vec<(ModelGlob, LimitsId)>,
    /// Of each group of requests that only the upstream knows how to form.
    pool: LimitsId,
}

/// One entry of `rate_limits`.
#[derive(Debug, Clone, Copy)]
struct DomainEntry {
    /// `None` when no request can reach it.
    limits: Option<LimitsId>,
    per_host: bool,
}

/// The keys that concern a request whichever way it goes.
pub type CommonKeys = SmallVec<[Key; 2]>;

impl Pacing {
    /// Builds the pacers and starts their alarm. All limits are this instance's alone, whatever the configuration says.
    ///
    /// # Errors
    /// When the alarm's thread cannot be started.
    pub fn new(config: &Config) -> io::Result<Self> {
        plan::Plan::of(config, &Carried::default()).build(config, Clock::start(), None)
    }

    /// The same, with limits that are shared with other instances where the configuration says so. What happens to that is
    /// told in the log and among the events.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(config: &Config, metrics: &Arc<Metrics>) -> io::Result<Self> {
        let clock = Clock::start();
        let sharing = Sharing::start(config, clock, metrics)?.map(Arc::new);
        plan::Plan::of(config, &Carried::default()).build(config, clock, sharing)
    }

    /// The pacers for a changed configuration. What stays goes on in the same lines: with all that has left, what
    /// upstreams have taught, and who waits; its limits are the new ones from now on, also for requests that know only
    /// this configuration. To be done once.
    pub fn reload(&self, config: &Config) -> Arc<Self> {
        let carried = self.carried.for_owners(&Owner::all(config));
        let (next, changes, lists) = plan::Plan::of(config, &carried).rebuild(config, carried, self);
        if self.counts_keys_otherwise(&next) {
            // What is called the first key may be another one now.
            self.labels.known().lock().retain(|_, label| label.key.is_none());
        }
        let next = Arc::new(next);
        // Who asks by a list before its line has changed is counted, too.
        changes.iter().for_each(|(line, change)| line.announce(change));
        // First, so that who is told to ask again asks by it.
        self.make_way(Arc::clone(&next));
        changes.into_iter().for_each(|(line, change)| line.change(&change));
        self.sharing.iter().for_each(|sharing| sharing.state(lists.clone()));
        next
    }

    /// Whether a key of ours has another place in its list than after a reload.
    fn counts_keys_otherwise(&self, next: &Self) -> bool {
        let pairs =
            self.routes.iter().flat_map(|before| next.routes.iter().map(move |after| (&before.lists, &after.lists)));
        let moved = |(before, after): (&Lists, &Lists)| {
            before.key == after.key
                && before.subjects.iter().zip(&after.subjects).any(|(before, after)| before != after)
        };
        pairs.into_iter().any(moved)
    }

    /// The clock that everything here goes by.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// A number for an identity, the same on every worker and different in every process.
    pub fn hash(&self, identity: &[u8]) -> u64 {
        self.hasher.hash_one(identity)
    }

    /// The same for who or what a limit is counted for: where limits are shared, all instances give it the same number.
    pub fn fingerprint(&self, identity: &[u8]) -> u64 {
        shared::fingerprint(self.sharing.is_some(), &self.hasher, identity)
    }

    /// How it stands with the limits that other instances use too; `None` where none are.
    pub fn shared(&self) -> Option<SharedView> {
        self.sharing.as_ref().map(|sharing| sharing.view())
    }

    /// The proxy ends: gives back what it holds of limits that other instances use too. Takes part of a second at most.
    pub fn leave(&self) {
        self.sharing.iter().for_each(|sharing| sharing.leave());
    }

    /// A number that nobody can foresee, to spread things with.
    pub fn random(&self) -> u64 {
        self.hash(&self.clock.now().as_nanos().to_ne_bytes())
    }

    /// The line that the requests of a route wait in.
    pub fn line(&self, route: usize) -> &Arc<Line> {
        &self.routes[route].line
    }

    /// The keys that concern a request whichever way it goes: those of the domain that it asked for (lower case, no port),
    /// and of the configured client that sent it. `route` is the one that its host or path leads to.
    pub fn common_keys(&self, route: Option<usize>, host: &str, client: Option<usize>) -> CommonKeys {
        let default = route.and_then(|route| self.routes[route].default);
        let mut keys = CommonKeys::new();
        keys.extend(self.domain_key(default, host));
        keys.extend(client.and_then(|client| self.clients[client]).map(Key::whole));
        keys
    }

    /// Sends away everybody who would not leave within `drain_timeout`.
    pub fn shut_down(&self, drain_timeout: Duration) {
        let deadline = self.clock.now().after(drain_timeout);
        self.lines.iter().for_each(|line| line.shut_down(deadline));
    }

    fn domain_key(&self, default: Option<LimitsId>, host: &str) -> Option<Key> {
        let Some(entry) = self.domains.find(host) else {
            return default.map(|limits| Key { limits, subject: self.fingerprint(host.as_bytes()) });
        };
        let subject = if entry.per_host { self.fingerprint(host.as_bytes()) } else { 0 };
        entry.limits.map(|limits| Key { limits, subject })
    }
}
