//! Whether new requests are welcome: what `/readyz` tells a load balancer.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Where the program is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not serving yet.
    Starting,
    /// Serving.
    Serving,
    /// Finishing what is under way; new requests are refused.
    Draining,
}

impl Phase {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
        }
    }
}

/// The present [`Phase`], shared by those who set it and those who ask.
#[derive(Debug, Default)]
pub struct Readiness(AtomicU8);

impl Readiness {
    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.0.store(phase as u8, Relaxed);
    }

    /// The present phase; [`Phase::Starting`] before any was entered.
    pub fn phase(&self) -> Phase {
        match self.0.load(Relaxed) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Draining,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phase_is_the_one_entered_last() {
        let readiness = Readiness::default();
        assert_eq!(readiness.phase(), Phase::Starting);
        for phase in [Phase::Serving, Phase::Draining, Phase::Starting] {
            readiness.enter(phase);
            assert_eq!(readiness.phase(), phase);
        }
    }
}
