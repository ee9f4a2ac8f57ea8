//! What instances and the store tell each other: whole numbers, so that a script counts as we do.

use super::terms::Terms;

/// What an instance tells the store. It has lowered itself to this before it says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// The limit, as this instance is configured.
    pub(super) terms: Terms,
    /// Grows with each; older ones that arrive later are not heard.
    pub(super) number: u64,
    /// What it holds.
    pub(super) held: u64,
    /// How much of that it will use when it cannot reach the store.
    pub(super) floor: u64,
    /// What it would like to hold.
    pub(super) want: u64,
    /// The least that is of use to it.
    pub(super) need: u64,
    /// How much of what is scarce it gets, relative to others.
    pub(super) weight: u64,
    /// All floors that it knows of, in case the store has forgotten them.
    pub(super) floors: u64,
    /// How many instances it was told of by the last answer that it heard; zero if it has heard none.
    pub(super) instances: u64,
    /// Which memory of the store that answer came from.
    pub(super) generation: u64,
    /// A store that was not recovering has answered it: since then it is among those that others are told of.
    pub(super) settled: bool,
    /// It stops: what it holds is over when its window is.
    pub(super) leaves: bool,
}

/// What the store answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// What became of the renewal.
    pub outcome: Outcome,
    /// The number of the renewal.
    pub number: u64,
    /// What the instance holds now.
    pub held: u64,
    /// What it should come down to, if that is less.
    pub target: u64,
    /// Its floor now.
    pub floor: u64,
    /// All floors, and those that will be.
    pub floors: u64,
    /// How many instances there are, those that the store has forgotten and others have told it of among them.
    pub instances: u64,
    /// When the store began to remember, in milliseconds of its own clock: another number after it has lost its memory.
    pub generation: u64,
}

/// What became of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is heard.
    Renewed,
    /// It is heard, but the store has lost its memory, and gives nothing until all that live have told what they hold.
    Recovering,
    /// A newer one was heard before.
    Stale,
    /// There are too many instances.
    Full,
}

/// A reply that no [`RENEW`](super::RENEW) gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store's answer cannot be read")]
pub struct AnswerError;

impl Renewal {
    /// The script's arguments after the instance's name and its boot.
    pub fn arguments(&self) -> [u64; 19] {
        let terms = &self.terms;
        [
            self.number,
            terms.amount,
            terms.hold,
            terms.lease(),
            terms.forget(),
            terms.recovery(),
            terms.spare(),
            terms.turn(),
            self.held,
            self.floor,
            self.want,
            self.need,
            self.weight,
            self.floors,
            self.instances,
            self.generation,
            u64::from(self.settled),
            u64::from(self.leaves),
            super::ledger::MOST_INSTANCES,
        ]
    }
}

impl Answer {
    /// Reads the script's reply.
    ///
    /// # Errors
    /// When it is not what the script gives.
    pub fn read(reply: &[i64]) -> Result<Self, AnswerError> {
        let &[outcome, number, held, target, floor, floors, instances, generation] = reply else {
            return Err(AnswerError);
        };
        let outcome = match outcome {
            0 => Outcome::Renewed,
            1 => Outcome::Recovering,
            2 => Outcome::Stale,
            3 => Outcome::Full,
            _ => return Err(AnswerError),
        };
        let whole = |number: i64| u64::try_from(number).map_err(|_| AnswerError);
        Ok(Self {
            outcome,
            number: whole(number)?,
            held: whole(held)?,
            target: whole(target)?,
            floor: whole(floor)?,
            floors: whole(floors)?,
            instances: whole(instances)?,
            generation: whole(generation)?,
        })
    }
}
