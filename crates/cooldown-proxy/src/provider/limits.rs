//! What a response's fields say about limits, in every dialect.
//!
//! The names of the fields follow one grammar (`named`), whatever the provider; `dialect` holds what the names leave
//! open. The structured fields of the IETF drafts, Anthropic's subscriptions and Shopify's have readers of their own.

use std::hash::BuildHasher;
use std::time::Duration;

use cooldown_pacer::{LONGEST_PERIOD, Unit};
use foldhash::fast::FixedState;
use http::header::{AGE, RETRY_AFTER};
use smallvec::SmallVec;

use super::unix_time::UnixTime;
use super::value::{self, Bare, LARGEST_AMOUNT};
use crate::config::model::ProviderKind;
use crate::fields::{Fields, Kind};

mod dialect;
mod ietf;
mod named;
mod reset;
mod shopify;
#[cfg(test)]
mod tests;
mod unified;

pub(super) use dialect::Dialect;
pub use reset::{Meaning, tell_apart};

/// The window of a limit that states none and lets none be inferred.
pub const ASSUMED_WINDOW: Duration = Duration::from_secs(60);
/// How many statements of one response are kept.
pub const MOST_STATEMENTS: usize = 16;

/// What one response said about limits. Empty for a response out of a cache, which says nothing of now.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Said {
    /// One for each limit that was named; at most [`MOST_STATEMENTS`].
    pub statements: SmallVec<[Statement; 4]>,
    /// The least wait that an error response demands, in any of the ways of saying so.
    pub retry_after: Option<Duration>,
}

/// What was said about one limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Statement {
    /// What it counts.
    pub axis: Unit,
    /// What it is counted for.
    pub scope: Scope,
    /// How much it allows in a window.
    pub limit: Option<u64>,
    /// The window: stated, known of the provider, or inferred; [`ASSUMED_WINDOW`] is meant to stand in for `None`.
    pub window: Option<Duration>,
    /// How certain the window is.
    pub basis: Basis,
    /// How much of it was left when the response was made, this request already counted.
    pub remaining: Option<u64>,
    /// When there is more.
    pub reset: Option<Reset>,
}

/// Where a window comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// The response states it, or agrees with what is known of the provider.
    Stated,
    /// What is known of the provider; too little was used for the response to say anything about it.
    Assumed,
    /// It follows from this response's numbers, which one response alone does not prove.
    Inferred,
}

/// What a limit is counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everything that is sent to the upstream.
    Upstream,
    /// An API key; without one, the upstream.
    Key,
    /// A model (or a family of models), for an API key.
    Model,
    /// A group of requests that only the upstream knows how to form, for an API key: GitHub's resources, Discord's
    /// buckets. Which one a request belongs to is told by its response. The number stands for the group's name.
    Pool(u64),
}

/// When a limit has more room. The three are different things: to wait for a full bucket is to wait far too long, and to
/// take the end of a window for a steady refill is to send too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// It refills steadily, and is full again after this.
    ToFull(Duration),
    /// Nothing comes back before the window ends after this, and then everything does.
    WindowEnd(Duration),
    /// One of the two; [`tell_apart`] finds out which from two responses.
    Unknown(Duration),
}

impl Scope {
    /// The scope of the group that the upstream calls by this name.
    pub(super) fn pool(name: &str) -> Self {
        Self::Pool(FixedState::default().hash_one(name.trim()))
    }
}

impl Reset {
    /// The time that was told, whatever it means.
    pub const fn after(self) -> Duration {
        match self {
            Self::ToFull(after) | Self::WindowEnd(after) | Self::Unknown(after) => after,
        }
    }

    fn at_most(self, longest: Duration) -> Self {
        match self {
            Self::ToFull(after) => Self::ToFull(after.min(longest)),
            Self::WindowEnd(after) => Self::WindowEnd(after.min(longest)),
            Self::Unknown(after) => Self::Unknown(after.min(longest)),
        }
    }
}

impl Statement {
    pub(super) const fn new(axis: Unit, scope: Scope) -> Self {
        Self { axis, scope, limit: None, window: None, basis: Basis::Stated, remaining: None, reset: None }
    }

    /// The same without amounts that no API allows, and with a reset that its window allows: nonsense must neither open an
    /// upstream wide nor close it for weeks.
    pub(super) fn believable(self) -> Self {
        let allowed = |amount: &u64| *amount <= LARGEST_AMOUNT;
        let longest = self.window.map_or(LONGEST_PERIOD, reset::believable);
        Self {
            limit: self.limit.filter(allowed),
            remaining: self.remaining.filter(allowed),
            reset: self.reset.map(|reset| reset.at_most(longest)),
            ..self
        }
    }

