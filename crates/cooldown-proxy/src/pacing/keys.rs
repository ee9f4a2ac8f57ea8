//! The keys that concern a request on one way to its upstream, and which of them an upstream means.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use cooldown_pacer::Key;
use foldhash::fast::RandomState;
use parking_lot::RwLock;
use smallvec::SmallVec;

use super::{CommonKeys, Pacing, RouteLimits};
use crate::provider::Scope;

/// More than this is not remembered of who belongs to which group: then all is forgotten, and told again. Groups are formed
/// by upstreams, of requests that clients choose.
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

/// `key 2, model gpt-4`; empty for all of an upstream.
impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.key, &self.model) {
            (Some(key), Some(model)) => write!(f, "key {key}, model {model}"),
            (Some(key), None) => write!(f, "key {key}"),
            (None, Some(model)) => write!(f, "model {model}"),
            (None, None) => Ok(()),
        }
    }
}

/// Which group of requests each path of a route belongs to, as far as responses have told. Paths are known by the hash
/// of how they begin.
#[derive(Debug, Default)]
pub(super) struct Pools {
    known: RwLock<HashMap<u64, u64, RandomState>>,
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

    /// Whether the one that an upstream means by a scope is among them.
    pub fn holds(&self, scope: Scope) -> bool {
        self.all.contains(&self.of(scope))
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
        self.keys_of(route, self.subject(route, by), model, path, common)
    }

    /// What a request by these credentials is counted under.
    pub(super) fn subject(&self, route: usize, by: Credential) -> Option<u64> {
        match by {
            Credential::None => None,
            Credential::Ours(index) => {
                Some(self.routes[route].lists.subjects.get(index).copied().unwrap_or(index as u64))
            }
            Credential::Callers(hash) => Some(hash),
        }
    }

    pub(super) fn keys_of(
        &self,
        route: usize,
        credential: Option<u64>,
        model: Option<&str>,
        path: &str,
        common: &CommonKeys,
    ) -> Keys {
        let RouteLimits { lists, pools, .. } = &self.routes[route];
        let subject = credential.unwrap_or_default();
        let upstream = Key::whole(lists.upstream);
        let key = credential.map(|subject| Key { limits: lists.key, subject });
        let of_model = model.map(|model| self.fingerprint(model.as_bytes()) ^ subject);
        let model_key = of_model.map(|subject| Key { limits: lists.model, subject });
        let mut keys =
            Keys { all: SmallVec::new(), upstream, key, model: model_key, pool: Key { limits: lists.pool, subject } };
        keys.all.push(upstream);
        [key, model_key].into_iter().flatten().for_each(|key| keys.all.push(key));
        if let (Some(model), Some(subject)) = (model, of_model) {
            let matching = lists.globs.iter().filter(|(glob, _)| glob.matches(model));
            keys.all.extend(matching.map(|&(_, limits)| Key { limits, subject }));
        }
        if pools.any.load(Relaxed) {
            let pool = pools.of(self.beginnings(path));
            keys.all.extend(pool.map(|pool| keys.of(Scope::Pool(pool))));
        }
        keys.all.extend_from_slice(common);
        keys
    }

    /// A response told which group a request for this path (as the upstream has it) belongs to: the next ones of its kind
    /// are counted with it.
    pub fn learn_pool(&self, route: usize, path: &str, scope: Scope) {
        if let Scope::Pool(pool) = scope {
            self.routes[route].pools.learn(self.beginnings(path), pool);
        }
    }

    /// Upstreams that form groups form them by how paths begin: GitHub's `/graphql` and `/repos/…` by the first segment,
    /// `/search/code` beside other searches by two. The longer beginning decides where it is known.
    fn beginnings(&self, path: &str) -> [u64; 2] {
        let path = path.trim_start_matches('/');
        let path = &path[..path.find('?').unwrap_or(path.len())];
        let first = path.find('/').unwrap_or(path.len());
        let second = path[first..].char_indices().skip(1).find(|(_, c)| *c == '/').map(|(at, _)| first + at);
        [&path[..second.unwrap_or(path.len())], &path[..first]].map(|beginning| self.hash(beginning.as_bytes()))
    }
}

impl Pools {
    fn of(&self, beginnings: [u64; 2]) -> Option<u64> {
        let known = self.known.read();
        beginnings.iter().find_map(|beginning| known.get(beginning).copied())
    }

    fn learn(&self, beginnings: [u64; 2], pool: u64) {
        if self.of(beginnings) == Some(pool) {
            return;
        }
        let mut known = self.known.write();
        if known.len() + beginnings.len() > MOST_POOLS {
            known.clear();
        }
        let [long, short] = beginnings;
        // What shares its first segment with others does not change their group.
        known.entry(short).or_insert(pool);
        known.insert(long, pool);
        self.any.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pacing() -> Pacing {
        let text = "server: {host: localhost, port: 0}\nroutes: {\"*\": \"http://a\"}\n";
        let config = crate::config::parse("config.yaml", text, &|_| None).unwrap_or_else(|faults| panic!("{faults}"));
        Pacing::new(&config).expect("a thread")
    }

    fn is_in(pacing: &Pacing, path: &str, pool: u64) -> bool {
        let keys = pacing.keys(0, Credential::None, None, path, &CommonKeys::new());
        keys.holds(Scope::Pool(pool))
    }

    #[test]
    fn paths_that_begin_alike_are_counted_together_until_they_are_told_apart() {
        let pacing = pacing();
        let learn = |path, pool| pacing.learn_pool(0, path, Scope::Pool(pool));
        learn("/repos/a/b/issues", 1);
        assert!(is_in(&pacing, "/repos/c/d?page=2", 1) && !is_in(&pacing, "/search/issues", 1));
        learn("/search/issues", 2);
        learn("/search/code?q=x", 3);
        assert!(is_in(&pacing, "/search/issues?q=y", 2), "another group of the same first segment changes nothing");
        assert!(is_in(&pacing, "/search/code", 3));
        assert!(is_in(&pacing, "/search/users", 2), "the group that was told first, until its own is told");
        learn("/", 4);
        assert!(is_in(&pacing, "", 4));
    }

    #[test]
    fn what_is_remembered_of_groups_is_bounded_and_new_ones_are_still_learned() {
        let pacing = pacing();
        for nth in 0..3 * MOST_POOLS as u64 {
            let path = format!("/{nth}");
            pacing.learn_pool(0, &path, Scope::Pool(nth));
            assert!(is_in(&pacing, &path, nth));
        }
        assert!(pacing.routes[0].pools.known.read().len() <= MOST_POOLS);
    }
}
