//! Memory for request bodies that are kept: bounded for each and for all together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// How much may be held of the bodies of all requests together, in bytes: of those that wait, and of those that may have to
/// be sent again.
const BODIES: usize = 512 * 1024 * 1024;

/// What the bodies of all requests may still take, in bytes. All workers share it.
#[derive(Debug)]
pub(super) struct BodyMemory {
    left: AtomicUsize,
}

/// What one body holds of it. Dropping it returns that.
#[derive(Debug)]
pub(super) struct Held {
    memory: Arc<BodyMemory>,
    bytes: usize,
}

impl BodyMemory {
    /// Memory for `bytes` bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self { left: AtomicUsize::new(bytes) }
    }

    /// Memory for the bodies of a whole process, each of which may be read up to `max_body` bytes: one of them fits.
    pub(super) fn of_process(max_body: usize) -> Self {
        Self::new(BODIES.max(max_body))
    }

    /// Whether nothing is left.
    pub(super) fn is_spent(&self) -> bool {
        self.left.load(Relaxed) == 0
    }
}

impl Held {
    /// Holds nothing yet.
    pub(super) fn none(memory: &Arc<BodyMemory>) -> Self {
        Self { memory: Arc::clone(memory), bytes: 0 }
    }

    /// Whose memory it is.
    pub(super) fn memory(&self) -> &Arc<BodyMemory> {
        &self.memory
    }

    /// How much it holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes this much more, or nothing if that is not there.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        // Nothing but the number itself is shared, so its order with other memory does not matter.
        let taken = self.memory.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes)).is_ok();
        self.bytes += if taken { bytes } else { 0 };
        taken
    }

    /// Returns a part of what it holds.
    pub(super) fn release(&mut self, bytes: usize) {
        let returned = bytes.min(self.bytes);
        self.bytes -= returned;
        self.memory.left.fetch_add(returned, Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_body_held_returns_when_it_is_dropped() {
        let memory = Arc::new(BodyMemory::new(100));
        let mut held = Held::none(&memory);
        assert!(held.take(60));
        assert!(!held.take(50), "there are forty left");
        held.release(10);
        assert!(held.take(50));
        assert!(memory.is_spent());
        drop(held);
        assert_eq!(memory.left.load(Relaxed), 100);
    }

    #[test]
    fn workers_share_one_memory_and_none_of_it_is_lost() {
        let memory = Arc::new(BodyMemory::new(10));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let mut held = Held::none(&memory);
                        if held.take(7) {
                            let mut other = Held::none(&memory);
                            assert!(!other.take(7), "seven of ten are taken");
                        }
                    }
                });
            }
        });
        assert_eq!(memory.left.load(Relaxed), 10);
    }

    #[test]
    fn the_largest_body_that_is_read_fits_alone() {
        const LARGEST: usize = 1 << 30;
        let memory = Arc::new(BodyMemory::of_process(LARGEST));
        assert!(Held::none(&memory).take(LARGEST));
        assert_eq!(BodyMemory::of_process(1024).left.into_inner(), BODIES);
    }
}
