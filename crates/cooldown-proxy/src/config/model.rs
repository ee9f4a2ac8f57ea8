//! What is meant: a configuration in which every value is checked. Nothing here can be wrong, so nothing here is checked again.

mod provider;
mod shared;

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use cooldown_pacer::{Limit, Urgency, Weight};
use http::HeaderName;

use super::identity::{Identity, IdentityFiles};
use super::secret::Secret;
use super::upstream_tls::UpstreamTls;
use super::url::Url;
pub use provider::{KeyField, Keys, Provider, ProviderKind};
pub use shared::{Shared, Store, StoreForm};

/// Everything that the program was told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect, and what they may send.
    pub server: Server,
    /// Routes in the order of the file; in which order they match is the router's business.
    pub routes: Vec<Route>,
    /// Limits by the domain that the client asked for.
    pub domain_limits: Vec<DomainLimits>,
    /// Limits of domains that no entry names; each domain has buckets of its own.
    pub default_limits: Limits,
    /// LLM providers.
    pub providers: Vec<Provider>,
    /// If present, callers must name one of these.
    pub clients: Option<Vec<Client>>,
    /// How requests wait.
    pub queue: Queue,
    /// What is tried again.
    pub retry: Retry,
    /// What outlasts the process; `None` = nothing.
    pub state: Option<State>,
    /// The admin listener; `None` when it is off.
    pub admin: Option<Admin>,
    /// What is logged, and how.
    pub log: Log,
    /// Where traces go; `None` where there are none.
    pub traces: Option<Otlp>,
    /// How limits are shared with other instances; `None` when this one has them to itself.
    pub shared: Option<Box<Shared>>,
}

/// `state`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The folder; relative to where the program runs.
    pub path: PathBuf,
}

/// Limits that hold together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The limits.
    pub all: Vec<Limit>,
    /// Whether other instances use them too, where instances share any.
    pub shared: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { all: Vec::new(), shared: true }
    }
}

impl Deref for Limits {
    type Target = [Limit];

    fn deref(&self) -> &[Limit] {
        &self.all
    }
}

/// `server`.
#[derive(Debug, Clone)]
pub struct Server {
    /// Host name or address to listen on.
    pub host: String,
    /// Port; 0 lets the system choose.
    pub port: u16,
    /// Threads; `None` = one for each core.
    pub workers: Option<NonZeroUsize>,
    /// How many clients' connections are open at once, over all workers; further ones wait to be accepted.
    pub max_connections: usize,
    /// The largest request body that is read for its model and tokens, in bytes: larger ones are refused. Bodies that only
    /// pass through have no bound.
    pub max_body: u64,
    /// How long a client may take for a request head, and how long an idle connection is kept.
    pub header_timeout: Duration,
    /// How long a shutdown waits for requests that are under way.
    pub drain_timeout: Duration,
    /// How long a body may stand still, in either direction, before it is cut.
    pub idle_timeout: Duration,
    /// What clients are shown; `None` where they speak in the clear.
    pub tls: Option<ServerTls>,
}

/// `server.tls`.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// Where the certificate is.
    pub files: IdentityFiles,
    /// What it was when the configuration was read.
    pub identity: Identity,
}

/// One entry of `routes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The key as it was written: shown in logs, metrics and the start-up text.
    pub name: String,
    /// What requests it matches.
    pub rule: Match,
    /// Where they go.
    pub upstream: Upstream,
    /// What kind of API that is; [`ProviderKind::Generic`] where nothing was said.
    pub provider: ProviderKind,
    /// Limits of this route, for all its requests together.
    pub limits: Limits,
}

impl Route {
    /// Whether the limits of domains without an entry hold for it: a route that states a rate of its own needs none.
    pub fn takes_default_limits(&self) -> bool {
        !self.limits.iter().any(|limit| matches!(limit, Limit::Rate(_)))
    }
}

/// What a route matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// The request's host, lower case, without port; an IPv6 address keeps its brackets.
    Host(String),
    /// Hosts that end in this: `.example.com` for `*.example.com`. At least one more label must stand in front.
    Subdomains(String),
    /// Requests whose path starts with these whole segments: `/internal` matches `/internal` and `/internal/x`, not `/internals`.
    Path(String),
    /// Every request.
    Any,
}

/// A remote API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Host name or address, lower case; an IPv6 address without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The base path, put in front of every request's path: empty, or starting with `/` and not ending in one.
    pub base_path: String,
    /// How long the response head may take, counted from the departure.
    pub timeout: Duration,
    /// How long the connection may take (DNS, TCP, TLS).
    pub connect_timeout: Duration,
    /// Which `Host` is sent.
    pub host_header: HostHeader,
    /// Whether HTTP/2 is spoken.
    pub http2: Http2,
    /// How TLS makes sure of both sides, where it is spoken.
    pub verify: UpstreamTls,
}

/// Whether HTTP/2 is spoken with an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Http2 {
    /// Where TLS is spoken and the upstream offers it (ALPN).
    Agreed,
    /// Never.
    Off,
    /// Always, in the clear.
    PriorKnowledge,
}

