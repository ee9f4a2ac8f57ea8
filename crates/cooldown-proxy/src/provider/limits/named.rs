//! Limit fields whose names say what they hold: `x-ratelimit-remaining-tokens-minute` and their kin.
//!
//! A name is a family (`x-ratelimit`, `anthropic-ratelimit`, …) and words in any order: what it holds (`limit`,
//! `remaining`, `used`, `reset`), the axis (`requests`, `input-tokens`), the window (`day`, `10-second`). Words that are
//! none of these tell limits apart (`project`).

use std::hash::BuildHasher;
use std::time::Duration;

use cooldown_pacer::{LONGEST_PERIOD, Unit};
use foldhash::fast::FixedState;
use smallvec::SmallVec;

use super::reset::likely_window;
use super::{ASSUMED_WINDOW, Basis, Dialect, MOST_STATEMENTS, Meaning, Reset, Statement};
use crate::fields::Fields;
use crate::provider::unix_time::UnixTime;
use crate::provider::value::{Bare, Told, read_amount, read_time};

/// The families, and what they count where a name has no axis. A family comes before those that it starts with.
const FAMILIES: [(&str, Unit); 9] = [
    ("x-ratelimitbysize-", Unit::Tokens),
    ("ratelimitbysize-", Unit::Tokens),
    ("x-ratelimit-", Unit::Requests),
    ("x-rate-limit-", Unit::Requests),
    ("x-tokenlimit-", Unit::Tokens),
    ("anthropic-ratelimit-", Unit::Requests),
    ("ratelimit-", Unit::Requests),
    ("x-app-limit-", Unit::Requests),
    ("x-user-limit-", Unit::Requests),
];

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Limit,
    Remaining,
    Used,
    Reset,
    /// Discord's and others' `reset-after`: a span beside a `reset` that is a point in time.
    ResetAfter,
    /// Azure's `renewalperiod`, in seconds.
    Renewal,
}

/// Which limit a field speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Subject {
    axis: Unit,
    window: Option<Duration>,
    /// A hash of the words that are neither; 0 without any.
    words: u64,
}

/// What was gathered about one limit.
#[derive(Debug)]
struct Draft {
    subject: Subject,
    limit: Option<u64>,
    remaining: Option<u64>,
    used: Option<u64>,
    /// The window that stood beside a value.
    window: Option<Duration>,
    renewal: Option<Duration>,
    reset: Option<Told>,
    reset_after: Option<Told>,
}

/// Reads all fields of these families.
pub(super) fn read(
    dialect: &Dialect,
    status: u16,
    headers: &Fields,
    now: UnixTime,
    statements: &mut SmallVec<[Statement; 4]>,
) {
    let mut drafts: SmallVec<[Draft; 4]> = SmallVec::new();
    for (name, value) in headers.iter() {
        let Some((holds, subject)) = std::str::from_utf8(name).ok().and_then(read_name) else { continue };
        let Ok(text) = value.to_str() else { continue };
        let known = drafts.iter().position(|draft| draft.subject == subject);
        let place = known.unwrap_or(drafts.len());
        if place == MOST_STATEMENTS {
            continue;
        }
        if known.is_none() {
            drafts.push(Draft::new(subject));
        }
        drafts[place].take(holds, text, dialect.bare, now);
    }
    statements.extend(drafts.iter().filter_map(|draft| draft.finish(dialect, status, headers)));
}

/// Takes a field's name apart; `None` for a name that is no limit's.
fn read_name(name: &str) -> Option<(Holds, Subject)> {
    let (words, family_axis) = FAMILIES.iter().find_map(|(family, axis)| Some((name.strip_prefix(family)?, *axis)))?;
    let (mut holds, mut axis, mut window, mut count) = (None, family_axis, None, 1);
    let mut others = 0;
    for word in words.split('-') {
        match word {
            "limit" => holds = Some(Holds::Limit),
            "remaining" => holds = Some(Holds::Remaining),
            "used" => holds = Some(Holds::Used),
            "reset" => holds = Some(Holds::Reset),
            "after" if holds == Some(Holds::Reset) => holds = Some(Holds::ResetAfter),
            "renewalperiod" => holds = Some(Holds::Renewal),
            "requests" | "request" | "req" => axis = Unit::Requests,
            "tokens" | "token" => axis = if axis == Unit::Requests { Unit::Tokens } else { axis },
            "input" | "prompt" => axis = Unit::InputTokens,
            "output" | "generated" | "completion" => axis = Unit::OutputTokens,
            // A subscription's fields hold no amounts; they have a reader of their own.
            "unified" => return None,
            word => match read_window(word, count) {
                Some(named) => window = Some(named),
                None => match word.parse() {
                    Ok(number) => count = number,
                    Err(_) => others = FixedState::with_seed(others).hash_one(word),
                },
            },
        }
    }
    Some((holds?, Subject { axis, window, words: others }))
}

