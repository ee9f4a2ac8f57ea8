//! Which limits share a pacer.
//!
//! All limits that can concern one request must live in one pacer (all or nothing, one line). So routes, domains and
//! clients are nodes of a graph, joined wherever one request could meet both; each connected part gets a pacer. Where
//! it is not certain, they are joined: that costs a little contention, the opposite would cost exactness.

use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;

use cooldown_pacer::{Key, Limit, LimitsId, Pacer, Settings, Teaching};
use foldhash::quality::RandomState;

use super::alarm::{Alarm, AlarmThread};
use super::clock::Clock;
use super::keys::{Label, Pools};
use super::line::Line;
use super::room::{Labels, List, Named};
use super::{DomainEntry, Lists, Pacing, RouteLimits};
use crate::config::Config;
use crate::config::model::{DomainLimits, Keys, Match, Provider, ProviderKind, Route};
use crate::provider::{self, Scope as LimitScope};
use crate::proxy::route::HostTable;
use crate::telemetry::Scope;

/// At most this many buckets and flows are kept in one pacer, whatever clients choose to be called.
const MAX_KEYS: usize = 100_000;
const MAX_FLOWS: usize = 100_000;

/// A limit list or a route, as a node of the graph.
#[derive(Debug, Clone, Copy)]
enum Node {
    Route(usize),
    Domain(usize),
    Client(usize),
    /// The limits of domains without an entry, for hosts that several routes can serve.
    SharedDefault,
}

/// The graph, as a forest in which each node points towards its part's representative.
#[derive(Debug)]
pub(super) struct Plan {
    parents: Vec<usize>,
    routes: usize,
    domains: usize,
}

/// A pacer while it is being filled.
struct Part {
    pacer: Pacer,
    default: Option<LimitsId>,
    /// What can be named of the limits that live in it.
    named: Vec<(Scope, String, Label, Key)>,
    /// The lists that upstreams may add to, with their upstreams' names.
    taught: Vec<(String, LimitsId)>,
}

/// The limits of a route before it has a line.
struct Stated {
    lists: Lists,
    default: Option<LimitsId>,
}

impl Plan {
    pub(super) fn of(config: &Config) -> Self {
        let routes = config.routes.len() + config.providers.len();
        let domains = config.domain_limits.len();
        let clients = config.clients.as_ref().map_or(0, Vec::len);
        let nodes = routes + domains + clients + 1;
        let mut plan = Self { parents: (0..nodes).collect(), routes, domains };
        plan.join_domains(config);
        plan.join_defaults(config);
        plan.join_clients(config);
        plan
    }

    fn join_domains(&mut self, config: &Config) {
        let table = domain_table(config, |index, _| index);
        for (route, rule) in rules(config) {
            match rule {
                // An exact host meets one entry at most.
                Some(Match::Host(host)) => {
                    if let Some(domain) = table.find(host) {
                        self.join(Node::Route(route), Node::Domain(*domain));
                    }
                }
                rule => {
                    for (domain, entry) in config.domain_limits.iter().enumerate() {
                        if may_meet(rule, &entry.rule) {
                            self.join(Node::Route(route), Node::Domain(domain));
                        }
                    }
                }
            }
        }
    }

    /// A host belongs to one exact or wildcard route for good, so that only the other routes can share one.
    fn join_defaults(&mut self, config: &Config) {
        if config.default_limits.is_empty() {
            return;
        }
        for (index, route) in config.routes.iter().enumerate() {
            if matches!(route.rule, Match::Path(_) | Match::Any) && route.takes_default_limits() {
                self.join(Node::Route(index), Node::SharedDefault);
            }
        }
    }

    /// A client with limits of its own may use every route.
    fn join_clients(&mut self, config: &Config) {
        for (index, client) in config.clients.iter().flatten().enumerate() {
            if !client.limits.is_empty() {
                (0..self.routes).for_each(|route| self.join(Node::Route(route), Node::Client(index)));
            }
        }
    }

    fn place(&self, node: Node) -> usize {
        match node {
            Node::Route(index) => index,
            Node::Domain(index) => self.routes + index,
            Node::SharedDefault => self.routes + self.domains,
            Node::Client(index) => self.routes + self.domains + 1 + index,
        }
    }

    fn join(&mut self, one: Node, other: Node) {
        let (one, other) = (self.part(one), self.part(other));
        self.parents[other] = one;
    }

    fn part(&self, node: Node) -> usize {
        let mut place = self.place(node);
        while self.parents[place] != place {
            place = self.parents[place];
        }
        place
    }