/// Which `Host` an upstream is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostHeader {
    /// The client's own.
    Client,
    /// The upstream's.
    Upstream,
}

/// One entry of `rate_limits`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainLimits {
    /// The domain as it was written.
    pub name: String,
    /// What hosts it matches: [`Match::Host`], [`Match::Subdomains`] or [`Match::Any`].
    pub rule: Match,
    /// Whether each matching host has buckets of its own, instead of one for all.
    pub per_host: bool,
    /// The limits.
    pub limits: Limits,
}

/// One entry of `clients`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its name.
    pub name: String,
    /// How it proves that it is that client; without one it is named by `x-cooldown-client`.
    pub token: Option<Secret>,
    /// Its share.
    pub weight: Weight,
    /// Its urgency where a request states none.
    pub urgency: Urgency,
    /// Limits of its own, over all routes.
    pub limits: Limits,
}

/// `queue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// The longest that a request may wait.
    pub max_wait: Duration,
    /// How many requests may wait in one line.
    pub max_depth: usize,
    /// How a client is told from another: the first of these that a request has.
    pub client_by: Vec<ClientBy>,
    /// A waiting request gains one level of urgency in this time.
    pub ageing: Duration,
    /// The fixed part of the guard against network jitter; 0.1 % of the period comes on top.
    pub guard: Duration,
    /// The longest silence towards a waiting client that asked for a stream; `None` when it waits in silence.
    pub keepalive: Option<Duration>,
}

/// How a client is told from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientBy {
    /// By the token of a configured client (`authorization: Bearer …` or `x-api-key`).
    Token,
    /// By the field `x-cooldown-client`.
    Header,
    /// By the credentials that it sends upstream.
    Authorization,
    /// By its address.
    Ip,
}

/// `retry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// How often a request is tried in all. Refusals by a limit do not count: those are waited for.
    pub attempts: u32,
    /// What is tried again.
    pub on: Vec<RetryOn>,
    /// How long the beginning of a stream is held back that holds no token yet, so that an error which comes before the
    /// first one can be tried again.
    pub hold_stream: Duration,
}

/// What may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryOn {
    /// A response with this status.
    Status(u16),
    /// A connection that could not be made.
    Connect,
}

/// `admin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Host name or address to listen on.
    pub host: String,
    /// Port; 0 lets the system choose.
    pub port: u16,
    /// What a caller must show (`authorization: Bearer …`); always set where `host` is not loopback.
    pub token: Option<Secret>,
}

/// `log`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The least important level that is written.
    pub level: tracing::Level,
    /// The form of a line.
    pub format: LogFormat,
    /// Whether every request gets a line.
    pub access: bool,
}

/// `telemetry`: traces in OpenTelemetry's protocol, over HTTP.
#[derive(Debug, Clone, PartialEq)]
pub struct Otlp {
    /// Where the collector is; traces go to `/v1/traces` below its base path.
    pub collector: Upstream,
    /// What it is told with each batch beside that, such as a token.
    pub headers: Vec<(HeaderName, Secret)>,
    /// How many of the requests are sampled whose callers do not decide: from 0 to 1.
    pub sample: f64,
    /// What the collector knows us by.
    pub service: String,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Server {
    /// A server with the defaults of everything but its address.
    pub fn at(host: String, port: u16) -> Self {
        Self {
            host,
            port,
            workers: None,
            max_connections: 32_768,
            max_body: 32 << 20,
            header_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
            tls: None,
        }
    }
}

impl Upstream {
    /// An upstream with the default time-outs.
    pub(super) fn at(url: Url, host_header: HostHeader) -> Self {
        Self {
            tls: url.tls,
            host: url.host,
            port: url.port,
            base_path: url.base_path,
            timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            host_header,
            http2: Http2::Agreed,
            verify: UpstreamTls::default(),
        }
    }
}

impl Upstream {
    /// Whether a connection to one serves requests to the other.
    pub fn shares_connections_with(&self, other: &Self) -> bool {
        let made_how = |upstream: &Self| (upstream.tls, upstream.port, upstream.connect_timeout, upstream.http2);
        made_how(self) == made_how(other) && self.host == other.host && self.verify == other.verify
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            max_wait: Duration::from_secs(300),
            max_depth: 10_000,
            client_by: vec![ClientBy::Token, ClientBy::Header, ClientBy::Authorization, ClientBy::Ip],
            ageing: Duration::from_secs(10),
            guard: Duration::from_millis(2),
            keepalive: None,
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        let on = vec![RetryOn::Status(429), RetryOn::Status(503), RetryOn::Status(529), RetryOn::Connect];
        Self { attempts: 3, on, hold_stream: Duration::from_millis(2) }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { host: "localhost".to_owned(), port: 9900, token: None }
    }
}

impl Admin {
    /// Whether both would listen on the same address.
    pub(super) fn shares_port_with(&self, server: &Server) -> bool {
        self.port == server.port && self.port != 0 && self.host.eq_ignore_ascii_case(&server.host)
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: tracing::Level::INFO, format: LogFormat::Text, access: true }
    }
}

/// Whether a host name or address is only reachable from this machine.
pub fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
