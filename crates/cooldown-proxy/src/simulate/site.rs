//! Where requests lead under a configuration, and what they take there: the proxy's own rules, without the proxy.

use std::sync::Arc;

use cooldown_pacer::{Ask, Cost, Flow, Instant, Key, Pacer, Urgency, Weight};

use super::workload::{Target, Tokens};
use crate::config::Config;
use crate::config::model::{Keys, Provider};
use crate::pacing::{Credential, Line, Pacing};
use crate::provider::{Estimate, Usage};
use crate::proxy::{ModelTable, Router, reserved, router, spent};

/// What a configuration means for requests.
pub(super) struct Site<'a> {
    config: &'a Config,
    pacing: Pacing,
    router: Router,
    models: ModelTable,
    /// The lines, each once.
    lines: Vec<Arc<Line>>,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) flow: Flow,
    weight: Weight,
    urgency: Urgency,
    /// The index of the configured client.
    client: Option<usize>,
    /// What stands for credentials of its own.
    credentials: u64,
}

/// One way to an upstream.
#[derive(Debug, Clone)]
pub(super) struct Way {
    /// The place of its line.
    pub(super) line: usize,
    keys: Vec<Key>,
    /// What is taken at the departure.
    cost: Cost,
    /// What it was in the end.
    pub(super) spent: Cost,
}

impl<'a> Site<'a> {
    pub(super) fn new(config: &'a Config) -> anyhow::Result<Self> {
        let pacing = Pacing::new(config)?;
        let mut lines: Vec<Arc<Line>> = Vec::new();
        for route in 0..config.routes.len() + config.providers.len() {
            let line = pacing.line(route);
            if !lines.iter().any(|known| Arc::ptr_eq(known, line)) {
                lines.push(Arc::clone(line));
            }
        }
        let models = ModelTable::new(&config.providers);
        Ok(Self { config, pacing, router: router(config), models, lines })
    }

    /// The pacers, as they are before the first request, by the places of their lines.
    pub(super) fn pacers(&self) -> Vec<Pacer> {
        self.lines.iter().map(|line| line.pacer()).collect()
    }

    /// Who has this name. Where clients are configured, it is one of them.
    pub(super) fn caller(&self, name: &str, nth: u32) -> Result<Caller, String> {
        let configured = self.config.clients.as_ref();
        let Some(clients) = configured else {
            let hash = self.pacing.hash(format!("{name} {nth}").as_bytes());
            let (weight, urgency) = (Weight::ONE, Urgency::default());
            return Ok(Caller { flow: Flow(hash), weight, urgency, client: None, credentials: hash });
        };
        let found = clients.iter().enumerate().find(|(_, client)| client.name == name);
        let (index, client) = found.ok_or_else(|| format!("client {name} is none of the configured `clients`"))?;
        let (weight, urgency) = (client.weight, client.urgency);
        let credentials = self.pacing.fingerprint(name.as_bytes());
        Ok(Caller { flow: Flow(index as u64), weight, urgency, client: Some(index), credentials })
    }

    /// The route or provider of this name.
    pub(super) fn route_named(&self, name: &str) -> Option<usize> {
        let routes = self.config.routes.iter().map(|route| route.name.as_str());
        let mut all = routes.chain(self.config.providers.iter().map(|provider| provider.name.as_str()));
        all.position(|known| known == name)
    }

    /// The routes that requests for a target may take; none when no route matches.
    pub(super) fn routes(&self, target: &Target) -> Vec<usize> {
        if let Some(matched) = self.router.find_named(&target.host, None, &target.path) {
            return vec![matched.route];
        }
        let first = self.config.routes.len();
        let candidates = target.model.as_deref().map(|model| self.models.candidates(model)).unwrap_or_default();
        let is_primary = |index: &&usize| !self.config.providers[**index].fallback;
        // Nothing fails here, so that a fallback serves only what nobody else does.
        let primary: Vec<usize> = candidates.iter().filter(is_primary).map(|index| first + index).collect();
        if !primary.is_empty() {
            return primary;
        }
        if !candidates.is_empty() {
            return candidates.iter().map(|index| first + index).collect();
        }
        self.router.find_other().map(|matched| matched.route).into_iter().collect()
    }

    /// The ways by these routes, one for each key.
    pub(super) fn ways(&self, routes: &[usize], target: &Target, caller: Caller, tokens: Option<Tokens>) -> Vec<Way> {
        routes.iter().flat_map(|route| self.ways_of(*route, target, caller, tokens)).collect()
    }

    fn ways_of(&self, route: usize, target: &Target, caller: Caller, tokens: Option<Tokens>) -> Vec<Way> {
        let provider = route.checked_sub(self.config.routes.len()).map(|index| &self.config.providers[index]);
        let credentials: Vec<Credential> = match provider.map(|provider| &provider.keys) {
            None => vec![Credential::None],
            Some(Keys::Client) => vec![Credential::Callers(caller.credentials)],
            Some(Keys::Ours(keys)) => (0..keys.len()).map(Credential::Ours).collect(),
        };
        let model = target.model.as_deref().map(|model| own_name(provider, model));
        let named = self.router.find_named(&target.host, None, &target.path).map(|matched| matched.route);
        let common = self.pacing.common_keys(named.or(Some(route)), &target.host, caller.client);
        let (cost, spent) = costs(provider, tokens);
        let line = self.pacing.line(route);
        let line = self.lines.iter().position(|known| Arc::ptr_eq(known, line)).unwrap_or_default();
        let way = |by| {
            let keys = self.pacing.keys(route, by, model, &target.path, &common).all().to_vec();
            Way { line, keys, cost, spent }
        };
        credentials.into_iter().map(way).collect()
    }
}

impl Caller {
    /// What a request asks for on a way.
    pub(super) fn ask(&self, way: &Way, urgency: Option<Urgency>, latest: Instant) -> Ask {
        let mut ask = Ask::new(self.flow, way.keys.iter().copied());
        ask.weight = self.weight;
        ask.urgency = urgency.unwrap_or(self.urgency);
        ask.cost = way.cost;
        ask.latest = Some(latest);
        ask
    }
}

fn own_name<'a>(provider: Option<&'a Provider>, model: &'a str) -> &'a str {
    let aliases = provider.map(|provider| provider.model_aliases.as_slice()).unwrap_or_default();
    aliases.iter().find(|(alias, _)| alias == model).map_or(model, |(_, own)| own)
}

/// What a request takes at first, and in the end. The estimate is taken to be right, but for what providers reserve.
fn costs(provider: Option<&Provider>, tokens: Option<Tokens>) -> (Cost, Cost) {
    let (Some(provider), Some(tokens)) = (provider, tokens) else { return (Cost::ONE_REQUEST, Cost::ONE_REQUEST) };
    let Tokens { input, output, max_output } = tokens;
    let estimate = Estimate { input, output, most_output: max_output };
    let usage = Usage { input, cached_input: 0, output, total: input.saturating_add(output) };
    (reserved(&provider.charge, &estimate), spent(&provider.charge, &usage))
}
