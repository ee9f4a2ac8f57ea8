//! The `RateLimit` and `RateLimit-Policy` fields of draft-ietf-httpapi-ratelimit-headers, in the two structured
//! generations: Lists (since -08) and Dictionaries (-07). The three plain fields before them are [`named`](super::named).

use std::time::Duration;

use cooldown_pacer::Unit;
use sfv::{BareItem, Dictionary, Item, List, ListEntry, Parameters, Parser};
use smallvec::SmallVec;

use super::{Dialect, MOST_STATEMENTS, Reset, Scope, Statement};
use crate::fields::Fields;
use crate::provider::value;

/// Longer fields are not read.
const LONGEST_FIELD: usize = 4096;

/// One member of either field.
#[derive(Debug)]
struct Member {
    /// What joins a policy and its state.
    name: Option<String>,
    limit: Option<u64>,
    window: Option<Duration>,
    remaining: Option<u64>,
    reset: Option<Duration>,
    partitioned: bool,
}

/// Reads both fields. Policies that no state names are said too: their limit and window hold all the same.
pub(super) fn read(dialect: &Dialect, headers: &Fields, statements: &mut SmallVec<[Statement; 4]>) {
    let mut policies = field(headers, "ratelimit-policy").map(|text| members(&text, policy)).unwrap_or_default();
    let states = field(headers, "ratelimit").map(|text| states(&text)).unwrap_or_default();
    for state in states {
        let known = policies.iter().position(|policy| belongs(policy, &state));
        let policy = known.map(|place| policies.swap_remove(place));
        statements.push(statement(dialect, &state, policy.as_ref()));
    }
    // The plain fields of the earliest drafts may stand beside a policy that has their window.
    policies.retain(|policy| !adopt(statements, policy));
    statements.extend(policies.iter().map(|policy| statement(dialect, policy, None)));
}

/// A field's lines as one text: a List may be spread over several.
fn field(headers: &Fields, name: &str) -> Option<String> {
    let lines: Vec<_> = headers.get_all(name).filter_map(|line| line.to_str().ok()).collect();
    let text = lines.join(", ");
    (!text.is_empty() && text.len() <= LONGEST_FIELD).then_some(text)
}

/// The members of a List that `read` makes sense of.
fn members(text: &str, read: fn(&Item) -> Option<Member>) -> Vec<Member> {
    let list: List = Parser::new(text).parse().unwrap_or_default();
    let items = list.iter().filter_map(|entry| match entry {
        ListEntry::Item(item) => read(item),
        ListEntry::InnerList(_) => None,
    });
    items.take(MOST_STATEMENTS).collect()
}

/// `"burst";q=100;w=60`, or `100;w=60` in the older generation. Units other than requests are not counted here.
fn policy(item: &Item) -> Option<Member> {
    let unit = item.params.get("qu").and_then(string);
    if unit.is_some_and(|unit| unit != "requests") {
        return None;
    }
    let limit = integer(&item.bare_item).or_else(|| parameter(&item.params, "q")).filter(|limit| *limit > 0);
    let window = seconds(&item.params, "w").filter(|window| !window.is_zero());
    Some(Member { limit: Some(limit?), window, ..Member::named(item) })
}

/// `"default";r=50;t=30`, or `limit=100, remaining=50, reset=30` in the older generation.
fn states(text: &str) -> Vec<Member> {
    let listed = members(text, |item| {
        let remaining = parameter(&item.params, "r");
        Some(Member { remaining: Some(remaining?), reset: seconds(&item.params, "t"), ..Member::named(item) })
    });
    if !listed.is_empty() {
        return listed;
    }
    let dictionary: Dictionary = Parser::new(text).parse().unwrap_or_default();
    let get = |key| match dictionary.get(key) {
        Some(ListEntry::Item(item)) => integer(&item.bare_item),
        _ => None,
    };
    let state = Member {
        name: None,
        limit: get("limit").filter(|limit| *limit > 0),
        window: None,
        remaining: get("remaining"),
        reset: get("reset").and_then(|reset| value::span(reset as f64)).map(|told| told.wait),
        partitioned: false,
    };
    (state.limit.is_some() || state.remaining.is_some()).then_some(state).into_iter().collect()
}

fn belongs(policy: &Member, state: &Member) -> bool {
    match (&state.name, state.limit) {
        (Some(name), _) => policy.name.as_ref() == Some(name),
        (None, Some(limit)) => policy.limit == Some(limit),
        (None, None) => false,
    }
}

/// Gives a policy's window to the statement of the plain fields with the same limit.
fn adopt(statements: &mut [Statement], policy: &Member) -> bool {
    let same = |said: &&mut Statement| {
        said.axis == Unit::Requests
            && said.limit == policy.limit
            && (said.window.is_none() || said.window == policy.window)
    };
    let Some(said) = statements.iter_mut().find(same) else { return false };
    said.window = said.window.or(policy.window);
    true
}

fn statement(dialect: &Dialect, state: &Member, policy: Option<&Member>) -> Statement {
    let limit = state.limit.or_else(|| policy?.limit);
    let partitioned = state.partitioned || policy.is_some_and(|policy| policy.partitioned);
    Statement {
        limit,
        window: state.window.or_else(|| policy?.window),
        remaining: state.remaining.map(|remaining| limit.map_or(remaining, |limit| remaining.min(limit))),
        // Not more than `r` may be used before `t` has passed; when quota grows again is not promised.
        reset: state.reset.map(Reset::WindowEnd),
        ..Statement::new(Unit::Requests, if partitioned { Scope::Key } else { dialect.scope })
    }
}

impl Member {
    fn named(item: &Item) -> Self {
        Self {
            name: string(&item.bare_item).map(str::to_owned),
            limit: None,
            window: None,
            remaining: None,
            reset: None,
            partitioned: item.params.contains_key("pk"),
        }
    }
}

fn string(item: &BareItem) -> Option<&str> {
    match item {
        BareItem::String(text) => Some(text.as_str()),
        BareItem::Token(text) => Some(text.as_str()),
        _ => None,
    }
}

fn integer(item: &BareItem) -> Option<u64> {
    item.as_integer().map(|number| i64::from(number).max(0) as u64)
}

fn parameter(params: &Parameters, key: &str) -> Option<u64> {
    integer(params.get(key)?)
}

fn seconds(params: &Parameters, key: &str) -> Option<Duration> {
    value::span(parameter(params, key)? as f64).map(|told| told.wait)
}
