//! What responses say about limits, in the pacer's terms. See ADR 0009.

use std::time::Duration;

use crate::ask::Key;
use crate::cost::Unit;
use crate::limit::Limit;
use crate::time::Instant;

/// What one response said about the limits of the request that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// The upstream took the request: what it asks of every key's limits is there.
    Accepted,
    /// The upstream turned the request away for a limit of this key: the key closes, and its limits are taken to be lower
    /// than they were. Several such answers of one round trip count once.
    Refused {
        /// Whose limit.
        key: Key,
        /// What that limit counts, where it was said.
        unit: Option<Unit>,
        /// When there is room again, where it was said.
        until: Option<Instant>,
    },
    /// The upstream has no room for the request, which says nothing about limits: the key closes, and nothing is lowered.
    Closed {
        /// What is closed.
        key: Key,
        /// Until when, where it was said.
        until: Option<Instant>,
    },
    /// The response told the state of a limit.
    Told {
        /// Whose limit.
        key: Key,
        /// Its state.
        told: Told,
    },
}

/// What an upstream told about one of its limits, as of the moment at which it took (or refused) the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// What it counts.
    pub unit: Unit,
    /// How much it allows in a period.
    pub amount: Option<u64>,
    /// The period.
    pub period: Option<Duration>,
    /// How much was left, the request itself already counted.
    pub left: Option<u64>,
    /// When there is more.
    pub refill: Option<Refill>,
}

/// How what was taken from a limit comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refill {
    /// Steadily, so that all of it is there after this.
    Steadily(Duration),
    /// Not before this, and then all of it at once.
    AtOnce(Duration),
}

/// What an observation changed, for those who want to tell a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lesson {
    /// A limit became known, or is another one than before.
    Limit {
        /// Whose.
        key: Key,
        /// The limit.
        limit: Limit,
    },
    /// A key closed.
    Closed {
        /// Which.
        key: Key,
        /// Until when.
        until: Instant,
    },
}
