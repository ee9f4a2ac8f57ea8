//! One limit for many instances: each holds a share of it, and a store moves the shares. See ADR 0015.
//!
//! An instance has a [`Holder`] for each limit of each key. When it is due, the holder says in a [`Renewal`] what it holds
//! and would like to hold; the store ([`RENEW`] in Redis, [`Ledger`] in tests and simulations) gives an [`Answer`]; and the
//! holder says what [`Share`] the pacer may use now. Two things hold at every instant, whatever is lost, late or restarted:
//!
//! - What an instance sent in its trailing window is at most what it holds; it gives back only what it has not sent.
//! - What all of them hold together is at most the limit.

mod divide;
mod holder;
mod ledger;
mod message;
mod terms;

pub use holder::Holder;
pub use ledger::Ledger;
pub use message::{Answer, AnswerError, Outcome, Renewal};
pub use terms::Terms;

use std::num::NonZeroU32;
use std::time::Duration;

use crate::cost::Unit;
use crate::limit::Limit;
use crate::time::Instant;

/// The store's side as a script for Redis and Valkey, which does what [`Ledger`] does. Its one key is the limit's; its
/// arguments are an instance's name, its boot and [`Renewal::arguments`]. Its reply is read by [`Answer::read`].
pub const RENEW: &str = include_str!("renew.lua");

/// A found rate has no amount to be divided, so that instances hold parts of it: so many are all of it.
pub(crate) const PARTS: u32 = 1000;

/// Which limit of a key is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Which {
    /// The one in this place of the list that was given.
    Stated(usize),
    /// The one of this unit and period that the upstream has told of.
    Told(Unit, Duration),
    /// The rate that was found by trying. Instances hold parts of it, as if these were a number in flight.
    Found,
}

/// What a pacer may use of a limit that other instances use too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// How much in every trailing window, or at a time.
    pub amount: u64,
    /// When the lease ends.
    pub until: Instant,
    /// How much from then on.
    pub floor: u64,
    /// When the others no longer reckon with the floor.
    pub forgotten: Instant,
    /// How much from then on.
    pub least: u64,
    /// How much it will probably be when it is needed: what predictions reckon with.
    pub hoped: u64,
}

/// What an instance does with a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// What left in the trailing window, or is in flight.
    pub used: u64,
    /// How much of that left in the last two seconds, or the last eighth of the window if that is shorter.
    pub recent: u64,
    /// What those who wait will take together.
    pub waiting: u64,
    /// The most that one of them takes.
    pub largest: u64,
    /// The weights of the flows that wait together.
    pub weight: u64,
}

impl Share {
    /// The share of an instance that has not reached the store yet.
    pub fn of_stranger(limit: Limit) -> Self {
        Self::least(terms::stranger(amount(limit)))
    }

    /// The share of one of so many instances that have all just become acquainted with a limit: an equal part, until the
    /// store divides it. The store is told of it, so that it is held like any other share.
    pub fn of_one_of(instances: u64, limit: Limit) -> Self {
        let part = terms::part(amount(limit), instances);
        Self { hoped: part, ..Self::least(part) }
    }

    /// Whether it is such an equal part, which the store has not been told of.
    pub(crate) fn is_claimed(&self) -> bool {
        self.until == Instant::START && self.hoped != u64::MAX
    }

    /// The same share of a limit whose amount was `before` and is `now`: no more of it than there was, if that is less.
    pub(crate) fn shrink(&mut self, before: u64, now: u64) {
        if now >= before {
            return;
        }
        let part = |of: u64| (u128::from(of) * u128::from(now) / u128::from(before)) as u64;
        (self.amount, self.floor, self.least) = (part(self.amount), part(self.floor), part(self.least));
    }

    /// Whether nothing of the limit was ever lent: what a key has that nobody holds anything of.
    pub(crate) fn is_strangers(&self) -> bool {
        self.until == Instant::START
    }

    /// So much for ever.
    fn least(least: u64) -> Self {
        let start = Instant::START;
        Self { amount: least, until: start, floor: least, forgotten: start, least, hoped: u64::MAX }
    }

    /// How much it is at `now`.
    pub(crate) fn at(&self, now: u64) -> u64 {
        match now {
            now if now >= self.forgotten.as_nanos() => self.least,
            now if now >= self.until.as_nanos() => self.floor,
            _ => self.amount,
        }
    }

    /// When it is less next.
    pub(crate) fn changes(&self, now: u64) -> u64 {
        let ends = [self.until.as_nanos(), self.forgotten.as_nanos()];
        ends.into_iter().filter(|&end| end > now).min().unwrap_or(u64::MAX)
    }
}

/// A found rate, as instances share it.
pub(crate) fn parts() -> Limit {
    Limit::Concurrency(NonZeroU32::new(PARTS).unwrap_or(NonZeroU32::MIN))
}

fn amount(limit: Limit) -> u64 {
    match limit {
        Limit::Rate(rate) => rate.amount(),
        Limit::Concurrency(max) => u64::from(max.get()),
    }
}
