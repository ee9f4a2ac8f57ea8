//! What all workers share and none changes: routes, callers, limits. A reload makes another one.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::HeaderValue;
use smallvec::SmallVec;

use super::api::{self, Api};
use super::arrival::Arrival;
use super::body_memory::BodyMemory;
use super::caller::Callers;
use super::error::ProxyError;
use super::meanings::Meanings;
use super::models::ModelTable;
use super::reach::Reach;
use super::retry::{RetryBudget, RetryRules};
use super::returning::Returning;
use super::route::{Matched, Router};
use super::target::Target;
use super::told::Named;
use crate::config::Config;
use crate::config::model::{HostHeader, Match, ProviderKind, Upstream};
use crate::pacing::Pacing;
use crate::telemetry::{AccessLog, LimitFigures, Metrics, RouteMetrics, Tracer};
use crate::upstream::{Endpoint, Pool, Tls};

/// The proxy as configured.
#[derive(Debug)]
pub struct Site {
    router: Router,
    models: ModelTable,
    /// Routes in the order of the file, then providers.
    pub(super) routes: Vec<Route>,
    /// The index of the first provider among the routes.
    first_provider: usize,
    /// By the index of the route.
    endpoints: Vec<Endpoint>,
    pub(super) callers: Callers,
    pub(super) pacing: Arc<Pacing>,
    pub(super) retry: RetryRules,
    pub(super) returning: Arc<Returning>,
    pub(super) max_wait: Duration,
    pub(super) max_body: usize,
    /// For the bodies that are kept.
    pub(super) memory: Arc<BodyMemory>,
    pub(super) keepalive: Option<Duration>,
    pub(super) idle_timeout: Duration,
    pub(super) metrics: Arc<Metrics>,
    pub(super) access: AccessLog,
    /// `None` where no traces are told.
    pub(super) tracer: Option<Tracer>,
}

/// A way to an upstream: a configured route or a provider.
#[derive(Debug)]
pub(super) struct Route {
    pub name: Arc<str>,
    /// The name, as clients are told it.
    pub named: Arc<Named>,
    pub upstream: Upstream,
    /// The upstream's own `host`.
    pub authority: HeaderValue,
    /// What kind of API it is.
    pub kind: ProviderKind,
    /// What is known of an API with models and keys; `None` for routes.
    pub api: Option<Api>,
    /// Whether its upstream's base path goes in front of requests that ask for its host by name.
    pub base_path_always: bool,
    /// What its upstream means by what it says about limits.
    pub meanings: Arc<Meanings>,
    pub retry_budget: Arc<RetryBudget>,
    /// Whether its upstream could be reached lately.
    pub reach: Arc<Reach>,
    pub metrics: Arc<RouteMetrics>,
}

/// Where a request's host or path leads.
#[derive(Debug, Clone, Copy)]
pub(super) enum Led {
    /// To one route.
    To(Matched),
    /// Its model decides; if it names none that is served, it goes to the route for everything else.
    ByModel {
        /// The route for everything else.
        otherwise: Option<Matched>,
    },
}

impl Led {
    /// The route that is certain.
    pub(super) fn matched(self) -> Option<Matched> {
        match self {
            Self::To(matched) => Some(matched),
            Self::ByModel { .. } => None,
        }
    }
}

impl Site {
    /// Builds everything that requests need.
    ///
    /// # Errors
    /// When the TLS library or the system refuses what is asked of it, or another process uses the state's folder.
    pub fn new(config: &Config, metrics: Arc<Metrics>, access: AccessLog) -> anyhow::Result<Self> {
        let pacing = Pacing::start(config, &metrics).context("the pacing cannot be started")?;
        let pacing = Arc::new(pacing);
        let routes = routes(config, &metrics);
        go_on_resting(&routes, &pacing);
        api::load_tokenizers(&config.providers).context("the tokenizers' thread cannot be started")?;
        let endpoints = endpoints(&routes)?;
        let memory = Arc::new(BodyMemory::of_process(max_body(config)));
        Ok(Self::with(config, pacing, (routes, endpoints), (Arc::default(), memory), (metrics, access)))
    }

