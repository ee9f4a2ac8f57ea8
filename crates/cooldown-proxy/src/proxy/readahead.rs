//! Memory for bodies that are read while their requests wait: bounded for each and for all together.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;

/// The most that is read ahead of one body, in bytes.
const MOST_PER_BODY: usize = 64 * 1024;
/// Pieces below this are copied, so that they do not hold the much larger buffer that they were read into.
const WORTH_COPYING: usize = 4096;

/// What one worker may still read ahead.
#[derive(Debug)]
pub(super) struct AheadMemory {
    left: Cell<usize>,
}

/// What one body holds of it. Dropping it returns that.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    memory: Option<Rc<AheadMemory>>,
    held: usize,
    read: usize,
}

impl AheadMemory {
    /// Memory for `bytes` bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self { left: Cell::new(bytes) }
    }
}

impl Ahead {
    /// Whether another piece may be read.
    pub(super) fn may_grow(&self, memory: &AheadMemory) -> bool {
        self.read < MOST_PER_BODY && memory.left.get() > 0
    }

    /// Counts a piece that was read.
    pub(super) fn keep(&mut self, data: Bytes, memory: &Rc<AheadMemory>) -> Bytes {
        // The last piece may exceed what is left: it has been read already.
        let taken = data.len().min(memory.left.get());
        memory.left.set(memory.left.get() - taken);
        self.held += taken;
        self.read += data.len();
        self.memory.get_or_insert_with(|| Rc::clone(memory));
        if data.len() < WORTH_COPYING { Bytes::copy_from_slice(&data) } else { data }
    }

    /// Returns a piece that has been passed on.
    pub(super) fn release(&mut self, bytes: usize) {
        let returned = bytes.min(self.held);
        self.held -= returned;
        if let Some(memory) = &self.memory {
            memory.left.set(memory.left.get() + returned);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.release(self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_body_held_returns_when_it_is_dropped() {
        let memory = Rc::new(AheadMemory::new(100));
        let mut body = Ahead::default();
        let data = body.keep(Bytes::from_static(&[0; 60]), &memory);
        assert_eq!(memory.left.get(), 40);
        body.release(data.len());
        assert_eq!(memory.left.get(), 100, "a piece that went on returns at once");
        body.keep(Bytes::from_static(&[0; 150]), &memory);
        assert_eq!(memory.left.get(), 0);
        assert!(!body.may_grow(&memory), "nothing is left for the next piece");
        drop(body);
        assert_eq!(memory.left.get(), 100);
    }

    #[test]
    fn one_body_has_its_own_bound() {
        let memory = Rc::new(AheadMemory::new(1 << 20));
        let mut body = Ahead::default();
        body.keep(Bytes::from(vec![0; MOST_PER_BODY]), &memory);
        assert!(!body.may_grow(&memory));
    }
}
