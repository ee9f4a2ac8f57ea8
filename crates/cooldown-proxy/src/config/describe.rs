//! A configuration in words: what listens where, and how each upstream is paced.

use std::fmt::{self, Write as _};

use cooldown_pacer::Limit;

use super::model::{Config, DomainLimits, Keys, Match, Provider, Route, Upstream};

/// Where the listeners are, as `host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Where clients connect.
    pub server: String,
    /// The admin listener; `None` when it is off.
    pub admin: Option<String>,
}

impl Config {
    /// The addresses as they are configured. A port of 0 is known better once the listeners are bound.
    pub fn addresses(&self) -> Addresses {
        Addresses {
            server: address(&self.server.host, self.server.port),
            admin: self.admin.as_ref().map(|admin| address(&admin.host, admin.port)),
        }
    }

    /// The start-up text: one line for what listens, then one for each upstream. Lines end with a newline.
    pub fn describe(&self, listening: &Addresses) -> String {
        let scheme = if self.server.tls.is_some() { "https" } else { "http" };
        let mut text = format!("listening on {scheme}://{}", listening.server);
        match &listening.admin {
            Some(admin) => text.push_str(&format!(", admin on http://{admin}\n")),
            None => text.push_str(", admin off\n"),
        }
        for route in &self.routes {
            let limits = [paced(&route.limits), self.paced_by_domain(route)].concat();
            let _ = writeln!(text, "  {} → {}: {}", route.name, route.upstream, joined(&limits));
        }
        self.describe_domains(&mut text);
        self.describe_providers(&mut text);
        self.describe_clients(&mut text);
        text
    }

    /// The entry of `rate_limits` that holds for everything that a route for hosts matches.
    fn domain_of(&self, rule: &Match) -> Option<&DomainLimits> {
        let covering = self.domain_limits.iter().filter(|domain| domain.rule.covers(rule));
        covering.max_by_key(|domain| domain.rule.precision()).filter(|_| names_hosts(rule))
    }

    /// What the domain asked for adds to the limits of a route.
    fn paced_by_domain(&self, route: &Route) -> Vec<String> {
        let rule = &route.rule;
        let default_limits = if route.takes_default_limits() { &self.default_limits[..] } else { &[] };
        if !names_hosts(rule) {
            let by_domain = !self.domain_limits.is_empty() || !default_limits.is_empty();
            return if by_domain { vec!["by the domain asked for".to_owned()] } else { Vec::new() };
        }
        let (limits, scope) = match self.domain_of(rule) {
            Some(domain) if domain.per_host => (&domain.limits[..], for_each_of(rule)),
            Some(domain) if domain.rule == *rule => (&domain.limits[..], String::new()),
            Some(domain) => (&domain.limits[..], format!(" (one allowance for all of {})", domain.name)),
            None => (default_limits, for_each_of(rule)),
        };
        paced(limits).into_iter().map(|limit| limit + &scope).collect()
    }

    /// The limits of domains that no route's own line tells of.
    fn describe_domains(&self, text: &mut String) {
        let told = |domain: &DomainLimits| {
            self.routes.iter().filter_map(|route| self.domain_of(&route.rule)).any(|told| told.rule == domain.rule)
        };
        for domain in self.domain_limits.iter().filter(|domain| !told(domain)) {
            let scope = if domain.per_host { for_each_of(&domain.rule) } else { String::new() };
            let _ = writeln!(text, "  domain {}: {}{scope}", domain.name, paced(&domain.limits).join("; "));
        }
        if !self.default_limits.is_empty() && self.routes.iter().any(has_other_domains) {
            let _ = writeln!(text, "  any other domain: {} (for each)", paced(&self.default_limits).join("; "));
        }
    }

    fn describe_providers(&self, text: &mut String) {
        for provider in &self.providers {
            let fallback = if provider.fallback { " (fallback)" } else { "" };
            let limits = joined(&paced(&provider.limits));
            let (name, upstream, keys) = (&provider.name, &provider.upstream, several_keys(provider));
            let _ = writeln!(text, "  /{name}/… → {upstream}{fallback}: {keys}{limits}");
            for (glob, limits) in &provider.model_limits {
                let _ = writeln!(text, "    {glob}: {}", paced(limits).join("; "));
            }
            for (glob, tokenizer) in &provider.tokenizers {
                let _ = match tokenizer {
                    Some(tokenizer) => writeln!(text, "    {glob}: tokens counted by {tokenizer}"),
                    None => writeln!(text, "    {glob}: tokens estimated from bytes"),
                };
            }
            for (alias, model) in &provider.model_aliases {
                let _ = writeln!(text, "    {alias} → {model}");
            }
        }
    }

    fn describe_clients(&self, text: &mut String) {
        for client in self.clients.iter().flatten().filter(|client| !client.limits.is_empty()) {
            let _ = writeln!(text, "  client {}: {}", client.name, paced(&client.limits).join("; "));
        }
    }
}

fn joined(limits: &[String]) -> String {
    if limits.is_empty() { "not paced".to_owned() } else { limits.join("; ") }
}

/// Each key has limits of its own, so their number is part of how fast a provider is.
fn several_keys(provider: &Provider) -> String {
    match &provider.keys {
        Keys::Ours(keys) if keys.len() > 1 => format!("{} keys, each: ", keys.len()),
        Keys::Ours(_) | Keys::Client => String::new(),
    }
}

fn paced(limits: &[Limit]) -> Vec<String> {
    limits.iter().map(ToString::to_string).collect()
}

fn has_other_domains(route: &Route) -> bool {
    !names_hosts(&route.rule) && route.takes_default_limits()
}

fn names_hosts(rule: &Match) -> bool {
    matches!(rule, Match::Host(_) | Match::Subdomains(_))
}

fn for_each_of(rule: &Match) -> String {
    if matches!(rule, Match::Host(_)) { String::new() } else { " (for each host)".to_owned() }
}

/// `host:port`, an IPv6 address in brackets.
fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// As a URL, the port left out where it is the scheme's own.
impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual) = if self.tls { ("https", 443) } else { ("http", 80) };
        let address = address(&self.host, self.port);
        let shown = if self.port == usual { address.trim_end_matches(&format!(":{usual}")) } else { &address };
        write!(f, "{scheme}://{shown}{}", self.base_path)
    }
}
