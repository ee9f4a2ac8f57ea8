//! What a request takes from its limits.

use std::fmt;

use crate::limit::LARGEST_AMOUNT;

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Whole requests.
    Requests,
    /// Tokens of input and output together.
    Tokens,
    /// Tokens of the prompt.
    InputTokens,
    /// Tokens of the answer.
    OutputTokens,
}

impl Unit {
    /// Every unit, in the order in which a [`Cost`] lists them.
    pub const ALL: [Self; 4] = [Self::Requests, Self::Tokens, Self::InputTokens, Self::OutputTokens];

    const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::InputTokens => "input tokens",
            Self::OutputTokens => "output tokens",
        })
    }
}

/// An amount of each unit: an estimate when a request asks to go, the truth when its permit is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost([u64; Unit::ALL.len()]);

impl Cost {
    /// Nothing of any unit.
    pub const NOTHING: Self = Self([0; Unit::ALL.len()]);
    /// One request and no tokens: what a request costs where only requests are counted.
    pub const ONE_REQUEST: Self = Self::NOTHING.with(Unit::Requests, 1);

    /// This cost with the amount of one unit replaced.
    #[must_use]
    pub const fn with(mut self, unit: Unit, amount: u64) -> Self {
        self.0[unit.index()] = amount;
        self
    }

    /// The amount of one unit.
    pub const fn get(&self, unit: Unit) -> u64 {
        self.0[unit.index()]
    }

    /// The sum of two costs.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_add(theirs);
        }
        self
    }

    /// What is left of this cost without the other; never negative.
    #[must_use]
    pub fn minus(mut self, other: &Self) -> Self {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_sub(theirs);
        }
        self
    }

    /// This cost with no amount above what the largest limit allows: more makes no difference, and sums stay sums.
    #[must_use]
    pub(crate) fn capped(mut self) -> Self {
        for amount in &mut self.0 {
            *amount = (*amount).min(LARGEST_AMOUNT);
        }
        self
    }

    /// This many such costs together.
    #[must_use]
    pub(crate) fn times(mut self, count: f64) -> Self {
        for amount in &mut self.0 {
            *amount = (*amount as f64 * count + 0.5) as u64;
        }
        self
    }
}
