//! What the caller says and is told: asks, permits, tickets, refusals, observations.

use std::num::NonZeroU32;
use std::time::Duration;

use smallvec::SmallVec;

use crate::cost::Cost;
use crate::keys::KeySet;
use crate::time::Instant;

/// Names a list of limits that was given to a [`Pacer`](crate::Pacer), by its [`add_limits`](crate::Pacer::add_limits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LimitsId(pub(crate) u32);

impl LimitsId {
    /// A name that the caller chooses, for [`Pacer::state_limits`](crate::Pacer::state_limits).
    pub const fn new(number: u32) -> Self {
        Self(number)
    }
}

/// What a list of limits is counted for: each key has buckets of its own.
///
/// `subject` is a number that the caller chooses (a hash of an API key, a model, a client, a domain). A list of limits
/// that is not counted per anything uses one subject for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Whose limits.
    pub limits: LimitsId,
    /// Counted for whom.
    pub subject: u64,
}

impl Key {
    /// The one key of limits that hold for everybody together.
    pub const fn whole(limits: LimitsId) -> Self {
        Self { limits, subject: 0 }
    }
}

/// One client, as far as fairness is concerned: a number that the caller chooses (a hash of its identity).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow(pub u64);

/// A flow's part of a shared limit, relative to the others': 2 gets twice as much as 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight(NonZeroU32);

impl Weight {
    /// The weight of a client that nothing was said about.
    pub const ONE: Self = Self(NonZeroU32::MIN);
    /// The largest weight.
    pub const LARGEST: u32 = 1000;

    /// A weight between 1 and [`Weight::LARGEST`].
    pub fn new(weight: u32) -> Option<Self> {
        NonZeroU32::new(weight).filter(|weight| weight.get() <= Self::LARGEST).map(Self)
    }

    pub(crate) fn get(self) -> u32 {
        self.0.get()
    }
}

/// RFC 9218 urgency: 0 is the most urgent, 7 the least, 3 the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Urgency(u8);

impl Urgency {
    /// How many levels there are.
    pub(crate) const LEVELS: usize = 8;

    /// An urgency between 0 and 7.
    pub fn new(level: u8) -> Option<Self> {
        (usize::from(level) < Self::LEVELS).then_some(Self(level))
    }

    /// The level, 0 to 7.
    pub const fn level(self) -> u8 {
        self.0
    }
}

impl Default for Urgency {
    fn default() -> Self {
        Self(3)
    }
}

/// A request that wants to leave.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The keys whose limits concern it. All must have room at once. Duplicates count once.
    pub keys: SmallVec<[Key; 4]>,
    /// Who asks.
    pub flow: Flow,
    /// The asker's weight. The latest one given for a flow counts.
    pub weight: Weight,
    /// How urgent it is.
    pub urgency: Urgency,
    /// What it will probably take.
    pub cost: Cost,
    /// The end of its wait budget: if it cannot leave by then, it is refused, on arrival where that can be told.
    pub latest: Option<Instant>,
    /// Set for a request that was turned away by the upstream and asks again: when it first asked. It goes to the head
    /// of its flow and keeps its age.
    pub since: Option<Instant>,
}

impl Ask {
    /// One request of `flow` against `keys`, of ordinary weight and urgency, that may wait for as long as it takes.
    pub fn new(flow: Flow, keys: impl IntoIterator<Item = Key>) -> Self {
        Self {
            keys: keys.into_iter().collect(),
            flow,
            weight: Weight::ONE,
            urgency: Urgency::default(),
            cost: Cost::ONE_REQUEST,
            latest: None,
            since: None,
        }
    }
}

/// What [`Pacer::admit`](crate::Pacer::admit) answers.
#[derive(Debug)]
pub enum Admission {
    /// It may leave now.
    Go(Permit),
    /// It has a place in the line.
    Wait(Ticket),
    /// It cannot be served in time.
    Refuse(Refusal),
}

/// A place in the line. Never used again for another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(crate) u64);

/// The right to send one request now. It holds what the request took from every limit, until
/// [`Pacer::settle`](crate::Pacer::settle) takes it back.
#[derive(Debug)]
#[must_use = "a permit that is not settled holds its place in flight for ever"]
pub struct Permit {
    /// The keys that were charged.
    pub(crate) keys: KeySet,
    /// What was taken from each.
    pub(crate) taken: Cost,
    /// The instant that the windows hold it under.
    pub(crate) at: u64,
    /// When it was granted; what slots are held for is measured from here.
    pub(crate) granted: u64,
    /// Its number: later ones have larger numbers.
    pub(crate) nth: u64,
    /// Whether it is known that the upstream took the request, or turned it away.
    pub(crate) heard: bool,
    /// Nothing was known of its keys but what was configured, so that nothing depends on whether the upstream takes it.
    pub(crate) plain: bool,
}

impl Permit {
    /// The upstream took the request. True if that is all that there is to say: nothing depends on it. Otherwise it must be
    /// [observed](crate::Pacer::observe).
    pub fn accepted(&mut self) -> bool {
        self.heard |= self.plain;
        self.plain
    }

    /// When the request left, as far as the limits are concerned.
    pub fn at(&self) -> Instant {
        Instant::from_nanos(self.at)
    }

    /// What was taken for it.
    pub fn taken(&self) -> Cost {
        self.taken
    }
}

/// How a permit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    /// Nothing was sent: everything returns.
    Nothing,
    /// What was estimated.
    AsEstimated,
    /// What really was taken.
    Exactly(Cost),
}

impl Spent {
    /// The same without amounts that no limit can hold.
    pub(crate) fn capped(self) -> Self {
        match self {
            Self::Exactly(cost) => Self::Exactly(cost.capped()),
            other => other,
        }
    }
}

/// Something that happened to a waiting request.
#[derive(Debug)]
pub enum Departure {
    /// It may leave now.
    Go(Ticket, Permit),
    /// Its wait budget ended.
    Refuse(Ticket, Refusal),
}

/// The proxy must answer itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub why: Why,
    /// How long a request that asks again should wait first: the true wait, not a guess.
    pub retry_after: Duration,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The line is full.
    LineFull,
    /// The wait budget ends before it could leave.
    WaitTooLong,
}