    /// Makes a pacer of each part.
    pub(super) fn build(self, config: &Config) -> io::Result<Pacing> {
        let hasher = RandomState::default();
        let mut parts: Vec<Part> = self.parents.iter().map(|_| Part::new(config)).collect();
        let clients = self.client_limits(config, &mut parts);
        let domains = self.domain_limits(config, &mut parts);
        let stated = self.route_limits(config, &mut parts);
        self.name_hosts(config, &mut parts, &stated, &domains, &hasher);

        let clock = Clock::start();
        // Nothing waits where no route leads.
        let used: Vec<usize> = (0..parts.len()).filter(|&place| self.leads_to(place)).collect();
        let alarm = Arc::new(Alarm::new(used.len()));
        let (mut lines, mut named, mut taught) = (Vec::with_capacity(used.len()), Vec::new(), Vec::new());
        let mut of_part = vec![None; parts.len()];
        for (place, part) in parts.into_iter().enumerate().filter(|(place, _)| used.contains(place)) {
            let line = Arc::new(Line::new(part.pacer, clock, Arc::clone(&alarm), lines.len()));
            of_part[place] = Some(Arc::clone(&line));
            let name = |(scope, name, label, key)| Named { scope, name, label, line: Arc::clone(&line), key };
            named.extend(part.named.into_iter().map(name));
            let list = |(upstream, limits)| List { upstream, limits, line: Arc::clone(&line) };
            taught.extend(part.taught.into_iter().map(list));
            lines.push(line);
        }
        let routes = stated.into_iter().enumerate().filter_map(|(index, stated)| {
            let line = of_part[self.part(Node::Route(index))].clone()?;
            Some(RouteLimits { line, lists: stated.lists, default: stated.default })
        });
        let routes = routes.collect();
        let alarm = AlarmThread::start(alarm, lines.clone(), clock)?;
        let labels = Labels::new(taught);
        let pools = Pools::default();
        Ok(Pacing { clock, routes, domains, clients, lines, named, labels, pools, hasher, _alarm: alarm })
    }

    fn leads_to(&self, place: usize) -> bool {
        (0..self.routes).any(|route| self.part(Node::Route(route)) == place)
    }

    fn client_limits(&self, config: &Config, parts: &mut [Part]) -> Vec<Option<LimitsId>> {
        let clients = config.clients.iter().flatten().enumerate();
        let limits = clients.map(|(index, client)| {
            let part = &mut parts[self.part(Node::Client(index))];
            part.add_named(&client.limits, Scope::Client, &client.name)
        });
        limits.collect()
    }

    fn domain_limits(&self, config: &Config, parts: &mut [Part]) -> HostTable<DomainEntry> {
        domain_table(config, |index, entry| {
            let part = &mut parts[self.part(Node::Domain(index))];
            let limits = match entry.per_host {
                true => part.add(&entry.limits),
                false => part.add_named(&entry.limits, Scope::Domain, &entry.name),
            };
            DomainEntry { limits, per_host: entry.per_host }
        })
    }

    fn route_limits(&self, config: &Config, parts: &mut [Part]) -> Vec<Stated> {
        let routes = config.routes.iter().enumerate().map(|(index, route)| {
            let part = &mut parts[self.part(Node::Route(index))];
            let default = if route.takes_default_limits() { part.default(&config.default_limits) } else { None };
            Stated { lists: part.of_route(route), default }
        });
        let mut all: Vec<Stated> = routes.collect();
        for provider in &config.providers {
            let part = &mut parts[self.part(Node::Route(all.len()))];
            all.push(Stated { lists: part.of_provider(provider), default: None });
        }
        all
    }

    /// Hosts with a route of their own have buckets that can be named, even where each host has its own.
    fn name_hosts(
        &self,
        config: &Config,
        parts: &mut [Part],
        routes: &[Stated],
        domains: &HostTable<DomainEntry>,
        hasher: &RandomState,
    ) {
        for (index, route) in config.routes.iter().enumerate() {
            let Match::Host(host) = &route.rule else { continue };
            let own = match domains.find(host) {
                Some(entry) => entry.limits.filter(|_| entry.per_host),
                None => routes[index].default,
            };
            if let Some(limits) = own {
                let key = Key { limits, subject: hasher.hash_one(host.as_bytes()) };
                parts[self.part(Node::Route(index))].named.push((Scope::Domain, host.clone(), Label::default(), key));
            }
        }
    }
}