    /// The site for a changed configuration. What was learned and what is counted goes on; nothing has changed if it fails.
    /// The new limits hold at once, and routes when workers have it.
    ///
    /// # Errors
    /// When the TLS library or the system refuses what is asked of it.
    pub fn reload(&self, config: &Config) -> anyhow::Result<Self> {
        let mut routes = routes(config, &self.metrics);
        for route in &mut routes {
            if let Some(before) = self.routes.iter().find(|before| before.is_same(route)) {
                route.go_on_from(before);
            }
        }
        let endpoints = endpoints(&routes)?;
        let max_body = max_body(config);
        let memory = match max_body == self.max_body {
            true => Arc::clone(&self.memory),
            false => Arc::new(BodyMemory::of_process(max_body)),
        };
        let told = (Arc::clone(&self.metrics), self.access.clone());
        api::load_tokenizers(&config.providers).context("the tokenizers' thread cannot be started")?;
        let pacing = self.pacing.reload(config);
        go_on_resting(&routes, &pacing);
        let site = Self::with(config, pacing, (routes, endpoints), (Arc::clone(&self.returning), memory), told);
        Ok(site.traced(self.tracer.clone()))
    }

    /// The same, with traces of its requests.
    #[must_use]
    pub fn traced(self, tracer: Option<Tracer>) -> Self {
        Self { tracer, ..self }
    }

    fn with(
        config: &Config,
        pacing: Arc<Pacing>,
        (routes, endpoints): (Vec<Route>, Vec<Endpoint>),
        (returning, memory): (Arc<Returning>, Arc<BodyMemory>),
        (metrics, access): (Arc<Metrics>, AccessLog),
    ) -> Self {
        Self {
            router: router(config),
            models: ModelTable::new(&config.providers),
            first_provider: config.routes.len(),
            routes,
            endpoints,
            callers: Callers::new(config.clients.clone(), config.queue.client_by.clone()),
            pacing,
            retry: RetryRules::new(&config.retry),
            returning,
            max_wait: config.queue.max_wait,
            max_body: max_body(config),
            memory,
            keepalive: config.queue.keepalive,
            idle_timeout: config.server.idle_timeout,
            metrics,
            access,
            tracer: None,
        }
    }

    /// How the limits stand.
    pub fn limits(&self) -> LimitFigures {
        LimitFigures { room: self.pacing.room(), cooldowns: self.pacing.cooldowns(), shared: self.pacing.shared() }
    }

    /// What a person calls the sender of a request.
    pub(super) fn called(&self, arrival: &Arrival) -> Box<str> {
        self.callers.called(&arrival.caller, &arrival.peer, &self.pacing)
    }

    /// What is paced.
    pub fn pacing(&self) -> &Pacing {
        &self.pacing
    }

    /// Where a request leads. One that names a host in its request line means that host: only routes for it count.
    pub(super) fn lead(&self, target: &Target<'_>, path: &str) -> Result<Led, ProxyError> {
        if target.absolute {
            let found = self.router.find_host(&target.host, target.port).map(Led::To);
            return found.ok_or_else(|| no_route(target, path));
        }
        if let Some(matched) = self.router.find_named(&target.host, target.port, path) {
            return Ok(Led::To(matched));
        }
        match self.router.find_other() {
            otherwise if !self.models.is_empty() => Ok(Led::ByModel { otherwise }),
            Some(matched) => Ok(Led::To(matched)),
            None => Err(no_route(target, path)),
        }
    }

    /// The routes of the providers that serve a model, in the order of the configuration.
    pub(super) fn providers_of(&self, model: &str) -> SmallVec<[usize; 2]> {
        self.models.candidates(model).into_iter().map(|provider| self.first_provider + provider).collect()
    }

