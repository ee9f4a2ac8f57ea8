//! What all workers share and none changes: routes, callers, limits.

use std::collections::HashMap;
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
use crate::config::Config;
use crate::config::model::{HostHeader, Match, ProviderKind, Upstream};
use crate::pacing::Pacing;
use crate::telemetry::{AccessLog, LimitFigures, Metrics, RouteMetrics};
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
    pub(super) pacing: Pacing,
    pub(super) retry: RetryRules,
    pub(super) returning: Returning,
    pub(super) max_wait: Duration,
    pub(super) max_body: usize,
    /// For the bodies that are kept.
    pub(super) memory: Arc<BodyMemory>,
    pub(super) keepalive: Option<Duration>,
    pub(super) idle_timeout: Duration,
    pub(super) metrics: Arc<Metrics>,
    pub(super) access: AccessLog,
}

/// A way to an upstream: a configured route or a provider.
#[derive(Debug)]
pub(super) struct Route {
    pub name: Arc<str>,
    /// The name, as clients are told it.
    pub name_value: HeaderValue,
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
    pub meanings: Meanings,
    pub retry_budget: RetryBudget,
    /// Whether its upstream could be reached lately.
    pub reach: Reach,
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
    /// When the TLS library or the system refuses what is asked of it.
    pub fn new(config: &Config, metrics: Arc<Metrics>, access: AccessLog) -> anyhow::Result<Self> {
        let pacing = Pacing::new(config).context("the pacing thread cannot be started")?;
        let routes = routes(config, &metrics);
        api::load_tokenizers(&config.providers).context("the tokenizers' thread cannot be started")?;
        let endpoints = endpoints(&routes)?;
        Ok(Self {
            router: router(config),
            models: ModelTable::new(&config.providers),
            first_provider: config.routes.len(),
            routes,
            endpoints,
            callers: Callers::new(config.clients.clone(), config.queue.client_by.clone()),
            pacing,
            retry: RetryRules::new(&config.retry),
            returning: Returning::default(),
            max_wait: config.queue.max_wait,
            max_body: usize::try_from(config.server.max_body).unwrap_or(usize::MAX),
            memory: Arc::new(BodyMemory::of_process(usize::try_from(config.server.max_body).unwrap_or(usize::MAX))),
            keepalive: config.queue.keepalive,
            idle_timeout: config.server.idle_timeout,
            metrics,
            access,
        })
    }

    /// Lets the figures tell how the limits stand. The figures do not keep the site alive.
    pub fn tell_limits(self: &Arc<Self>) {
        let site = Arc::downgrade(self);
        let figures = |site: Arc<Self>| LimitFigures { room: site.pacing.room(), cooldowns: site.pacing.cooldowns() };
        self.metrics.ask_for_limits(Box::new(move || site.upgrade().map(figures).unwrap_or_default()));
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

    /// A worker's pools by the index of the route; routes to one upstream share one.
    pub(super) fn pools(&self) -> Vec<Rc<Pool>> {
        let mut shared: HashMap<(bool, &str, u16, Duration), Rc<Pool>> = HashMap::new();
        let routes = self.routes.iter().zip(&self.endpoints);
        routes
            .map(|(route, endpoint)| {
                let upstream = &route.upstream;
                let key = (upstream.tls, upstream.host.as_str(), upstream.port, upstream.connect_timeout);
                Rc::clone(shared.entry(key).or_insert_with(|| Rc::new(Pool::new(endpoint.clone()))))
            })
            .collect()
    }
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
        Endpoint::new(&route.upstream, tls.as_ref())
            .with_context(|| format!("`{}` is no host name that a certificate can carry", route.upstream.host))
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

impl Route {
    fn new(name: &str, upstream: &Upstream, kind: ProviderKind, api: Option<Api>, metrics: &Metrics) -> Self {
        Self {
            name: Arc::from(name),
            name_value: HeaderValue::from_str(name).unwrap_or_else(|_| HeaderValue::from_static("route")),
            upstream: upstream.clone(),
            authority: authority(upstream),
            kind,
            api,
            base_path_always: false,
            meanings: Meanings::default(),
            retry_budget: RetryBudget::default(),
            reach: Reach::default(),
            metrics: metrics.route(name),
        }
    }

    /// Whether the upstream's own `host` is sent in place of the client's.
    pub(super) fn sends_own_host(&self) -> bool {
        self.upstream.host_header == HostHeader::Upstream
    }
}