    /// Whether nothing is left.
    pub fn is_exhausted(&self) -> bool {
        self.remaining == Some(0)
    }

    /// How long it is until `amount` fits, as far as the statement tells; more than the whole limit counts as the limit.
    pub fn wait_for(&self, amount: u64) -> Option<Duration> {
        let remaining = self.remaining?;
        if remaining >= amount {
            return Some(Duration::ZERO);
        }
        match (self.reset?, self.limit) {
            (Reset::ToFull(full), Some(limit)) if limit > remaining => {
                let missing = amount.min(limit) - remaining;
                Some(full.mul_f64(missing as f64 / (limit - remaining) as f64))
            }
            (reset, _) => Some(reset.after()),
        }
    }
}

/// Reads everything that a response with this `status` says about limits. `received` is when it came, for responses
/// without a `Date`.
pub fn read_limits(kind: ProviderKind, status: u16, headers: &Fields, received: UnixTime) -> Said {
    if !speak_of_limits(headers) {
        return Said::default();
    }
    let spoken = Spoken::of(headers);
    let now = UnixTime::of_response(headers, received);
    let dialect = Dialect::of(kind);
    let mut said = Said { statements: SmallVec::new(), retry_after: demanded_wait(status, headers, now) };
    if is_cached(headers) {
        return said;
    }
    named::read(&dialect, status, headers, now, &mut said.statements);
    if spoken.structured {
        ietf::read(&dialect, headers, &mut said.statements);
    }
    if spoken.unified {
        unified::read(headers, now, &mut said.statements);
    }
    if spoken.shopify {
        shopify::read(headers, &mut said.statements);
    }
    said.statements.truncate(MOST_STATEMENTS);
    said.statements.iter_mut().for_each(|statement| *statement = statement.believable());
    if status == 429 {
        said.retry_after = said.retry_after.max(empty_until(&said.statements));
    }
    said
}

/// What a kind of API counts its limits for where nothing is said.
pub fn usual_scope(kind: ProviderKind) -> Scope {
    Dialect::of(kind).scope
}

/// Whether a response has a field that is worth a look: most have none, and this is asked of each.
pub fn speak_of_limits(headers: &Fields) -> bool {
    headers.has(Kind::Limits)
}

/// Which readers have something to read, found in one pass over the names.
#[derive(Debug, Default)]
struct Spoken {
    structured: bool,
    unified: bool,
    shopify: bool,
}

impl Spoken {
    fn of(headers: &Fields) -> Self {
        let mut spoken = Self::default();
        for name in headers.names() {
            match name {
                b"ratelimit" | b"ratelimit-policy" => spoken.structured = true,
                b"anthropic-ratelimit-unified-status" => spoken.unified = true,
                b"x-shopify-shop-api-call-limit" => spoken.shopify = true,
                _ => {}
            }
        }
        spoken
    }
}

/// `retry-after-ms` before `Retry-After` (RFC 9110 §10.2.3), on errors only: elsewhere it speaks of redirects and jobs.
fn demanded_wait(status: u16, headers: &Fields, now: UnixTime) -> Option<Duration> {
    if status < 400 {
        return None;
    }
    let read = |text, bare| value::read_time(text, bare, now).map(|told| told.wait);
    let precise = text(headers, "retry-after-ms").or_else(|| text(headers, "x-ms-retry-after-ms"));
    precise
        .and_then(|text| read(text, Bare::Millis))
        .or_else(|| text(headers, RETRY_AFTER.as_str()).and_then(|text| read(text, Bare::BySize)))
}

/// Until when a window of tokens is empty. Azure refuses for one with `retry-after: 1`; the truth is the window's end.
fn empty_until(statements: &[Statement]) -> Option<Duration> {
    let tokens = statements.iter().filter(|said| said.axis != Unit::Requests && said.is_exhausted());
    let ends = tokens.filter_map(|said| match said.reset? {
        Reset::WindowEnd(end) => Some(end),
        Reset::ToFull(_) | Reset::Unknown(_) => None,
    });
    ends.max()
}

fn is_cached(headers: &Fields) -> bool {
    let age = headers.get(AGE).and_then(|age| age.to_str().ok()?.trim().parse::<u64>().ok());
    age.is_some_and(|age| age > 0)
}

/// A field's first value, if it is text.
pub(super) fn text<'a>(headers: &'a Fields, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
