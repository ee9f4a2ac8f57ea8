//! What a reload finds again: lists of limits by what they are for, and what is known of routes and providers.
//!
//! See ADR 0012.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use cooldown_pacer::LimitsId;

use super::keys::Pools;
use super::line::Line;
use crate::config::Config;
use crate::config::model::{Provider, Route, Upstream};

/// A route or a provider. One whose upstream is somewhere else is another one: what the first had taught says nothing
/// about the second.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    is_provider: bool,
    name: String,
    tls: bool,
    host: String,
    port: u16,
}

/// What a list of limits is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum ListName {
    /// All requests of a route or provider.
    Upstream(Owner),
    /// Each of its API keys.
    Key(Owner),
    /// Each model, for each key.
    Model(Owner),
    /// The models that this glob matches.
    Glob(Owner, String),
    /// Groups that only the upstream forms.
    Pool(Owner),
    /// A configured domain; whether for each host apart.
    Domain(String, bool),
    /// Domains without an entry behind one route for certain hosts.
    DefaultOf(Owner),
    /// Domains without an entry that several routes can serve.
    SharedDefault,
    /// A configured client.
    Client(String),
}

/// What is known of a route or provider beside its limits.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub pools: Arc<Pools>,
    /// Hashes of its API keys; the place of a key is the subject that it is counted under.
    keys: Vec<u64>,
}

/// Everything that a reload finds again.
#[derive(Debug, Clone, Default)]
pub(super) struct Carried {
    lists: HashMap<ListName, (Arc<Line>, LimitsId)>,
    known: HashMap<Owner, Known>,
    /// Routes and providers of the configuration before that have another name in the next one.
    renamed: Vec<(Owner, Owner)>,
    /// The number of the next new list.
    next: u32,
}

impl Owner {
    pub(super) fn route(route: &Route) -> Self {
        Self::new(false, &route.name, &route.upstream)
    }

    pub(super) fn provider(provider: &Provider) -> Self {
        Self::new(true, &provider.name, &provider.upstream)
    }

    /// Those of a configuration: routes, then providers.
    pub(super) fn all(config: &Config) -> Vec<Self> {
        config.routes.iter().map(Self::route).chain(config.providers.iter().map(Self::provider)).collect()
    }

    fn new(is_provider: bool, name: &str, upstream: &Upstream) -> Self {
        let Upstream { tls, host, port, .. } = upstream;
        Self { is_provider, name: name.to_owned(), tls: *tls, host: host.clone(), port: *port }
    }

    pub(super) fn is_provider(&self) -> bool {
        self.is_provider
    }

    /// Whether both lead to the same upstream.
    pub(super) fn leads_where(&self, other: &Self) -> bool {
        (self.tls, &self.host, self.port) == (other.tls, &other.host, other.port)
    }

    /// Whether both lead to the same upstream in the same way, whatever they are called.
    fn is_like(&self, other: &Self) -> bool {
        let Self { is_provider, name: _, tls, host, port } = self;
        (is_provider, tls, host, port) == (&other.is_provider, &other.tls, &other.host, &other.port)
    }
}

impl ListName {
    /// The route or provider that it belongs to.
    pub(super) fn owner(&self) -> Option<&Owner> {
        match self {
            Self::Upstream(owner)
            | Self::Key(owner)
            | Self::Model(owner)
            | Self::Glob(owner, _)
            | Self::Pool(owner)
            | Self::DefaultOf(owner) => Some(owner),
            Self::Domain(..) | Self::SharedDefault | Self::Client(_) => None,
        }
    }

    fn owner_mut(&mut self) -> Option<&mut Owner> {
        match self {
            Self::Upstream(owner)
            | Self::Key(owner)
            | Self::Model(owner)
            | Self::Glob(owner, _)
            | Self::Pool(owner)
            | Self::DefaultOf(owner) => Some(owner),
            Self::Domain(..) | Self::SharedDefault | Self::Client(_) => None,
        }
    }
}

/// The same on every instance, whatever the order in its configuration: `provider groq https://api.groq.com:443`.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { is_provider, name, tls, host, port } = self;
        let kind = if *is_provider { "provider" } else { "route" };
        write!(f, "{kind} {name} {}://{host}:{port}", if *tls { "https" } else { "http" })
    }
}

/// What all instances call it.
impl fmt::Display for ListName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream(owner) => write!(f, "{owner}"),
            Self::Key(owner) => write!(f, "{owner} key"),
            Self::Model(owner) => write!(f, "{owner} model"),
            Self::Glob(owner, glob) => write!(f, "{owner} models {glob}"),
            Self::Pool(owner) => write!(f, "{owner} group"),
            Self::Domain(domain, per_host) => write!(f, "domain {domain}{}", if *per_host { " host" } else { "" }),
            Self::DefaultOf(owner) => write!(f, "{owner} host"),
            Self::SharedDefault => f.write_str("host"),
            Self::Client(name) => write!(f, "client {name}"),
        }
    }
}

impl Known {
    /// The subjects that keys with these hashes are counted under: a known key keeps its own, wherever it stands now.
    pub(super) fn subjects(&mut self, hashes: impl Iterator<Item = u64>) -> Vec<u64> {
        let subject = |hash| match self.keys.iter().position(|known| *known == hash) {
            Some(subject) => subject as u64,
            None => {
                self.keys.push(hash);
                self.keys.len() as u64 - 1
            }
        };
        hashes.map(subject).collect()
    }
}

