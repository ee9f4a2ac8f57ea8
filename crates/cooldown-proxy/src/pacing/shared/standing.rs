//! How it stands with the store and the other instances, for those who look on.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// Whether the store can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It was not tried yet.
    Unknown,
    /// It answers.
    Reached,
    /// It does not: this instance goes on with what is certainly its own.
    Lost,
}

impl Reach {
    /// Its name in the snapshot.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "connecting",
            Self::Reached => "reached",
            Self::Lost => "lost",
        }
    }
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Whether the store can be reached.
    pub reach: Reach,
    /// How many instances share the limit that most share.
    pub instances: u64,
    /// Of how many limits, counted by key, this instance holds a part.
    pub limits: u64,
    /// How often the store was lost.
    pub losses: u64,
    /// How often the store had lost its memory.
    pub lost_memories: u64,
    /// How often this instance told what it holds, and had an answer.
    pub renewals: u64,
    /// The same without an answer.
    pub unanswered: u64,
    /// What was closed here and told to the others.
    pub closings_told: u64,
    /// What the others told that was closed.
    pub closings_heard: u64,
}

/// The same while it is counted.
#[derive(Debug, Default)]
pub(super) struct Figures {
    reach: AtomicU8,
    pub(super) instances: AtomicU64,
    pub(super) limits: AtomicU64,
    pub(super) losses: AtomicU64,
    pub(super) lost_memories: AtomicU64,
    pub(super) renewals: AtomicU64,
    pub(super) unanswered: AtomicU64,
    pub(super) closings_told: AtomicU64,
    pub(super) closings_heard: AtomicU64,
}

impl Figures {
    pub(super) fn reach(&self) -> Reach {
        match self.reach.load(Relaxed) {
            0 => Reach::Unknown,
            1 => Reach::Reached,
            _ => Reach::Lost,
        }
    }

    pub(super) fn set_reach(&self, reach: Reach) {
        self.reach.store(reach as u8, Relaxed);
        if reach == Reach::Lost {
            self.losses.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn standing(&self) -> Standing {
        let of = |figure: &AtomicU64| figure.load(Relaxed);
        Standing {
            reach: self.reach(),
            instances: of(&self.instances),
            limits: of(&self.limits),
            losses: of(&self.losses),
            lost_memories: of(&self.lost_memories),
            renewals: of(&self.renewals),
            unanswered: of(&self.unanswered),
            closings_told: of(&self.closings_told),
            closings_heard: of(&self.closings_heard),
        }
    }
}
