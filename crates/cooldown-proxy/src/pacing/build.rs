//! Pacers for what a plan says: a line for each part, with the lists of limits that live in it, and what changes in those
//! that are there already.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::BuildHasher;
use std::io;
use std::sync::{Arc, OnceLock};

use cooldown_pacer::{Instant, Key, Limit, LimitsId, Settings, Teaching};
use foldhash::quality::{FixedState, RandomState};

use super::alarm::AlarmThread;
use super::carried::{Carried, ListName, Owner};
use super::change::{Change, Legacy, Statement};
use super::clock::Clock;
use super::keys::Label;
use super::ledger::{Ledger, Memory, SyncingThread};
use super::line::Line;
use super::plan::{Node, Plan, domain_name, domain_table, may_meet_any, rules};
use super::room::{LabelTable, Labels, List, Named};
use super::shared::{self, SharedList, Sharing};
use super::{DomainEntry, Lists, Pacing, RouteLimits};
use crate::config::model::{Keys, Limits, Match, Provider, ProviderKind, Route};
use crate::config::{Config, Secret};
use crate::provider::{self, Scope as LimitScope};
use crate::proxy::route::HostTable;
use crate::telemetry::Scope;

/// At most this many buckets and flows are kept in one pacer, whatever clients choose to be called.
const MAX_KEYS: usize = 100_000;
const MAX_FLOWS: usize = 100_000;

/// What has to change in each line.
pub(super) type Changes = Vec<(Arc<Line>, Change)>;

/// A line while it is being filled.
struct Part {
    line: Arc<Line>,
    /// What can be named of the limits that live in it.
    named: Vec<(Scope, String, Label, Key)>,
    /// The lists that upstreams may add to, with their upstreams' names.
    taught: Vec<(String, LimitsId)>,
    /// The lists that other instances use too, and what these call them.
    shared: Vec<(LimitsId, String)>,
    change: Change,
}

/// Makes what a plan says.
struct Build<'a> {
    plan: &'a Plan,
    config: &'a Config,
    hasher: FixedState,
    /// By the place of the part's representative; `None` where no route leads.
    parts: Vec<Option<Part>>,
    carried: Carried,
    /// What this configuration has lists for.
    stated: HashSet<ListName>,
    /// The lists of the configuration before, line by line.
    before: &'a [Group],
    sharing: Option<Arc<Sharing>>,
    clock: Clock,
    ledger: Option<Arc<Ledger>>,
    /// What the ledger says, once somebody has asked: by the names of lists.
    remembered: Option<Remembered>,
    /// Keys of ours that an earlier process left alone, and until when.
    resting: Vec<(Key, Instant)>,
}

/// What an earlier process wrote down: subjects by the names of lists.
type Remembered = HashMap<String, Vec<(u64, Memory)>, foldhash::fast::RandomState>;

/// What a line holds by one configuration.
#[derive(Debug)]
pub(super) struct Group {
    pub line: Arc<Line>,
    pub lists: BTreeSet<LimitsId>,
}

/// The limits of a route before it has a line.
struct Stated {
    lists: Lists,
    default: Option<LimitsId>,
}

impl Plan {
    /// Makes a pacer of each part, from nothing.
    pub(super) fn build(
        self,
        config: &Config,
        clock: Clock,
        ledger: Option<Arc<SyncingThread>>,
        sharing: Option<Arc<Sharing>>,
    ) -> io::Result<(Pacing, Vec<LimitsId>)> {
        let alarm = Arc::new(AlarmThread::start(clock)?);
        let seed = ledger.as_ref().map_or_else(|| RandomState::default().hash_one(0), |thread| thread.ledger().seed());
        let means = (clock, &*alarm, ledger.as_ref().map(|thread| thread.ledger()));
        let build = Build::new(&self, config, super::hasher(seed), Carried::default(), means, (&[], sharing));
        let (pacing, changes, lists) = build.finish(Arc::default(), 0, clock, alarm, ledger);
        pacing.name_lists();
        changes.into_iter().for_each(|(line, change)| line.change(&change));
        let shared = lists.iter().map(|list| list.id).collect();
        pacing.sharing.iter().for_each(|sharing| sharing.state(lists.clone()));
        Ok((pacing, shared))
    }

