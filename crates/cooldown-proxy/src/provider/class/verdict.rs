//! The rules by which a refusal is judged.

use std::time::Duration;

use cooldown_pacer::{LONGEST_PERIOD, Unit};

use super::message::{self, Spoken};
use super::{Case, Class, Scope, google};
use crate::config::model::ProviderKind;
use crate::provider::limits::{Reset, Statement, text};

/// GitHub counts in whole seconds and is late by up to one.
const GITHUB_MARGIN: Duration = Duration::from_secs(1);
/// GitHub's hidden limits want at least this.
const GITHUB_SECONDARY: Duration = Duration::from_secs(60);

/// Codes of spent money.
const MONEY: &[&str] = &[
    "insufficient_quota",
    "credit_balance_exhausted",
    "enforced_spend_limit_reached",
    "billing_hard_limit_reached",
    "billing_not_active",
    "billing_error",
    "insufficient_balance",
    "insufficient_credits",
    "exceeded_current_quota_error",
];
/// Codes of an upstream that is full, whatever the status.
const CAPACITY: &[&str] = &[
    "overloaded_error",
    "engine_overloaded_error",
    "engine_overloaded",
    "slow_down",
    "queue_exceeded",
    "service_tier_capacity_exceeded",
    "temporary-reduced-capacity",
];
/// Codes of bad credentials, whatever the status.
const CREDENTIALS: &[&str] = &["invalid_api_key", "api_key_invalid", "wrong_api_key"];

/// The class of an error.
pub(super) fn decide(case: &Case<'_>) -> Class {
    let spoken = Spoken::read(&case.body.message);
    if is_money(case, &spoken) {
        return Class::Money;
    }
    if let Some(impossible) = oversized(case, &spoken) {
        return impossible;
    }
    match case.status {
        _ if case.body.has_code(CREDENTIALS) => Class::Credentials,
        401 => Class::Credentials,
        403 => forbidden(case, &spoken),
        _ if case.body.has_code(CAPACITY) => capacity(case),
        429 if is_somebody_elses(case) => capacity(case),
        // Groq's flexible tier, Shopify's security, old Twitter.
        429 | 498 | 430 | 420 => limit(case, &spoken),
        413 if case.body.has_code(&["rate_limit_exceeded"]) => limit(case, &spoken),
        413 => Class::Impossible { axis: None, limit: None },
        503 | 529 => capacity(case),
        // AWS throttles with 400.
        400 if case.body.has_code_like("throttl") => limit(case, &spoken),
        _ => Class::Fault,
    }
}

fn is_money(case: &Case<'_>, spoken: &Spoken) -> bool {
    let says = |words: &[&str]| words.iter().any(|words| case.body.message.contains(words));
    let refused = matches!(case.status, 400 | 403 | 429);
    match case.kind {
        _ if case.status == 402 || case.body.has_code(MONEY) => true,
        ProviderKind::Anthropic if refused => {
            says(&["credit balance is too low", "specified api usage limits", "spend limit"])
                || (case.status == 429 && !names_a_limit(case, spoken))
        }
        ProviderKind::OpenRouter if refused => says(&["key limit exceeded"]),
        _ => false,
    }
}

/// Whether Anthropic refuses for a rate: only its spending limits give neither a wait nor a reason. Events of a stream have
/// no fields, but a type.
fn names_a_limit(case: &Case<'_>, spoken: &Spoken) -> bool {
    let reason = spoken.axis.is_some() || case.body.message.contains("rate limit");
    let in_stream = case.headers.is_empty() && case.body.has_code(&["rate_limit_error"]);
    case.said.retry_after.is_some() || case.exhausted().is_some() || reason || in_stream
}

/// A request that is larger than its limit, or a quota that allows nothing.
fn oversized(case: &Case<'_>, spoken: &Spoken) -> Option<Class> {
    if !matches!(case.status, 413 | 429) {
        return None;
    }
    if spoken.is_oversized() {
        return Some(Class::Impossible { axis: spoken.axis, limit: spoken.limit });
    }
    let nothing = case.body.violations.iter().find(|violation| violation.allows_nothing());
    nothing.map(|violation| Class::Impossible { axis: Some(violation.axis()), limit: Some(0) })
}

/// A 403 is a limit at GitHub, and a quota behind Azure's gateway; elsewhere it concerns one request.
fn forbidden(case: &Case<'_>, spoken: &Spoken) -> Class {
    let message = &case.body.message;
    let exhausted = case.exhausted().is_some();
    let is_limit = match case.kind {
        ProviderKind::GitHub => exhausted || is_secondary(case) || case.said.retry_after.is_some(),
        ProviderKind::Azure | ProviderKind::Generic => {
            let wait = case.said.retry_after.or_else(|| message::wait(message)).is_some();
            (message.contains("quota") && (wait || exhausted)) || (message.contains("rate limit") && exhausted)
        }
        _ => false,
    };
    if is_limit { limit(case, spoken) } else { Class::Fault }
}

