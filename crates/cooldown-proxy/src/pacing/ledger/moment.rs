//! When something was written, so that it can be told in another process how long ago that was.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds by the wall clock since 1970, milliseconds since the machine started, and which start that was: zero if
/// the system does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Moment(u64, u64, u32);

/// What tells the present [`Moment`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch {
    boot: u32,
}

impl Watch {
    pub(super) fn new() -> Self {
        let id = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { boot: if id.is_empty() { 0 } else { crc32fast::hash(&id) } }
    }

    pub(super) fn now(self) -> Moment {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        match since_boot() {
            Some(up) => Moment(wall, up.as_millis() as u64, self.boot),
            None => Moment(wall, 0, 0),
        }
    }
}

/// Suspended time counts.
#[cfg(target_os = "linux")]
fn since_boot() -> Option<Duration> {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).ok().map(Duration::from)
}

#[cfg(not(target_os = "linux"))]
fn since_boot() -> Option<Duration> {
    None
}

impl Moment {
    /// How long ago it was at the least. Since the same start of the machine its own clock counts, whatever the wall clock
    /// was set to; otherwise the wall clock, and one that went backwards says that no time has passed.
    pub(super) fn age(self, now: Self) -> Duration {
        let Self(wall, up, boot) = self;
        let millis = if boot == now.2 && boot != 0 { now.1.saturating_sub(up) } else { now.0.saturating_sub(wall) };
        // Both were rounded.
        Duration::from_millis(millis.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_was_set_neither_frees_nor_blocks_anything() {
        let before = Moment(1_000_000, 5_000, 7);
        assert_eq!(before.age(Moment(9_000_000_000, 6_001, 7)), Duration::from_secs(1));
        assert_eq!(before.age(Moment(0, 6_001, 7)), Duration::from_secs(1));
    }

    #[test]
    fn after_a_restart_of_the_machine_the_wall_clock_counts_and_never_backwards() {
        let before = Moment(1_000_000, 5_000, 7);
        assert_eq!(before.age(Moment(1_060_001, 100, 8)), Duration::from_secs(60));
        assert_eq!(before.age(Moment(999_999, 100, 8)), Duration::ZERO);
        assert_eq!(Moment(1000, 0, 0).age(Moment(3001, 0, 0)), Duration::from_secs(2), "nobody knows which start");
    }

    #[test]
    fn the_present_is_no_time_ago() {
        let watch = Watch::new();
        let now = watch.now();
        assert!(now.age(watch.now()) < Duration::from_secs(60));
    }
}
