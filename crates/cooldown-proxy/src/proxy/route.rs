//! Which route a request takes: by exact host, longest wildcard, longest path prefix, or `"*"`.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::config::model::{Match, Upstream};

/// Values by host: exact names first, then the longest wildcard, then the value for every host.
#[derive(Debug)]
pub struct HostTable<T> {
    exact: HashMap<String, T, RandomState>,
    /// By suffix, with its leading dot.
    subdomains: HashMap<String, T, RandomState>,
    any: Option<T>,
}

/// All routes, by what they match.
#[derive(Debug, Default)]
pub struct Router {
    hosts: HostTable<usize>,
    /// By prefix: starts with `/` and does not end in one.
    paths: HashMap<String, usize, RandomState>,
    longest_path: usize,
    /// Providers by the host of their endpoint.
    endpoints: HashMap<String, Vec<Endpoint>, RandomState>,
}

/// A provider's endpoint, for requests that ask for it by its own name.
#[derive(Debug)]
struct Endpoint {
    port: u16,
    /// Whether the port goes without saying.
    default: bool,
    route: usize,
}

/// A route and what its rule takes of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matched {
    /// The index of the route.
    pub route: usize,
    /// How many bytes at the start of the path are not the upstream's business.
    pub prefix: usize,
}

impl<T> Default for HostTable<T> {
    fn default() -> Self {
        Self { exact: HashMap::default(), subdomains: HashMap::default(), any: None }
    }
}

impl<T> HostTable<T> {
    /// Adds a value. Of two for the same rule the first counts; a path rule has no place here.
    pub fn insert(&mut self, rule: &Match, value: T) {
        match rule {
            Match::Host(host) => drop(self.exact.entry(host.clone()).or_insert(value)),
            Match::Subdomains(suffix) => drop(self.subdomains.entry(suffix.clone()).or_insert(value)),
            Match::Any => drop(self.any.get_or_insert(value)),
            Match::Path(_) => {}
        }
    }

    /// The value for a host: lower case, without port.
    pub fn find(&self, host: &str) -> Option<&T> {
        self.named(host).or(self.any.as_ref())
    }

    /// The value for a host that an exact name or a wildcard matches.
    pub fn named(&self, host: &str) -> Option<&T> {
        self.exact.get(host).or_else(|| self.wildcard(host))
    }

    fn wildcard(&self, host: &str) -> Option<&T> {
        if self.subdomains.is_empty() {
            return None;
        }
        // From the first dot on: the longest suffix comes first. A name may not be empty in front of it.
        let dots = host.bytes().enumerate().skip(1).filter(|(_, byte)| *byte == b'.');
        dots.map(|(dot, _)| &host[dot..]).find_map(|suffix| self.subdomains.get(suffix))
    }
}

impl Router {
    /// Adds a rule. Of two equal ones the first counts.
    pub fn insert(&mut self, rule: &Match, route: usize) {
        match rule {
            // The root is a prefix of every path.
            Match::Path(prefix) if prefix.trim_end_matches('/').is_empty() => self.hosts.insert(&Match::Any, route),
            Match::Path(prefix) => {
                self.longest_path = self.longest_path.max(prefix.len());
                self.paths.entry(prefix.clone()).or_insert(route);
            }
            host => self.hosts.insert(host, route),
        }
    }

    /// Adds a provider's endpoint: requests that ask for exactly this host and port are for that provider.
    pub fn insert_endpoint(&mut self, upstream: &Upstream, route: usize) {
        let default = upstream.port == if upstream.tls { 443 } else { 80 };
        let endpoint = Endpoint { port: upstream.port, default, route };
        let host = if upstream.host.contains(':') { format!("[{}]", upstream.host) } else { upstream.host.clone() };
        self.endpoints.entry(host).or_default().push(endpoint);
    }

    /// The route that a request's host (lower case), port or path names.
    pub fn find_named(&self, host: &str, port: Option<u16>, path: &str) -> Option<Matched> {
        self.find_host(host, port).or_else(|| self.by_path(path))
    }

    /// The route for everything else.
    pub fn find_other(&self) -> Option<Matched> {
        self.hosts.any.as_ref().map(|route| Matched { route: *route, prefix: 0 })
    }

    /// The route that a host leads to, whatever the path.
    pub fn find_host(&self, host: &str, port: Option<u16>) -> Option<Matched> {
        let route = self.hosts.named(host).copied().or_else(|| self.by_endpoint(host, port))?;
        Some(Matched { route, prefix: 0 })
    }

