//! Which limits share a pacer.
//!
//! All limits that can concern one request must live in one pacer (all or nothing, one line). So routes, domains and
//! clients are nodes of a graph, joined wherever one request could meet both; each connected part gets a pacer. Where
//! it is not certain, they are joined: that costs a little contention, the opposite would cost exactness.
//!
//! A reload joins as well what lived in one pacer before, so that a pacer is never split. Pacers that must be one from now
//! on become one, with all that they know.

use std::sync::Arc;

use super::carried::{Carried, ListName, Owner};
use super::line::Line;
use crate::config::Config;
use crate::config::model::{DomainLimits, Match};
use crate::proxy::route::HostTable;

/// A limit list or a route, as a node of the graph.
#[derive(Debug, Clone, Copy)]
pub(super) enum Node {
    Route(usize),
    Domain(usize),
    Client(usize),
    /// The limits of domains without an entry, for hosts that several routes can serve.
    SharedDefault,
}

/// The graph, as a forest in which each node points towards its part's representative.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) parents: Vec<usize>,
    routes: usize,
    domains: usize,
}

impl Plan {
    /// The plan for a configuration. What is carried over stays together.
    pub(super) fn of(config: &Config, carried: &Carried) -> Self {
        let routes = config.routes.len() + config.providers.len();
        let domains = config.domain_limits.len();
        let clients = config.clients.as_ref().map_or(0, Vec::len);
        let nodes = routes + domains + clients + 1;
        let mut plan = Self { parents: (0..nodes).collect(), routes, domains };
        plan.join_domains(config);
        plan.join_defaults(config);
        plan.join_clients(config);
        plan.join_as_before(config, carried);
        plan
    }

    /// Whatever lives in one line stays in one.
    fn join_as_before(&mut self, config: &Config, carried: &Carried) {
        let mut first: Vec<(*const Line, Node)> = Vec::new();
        for (node, line) in self.lines_before(config, carried) {
            match first.iter().find(|(known, _)| *known == Arc::as_ptr(&line)) {
                Some(&(_, other)) => self.join(node, other),
                None => first.push((Arc::as_ptr(&line), node)),
            }
        }
    }

    /// The lines that the limits of nodes live in so far.
    pub(super) fn lines_before(&self, config: &Config, carried: &Carried) -> Vec<(Node, Arc<Line>)> {
        let routes = Owner::all(config).into_iter().enumerate();
        let routes = routes.flat_map(|(index, owner)| {
            let lines: Vec<_> =
                carried.joined_by(&owner, config).iter().flat_map(|owner| carried.lines_of(owner)).collect();
            lines.into_iter().map(move |line| (Node::Route(index), line))
        });
        let domains = config.domain_limits.iter().enumerate();
        let domains = domains.map(|(index, entry)| (Node::Domain(index), domain_name(entry)));
        let clients = config.clients.iter().flatten().enumerate();
        let clients = clients.map(|(index, client)| (Node::Client(index), ListName::Client(client.name.clone())));
        let others = domains.chain(clients).chain([(Node::SharedDefault, ListName::SharedDefault)]);
        let others = others.filter_map(|(node, name)| Some((node, Arc::clone(carried.line(&name)?))));
        routes.chain(others).collect()
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

    pub(super) fn place(&self, node: Node) -> usize {
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

    pub(super) fn part(&self, node: Node) -> usize {
        let mut place = self.place(node);
        while self.parents[place] != place {
            place = self.parents[place];
        }
        place
    }

    pub(super) fn leads_to(&self, place: usize) -> bool {
        (0..self.routes).any(|route| self.part(Node::Route(route)) == place)
    }
}

pub(super) fn domain_name(entry: &DomainLimits) -> ListName {
    ListName::Domain(entry.name.to_ascii_lowercase(), entry.per_host)
}

/// What each route matches, by index; `None` for a provider, which several hosts can reach and which the default limits
/// do not concern.
pub(super) fn rules(config: &Config) -> impl Iterator<Item = (usize, Option<&Match>)> {
    let providers = config.providers.iter().map(|_| None);
    config.routes.iter().map(|route| Some(&route.rule)).chain(providers).enumerate()
}

/// The same for any route.
pub(super) fn may_meet_any(route: Option<&Match>, entry: &Match) -> bool {
    match (route, entry) {
        (Some(Match::Host(host)), Match::Host(other)) => host == other,
        (Some(Match::Host(host)), Match::Subdomains(suffix)) => host.ends_with(suffix.as_str()),
        _ => may_meet(route, entry),
    }
}

/// Whether a request that a route for no exact host matches may ask for a domain that an entry matches.
fn may_meet(route: Option<&Match>, entry: &Match) -> bool {
    match (route, entry) {
        (Some(Match::Subdomains(suffix)), Match::Host(host)) => host.ends_with(suffix.as_str()),
        (Some(Match::Subdomains(one)), Match::Subdomains(other)) => {
            one.ends_with(other.as_str()) || other.ends_with(one.as_str())
        }
        _ => true,
    }
}

/// What is found by the host that a request asks for, for each entry of `rate_limits`.
pub(super) fn domain_table<T>(config: &Config, mut value: impl FnMut(usize, &DomainLimits) -> T) -> HostTable<T> {
    let mut table = HostTable::default();
    for (index, entry) in config.domain_limits.iter().enumerate() {
        table.insert(&entry.rule, value(index, entry));
    }
    table
}
