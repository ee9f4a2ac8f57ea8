//! Reads `providers`.

use std::path::Path;

use cooldown_pacer::Limit;

use super::fault::Report;
use super::field::{Field, Fields, Named};
use super::model::{HostHeader, KeyField, Keys, Provider, ProviderKind, Upstream};
use super::preset::{self, Preset};
use super::secret::Secret;
use super::{limits, models, routes, upstream_tls, url};
use crate::provider::{Charge, OutputReservation};

/// What stands in place of a key when the caller's own is to be used.
const CALLERS_OWN: &str = "client";

/// Reads `providers`.
pub(super) fn providers(file: &mut Fields<'_>, folder: &Path, report: &mut Report) -> Vec<Provider> {
    let entries = file.take("providers").map(|field| field.named(report)).unwrap_or_default();
    entries.iter().filter_map(|entry| provider(entry, folder, report)).collect()
}

fn provider(entry: &Named<'_>, folder: &Path, report: &mut Report) -> Option<Provider> {
    let name = checked_name(entry, report);
    let shown = entry.name.escape_debug().to_string();
    let mut fields = entry.field.clone().fields(report)?;
    let kind = fields.take("provider").and_then(|field| field.choice(&preset::KINDS, report));
    let kind = kind.unwrap_or_else(|| preset::kind_of(entry.name));
    let preset = preset::preset(kind);

    let keys = keys(&mut fields, entry, &shown, report);
    let key_field = fields.take("key_field").and_then(|field| field.choice(&preset::KEY_FIELDS, report));
    let endpoint = endpoint(&mut fields, entry, &shown, &preset, report);
    let models = models::models(&mut fields, entry, &preset, report);
    let model_aliases = models::aliases(&mut fields, report);
    let fallback = fields.take("fallback").and_then(|field| field.flag(report)).unwrap_or(false);
    let charge = charge(&mut fields, kind, report);
    let tokenizers = models::tokenizers(&mut fields, report);
    let timeouts = routes::timeouts(&mut fields, report);
    let connections = upstream_tls::connections(&mut fields, folder, report);
    let per_second = fields.take("rate_limit").and_then(|field| limits::per_second(&field, report));
    let mut limits = fields.take("limits").map(|field| limits::general(field, report)).unwrap_or_default();
    limits.all.splice(0..0, per_second.map(Limit::Rate));
    let model_limits = models::limits(&mut fields, report);
    fields.close(report);

    let Endpoint { mut upstream, unified_base } = endpoint?;
    timeouts.apply(&mut upstream);
    connections.apply(&mut upstream, report);
    Some(Provider {
        name: name?,
        kind,
        upstream,
        unified_base,
        keys: keys?,
        key_field: key_field.unwrap_or(preset.key_field),
        models,
        model_aliases,
        fallback,
        charge,
        tokenizers,
        limits,
        model_limits,
    })
}

/// The name is the first segment of a path, so it is one.
fn checked_name(entry: &Named<'_>, report: &mut Report) -> Option<String> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let valid = entry.name.starts_with(|c: char| c.is_ascii_alphanumeric()) && entry.name.bytes().all(known);
    if !valid {
        let message = format!("provider {}: the name cannot stand in a path", entry.name.escape_debug());
        report.fault(entry.at, message, "use letters, digits, `-`, `_` and dots");
    }
    valid.then(|| entry.name.to_owned())
}

fn keys(fields: &mut Fields<'_>, entry: &Named<'_>, name: &str, report: &mut Report) -> Option<Keys> {
    let one = fields.take("api_key");
    let many = fields.take("api_keys");
    if let (Some(one), Some(_)) = (&one, &many) {
        one.fault(report, "`api_key` and `api_keys` contradict each other", "keep `api_keys` alone");
        return None;
    }
    let given = one.or(many).map(Field::items).unwrap_or_default();
    if given.iter().any(|field| field.is(CALLERS_OWN)) {
        if let [_, second, ..] = given.as_slice() {
            second.fault(report, "`client` stands alone", "write `api_key: client`, or keys of your own");
        }
        return Some(Keys::Client);
    }
    let faults_before = report.len();
    let keys: Vec<(&Field<'_>, Secret)> =
        given.iter().filter_map(|field| field.secret(report).map(|key| (field, key))).collect();
    for (index, (field, key)) in keys.iter().enumerate() {
        if keys[..index].iter().any(|(_, earlier)| earlier.matches(key.expose().as_bytes())) {
            field.fault(report, "this key is given twice", "its limits hold once; keep it once");
        }
    }
    let unreadable = given.iter().any(Field::is_broken) || report.len() > faults_before;
    if keys.is_empty() && !unreadable {
        let variable = name.to_ascii_uppercase().replace(['-', '.'], "_");
        let hint =
            format!("add `api_key: \"${{{variable}_API_KEY}}\"`, or `api_key: client` to pass on the caller's own");
        report.fault(entry.at, format!("provider {name}: API key is required"), hint);
        return None;
    }
    Some(Keys::Ours(keys.into_iter().map(|(_, key)| key).collect()))
}

/// Where an API is, and what it has there in place of `/v1`.
struct Endpoint {
    upstream: Upstream,
    unified_base: &'static str,
}

fn endpoint(
    fields: &mut Fields<'_>,
    entry: &Named<'_>,
    name: &str,
    preset: &Preset,
    report: &mut Report,
) -> Option<Endpoint> {
    let known = preset.endpoint.and_then(|endpoint| url::parse(endpoint).ok());
    let known = known.map(|url| Upstream::at(url, HostHeader::Upstream));
    let upstream = match fields.take("endpoint") {
        Some(field) => routes::upstream(&field, HostHeader::Upstream, report)?,
        None => match &known {
            Some(known) => known.clone(),
            None => {
                let hint = "write `endpoint: https://api.example.com`";
                report.fault(entry.at, format!("provider {name}: endpoint is required"), hint);
                return None;
            }
        },
    };
    // Another server has its API where everybody has it, and the one that is known may well be written down.
    let unified_base = if known.as_ref() == Some(&upstream) { preset.unified_base } else { preset::USUAL_BASE };
    Some(Endpoint { upstream, unified_base })
}

/// What the kind charges, where nothing else is said.
fn charge(fields: &mut Fields<'_>, kind: ProviderKind, report: &mut Report) -> Charge {
    let known = Charge::of(kind);
    let reservations = [
        ("model_maximum", OutputReservation::MaxTokensOrModelMaximum),
        ("max_tokens", OutputReservation::MaxTokens),
        ("larger", OutputReservation::LargerOfMaxTokensAndInput),
        ("produced", OutputReservation::AsProduced),
        ("none", OutputReservation::None),
    ];
    let output = fields.take("reserve_output").and_then(|field| field.choice(&reservations, report));
    let counts_cached = fields.take("count_cached").and_then(|field| field.flag(report));
    Charge {
        output: output.unwrap_or(known.output),
        counts_cached: counts_cached.unwrap_or(known.counts_cached),
        ..known
    }
}

impl ProviderKind {
    /// The name that the configuration gives it.
    pub fn name(self) -> &'static str {
        preset::KINDS.iter().find(|(_, kind)| *kind == self).map_or("generic", |(name, _)| name)
    }
}

impl KeyField {
    /// The field's name.
    pub fn name(self) -> &'static str {
        preset::KEY_FIELDS.iter().find(|(_, field)| *field == self).map_or("authorization", |(name, _)| name)
    }
}
