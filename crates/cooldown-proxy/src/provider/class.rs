//! The class of a response: what a pacer has to do about it.
//!
//! [`classify`] judges a response by status, fields and body; [`classify_error_json`] judges an event of a stream, or any
//! JSON that came with a 200. Both end in the same rules. Bodies are read tolerantly, and only as far as 64 KiB.

use std::time::Duration;

use cooldown_pacer::Unit;

use super::limits::{Dialect, Said, Scope, Statement, read_limits, text};
use super::unix_time::UnixTime;
use crate::config::model::ProviderKind;
use crate::fields::Fields;

mod body;
mod google;
mod message;
#[cfg(test)]
mod tests;
mod verdict;

use body::ErrorBody;

/// Longer bodies are not read as JSON; errors are short.
pub const LONGEST_BODY: usize = 64 << 10;

/// What a response means for those who wait.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Class {
    /// No error.
    Fine,
    /// Refused for a limit of ours: wait, and try again.
    Limit {
        /// What the limit counts, where that was said.
        axis: Option<Unit>,
        /// What it is counted for.
        scope: Scope,
        /// How long this request has to wait; `None` where nothing was said.
        wait: Option<Duration>,
        /// The limit itself, as far as it was told: by the body, or by the field that has nothing remaining.
        stated: Option<Statement>,
    },
    /// The upstream has no room, which says nothing about our limits: back off and try again, but lower nothing.
    Capacity {
        /// How long to wait, where that was said.
        wait: Option<Duration>,
    },
    /// The money is spent, or a spending limit is reached: waiting does not help, another key may.
    Money,
    /// The request alone is larger than the limit: it can never fit.
    Impossible {
        /// What the limit counts.
        axis: Option<Unit>,
        /// How much it allows, where that was said.
        limit: Option<u64>,
    },
    /// The credentials are wrong.
    Credentials,
    /// Any other error: nobody's limit, passed on.
    Fault,
}

/// What a verdict is built from.
struct Case<'a> {
    kind: ProviderKind,
    status: u16,
    headers: &'a Fields,
    said: Said,
    body: ErrorBody,
    /// When the response was made.
    now: UnixTime,
}

/// The class of a response. The `body`, or its start, is worth reading for any status from 400 on; with a status below, only
/// for APIs that answer errors with 200 (GraphQL).
pub fn classify(kind: ProviderKind, status: u16, headers: &Fields, body: Option<&[u8]>, received: UnixTime) -> Class {
    let now = UnixTime::of_response(headers, received);
    let body = body.map(ErrorBody::read).unwrap_or_default();
    let implied = if status < 400 { body.implied_status() } else { Some(status) };
    let Some(status) = implied else { return Class::Fine };
    let said = read_limits(kind, status, headers, received);
    verdict::decide(&Case { kind, status, headers, said, body, now }.with_quoted_fields())
}

/// The class of JSON that came with a 200: an event of a stream, or a whole body. What holds no error is [`Class::Fine`].
/// `now` is when it came.
pub fn classify_error_json(kind: ProviderKind, json: &[u8], now: UnixTime) -> Class {
    classify(kind, 200, &Fields::default(), Some(json), now)
}

/// The class of an error that came with a 200 in the place of an answer. What the upstream could not do before the first
/// token it may do another time, whatever it calls its trouble; only what it blames on the request it will refuse again.
pub fn classify_in_place(kind: ProviderKind, headers: &Fields, json: &[u8], received: UnixTime) -> Class {
    match classify(kind, 200, headers, Some(json), received) {
        Class::Fault if ErrorBody::read(json).implied_status().is_some_and(|status| status >= 500) => {
            Class::Capacity { wait: None }
        }
        class => class,
    }
}

/// Whether JSON that came with a 200 tells an error. Its beginning is enough: those who answer like this (GraphQL,
/// OpenRouter) put `error`, `errors` or an empty `data` first.
pub fn begins_like_an_error(json: &[u8]) -> bool {
    let Some((name, value)) = first_field(json) else { return false };
    match name {
        b"error" | b"errors" => !value.starts_with(b"null"),
        b"data" => value.starts_with(b"null"),
        _ => false,
    }
}

/// The name of an object's first field, and what follows it.
fn first_field(json: &[u8]) -> Option<(&[u8], &[u8])> {
    let name = json.trim_ascii_start().strip_prefix(b"{")?.trim_ascii_start().strip_prefix(b"\"")?;
    let end = name.iter().position(|byte| *byte == b'"')?;
    let value = name[end + 1..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    (!value.is_empty()).then_some((&name[..end], value))
}

impl Case<'_> {
    /// OpenRouter quotes the fields of the limit in the body.
    fn with_quoted_fields(mut self) -> Self {
        if let Some(quoted) = self.body.quoted_fields.take() {
            let quoted = read_limits(self.kind, self.status, &quoted, self.now);
            self.said.retry_after = self.said.retry_after.max(quoted.retry_after);
            self.said.statements.extend(quoted.statements);
        }
        self
    }

    /// What this provider's limits are counted for where nothing is said.
    fn usual_scope(&self) -> Scope {
        Dialect::of(self.kind).scope
    }

    /// The limit that the fields call used up; of several, the one that takes longest.
    fn exhausted(&self) -> Option<Statement> {
        let exhausted = self.said.statements.iter().filter(|said| said.is_exhausted());
        exhausted.max_by_key(|said| said.reset.map(|reset| reset.after())).copied()
    }

    fn has_field(&self, name: &str) -> bool {
        text(self.headers, name).is_some()
    }
}