/// A 429 for which no limit of ours is to blame.
fn is_somebody_elses(case: &Case<'_>) -> bool {
    // A lock that somebody else holds is no limit, although Stripe answers it with 429.
    let locked = case.body.has_code(&["lock_timeout"]) && !case.has_field("stripe-rate-limited-reason");
    let behind = case.kind == ProviderKind::OpenRouter && case.body.is_from_behind;
    let full = case.kind == ProviderKind::Mistral && case.body.has_code(&["3505"]);
    locked || behind || full
}

fn capacity(case: &Case<'_>) -> Class {
    Class::Capacity { wait: case.said.retry_after.max(case.body.wait) }
}

/// A limit: which one, and how long.
fn limit(case: &Case<'_>, spoken: &Spoken) -> Class {
    if case.kind == ProviderKind::GitHub {
        return github(case);
    }
    let asked = spoken.wait().max(case.body.wait).max(message::wait(&case.body.message));
    let violated = google::worst(&case.body.violations, asked, case.now);
    let stated = violated.or_else(|| spoken.statement(case.usual_scope())).or_else(|| case.exhausted());
    let stated = stated.map(|said| Statement { window: said.window.or(spoken.window), ..said }.believable());
    let body = violated.map_or(asked, |violated| violated.reset.map(Reset::after));
    let wait = agreed(body, case.said.retry_after).or_else(|| wait_of_fields(case));
    let axis = spoken.axis.or_else(|| stated.map(|said| said.axis)).or_else(|| named_axis(case));
    Class::Limit { axis, scope: scope(case, stated.as_ref()), wait, stated }
}

/// GitHub's primary limits say when they end; its secondary ones are hidden and give a minute at least.
fn github(case: &Case<'_>) -> Class {
    let stated = case.exhausted().filter(|_| !is_secondary(case));
    let until_end = stated.and_then(|said| Some((said.reset?.after() + GITHUB_MARGIN).min(LONGEST_PERIOD)));
    let wait = case.said.retry_after.max(until_end).unwrap_or(GITHUB_SECONDARY);
    Class::Limit { axis: Some(Unit::Requests), scope: scope(case, stated.as_ref()), wait: Some(wait), stated }
}

fn is_secondary(case: &Case<'_>) -> bool {
    ["secondary rate limit", "abuse detection"].iter().any(|words| case.body.message.contains(words))
}

/// One wait out of the body's and the fields'. The fields' is often the body's, rounded up to a whole second; otherwise the
/// longer one holds.
fn agreed(body: Option<Duration>, fields: Option<Duration>) -> Option<Duration> {
    match (body, fields) {
        (Some(body), Some(fields)) if fields > body + Duration::from_secs(1) => Some(fields),
        (Some(body), _) => Some(body),
        (None, fields) => fields,
    }
}

/// The wait for the limits that the fields call used up. For tokens that refill steadily it depends on the request, which
/// is not known here; see [`Statement::wait_for`].
fn wait_of_fields(case: &Case<'_>) -> Option<Duration> {
    let knowable = |said: &&Statement| said.axis == Unit::Requests || !matches!(said.reset, Some(Reset::ToFull(_)));
    let exhausted = case.said.statements.iter().filter(|said| said.is_exhausted());
    let waits = exhausted.filter(knowable).filter_map(|said| said.wait_for(1));
    // Some name a time and nothing else; Together's is for when to come back, whatever else is named.
    let bare = |said: &&Statement| said.limit.is_none() && said.remaining.is_none();
    let times = case.said.statements.iter().filter(|said| bare(said) || case.kind == ProviderKind::Together);
    waits.max().or_else(|| times.filter_map(|said| Some(said.reset?.after())).max())
}

fn scope(case: &Case<'_>, stated: Option<&Statement>) -> Scope {
    stated.map_or(case.usual_scope(), |said| said.scope)
}

/// The axis by a code or field that names nothing else.
fn named_axis(case: &Case<'_>) -> Option<Unit> {
    let by_field = text(case.headers, "x-ratelimit-type").map(str::to_ascii_lowercase);
    let is = |word: &str| by_field.as_deref() == Some(word) || case.body.has_code(&[word]);
    if is("tokens") || case.body.has_code(&["dynamic_token_limited", "token_quota_exceeded"]) {
        Some(Unit::Tokens)
    } else if is("requests") || case.body.has_code(&["dynamic_request_limited", "request_quota_exceeded"]) {
        Some(Unit::Requests)
    } else {
        None
    }
}
