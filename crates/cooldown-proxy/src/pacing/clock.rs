//! The one clock that all pacers share.

use std::time;

use cooldown_pacer::Instant;

/// Monotonic time since the proxy started, as pacers count it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: time::Instant,
    /// What it showed then.
    beginning: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self::start_at(Instant::START)
    }

    /// A clock that starts now and shows something else than [`Instant::START`]: there is a time before.
    pub(super) fn start_at(beginning: Instant) -> Self {
        Self { origin: time::Instant::now(), beginning }
    }

    /// The present. For a pacer it must be read inside that pacer's lock, so that its time never runs backwards.
    pub fn now(&self) -> Instant {
        self.beginning.after(self.origin.elapsed())
    }

    /// The same point in the standard library's terms.
    pub fn at(&self, instant: Instant) -> time::Instant {
        self.origin + instant.since(self.beginning)
    }
}
