//! Who is paced by what: from the configuration to pacers, and from a request to the keys that it asks for.
//!
//! Everything here is shared by all workers. A request is concerned by its route's limits, by those of its API key and
//! its model, by those of the domain that the client asked for, and by its client's own; `plan` sees to it that all of
//! them live in one pacer.

mod alarm;
mod build;
mod carried;
mod change;
mod clock;
mod hand;
mod keys;
mod ledger;
mod line;
mod plan;
mod room;
mod shared;
mod succession;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cooldown_pacer::{Instant, Key, LimitsId};
use foldhash::quality::FixedState;
use smallvec::SmallVec;

pub use clock::Clock;
pub use keys::{Credential, Keys, Label};
pub use ledger::{LedgerLook, look_into_ledger};
pub use line::{Admission, Line, Outcome, Permit, Place};
pub use succession::{Asked, Concern, Wanted};

use crate::config::{Config, ModelGlob};
use crate::proxy::route::HostTable;
use crate::telemetry::Metrics;
use crate::telemetry::snapshot::SharedView;
use alarm::AlarmThread;
use build::Group;
use carried::{Carried, Owner};
use keys::Pools;
use ledger::{Ledger, Memory, Opened, SyncingThread};
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
    hasher: FixedState,
    /// What a reload finds again.
    carried: Carried,
    alarm: Arc<AlarmThread>,
    /// What outlasts the process, if anything.
    ledger: Option<Arc<SyncingThread>>,
    /// Which lists each line holds.
    groups: Vec<Group>,
    /// By the index of the route.
    owners: Vec<Owner>,
    /// By the index of the client.
    client_names: Vec<String>,
    /// Keys of ours that an earlier process left alone, and until when.
    resting: Vec<(Key, Instant)>,
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
        Ok(plan::Plan::of(config, &Carried::default()).build(config, Clock::start(), None, None)?.0)
    }

    /// The same with what the configuration asks for beyond this process: what an earlier one wrote down is known, and everything
    /// that another will need is written down; limits are shared with other instances. What happens to that is told in the
    /// log and among the events.
    ///
    /// # Errors
    /// When a thread cannot be started, or another process uses the folder.
    pub fn start(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Self> {
        let clock = if config.state.is_some() { Clock::start_at(Ledger::EPOCH) } else { Clock::start() };
        let opened = config.state.as_ref().map(|state| Ledger::open(&state.path, clock, Arc::clone(metrics)));
        let (ledger, keys) = opened.transpose()?.map(|Opened { ledger, keys }| (ledger, keys)).unzip();
        let thread = ledger.map(SyncingThread::start).transpose()?.map(Arc::new);
        let sharing = Sharing::start(config, clock, metrics)?.map(Arc::new);
        let (mut pacing, shared) = plan::Plan::of(config, &Carried::default()).build(config, clock, thread, sharing)?;
        keys.iter().for_each(|keys| pacing.recall(keys, &shared));
        Ok(pacing)
    }

    /// Lets every key that there is now start with what is known of it. What other instances use too, they know together.
    fn recall(&mut self, keys: &HashMap<(String, u64), Memory, foldhash::fast::RandomState>, shared: &[LimitsId]) {
        let lists: HashMap<String, _> = self.carried.lists().map(|(name, list)| (name.to_string(), list)).collect();
        let mut resting = Vec::new();
        for ((list, subject), memory) in keys {
            if let Some((line, limits)) = lists.get(list) {
                let key = Key { limits: *limits, subject: *subject };
                if !shared.contains(limits) {
                    line.recall(key, memory);
                }
                resting.extend(memory.rests.map(|lasting| (key, self.clock.now().after(lasting))));
            }
        }
        self.resting = resting;
    }

    /// Writes down that a key of a route's own is left alone for so long; or not any more, if that is nothing.
    pub fn note_rest(&self, route: usize, key: usize, lasting: Duration) {
        let Lists { key: limits, subjects, .. } = &self.routes[route].lists;
        if let (Some(thread), Some(&subject)) = (&self.ledger, subjects.get(key)) {
            thread.ledger().add_rest(Key { limits: *limits, subject }, lasting);
            thread.ledger().write();
        }
    }

    /// Until when an earlier process left a key of a route's own alone.
    pub fn rested(&self, route: usize, key: usize) -> Option<Instant> {
        let Lists { key: limits, subjects, .. } = &self.routes[route].lists;
        let key = Key { limits: *limits, subject: *subjects.get(key)? };
        self.resting.iter().find(|(resting, _)| *resting == key).map(|(_, until)| *until)
    }

    /// Tells the ledger what lists of limits are called now.
    fn name_lists(&self) {
        let names = || self.carried.lists().map(|(name, (_, limits))| (*limits, name.to_string()));
        self.ledger.iter().for_each(|thread| thread.ledger().name_lists(names()));
    }

    /// Nothing leaves any more: what was written ahead is given back.
    pub fn close_ledger(&self) {
        self.lines.iter().for_each(|line| line.close_ledger());
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
        next.name_lists();
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

    /// A number for an identity, the same on every worker. It is different in every process, or for every ledger where
    /// there is one.
    pub fn hash(&self, identity: &[u8]) -> u64 {
        hash(&self.hasher, identity)
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
        let client = client.and_then(|client| self.clients[client]).map(Key::whole);
        [self.domain_key(default, host), client].into_iter().flatten().for_each(|key| keys.push(key));
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

/// What identities are hashed with.
fn hasher(seed: u64) -> FixedState {
    FixedState::with_seed(seed)
}

fn hash(hasher: &FixedState, identity: &[u8]) -> u64 {
    hasher.hash_one(identity)
}
