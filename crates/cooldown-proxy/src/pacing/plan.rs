//! Which limits share a pacer.
//!
//! All limits that can concern one request must live in one pacer (all or nothing, one line). So routes, domains and
//! clients are nodes of a graph, joined wherever one request could meet both; each connected part gets a pacer. Where
//! it is not certain, they are joined: that costs a little contention, the opposite would cost exactness.

use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;

use cooldown_pacer::{Key, Limit, LimitsId, Pacer, Settings};
use foldhash::quality::RandomState;

use super::alarm::{Alarm, AlarmThread};
use super::clock::Clock;
use super::line::Line;
use super::room::Named;
use super::{Counted, DomainEntry, Pacing, RouteLimits};
use crate::config::Config;
use crate::config::model::{DomainLimits, Keys, Match};
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
    named: Vec<(Scope, String, Key)>,
    limited: bool,
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
        let mut routes = self.route_limits(config, &mut parts);
        self.name_hosts(config, &mut parts, &routes, &domains, &hasher);

        let clock = Clock::start();
        let limited = parts.iter().filter(|part| part.limited).count();
        let alarm = Arc::new(Alarm::new(limited));
        let (mut lines, mut named) = (Vec::with_capacity(limited), Vec::new());
        for (place, part) in parts.into_iter().enumerate().filter(|(_, part)| part.limited) {
            let line = Arc::new(Line::new(part.pacer, clock, Arc::clone(&alarm), lines.len()));
            for (index, route) in routes.iter_mut().enumerate() {
                if self.part(Node::Route(index)) == place {
                    route.line = Some(Arc::clone(&line));
                }
            }
            let name = |(scope, name, key)| Named { scope, name, line: Arc::clone(&line), key };
            named.extend(part.named.into_iter().map(name));
            lines.push(line);
        }
        let alarm = AlarmThread::start(alarm, lines.clone(), clock)?;
        Ok(Pacing { clock, routes, domains, clients, lines, named, hasher, _alarm: alarm })
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

    fn route_limits(&self, config: &Config, parts: &mut [Part]) -> Vec<RouteLimits> {
        let mut all = Vec::with_capacity(self.routes);
        for (index, route) in config.routes.iter().enumerate() {
            let part = &mut parts[self.part(Node::Route(index))];
            let own = part.add_named(&route.limits, Scope::Upstream, &route.name);
            let default = if route.takes_default_limits() { part.default(&config.default_limits) } else { None };
            all.push(RouteLimits { line: None, own: own.map(|limits| (limits, Counted::Together)), default });
        }
        for provider in &config.providers {
            let part = &mut parts[self.part(Node::Route(all.len()))];
            let own = match &provider.keys {
                // One key serves all callers.
                Keys::Ours(_) => part
                    .add_named(&provider.limits, Scope::Upstream, &provider.name)
                    .map(|limits| (limits, Counted::Together)),
                Keys::Client => part.add(&provider.limits).map(|limits| (limits, Counted::PerCredentials)),
            };
            all.push(RouteLimits { line: None, own, default: None });
        }
        all
    }

    /// Hosts with a route of their own have buckets that can be named, even where each host has its own.
    fn name_hosts(
        &self,
        config: &Config,
        parts: &mut [Part],
        routes: &[RouteLimits],
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
                parts[self.part(Node::Route(index))].named.push((Scope::Domain, host.clone(), key));
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
        Self { pacer: Pacer::new(settings), default: None, named: Vec::new(), limited: false }
    }

    fn add(&mut self, limits: &[Limit]) -> Option<LimitsId> {
        if limits.is_empty() {
            return None;
        }
        self.limited = true;
        Some(self.pacer.add_limits(limits.to_vec()))
    }

    fn add_named(&mut self, limits: &[Limit], scope: Scope, name: &str) -> Option<LimitsId> {
        let limits = self.add(limits)?;
        self.named.push((scope, name.to_owned(), Key::whole(limits)));
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