/// A window out of a name: `minute`, `24hour`, or `second` after a number.
fn read_window(word: &str, count: u32) -> Option<Duration> {
    let letters = word.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = word.split_at(letters);
    let count = if digits.is_empty() { count } else { digits.parse().ok()? };
    let seconds = match unit {
        "second" | "seconds" => 1,
        "minute" | "minutes" => 60,
        "hour" | "hours" => 3600,
        "day" | "days" => 24 * 3600,
        "month" => 30 * 24 * 3600,
        _ => return None,
    };
    let window = Duration::from_secs(seconds).checked_mul(count)?;
    (window > Duration::ZERO && window <= LONGEST_PERIOD).then_some(window)
}

impl Draft {
    const fn new(subject: Subject) -> Self {
        Self {
            subject,
            limit: None,
            remaining: None,
            used: None,
            window: None,
            renewal: None,
            reset: None,
            reset_after: None,
        }
    }

    fn take(&mut self, holds: Holds, text: &str, bare: Bare, now: UnixTime) {
        match holds {
            Holds::Limit => {
                let read = read_amount(text);
                self.limit = read.map(|read| read.amount).filter(|limit| *limit > 0);
                self.window = read.and_then(|read| read.window).or(self.window);
            }
            Holds::Remaining => {
                let read = read_amount(text);
                self.remaining = read.map(|read| read.amount);
                self.window = self.window.or(read.and_then(|read| read.window));
            }
            Holds::Used => self.used = read_amount(text).map(|read| read.amount),
            Holds::Reset => self.reset = read_time(text, bare, now),
            Holds::ResetAfter => self.reset_after = read_time(text, Bare::Seconds, now),
            Holds::Renewal => {
                let told = read_time(text, Bare::Seconds, now).map(|told| told.wait);
                self.renewal = told.filter(|renewal| *renewal > Duration::ZERO);
            }
        }
    }

    /// What the fields say together; `None` when none of them made sense.
    fn finish(&self, dialect: &Dialect, status: u16, headers: &Fields) -> Option<Statement> {
        let axis = self.subject.axis;
        let limit = self.limit.or_else(|| Some(self.remaining?.saturating_add(self.used?)).filter(|limit| *limit > 0));
        let remaining = self.remaining.or_else(|| Some(limit?.saturating_sub(self.used?)));
        let remaining = remaining.map(|remaining| limit.map_or(remaining, |limit| remaining.min(limit)));
        let reset = self.told_reset(dialect, status, remaining);
        let (window, basis) = match (self.told_window(), dialect.window(axis, headers), limit, remaining, reset) {
            (Some(told), ..) => (Some(told), Basis::Stated),
            (None, known, Some(limit), Some(remaining), Some(Reset::ToFull(full))) => {
                likely_window(known, limit, remaining, full)
            }
            (None, known, ..) => (known, Basis::Stated),
        };
        let scope = if self.subject.words == 0 { dialect.plain_scope(headers) } else { dialect.scope };
        let said = Statement { axis, scope, limit, window, basis, remaining, reset };
        (limit.is_some() || remaining.is_some() || reset.is_some()).then_some(said)
    }

    fn told_window(&self) -> Option<Duration> {
        // Azure names the slice of 1 or 10 s in which it checks requests; the amount is that of a minute.
        let renewal = self.renewal.map(|renewal| renewal.max(ASSUMED_WINDOW));
        self.subject.window.or(self.window).or(renewal)
    }

    fn told_reset(&self, dialect: &Dialect, status: u16, remaining: Option<u64>) -> Option<Reset> {
        let told = self.reset_after.or(self.reset);
        if let Some(renewal) = self.renewal {
            // `reset: 0` beside a renewal period is not a time. On a refusal, the period is what has to pass.
            let useful = told.filter(|told| told.wait > Duration::ZERO).map(|told| told.wait);
            let refused = (status == 429 && remaining == Some(0)).then_some(renewal);
            return useful.max(refused).map(Reset::WindowEnd);
        }
        let told = told?;
        // Only APIs with windows give both a span and a point in time.
        let meaning = if self.reset_after.is_some() { Meaning::WindowEnd } else { dialect.meaning(told.form) };
        Some(meaning.of(told.wait))
    }
}
