//! The one clock that all pacers share.

use std::time;

use cooldown_pacer::Instant;

/// Monotonic time since the proxy started, as pacers count it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: time::Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { origin: time::Instant::now() }
    }

    /// The present. For a pacer it must be read inside that pacer's lock, so that its time never runs backwards.
    pub fn now(&self) -> Instant {
        Instant::START.after(self.origin.elapsed())
    }

    /// The same point in the standard library's terms.
    pub fn at(&self, instant: Instant) -> time::Instant {
        self.origin + instant.since(Instant::START)
    }
}
