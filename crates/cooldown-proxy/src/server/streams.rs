//! What HTTP/2 needs beside the connection: where its streams run, and how often they may be broken off.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::Instant;

/// So many requests that were broken off before their answer are borne beyond those that were not: twice as many as there
/// can be at once. A client that opens streams only to reset them (CVE-2023-44487) makes work that no bound on streams
/// bounds.
const MOST_BROKEN_OFF: u32 = 2 * MOST_STREAMS;
/// Half of what was broken off is forgotten in such a time: a line is long, and people give up.
const HALF_LIFE: Duration = Duration::from_secs(5);
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
#[derive(Debug, Clone)]
pub(super) struct BrokenOff(Rc<Cell<Count>>);

/// How many were broken off, as of when.
#[derive(Debug, Clone, Copy)]
struct Count {
    broken_off: u32,
    at: Instant,
}

/// A request that has no answer yet. Dropped before it has one, it was broken off.
#[derive(Debug)]
pub(super) struct Unanswered {
    broken_off: BrokenOff,
    answered: bool,
}

impl BrokenOff {
    /// Of a client that has asked for nothing yet.
    pub(super) fn new() -> Self {
        Self(Rc::new(Cell::new(Count { broken_off: 0, at: Instant::now() })))
    }

    /// A request begins.
    pub(super) fn begin(&self) -> Unanswered {
        Unanswered { broken_off: self.clone(), answered: false }
    }

    /// Whether this client makes nothing but work.
    pub(super) fn is_too_often(&self) -> bool {
        self.0.get().broken_off > MOST_BROKEN_OFF
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
        let Count { mut broken_off, mut at } = self.broken_off.0.get();
        if self.answered {
            broken_off = broken_off.saturating_sub(1);
        } else {
            let now = Instant::now();
            while broken_off > 0 && at + HALF_LIFE <= now {
                (broken_off, at) = (broken_off / 2, at + HALF_LIFE);
            }
            (broken_off, at) = (broken_off + 1, if broken_off == 0 { now } else { at });
        }
        self.broken_off.0.set(Count { broken_off, at });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_only_breaks_off_is_told_from_one_that_does_so_now_and_then() {
        let broken_off = BrokenOff::new();
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

    #[tokio::test(start_paused = true)]
    async fn a_gateway_whose_users_give_up_in_a_long_line_is_borne() {
        let broken_off = BrokenOff::new();
        for _ in 0..10_000 {
            drop(broken_off.begin());
            tokio::time::advance(Duration::from_millis(50)).await;
            assert!(!broken_off.is_too_often());
        }
    }
}