    fn by_endpoint(&self, host: &str, port: Option<u16>) -> Option<usize> {
        if self.endpoints.is_empty() {
            return None;
        }
        let asked = |endpoint: &&Endpoint| port.map_or(endpoint.default, |port| port == endpoint.port);
        self.endpoints.get(host)?.iter().find(asked).map(|endpoint| endpoint.route)
    }

    fn by_path(&self, path: &str) -> Option<Matched> {
        if self.paths.is_empty() {
            return None;
        }
        // Whole segments only: the path itself, then what stands before each of its slashes, longest first.
        let ends = path.bytes().enumerate().skip(1).filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
        let mut found = None;
        for end in ends.chain([path.len()]).take_while(|end| *end <= self.longest_path) {
            if let Some(route) = self.paths.get(&path[..end]) {
                found = Some(Matched { route: *route, prefix: end });
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::model::HostHeader;

    fn router() -> Router {
        let mut router = Router::default();
        let rules = [
            Match::Host("api.example.com".to_owned()),
            Match::Subdomains(".example.com".to_owned()),
            Match::Subdomains(".eu.example.com".to_owned()),
            Match::Path("/internal".to_owned()),
            Match::Path("/internal/deep".to_owned()),
        ];
        for (route, rule) in rules.iter().enumerate() {
            router.insert(rule, route);
        }
        router
    }

    #[test]
    fn the_most_specific_rule_wins() {
        let router = router();
        let route =
            |host: &str, path: &str| router.find_named(host, None, path).map(|found| (found.route, found.prefix));
        assert_eq!(route("api.example.com", "/internal"), Some((0, 0)), "an exact host goes before a path");
        assert_eq!(route("b.example.com", "/"), Some((1, 0)));
        assert_eq!(route("a.b.example.com", "/"), Some((1, 0)), "a wildcard covers several labels");
        assert_eq!(route("x.eu.example.com", "/"), Some((2, 0)), "the longest wildcard wins");
        assert_eq!(route("example.com", "/"), None, "a wildcard wants a label in front");
        assert_eq!(route(".example.com", "/"), None);
        assert_eq!(route("localhost", "/internal"), Some((3, 9)));
        assert_eq!(route("localhost", "/internal/x"), Some((3, 9)));
        assert_eq!(route("localhost", "/internal/deep/x"), Some((4, 14)), "the longest prefix wins");
        assert_eq!(route("localhost", "/internals"), None, "prefixes are whole segments");
        assert_eq!(route("localhost", "/"), None);
    }

    #[test]
    fn every_other_request_takes_the_star_route() {
        let mut router = router();
        router.insert(&Match::Any, 9);
        assert_eq!(router.find_named("localhost", None, "/x"), None);
        assert_eq!(router.find_other(), Some(Matched { route: 9, prefix: 0 }));
        assert_eq!(router.find_host("localhost", None), None, "the star names no host");
    }

    #[test]
    fn of_two_equal_rules_the_first_counts() {
        let mut router = router();
        router.insert(&Match::Host("api.example.com".to_owned()), 9);
        assert_eq!(router.find_host("api.example.com", None).map(|found| found.route), Some(0));
    }

    #[test]
    fn a_provider_is_asked_for_by_host_and_port() {
        let endpoint = |tls, host: &str, port| Upstream {
            tls,
            host: host.to_owned(),
            port,
            base_path: String::new(),
            timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            host_header: HostHeader::Upstream,
            http2: crate::config::model::Http2::Agreed,
            verify: crate::config::UpstreamTls::default(),
        };
        let mut router = Router::default();
        router.insert_endpoint(&endpoint(true, "api.groq.com", 443), 1);
        router.insert_endpoint(&endpoint(false, "127.0.0.1", 9000), 2);
        let route = |host: &str, port| router.find_host(host, port).map(|found| found.route);
        assert_eq!(route("api.groq.com", None), Some(1));
        assert_eq!(route("api.groq.com", Some(443)), Some(1));
        assert_eq!(route("127.0.0.1", Some(9000)), Some(2));
        assert_eq!(route("127.0.0.1", Some(8080)), None, "the proxy's own address is no provider");
        assert_eq!(route("127.0.0.1", None), None);
    }
}
