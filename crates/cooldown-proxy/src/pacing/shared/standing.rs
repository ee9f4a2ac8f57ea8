//! How it stands with the store and the other instances, for those who look on.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::telemetry::snapshot::SharedView;

/// Whether the store can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// It was not tried yet.
    Unknown,
    /// It answers.
    Reached,
    /// It does not: this instance goes on with what is certainly its own.
    Lost,
}

/// What is counted, for those who look on.
#[derive(Debug, Default)]
pub(super) struct Figures {
    reach: AtomicU8,
    pub(super) instances: AtomicU64,
    pub(super) limits: AtomicU64,
    losses: AtomicU64,
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

    pub(super) fn view(&self) -> SharedView {
        let of = |figure: &AtomicU64| figure.load(Relaxed);
        let store = match self.reach() {
            Reach::Unknown => "connecting",
            Reach::Reached => "reached",
            Reach::Lost => "lost",
        };
        SharedView {
            store: store.to_owned(),
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
