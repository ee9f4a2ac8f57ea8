//! Chance for crowds of clients, the same in each run.

use std::time::Duration;

/// What the SDK of OpenAI waits before it tries again for the first time, where nobody told it how long.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(8);

/// Numbers that are spread well enough for sizes and jitter, and the same in each run.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that roll the same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Between 0 and 1 (splitmix64).
    pub fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A whole number between these, both included.
    pub fn between(&mut self, least: usize, most: usize) -> usize {
        least + (self.roll() * (most - least + 1) as f64) as usize
    }

    /// What the SDK of OpenAI waits before it tries again: 0.5 s, then twice as long each time up to 8 s, less up to a quarter.
    pub fn backoff(&mut self, retry: u32) -> Duration {
        let full = FIRST_BACKOFF.saturating_mul(1 << retry.min(8)).min(LONGEST_BACKOFF);
        full.mul_f64(1.0 - 0.25 * self.roll())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_back_off_as_the_sdk_does() {
        let mut dice = Dice::new(7);
        for (retry, full) in [(0, 0.5), (1, 1.0), (2, 2.0), (4, 8.0), (20, 8.0)] {
            let backoff = dice.backoff(retry).as_secs_f64();
            assert!((0.75 * full..=full).contains(&backoff), "retry {retry}: {backoff} s");
        }
    }

    #[test]
    fn sizes_stay_within_their_bounds_and_reach_both() {
        let mut dice = Dice::new(7);
        let rolled: Vec<usize> = (0..10_000).map(|_| dice.between(8, 64)).collect();
        assert_eq!((rolled.iter().min(), rolled.iter().max()), (Some(&8), Some(&64)));
    }
}