impl Carried {
    /// What is there for a new configuration. What belonged to a route or provider that is gone belongs to a new one with
    /// the same upstream, if there is one such pair only: it was renamed.
    pub(super) fn for_owners(&self, new: &[Owner]) -> Self {
        let mut carried = self.clone();
        carried.renamed.clear();
        let gone: Vec<&Owner> = self.known.keys().filter(|owner| !new.contains(owner)).collect();
        let come: Vec<&Owner> = new.iter().filter(|owner| !self.known.contains_key(owner)).collect();
        for owner in &come {
            let before: Vec<&&Owner> = gone.iter().filter(|gone| gone.is_like(owner)).collect();
            let is_only_one = come.iter().filter(|other| other.is_like(owner)).count() == 1;
            if let ([before], true) = (before.as_slice(), is_only_one) {
                carried.rename(before, owner);
                carried.renamed.push(((**before).clone(), (*owner).clone()));
            }
        }
        carried
    }

    fn rename(&mut self, before: &Owner, after: &Owner) {
        let named = std::mem::take(&mut self.lists).into_iter().map(|(mut name, list)| {
            name.owner_mut().filter(|owner| *owner == before).into_iter().for_each(|owner| *owner = after.clone());
            (name, list)
        });
        self.lists = named.collect();
        let known = self.known.remove(before);
        self.known.extend(known.map(|known| (after.clone(), known)));
    }

    /// The place among these owners of the one that goes on where another one stops: the same one, or else a new one that
    /// leads to the same upstream.
    pub(super) fn successor(&self, before: &Owner, all_before: &[Owner], owners: &[Owner]) -> Option<usize> {
        let renamed = self.renamed.iter().find(|(old, _)| old == before).map_or(before, |(_, new)| new);
        let same = owners.iter().position(|owner| owner == renamed);
        same.or_else(|| owners.iter().position(|owner| owner.leads_where(before) && !all_before.contains(owner)))
    }

    /// All routes and providers that are known.
    pub(super) fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.known.keys()
    }

    /// A route or provider itself, and all that are gone and led to the same upstream: what was in flight or counted there
    /// concerns its limits. One that is new has to do with those that stay as well.
    pub(super) fn joined_by(&self, owner: &Owner, config: &Config) -> Vec<Owner> {
        let all = Owner::all(config);
        let is_new = !self.known.contains_key(owner);
        let others = self.owners().filter(|other| *other != owner && other.leads_where(owner));
        let others = others.filter(|other| is_new || !all.contains(other));
        std::iter::once(owner).chain(others).cloned().collect()
    }

    /// Whether both have API keys of ours, and none in common.
    pub(super) fn uses_other_keys(&self, one: &Owner, other: &Owner) -> bool {
        let keys = |owner| self.known.get(owner).map_or(&[][..], |known| known.keys.as_slice());
        let (one, other) = (keys(one), keys(other));
        !one.is_empty() && !other.is_empty() && !one.iter().any(|key| other.contains(key))
    }

    /// The line that a list lives in.
    pub(super) fn line(&self, name: &ListName) -> Option<&Arc<Line>> {
        self.lists.get(name).map(|(line, _)| line)
    }

    /// The lines that lists of a route or provider live in: one, unless most of what was known is forgotten.
    pub(super) fn lines_of(&self, owner: &Owner) -> Vec<Arc<Line>> {
        let lists = self.lists.iter().filter(|(name, _)| name.owner() == Some(owner));
        lists.map(|(_, (line, _))| Arc::clone(line)).collect()
    }

    /// A list that there was.
    pub(super) fn list(&self, name: &ListName) -> Option<&(Arc<Line>, LimitsId)> {
        self.lists.get(name)
    }

    /// The list of this name, which is a new one in this line if there was none.
    pub(super) fn list_in(&mut self, line: &Arc<Line>, name: ListName) -> LimitsId {
        let next = &mut self.next;
        let (_, limits) = self.lists.entry(name).or_insert_with(|| {
            *next += 1;
            (Arc::clone(line), LimitsId::new(*next - 1))
        });
        *limits
    }

    /// What is known of a route or provider.
    pub(super) fn known(&mut self, owner: &Owner) -> &mut Known {
        self.known.entry(owner.clone()).or_default()
    }

    /// Lets one line take over others.
    pub(super) fn join(&mut self, base: &Arc<Line>, others: &[Arc<Line>]) {
        for other in others {
            base.absorb(other);
            let lists = self.lists.values_mut().map(|(line, _)| line).filter(|line| Arc::ptr_eq(line, other));
            lists.for_each(|line| *line = Arc::clone(base));
        }
    }

    /// Forgets what is not among the new owners and lists, once nothing is left of it.
    pub(super) fn forget_gone(&mut self, owners: &[Owner], is_stated: impl Fn(&ListName) -> bool) {
        self.lists.retain(|name, (line, limits)| is_stated(name) || line.remembers(*limits));
        let lists = &self.lists;
        let has_lists = |owner: &Owner| lists.keys().any(|name| name.owner() == Some(owner));
        self.known.retain(|owner, _| owners.contains(owner) || has_lists(owner));
    }

    /// Lists that are there, stated now or before.
    pub(super) fn lists(&self) -> impl Iterator<Item = (&ListName, &(Arc<Line>, LimitsId))> {
        self.lists.iter()
    }
}
