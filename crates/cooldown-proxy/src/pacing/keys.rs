//! The keys that concern a request on one way to its upstream, and which of them an upstream means.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use cooldown_pacer::Key;
use foldhash::fast::RandomState;
use parking_lot::RwLock;
use smallvec::SmallVec;

use super::{CommonKeys, Pacing};
use crate::provider::Scope;

/// More groups than this are not remembered: they are formed by upstreams, of requests that clients choose.
const MOST_POOLS: usize = 4096;

/// By which credentials a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// Without any.
    None,
    /// By one of our keys, by its index.
    Ours(usize),
    /// By the caller's own: a hash of them.
    Callers(u64),
}

/// The keys that concern a request on one way to its upstream.
#[derive(Debug, Clone)]
pub struct Keys {
    all: SmallVec<[Key; 6]>,
    upstream: Key,
    key: Option<Key>,
    model: Option<Key>,
    /// What a group of requests would be counted under, but for its number.
    pool: Key,
}

/// What a person calls a key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Label {
    /// The API key: its number, counted from 1, if it is one of several of ours, or a part of a hash of a caller's own.
    pub key: Option<Box<str>>,
    /// The model.
    pub model: Option<Box<str>>,
}

/// Which group of requests each path belongs to, as far as responses have told.
#[derive(Debug, Default)]
pub(super) struct Pools {
    known: RwLock<HashMap<(usize, u64), u64, RandomState>>,
    /// Whether there is any: hardly an upstream forms groups.
    any: AtomicBool,
}

impl Keys {
    /// All of them.
    pub fn all(&self) -> &[Key] {
        &self.all
    }

    /// The one that stands for the whole upstream.
    pub fn upstream(&self) -> Key {
        self.upstream
    }

    /// The narrowest one that has room of its own: the model's, the API key's, the upstream's.
    pub fn narrowest(&self) -> Key {
        self.model.or(self.key).unwrap_or(self.upstream)
    }

    /// The one that an upstream means by a scope.
    pub fn of(&self, scope: Scope) -> Key {
        match scope {
            Scope::Upstream => self.upstream,
            Scope::Key => self.key.unwrap_or(self.upstream),
            Scope::Model => self.narrowest(),
            Scope::Pool(pool) => Key { subject: self.pool.subject ^ pool, ..self.pool },
        }
    }
}

impl Pacing {
    /// The keys that concern a request to `route` by these credentials for this model, beside the common ones.
    pub fn keys(&self, route: usize, by: Credential, model: Option<&str>, path: &str, common: &CommonKeys) -> Keys {
        let lists = &self.routes[route].lists;
        let credential = match by {
            Credential::None => None,
            Credential::Ours(index) => Some(index as u64),
            Credential::Callers(hash) => Some(hash),
        };
        let subject = credential.unwrap_or_default();
        let upstream = Key::whole(lists.upstream);
        let key = credential.map(|subject| Key { limits: lists.key, subject });
        let of_model = model.map(|model| self.hash(model.as_bytes()) ^ subject);
        let model_key = of_model.map(|subject| Key { limits: lists.model, subject });
        let mut keys =
            Keys { all: SmallVec::new(), upstream, key, model: model_key, pool: Key { limits: lists.pool, subject } };
        keys.all.push(upstream);
        keys.all.extend(key);
        keys.all.extend(model_key);
        if let (Some(model), Some(subject)) = (model, of_model) {
            let matching = lists.globs.iter().filter(|(glob, _)| glob.matches(model));
            keys.all.extend(matching.map(|&(_, limits)| Key { limits, subject }));
        }
        if self.pools.any.load(Relaxed) {
            let pool = self.pools.of(route, self.first_segment(path));
            keys.all.extend(pool.map(|pool| keys.of(Scope::Pool(pool))));
        }
        keys.all.extend_from_slice(common);
        keys
    }

    /// A response told which group a request for this path belongs to: the next ones of its kind are counted with it.
    pub fn learn_pool(&self, route: usize, path: &str, scope: Scope) {
        if let Scope::Pool(pool) = scope {
            self.pools.learn(route, self.first_segment(path), pool);
        }
    }

    /// Upstreams that form groups form them by the first segment of the path (GitHub's `/search`, `/graphql`).
    fn first_segment(&self, path: &str) -> u64 {
        let segment = path.trim_start_matches('/').split(['/', '?']).next().unwrap_or_default();
        self.hash(segment.as_bytes())
    }
}

impl Pools {
    fn of(&self, route: usize, path: u64) -> Option<u64> {
        self.known.read().get(&(route, path)).copied()
    }

    fn learn(&self, route: usize, path: u64, pool: u64) {
        if self.of(route, path) == Some(pool) {
            return;
        }
        let mut known = self.known.write();
        if known.len() < MOST_POOLS || known.contains_key(&(route, path)) {
            known.insert((route, path), pool);
            self.any.store(true, Relaxed);
        }
    }
}
