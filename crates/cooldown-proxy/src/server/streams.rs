//! What HTTP/2 needs beside the connection: where its streams run, and how often they may be broken off.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;

use hyper::rt::Executor;

/// So many requests that were broken off before their answer are borne beyond those that were not: twice as many as there
/// can be at once. A client that opens streams only to reset them (CVE-2023-44487) makes work that no bound on streams
/// bounds.
const MOST_BROKEN_OFF: u32 = 2 * MOST_STREAMS;
/// The most requests that one connection may have under way.
pub(super) const MOST_STREAMS: u32 = 100;

/// Runs each stream as a task of this thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OnThisThread;

impl<F: Future<Output = ()> + 'static> Executor<F> for OnThisThread {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// How often a client has lately broken off what it had asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct BrokenOff(Rc<Cell<u32>>);

/// A request that has no answer yet. Dropped before it has one, it was broken off.
#[derive(Debug)]
pub(super) struct Unanswered {
    broken_off: BrokenOff,
    answered: bool,
}

impl BrokenOff {
    /// A request begins.
    pub(super) fn begin(&self) -> Unanswered {
        Unanswered { broken_off: self.clone(), answered: false }
    }

    /// Whether this client makes nothing but work.
    pub(super) fn is_too_often(&self) -> bool {
        self.0.get() > MOST_BROKEN_OFF
    }
}

impl Unanswered {
    /// It is answered.
    pub(super) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        let count = &self.broken_off.0;
        count.set(if self.answered { count.get().saturating_sub(1) } else { count.get() + 1 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_only_breaks_off_is_told_from_one_that_does_so_now_and_then() {
        let broken_off = BrokenOff::default();
        for _ in 0..10_000 {
            drop(broken_off.begin());
            broken_off.begin().answered();
        }
        assert!(!broken_off.is_too_often());
        for _ in 0..=MOST_BROKEN_OFF {
            drop(broken_off.begin());
        }
        assert!(broken_off.is_too_often());
    }
}