    /// A worker's pools by the index of the route; routes to one upstream share one. Pools that there are go on.
    pub(super) fn pools<'a>(&'a self, before: &[(&'a Upstream, Rc<Pool>)]) -> Vec<Rc<Pool>> {
        let mut shared = before.to_vec();
        let routes = self.routes.iter().zip(&self.endpoints);
        let pools = routes.map(|(route, endpoint)| {
            let upstream = &route.upstream;
            if let Some((_, pool)) = shared.iter().find(|(other, _)| other.shares_connections_with(upstream)) {
                return Rc::clone(pool);
            }
            let pool = Rc::new(Pool::new(endpoint.clone()));
            shared.push((upstream, Rc::clone(&pool)));
            pool
        });
        pools.collect()
    }

    /// Its pools with what they have in common.
    pub(super) fn with_pools(&self, pools: &[Rc<Pool>]) -> Vec<(&Upstream, Rc<Pool>)> {
        self.routes.iter().map(|route| &route.upstream).zip(pools.iter().cloned()).collect()
    }
}

fn max_body(config: &Config) -> usize {
    usize::try_from(config.server.max_body).unwrap_or(usize::MAX)
}

/// Where hosts and paths lead, as configured.
pub(crate) fn router(config: &Config) -> Router {
    let mut router = Router::default();
    for (index, route) in config.routes.iter().enumerate() {
        router.insert(&route.rule, index);
    }
    for (index, provider) in (config.routes.len()..).zip(&config.providers) {
        router.insert_endpoint(&provider.upstream, index);
        router.insert(&Match::Path(format!("/{}", provider.name)), index);
    }
    router
}

fn no_route(target: &Target<'_>, path: &str) -> ProxyError {
    ProxyError::NoRoute { host: target.host.to_string(), path: path.to_owned(), model: None }
}

fn routes(config: &Config, metrics: &Metrics) -> Vec<Route> {
    let routes = config.routes.iter().map(|route| Route {
        base_path_always: true,
        ..Route::new(&route.name, &route.upstream, route.provider, None, metrics)
    });
    let providers = config.providers.iter().map(|provider| {
        Route::new(&provider.name, &provider.upstream, provider.kind, Some(Api::new(provider)), metrics)
    });
    routes.chain(providers).collect()
}

fn endpoints(routes: &[Route]) -> anyhow::Result<Vec<Endpoint>> {
    let tls = match routes.iter().any(|route| route.upstream.tls) {
        true => Some(Tls::with_system_roots().context("TLS cannot be set up")?),
        false => None,
    };
    let endpoint = |route: &Route| {
        Endpoint::new(&route.upstream, tls.as_ref()).with_context(|| format!("the upstream `{}`", route.upstream.host))
    };
    routes.iter().map(endpoint).collect()
}

/// What `host` says about an upstream: the port only where it does not go without saying.
fn authority(upstream: &Upstream) -> HeaderValue {
    let host = &upstream.host;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let default = upstream.port == if upstream.tls { 443 } else { 80 };
    let text = if default { host } else { format!("{host}:{}", upstream.port) };
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Keys that an earlier process left alone are left alone.
fn go_on_resting(routes: &[Route], pacing: &Pacing) {
    for (index, route) in routes.iter().enumerate() {
        route.go_on_resting(|key| pacing.rested(index, key));
    }
}

impl Route {
    fn new(name: &str, upstream: &Upstream, kind: ProviderKind, api: Option<Api>, metrics: &Metrics) -> Self {
        Self {
            name: Arc::from(name),
            named: Named::new(name),
            upstream: upstream.clone(),
            authority: authority(upstream),
            kind,
            api,
            base_path_always: false,
            meanings: Arc::default(),
            retry_budget: Arc::default(),
            reach: Arc::default(),
            metrics: metrics.route(name),
        }
    }

    /// Whether it leads to the same upstream under the same name.
    fn is_same(&self, other: &Self) -> bool {
        let place = |route: &Self| (route.api.is_some(), route.kind, route.upstream.tls, route.upstream.port);
        place(self) == place(other) && self.name == other.name && self.upstream.host == other.upstream.host
    }

    /// Knows from now on what the same route of the configuration before knows, and tells it what it learns.
    fn go_on_from(&mut self, before: &Self) {
        self.meanings = Arc::clone(&before.meanings);
        self.retry_budget = Arc::clone(&before.retry_budget);
        self.reach = Arc::clone(&before.reach);
        if let (Some(api), Some(before)) = (&mut self.api, &before.api) {
            api.go_on_from(before);
        }
    }

    /// Whether the upstream's own `host` is sent in place of the client's.
    pub(super) fn sends_own_host(&self) -> bool {
        self.upstream.host_header == HostHeader::Upstream
    }
}