    /// Makes a pacer of each part, from those that there are, and says what has to change in them.
    pub(super) fn rebuild(
        self,
        config: &Config,
        carried: Carried,
        before: &Pacing,
    ) -> (Pacing, Changes, Vec<SharedList>) {
        let (clock, alarm) = (before.clock, Arc::clone(&before.alarm));
        let ledger = before.ledger.clone();
        let means = (clock, &*alarm, ledger.as_ref().map(|thread| thread.ledger()));
        let kept = (&before.groups[..], before.sharing.clone());
        let build = Build::new(&self, config, before.hasher.clone(), carried, means, kept);
        build.finish(Arc::clone(before.labels.known()), before.number + 1, clock, alarm, ledger)
    }
}

impl<'a> Build<'a> {
    fn new(
        plan: &'a Plan,
        config: &'a Config,
        hasher: FixedState,
        carried: Carried,
        (clock, alarm, ledger): (Clock, &AlarmThread, Option<&Arc<Ledger>>),
        (before, sharing): (&'a [Group], Option<Arc<Sharing>>),
    ) -> Self {
        let stated = HashSet::new();
        let (parts, ledger_again, resting) = (Vec::new(), ledger.cloned(), Vec::new());
        let mut build = Self {
            plan,
            config,
            hasher,
            parts,
            carried,
            stated,
            before,
            sharing,
            clock,
            ledger: ledger_again,
            remembered: None,
            resting,
        };
        let settings = settings(config);
        let before = plan.lines_before(config, &build.carried);
        for place in 0..plan.parents.len() {
            // Nothing waits where no route leads.
            let part = plan.leads_to(place).then(|| {
                let mut lines: Vec<Arc<Line>> = Vec::new();
                for (_, line) in before.iter().filter(|(node, _)| plan.part(*node) == place) {
                    if !lines.iter().any(|known| Arc::ptr_eq(known, line)) {
                        lines.push(Arc::clone(line));
                    }
                }
                let line = match lines.split_first() {
                    Some((base, others)) => {
                        build.carried.join(base, others);
                        base.set_settings(settings);
                        Arc::clone(base)
                    }
                    None => Line::new(settings, clock, alarm.alarm(), ledger.cloned()),
                };
                let sharer = build.sharing.as_ref().map(|sharing| sharing.sharer());
                let change = Change { sharer, ..Change::default() };
                Part { line, named: Vec::new(), taught: Vec::new(), shared: Vec::new(), change }
            });
            build.parts.push(part);
        }
        build
    }

    fn finish(
        mut self,
        known: Arc<LabelTable>,
        number: u32,
        clock: Clock,
        alarm: Arc<AlarmThread>,
        ledger: Option<Arc<SyncingThread>>,
    ) -> (Pacing, Changes, Vec<SharedList>) {
        let clients = self.client_limits();
        let domains = self.domain_limits();
        let stated = self.route_limits();
        self.name_hosts(&stated, &domains);
        let routes = self.routes(stated);
        let owners = Owner::all(self.config);
        self.carried.forget_gone(&owners, |name| self.stated.contains(name));

        let (mut named, mut taught, mut shared) = (Vec::new(), Vec::new(), Vec::new());
        let (mut lines, mut groups, mut changes): (Vec<Arc<Line>>, Vec<Group>, Changes) = Default::default();
        for part in self.parts.into_iter().flatten() {
            shared.extend(part.shared_lists());
            let Part { line, named: of_part, taught: lists, shared: _, mut change } = part;
            let group =
                Group { line: Arc::clone(&line), lists: change.statements.iter().map(|list| list.id).collect() };
            let before = self.before.iter().filter(|before| before.line.is_now(&line));
            let before: Vec<&BTreeSet<LimitsId>> = before.map(|before| &before.lists).collect();
            let is_other = before.iter().any(|lists| **lists != group.lists) || before.len() > 1;
            change.regroups = is_other.then_some(number);
            change.gone = before.iter().flat_map(|lists| lists.difference(&group.lists)).copied().collect();
            groups.push(group);
            changes.push((Arc::clone(&line), change));
            let name = |(scope, name, label, key)| Named { scope, name, label, line: Arc::clone(&line), key };
            named.extend(of_part.into_iter().map(name));
            let list = |(upstream, limits)| List { upstream, limits, line: Arc::clone(&line) };
            taught.extend(lists.into_iter().map(list));
            lines.push(line);
        }
        // Lines that no route leads to any more have requests that finish.
        for (_, (line, _)) in self.carried.lists() {
            if !lines.iter().any(|known| Arc::ptr_eq(known, line)) {
                lines.push(Arc::clone(line));
            }
        }
        let (labels, hasher, carried) = (Labels::new(taught, known), self.hasher, self.carried);
        let client_names = self.config.clients.iter().flatten().map(|client| client.name.clone()).collect();
        let next = OnceLock::new();
        let pacing = Pacing {
            clock,
            routes,
            domains,
            clients,
            lines,
            named,
            labels,
            hasher,
            carried,
            alarm,
            ledger,
            groups,
            owners,
            client_names,
            resting: self.resting,
            number,
            next,
            sharing: self.sharing,
        };
        (pacing, changes, shared)
    }

    fn routes(&mut self, stated: Vec<Stated>) -> Vec<RouteLimits> {
        let owners = Owner::all(self.config);
        let routes = stated.into_iter().zip(owners).enumerate().filter_map(|(index, (stated, owner))| {
            let line = Arc::clone(&self.parts[self.plan.part(Node::Route(index))].as_ref()?.line);
            let pools = Arc::clone(&self.carried.known(&owner).pools);
            Some(RouteLimits { line, lists: stated.lists, default: stated.default, pools })
        });
        routes.collect()
    }

    /// States a list of limits in the part of a node; `None` where no request can reach it.
    fn list(&mut self, node: Node, name: ListName, limits: &Limits, teaching: Option<Teaching>) -> Option<LimitsId> {
        let place = self.plan.part(node);
        let line = Arc::clone(&self.parts[place].as_ref()?.line);
        let shared = limits.shared && self.sharing.is_some();
        let is_unknown = self.carried.list(&name).is_none();
        let id = self.carried.list_in(&line, name.clone());
        let recalled = if is_unknown { self.recalled(id, &name, shared) } else { Vec::new() };
        let legacy = if self.is_new(&line, id, limits) { self.legacy(&name) } else { Legacy::None };
        let statement = Statement { id, limits: limits.to_vec(), teaching, legacy, recalled, shared };
        let part = self.parts[place].as_mut()?;
        part.change.statements.push(statement);
        part.shared.extend(shared.then(|| (id, name.to_string())));
        self.stated.insert(name);
        Some(id)
    }

    /// What an earlier process wrote down of a list that a reload brings. What other instances use too, they know together.
    fn recalled(&mut self, id: LimitsId, name: &ListName, shared: bool) -> Vec<(u64, Memory)> {
        // At the start, all is recalled at once.
        let (false, Some(ledger)) = (self.before.is_empty(), &self.ledger) else { return Vec::new() };
        let remembered = self.remembered.get_or_insert_with(|| ledger.look_again(self.clock));
        let recalled = remembered.remove(&name.to_string()).unwrap_or_default();
        for (subject, memory) in &recalled {
            let key = Key { limits: id, subject: *subject };
            self.resting.extend(memory.rests.map(|lasting| (key, self.clock.now().after(lasting))));
        }
        if shared { Vec::new() } else { recalled }
    }

    /// Whether a list has limits now and had none in the configuration before, if there was one.
    fn is_new(&self, line: &Arc<Line>, id: LimitsId, limits: &[Limit]) -> bool {
        let was_stated = self.before.iter().any(|group| group.lists.contains(&id));
        let had_limits = was_stated && line.has_limits(id);
        !(limits.is_empty() || self.before.is_empty() || had_limits)
    }

    /// What a list that comes inherits.
    fn legacy(&self, name: &ListName) -> Legacy {
        let owners = Owner::all(self.config);
        let served_by: Vec<Owner> = match name {
            ListName::DefaultOf(owner) => vec![owner.clone()],
            ListName::Domain(domain, _) => {
                let entry = self.config.domain_limits.iter().find(|entry| entry.name.eq_ignore_ascii_case(domain));
                let meets = |rule| entry.is_none_or(|entry| may_meet_any(rule, &entry.rule));
                rules(self.config).filter(|(_, rule)| meets(*rule)).map(|(route, _)| owners[route].clone()).collect()
            }
            _ => owners,
        };
        self.carried.legacy(name, &served_by)
    }

    /// The same for limits that nobody adds to. None of them is no list.
    fn fixed(&mut self, node: Node, name: ListName, limits: &Limits) -> Option<LimitsId> {
        if limits.is_empty() { None } else { self.list(node, name, limits, None) }
    }

    fn client_limits(&mut self) -> Vec<Option<LimitsId>> {
        let clients = self.config.clients.iter().flatten().enumerate();
        let limits = clients.map(|(index, client)| {
            let node = Node::Client(index);
            let limits = self.fixed(node, ListName::Client(client.name.clone()), &client.limits)?;
            self.name(node, Scope::Client, &client.name, Label::default(), Key::whole(limits));
            Some(limits)
        });
        limits.collect()
    }

    fn domain_limits(&mut self) -> HostTable<DomainEntry> {
        domain_table(self.config, |index, entry| {
            let node = Node::Domain(index);
            let limits = self.fixed(node, domain_name(entry), &entry.limits);
            if let Some(limits) = limits.filter(|_| !entry.per_host) {
                self.name(node, Scope::Domain, &entry.name, Label::default(), Key::whole(limits));
            }
            DomainEntry { limits, per_host: entry.per_host }
        })
    }

    fn route_limits(&mut self) -> Vec<Stated> {
        let config = self.config;
        let routes = config.routes.iter().enumerate().filter_map(|(index, route)| {
            let node = Node::Route(index);
            let default = if route.takes_default_limits() { self.default(node, route) } else { None };
            Some(Stated { lists: self.of_route(node, route)?, default })
        });
        let mut all: Vec<Stated> = routes.collect();
        for provider in &config.providers {
            let lists = self.of_provider(Node::Route(all.len()), provider);
            all.extend(lists.map(|lists| Stated { lists, default: None }));
        }
        all
    }

    fn default(&mut self, node: Node, route: &Route) -> Option<LimitsId> {
        let name = match route.rule {
            Match::Path(_) | Match::Any => ListName::SharedDefault,
            Match::Host(_) | Match::Subdomains(_) => ListName::DefaultOf(Owner::route(route)),
        };
        self.fixed(node, name, &self.config.default_limits)
    }

    /// Hosts with a route of their own have buckets that can be named, even where each host has its own.
    fn name_hosts(&mut self, routes: &[Stated], domains: &HostTable<DomainEntry>) {
        for (index, route) in self.config.routes.iter().enumerate() {
            let Match::Host(host) = &route.rule else { continue };
            let own = match domains.find(host) {
                Some(entry) => entry.limits.filter(|_| entry.per_host),
                None => routes[index].default,
            };
            if let Some(limits) = own {
                let key =
                    Key { limits, subject: shared::fingerprint(self.sharing.is_some(), &self.hasher, host.as_bytes()) };
                self.name(Node::Route(index), Scope::Domain, host, Label::default(), key);
            }
        }
    }

    /// The lists of a route: what its clients' credentials allow is for the upstream to teach.
    fn of_route(&mut self, node: Node, route: &Route) -> Option<Lists> {
        let is_open = route.limits.is_empty() && route.provider != ProviderKind::Generic;
        let owner = Owner::route(route);
        let name = ListName::Upstream(owner.clone());
        let upstream = self.teach(node, &route.name, name, &route.limits, Teaching::Bold)?;
        self.name(node, Scope::Upstream, &route.name, Label::default(), Key::whole(upstream));
        // What is learned of an upstream is shared as its limits are.
        let none = Limits { shared: route.limits.shared, ..Limits::default() };
        self.lists(node, &owner, (&route.name, route.provider), upstream, &none, is_open)
    }

    /// The lists of a provider: its limits hold for each key.
    fn of_provider(&mut self, node: Node, provider: &Provider) -> Option<Lists> {
        let name = &provider.name;
        let is_open = !provider.limits.iter().any(|limit| matches!(limit, Limit::Rate(_)));
        let owner = Owner::provider(provider);
        let none = Limits { shared: provider.limits.shared, ..Limits::default() };
        let upstream = self.teach(node, name, ListName::Upstream(owner.clone()), &none, Teaching::Bold)?;
        let mut lists = self.lists(node, &owner, (name, provider.kind), upstream, &provider.limits, is_open)?;
        for (glob, limits) in &provider.model_limits {
            let limits = self.fixed(node, ListName::Glob(owner.clone(), glob.to_string()), limits);
            lists.globs.extend(limits.map(|limits| (glob.clone(), limits)));
        }
        if let Keys::Ours(keys) = &provider.keys {
            let hash = |key: &Secret| match &self.sharing {
                None => self.hasher.hash_one(key.expose().as_bytes()),
                Some(_) => shared::subject_of_key(key),
            };
            let hashes: Vec<u64> = keys.iter().map(hash).collect();
            lists.subjects = self.carried.known(&owner).subjects(hashes.into_iter());
            for (index, &subject) in lists.subjects.iter().enumerate() {
                let label = Label { key: (keys.len() > 1).then(|| (index + 1).to_string().into()), model: None };
                self.name(node, Scope::Upstream, name, label, Key { limits: lists.key, subject });
            }
        }
        Some(lists)
    }

    /// An upstream whose limits nobody has stated is met with caution, where its kind counts: for each model or key.
    fn lists(
        &mut self,
        node: Node,
        owner: &Owner,
        (name, kind): (&str, ProviderKind),
        upstream: LimitsId,
        of_key: &Limits,
        is_open: bool,
    ) -> Option<Lists> {
        let by_model = provider::usual_scope(kind) == LimitScope::Model;
        let caution = |is_cautious| if is_cautious { Teaching::Cautious } else { Teaching::Bold };
        let key = self.teach(node, name, ListName::Key(owner.clone()), of_key, caution(is_open && !by_model))?;
        let none = Limits { shared: of_key.shared, ..Limits::default() };
        let model = self.teach(node, name, ListName::Model(owner.clone()), &none, caution(is_open && by_model))?;
        let pool = self.teach(node, name, ListName::Pool(owner.clone()), &none, Teaching::Bold)?;
        Some(Lists { upstream, key, subjects: Vec::new(), model, globs: Vec::new(), pool })
    }

    fn teach(
        &mut self,
        node: Node,
        upstream: &str,
        name: ListName,
        limits: &Limits,
        teaching: Teaching,
    ) -> Option<LimitsId> {
        let id = self.list(node, name, limits, Some(teaching))?;
        self.part(node)?.taught.push((upstream.to_owned(), id));
        Some(id)
    }

    fn name(&mut self, node: Node, scope: Scope, name: &str, label: Label, key: Key) {
        if let Some(part) = self.part(node) {
            part.named.push((scope, name.to_owned(), label, key));
        }
    }

    fn part(&mut self, node: Node) -> Option<&mut Part> {
        self.parts[self.plan.part(node)].as_mut()
    }
}

impl Part {
    /// What the instances that use its lists too have to know of them.
    fn shared_lists(&self) -> impl Iterator<Item = SharedList> {
        self.shared.iter().filter_map(|(id, name)| {
            let statement = self.change.statements.iter().find(|statement| statement.id == *id)?;
            let named = self.named.iter().map(|(.., key)| *key).filter(|key| key.limits == *id);
            let upstream = self.taught.iter().find(|(_, list)| list == id).map(|(upstream, _)| upstream.clone());
            Some(SharedList {
                line: Arc::clone(&self.line),
                id: *id,
                name: name.clone(),
                upstream,
                limits: statement.limits.clone(),
                lasting: named.collect(),
            })
        })
    }
}

fn settings(config: &Config) -> Settings {
    let queue = &config.queue;
    Settings {
        guard: queue.guard,
        ageing: queue.ageing,
        max_depth: queue.max_depth,
        max_keys: MAX_KEYS,
        max_flows: MAX_FLOWS,
    }
}
