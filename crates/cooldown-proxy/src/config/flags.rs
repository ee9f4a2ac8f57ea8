//! A configuration from the command line alone: one upstream, paced.

use super::fault::Faults;
use super::model::{
    Admin, Config, HostHeader, Limits, Log, Match, ProviderKind, Queue, Retry, Route, Server, Upstream,
};
use super::{host, rate, url};

/// One upstream for every request, listening on localhost:8080, with the admin listener on localhost:9900.
///
/// `limits` name their own unit: `10/s`, `60k tokens/min`, `8 concurrent`.
///
/// # Errors
/// Everything that is wrong with the upstream and the limits, at once.
pub fn from_flags(upstream: &str, limits: &[String]) -> Result<Config, Faults> {
    let mut faults = Vec::new();
    let url =
        url::parse(upstream).map_err(|why| faults.push((format!("--upstream: {why}"), why.hint().to_owned()))).ok();
    let mut paced = Vec::new();
    for text in limits {
        match rate::limit(text) {
            Ok(limit) => paced.push(limit),
            Err(why) => faults.push((format!("--limit {text:?}: {why}"), why.hint().to_owned())),
        }
    }
    let Some(url) = url.filter(|_| faults.is_empty()) else {
        return Err(Faults::without_place("command line", faults));
    };
    let route = Route {
        name: "*".to_owned(),
        rule: Match::Any,
        upstream: Upstream::at(url, HostHeader::Upstream),
        provider: ProviderKind::Generic,
        limits: Limits { all: paced, ..Limits::default() },
    };
    Ok(Config {
        server: Server::at("localhost".to_owned(), 8080),
        routes: vec![route],
        domain_limits: Vec::new(),
        default_limits: Limits::default(),
        providers: Vec::new(),
        clients: None,
        queue: Queue::default(),
        retry: Retry::default(),
        state: None,
        admin: Some(Admin::default()),
        log: Log::default(),
        traces: None,
        shared: None,
    })
}

impl Config {
    /// This configuration with another host or port to listen on, as the command line gave them.
    ///
    /// # Errors
    /// When the host is none, or the admin listener has the same address.
    pub fn listening_on(mut self, host: Option<&str>, port: Option<u16>) -> Result<Self, Faults> {
        if let Some(given) = host {
            let faulty = |why: host::HostError| {
                let hint = "write a host name or address, such as `localhost` or `0.0.0.0`".to_owned();
                Faults::without_place("command line", vec![(format!("--host {given:?}: {why}"), hint)])
            };
            self.server.host = host::host(given).map_err(faulty)?.trim_matches(['[', ']']).to_owned();
        }
        self.server.port = port.unwrap_or(self.server.port);
        let taken = self.admin.as_ref().is_some_and(|admin| admin.shares_port_with(&self.server));
        if taken {
            let fault =
                ("--port: the admin listener has the same host and port".to_owned(), "choose another".to_owned());
            return Err(Faults::without_place("command line", vec![fault]));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_upstream_is_paced_from_flags() {
        let limits = ["10/s".to_owned(), "60k tokens/min".to_owned(), "8 concurrent".to_owned()];
        let config = from_flags("https://api.github.com", &limits).expect("valid flags");
        assert_eq!((config.server.host.as_str(), config.server.port), ("localhost", 8080));
        assert_eq!(config.routes.len(), 1);
        assert_eq!(config.routes[0].rule, Match::Any);
        assert_eq!(config.routes[0].upstream.host_header, HostHeader::Upstream);
        assert_eq!(config.routes[0].limits.len(), 3);
        assert_eq!(config.admin.map(|admin| admin.port), Some(9900));
    }

    #[test]
    fn all_faulty_flags_are_told_at_once_without_the_url() {
        let limits = ["10/s".to_owned(), "10/m".to_owned(), "fast".to_owned()];
        let faults = from_flags("https://me:hunter2@api.github.com", &limits).expect_err("three faults");
        assert_eq!(faults.iter().count(), 3);
        let text = faults.to_string();
        assert!(text.contains("--limit \"10/m\": `m` can mean minute or month"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