impl Part {
    fn new(config: &Config) -> Self {
        let queue = &config.queue;
        let settings = Settings {
            guard: queue.guard,
            ageing: queue.ageing,
            max_depth: queue.max_depth,
            max_keys: MAX_KEYS,
            max_flows: MAX_FLOWS,
        };
        Self { pacer: Pacer::new(settings), default: None, named: Vec::new(), taught: Vec::new() }
    }

    /// The lists of a route: what its clients' credentials allow is for the upstream to teach.
    fn of_route(&mut self, route: &Route) -> Lists {
        let is_open = route.limits.is_empty() && route.provider != ProviderKind::Generic;
        let upstream = self.teach(&route.name, &route.limits, Teaching::Bold);
        self.name(Scope::Upstream, &route.name, Label::default(), Key::whole(upstream));
        self.lists(&route.name, route.provider, upstream, &[], is_open)
    }

    /// The lists of a provider: its limits hold for each key.
    fn of_provider(&mut self, provider: &Provider) -> Lists {
        let name = &provider.name;
        let is_open = !provider.limits.iter().any(|limit| matches!(limit, Limit::Rate(_)));
        let upstream = self.teach(name, &[], Teaching::Bold);
        let mut lists = self.lists(name, provider.kind, upstream, &provider.limits, is_open);
        let globs = provider.model_limits.iter();
        lists.globs = globs.map(|(glob, limits)| (glob.clone(), self.pacer.add_limits(limits.clone()))).collect();
        if let Keys::Ours(keys) = &provider.keys {
            for index in 0..keys.len() {
                let label = Label { key: (keys.len() > 1).then(|| (index + 1).to_string().into()), model: None };
                self.name(Scope::Upstream, name, label, Key { limits: lists.key, subject: index as u64 });
            }
        }
        lists
    }

    /// An upstream whose limits nobody has stated is met with caution, where its kind counts: for each model or key.
    fn lists(&mut self, name: &str, kind: ProviderKind, upstream: LimitsId, of_key: &[Limit], is_open: bool) -> Lists {
        let by_model = provider::usual_scope(kind) == LimitScope::Model;
        let caution = |is_cautious| if is_cautious { Teaching::Cautious } else { Teaching::Bold };
        let key = self.teach(name, of_key, caution(is_open && !by_model));
        let model = self.teach(name, &[], caution(is_open && by_model));
        let pool = self.teach(name, &[], Teaching::Bold);
        Lists { upstream, key, model, globs: Vec::new(), pool }
    }

    fn teach(&mut self, upstream: &str, limits: &[Limit], teaching: Teaching) -> LimitsId {
        let id = self.pacer.add_teaching_limits(limits.to_vec(), teaching);
        self.taught.push((upstream.to_owned(), id));
        id
    }

    fn name(&mut self, scope: Scope, name: &str, label: Label, key: Key) {
        self.named.push((scope, name.to_owned(), label, key));
    }

    fn add(&mut self, limits: &[Limit]) -> Option<LimitsId> {
        (!limits.is_empty()).then(|| self.pacer.add_limits(limits.to_vec()))
    }

    fn add_named(&mut self, limits: &[Limit], scope: Scope, name: &str) -> Option<LimitsId> {
        let limits = self.add(limits)?;
        self.name(scope, name, Label::default(), Key::whole(limits));
        Some(limits)
    }

    fn default(&mut self, limits: &[Limit]) -> Option<LimitsId> {
        if self.default.is_none() {
            self.default = self.add(limits);
        }
        self.default
    }
}

/// What each route matches, by index; `None` for a provider, which several hosts can reach and which the default limits
/// do not concern.
fn rules(config: &Config) -> impl Iterator<Item = (usize, Option<&Match>)> {
    let providers = config.providers.iter().map(|_| None);
    config.routes.iter().map(|route| Some(&route.rule)).chain(providers).enumerate()
}

/// Whether a request that a route matches may ask for a domain that an entry matches.
fn may_meet(route: Option<&Match>, entry: &Match) -> bool {
    match (route, entry) {
        (Some(Match::Subdomains(suffix)), Match::Host(host)) => host.ends_with(suffix.as_str()),
        (Some(Match::Subdomains(one)), Match::Subdomains(other)) => {
            one.ends_with(other.as_str()) || other.ends_with(one.as_str())
        }
        _ => true,
    }
}

fn domain_table<T>(config: &Config, mut value: impl FnMut(usize, &DomainLimits) -> T) -> HostTable<T> {
    let mut table = HostTable::default();
    for (index, entry) in config.domain_limits.iter().enumerate() {
        table.insert(&entry.rule, value(index, entry));
    }
    table
}
