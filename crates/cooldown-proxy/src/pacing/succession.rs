//! Requests that began by one configuration are paced by the one in force: where their routes are in it, and which keys
//! concern them there.

use std::sync::Arc;

use cooldown_pacer::Key;

use super::carried::Owner;
use super::keys::{Credential, Keys};
use super::line::Line;
use super::{CommonKeys, Pacing};

/// What is in force in place of an earlier configuration.
#[derive(Debug)]
pub(super) struct Next {
    pacing: Arc<Pacing>,
    /// By the index of the route before: its index now, if it goes on.
    routes: Vec<Option<usize>>,
    /// The same for clients.
    clients: Vec<Option<usize>>,
    /// The indices of the clients that were not there before. Whoever is nobody's may be theirs.
    new_clients: Vec<usize>,
}

/// What a request asks its limits for on one way.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The index of the route.
    pub route: usize,
    /// By which credentials it goes.
    pub by: Credential,
    /// The model, as the upstream calls it.
    pub model: Option<&'a str>,
    /// The path, as the upstream has it.
    pub path: &'a str,
    /// The keys that concern it whichever way it goes.
    pub common: &'a CommonKeys,
}

/// What the keys that concern a request whichever way it goes depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The index of the route that its host or path leads to.
    pub route: Option<usize>,
    /// The host: lower case, no port.
    pub host: String,
    /// The index of the configured client.
    pub client: Option<usize>,
}

/// What concerns a request on one way, and where.
#[derive(Debug)]
pub struct Concern {
    /// The keys.
    pub keys: Keys,
    /// The line that it waits in.
    pub line: Arc<Line>,
    /// The number of the configuration in force.
    pub configuration: u32,
}

impl Pacing {
    /// What concerns a request by the configuration in force, whichever it began with.
    pub fn concern(&self, wanted: Wanted<'_>, asked: impl FnOnce() -> Asked) -> Concern {
        if self.next.get().is_some() {
            return self.concern_in_force(wanted, asked());
        }
        let Wanted { route, by, model, path, common } = wanted;
        let keys = self.keys(route, by, model, path, common);
        Concern { keys, line: Arc::clone(self.line(route)), configuration: self.number }
    }

    /// A request whose route does not go on is paced as before. One that belongs to no client and began before some were
    /// configured counts for each of these: a limit that has moved to one of them holds for it as well.
    #[cold]
    fn concern_in_force(&self, wanted: Wanted<'_>, mut asked: Asked) -> Concern {
        let mut subject = self.subject(wanted.route, wanted.by);
        let (mut pacing, mut route, mut common) = (self, wanted.route, wanted.common.clone());
        let mut perhaps: Vec<usize> = Vec::new();
        while let Some(next) = pacing.next.get()
            && let Some(successor) = next.routes[route]
        {
            asked.route = asked.route.and_then(|route| next.routes[route]);
            asked.client = asked.client.and_then(|client| next.clients[client]);
            perhaps = perhaps.iter().filter_map(|client| next.clients[*client]).collect();
            if asked.client.is_none() {
                perhaps.extend_from_slice(&next.new_clients);
            }
            subject = next.pacing.subject_after(&pacing.owners[route], successor, subject);
            (pacing, route) = (&next.pacing, successor);
            common = pacing.common_keys(asked.route, &asked.host, asked.client);
        }
        common.extend(perhaps.iter().filter_map(|client| pacing.clients[*client]).map(Key::whole));
        let keys = pacing.keys_of(route, subject, wanted.model, wanted.path, &common);
        Concern { keys, line: Arc::clone(pacing.line(route)), configuration: pacing.latest().number }
    }

    /// What a request is counted under whose route is gone: where the one in its place has keys of its own, by its first,
    /// which may be the same one.
    fn subject_after(&self, before: &Owner, route: usize, subject: Option<u64>) -> Option<u64> {
        let is_same = self.owners[route].is_provider() == before.is_provider();
        self.routes[route].lists.subjects.first().copied().filter(|_| !is_same).or(subject)
    }

    fn latest(&self) -> &Self {
        std::iter::successors(Some(self), |pacing| pacing.next.get().map(|next| &*next.pacing)).last().unwrap_or(self)
    }

    /// Another configuration is in force from now on.
    pub(super) fn make_way(&self, next: Arc<Self>) {
        let routes =
            self.owners.iter().map(|owner| next.carried.successor(owner, &self.owners, &next.owners)).collect();
        let clients = self.client_names.iter().map(|name| next.client_names.iter().position(|next| next == name));
        let clients = clients.collect();
        let new = next.client_names.iter().enumerate().filter(|(_, name)| !self.client_names.contains(name));
        let new_clients = new.map(|(index, _)| index).collect();
        // There is one only if it was done before.
        let _ = self.next.set(Next { pacing: next, routes, clients, new_clients });
    }
}
