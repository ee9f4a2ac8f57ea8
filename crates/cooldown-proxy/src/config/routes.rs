//! Reads `routes`, `rate_limits` and `default_rate_limit`.

use std::path::Path;
use std::time::Duration;

use super::fault::Report;
use super::field::{Field, Fields, Named};
use super::model::{DomainLimits, HostHeader, Limits, ProviderKind, Route, Upstream};
use super::{host, limits, preset, upstream_tls, url};

const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(86_400);

/// Reads `routes`.
pub(super) fn routes(file: &mut Fields<'_>, folder: &Path, report: &mut Report) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    for entry in file.take("routes").map(|field| field.named(report)).unwrap_or_default() {
        let Some(route) = route(&entry, folder, report) else { continue };
        match routes.iter().find(|earlier| earlier.rule == route.rule) {
            Some(earlier) => {
                let message = format!("route `{}` matches the same requests as `{}`", route.name, earlier.name);
                report.fault(entry.at, message, "keep one of them");
            }
            None => routes.push(route),
        }
    }
    routes
}

fn route(entry: &Named<'_>, folder: &Path, report: &mut Report) -> Option<Route> {
    let rule = host::route_key(entry.name.trim())
        .map_err(|why| report.fault(entry.at, format!("route `{}`: {why}", entry.name.escape_debug()), why.hint()));
    let name = entry.name.trim().to_owned();
    let field = &entry.field;
    if field.is_text() {
        let upstream = upstream(field, HostHeader::Client, report);
        return Some(Route {
            name,
            rule: rule.ok()?,
            upstream: upstream?,
            provider: ProviderKind::Generic,
            limits: Limits::default(),
        });
    }
    let mut fields = field.clone().fields(report)?;
    let upstream = match fields.take("upstream") {
        Some(field) => upstream(&field, HostHeader::Client, report),
        None => {
            let message = format!("route `{}`: upstream is required", name.escape_debug());
            report.fault(entry.at, message, "write `upstream: https://api.example.com`");
            None
        }
    };
    let provider = fields.take("provider").and_then(|field| field.choice(&preset::KINDS, report));
    let limits = fields.take("limits").map(|field| limits::general(field, report)).unwrap_or_default();
    let headers = [("client", HostHeader::Client), ("upstream", HostHeader::Upstream)];
    let host_header = fields.take("host_header").and_then(|field| field.choice(&headers, report));
    let timeouts = timeouts(&mut fields, report);
    let connections = upstream_tls::connections(&mut fields, folder, report);
    fields.close(report);
    let mut upstream = upstream?;
    upstream.host_header = host_header.unwrap_or(upstream.host_header);
    timeouts.apply(&mut upstream);
    connections.apply(&mut upstream, report);
    Some(Route { name, rule: rule.ok()?, upstream, provider: provider.unwrap_or(ProviderKind::Generic), limits })
}

/// Reads an upstream's URL.
pub(super) fn upstream(field: &Field<'_>, host_header: HostHeader, report: &mut Report) -> Option<Upstream> {
    let url = url::parse(field.text(report)?).map_err(|why| field.fault(report, why, why.hint())).ok()?;
    Some(Upstream::at(url, host_header))
}

/// `timeout` and `connect_timeout` of a route or provider.
pub(super) struct Timeouts {
    head: Option<Duration>,
    connect: Option<Duration>,
}

/// Takes both time-outs.
pub(super) fn timeouts(fields: &mut Fields<'_>, report: &mut Report) -> Timeouts {
    Timeouts {
        head: fields.take("timeout").and_then(|field| field.seconds(SHORTEST..=LONGEST, report)),
        connect: fields.take("connect_timeout").and_then(|field| field.duration(SHORTEST..=LONGEST, report)),
    }
}

impl Timeouts {
    /// Sets those that were given.
    pub(super) fn apply(&self, upstream: &mut Upstream) {
        upstream.timeout = self.head.unwrap_or(upstream.timeout);
        upstream.connect_timeout = self.connect.unwrap_or(upstream.connect_timeout);
    }
}

/// Reads `rate_limits`.
pub(super) fn domain_limits(file: &mut Fields<'_>, report: &mut Report) -> Vec<DomainLimits> {
    let mut domains: Vec<DomainLimits> = Vec::new();
    for entry in file.take("rate_limits").map(|field| field.list(report)).unwrap_or_default() {
        let Some(domain) = domain(entry.clone(), report) else { continue };
        if domains.iter().any(|earlier| earlier.rule == domain.rule) {
            entry.fault(report, "this domain is given twice", "put all limits of a domain into one entry");
        }
        domains.push(domain);
    }
    domains
}

fn domain(entry: Field<'_>, report: &mut Report) -> Option<DomainLimits> {
    let path = entry.path().to_owned();
    let mut fields = entry.fields(report)?;
    let at = fields.at().clone();
    let named = match fields.take("domain") {
        Some(field) => field.text(report).and_then(|name| {
            let rule = host::domain(name).map_err(|why| field.fault(report, why, why.hint()));
            rule.ok().map(|rule| (name.to_owned(), rule))
        }),
        None => {
            report.fault(&at, format!("`{path}`: domain is required"), "write `domain: api.example.com`");
            None
        }
    };
    let per_host = fields.take("per").and_then(|field| field.choice(&[("host", true)], report)).unwrap_or(false);
    let limits = limits_of(&mut fields, &path, report);
    fields.close(report);
    let (name, rule) = named?;
    Some(DomainLimits { name, rule, per_host, limits })
}

/// Reads `default_rate_limit`.
pub(super) fn default_limits(file: &mut Fields<'_>, report: &mut Report) -> Limits {
    let Some(mut fields) = file.take("default_rate_limit").and_then(|field| field.fields(report)) else {
        return Limits::default();
    };
    let limits = limits_of(&mut fields, "default_rate_limit", report);
    fields.close(report);
    limits
}

/// The classic form, the general one, or both; at least one.
fn limits_of(fields: &mut Fields<'_>, path: &str, report: &mut Report) -> Limits {
    let stated = fields.has("requests_per_second") || fields.has("limits") || fields.has("burst");
    let classic = limits::classic(fields, report);
    let mut limits = fields.take("limits").map(|field| limits::general(field, report)).unwrap_or_default();
    limits.all.splice(0..0, classic);
    limits.shared &= limits::shared(fields, report);
    if !stated {
        let hint = "write `requests_per_second: 10`, or `limits: {requests: 600/min}`";
        report.fault(&fields.at().clone(), format!("`{path}`: a limit is required"), hint);
    }
    limits
}
