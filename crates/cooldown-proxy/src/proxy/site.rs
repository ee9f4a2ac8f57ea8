//! What all workers share and none changes: routes, callers, limits.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};

use super::caller::Callers;
use super::error::ProxyError;
use super::route::{Matched, Router};
use super::target::Target;
use crate::config::Config;
use crate::config::model::{HostHeader, Keys, Match, Provider, ProviderKind, Upstream};
use crate::pacing::Pacing;
use crate::telemetry::{AccessLog, Metrics, RouteMetrics};
use crate::upstream::{Endpoint, Pool, Tls};

/// The proxy as configured.
#[derive(Debug)]
pub struct Site {
    router: Router,
    /// Routes in the order of the file, then providers.
    pub(super) routes: Vec<Route>,
    /// By the index of the route.
    endpoints: Vec<Endpoint>,
    pub(super) callers: Callers,
    pub(super) pacing: Pacing,
    pub(super) max_wait: Duration,
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
    /// What is sent in place of the client's credentials.
    pub credentials: Option<(HeaderName, HeaderValue)>,
    /// Whether its upstream's base path goes in front of requests that ask for its host by name.
    pub base_path_always: bool,
    pub metrics: Arc<RouteMetrics>,
}

impl Site {
    /// Builds everything that requests need.
    ///
    /// # Errors
    /// When the TLS library or the system refuses what is asked of it.
    pub fn new(config: &Config, metrics: Arc<Metrics>, access: AccessLog) -> anyhow::Result<Self> {
        let pacing = Pacing::new(config).context("the pacing thread cannot be started")?;
        let routes = routes(config, &metrics);
        let endpoints = endpoints(&routes)?;
        let callers = Callers::new(config.clients.clone(), config.queue.client_by.clone());
        let (max_wait, idle_timeout) = (config.queue.max_wait, config.server.idle_timeout);
        let router = router(config);
        Ok(Self { router, routes, endpoints, callers, pacing, max_wait, idle_timeout, metrics, access })
    }

    /// Lets the figures include the room that limits have. The figures do not keep the site alive.
    pub fn tell_room(self: &Arc<Self>) {
        let site = Arc::downgrade(self);
        self.metrics.ask_for_room(Box::new(move || site.upgrade().map(|site| site.pacing.room()).unwrap_or_default()));
    }

    /// What is paced.
    pub fn pacing(&self) -> &Pacing {
        &self.pacing
    }

    /// The route of a request. One that names a host in its request line means that host: only routes for it count.
    pub(super) fn route(&self, target: &Target<'_>, path: &str) -> Result<Matched, ProxyError> {
        let found = if target.absolute {
            self.router.find_host(&target.host, target.port)
        } else {
            self.router.find(&target.host, target.port, path)
        };
        found.ok_or_else(|| ProxyError::NoRoute { host: target.host.to_string(), path: path.to_owned() })
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

fn router(config: &Config) -> Router {
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

fn routes(config: &Config, metrics: &Metrics) -> Vec<Route> {
    let routes = config.routes.iter().map(|route| Route::new(&route.name, &route.upstream, None, true, metrics));
    let providers = config
        .providers
        .iter()
        .map(|provider| Route::new(&provider.name, &provider.upstream, credentials(provider), false, metrics));
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

/// A provider's own key, in the field in which it expects one.
fn credentials(provider: &Provider) -> Option<(HeaderName, HeaderValue)> {
    let Keys::Ours(keys) = &provider.keys else { return None };
    let key = keys.first()?.expose();
    let field = match provider.kind {
        ProviderKind::Anthropic => HeaderName::from_static("x-api-key"),
        ProviderKind::Azure => HeaderName::from_static("api-key"),
        ProviderKind::Gemini => HeaderName::from_static("x-goog-api-key"),
        _ => AUTHORIZATION,
    };
    let text = if field == AUTHORIZATION { format!("Bearer {key}") } else { key.to_owned() };
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some((field, value))
}

impl Route {
    fn new(
        name: &str,
        upstream: &Upstream,
        credentials: Option<(HeaderName, HeaderValue)>,
        base_path_always: bool,
        metrics: &Metrics,
    ) -> Self {
        Self {
            name: Arc::from(name),
            name_value: HeaderValue::from_str(name).unwrap_or_else(|_| HeaderValue::from_static("route")),
            upstream: upstream.clone(),
            authority: authority(upstream),
            credentials,
            base_path_always,
            metrics: metrics.route(name),
        }
    }

    /// Whether the upstream's own `host` is sent in place of the client's.
    pub(super) fn sends_own_host(&self) -> bool {
        self.upstream.host_header == HostHeader::Upstream
    }
}
