//! Memory for request bodies that are kept: bounded for each and for all together.

use std::cell::Cell;
use std::rc::Rc;

/// What the bodies of one worker's requests may still take, in bytes.
#[derive(Debug)]
pub(super) struct BodyMemory {
    left: Cell<usize>,
}

/// What one body holds of it. Dropping it returns that.
#[derive(Debug)]
pub(super) struct Held {
    memory: Rc<BodyMemory>,
    bytes: usize,
}

impl BodyMemory {
    /// Memory for `bytes` bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self { left: Cell::new(bytes) }
    }

    /// Whether nothing is left.
    pub(super) fn is_spent(&self) -> bool {
        self.left.get() == 0
    }
}

impl Held {
    /// Holds nothing yet.
    pub(super) fn none(memory: &Rc<BodyMemory>) -> Self {
        Self { memory: Rc::clone(memory), bytes: 0 }
    }

    /// Whose memory it is.
    pub(super) fn memory(&self) -> &Rc<BodyMemory> {
        &self.memory
    }

    /// How much it holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes this much more, or nothing if that is not there.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let Some(left) = self.memory.left.get().checked_sub(bytes) else { return false };
        self.memory.left.set(left);
        self.bytes += bytes;
        true
    }

    /// Returns a part of what it holds.
    pub(super) fn release(&mut self, bytes: usize) {
        let returned = bytes.min(self.bytes);
        self.bytes -= returned;
        self.memory.left.set(self.memory.left.get() + returned);
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
        let memory = Rc::new(BodyMemory::new(100));
        let mut held = Held::none(&memory);
        assert!(held.take(60));
        assert!(!held.take(50), "there are forty left");
        held.release(10);
        assert!(held.take(50));
        assert!(memory.is_spent());
        drop(held);
        assert_eq!(memory.left.get(), 100);
    }
}
