//! What became of a request so far: the ways it may still take, and how often it has been tried.

use std::rc::Rc;
use std::time::Duration;

use super::arrival::Arrival;
use super::error::ProxyError;
use super::forward::Answer;
use super::retry;
use super::returning::Trace;
use super::way::{Leg, Ways};
use super::worker::Worker;

/// A request between its arrival and its answer.
pub(super) struct Journey {
    worker: Rc<Worker>,
    pub ways: Ways,
    /// How often it was sent.
    pub attempts: u32,
    /// How often it failed for another reason than a limit.
    failures: u32,
    /// How long it stood in line, over all attempts.
    pub waited: Duration,
    /// The index of the route that it took last.
    route: usize,
    /// What is remembered of it if it ends without an answer.
    trace: Option<(Trace, cooldown_pacer::Instant)>,
}

/// What is done after an attempt.
pub(super) enum Verdict {
    /// The client gets this.
    Pass(Box<Answer>),
    /// Another attempt is made after this pause.
    Again(Duration),
}

impl Journey {
    /// Finds the ways that a request can take.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn begin(worker: &Rc<Worker>, arrival: &Arrival) -> Result<Self, ProxyError> {
        let ways = Ways::find(&worker.site, arrival)?;
        let route = ways.get(0).route;
        worker.site.routes[route].retry_budget.earn();
        let trace = arrival.trace.map(|trace| (trace, arrival.since));
        let (attempts, failures, waited) = (0, 0, Duration::ZERO);
        Ok(Self { worker: Rc::clone(worker), ways, attempts, failures, waited, route, trace })
    }

    /// The index of the route that it took last.
    pub(super) fn route(&self) -> usize {
        self.route
    }

    /// It is sent.
    pub(super) fn sent(&mut self) {
        self.attempts += 1;
    }

    /// It has its answer: there is nothing to remember.
    pub(super) fn end(&mut self) {
        self.trace = None;
    }

    /// Sets off on a leg.
    pub(super) fn takes(&mut self, leg: &Leg) {
        self.route = self.ways.get(leg.way).route;
    }

    /// Whether another attempt may follow one that failed for another reason than a limit. Counts it.
    pub(super) fn may_fail_again(&mut self) -> bool {
        self.failures += 1;
        self.failures < self.worker.site.retry.attempts && self.worker.site.routes[self.route].retry_budget.spend()
    }

    /// What follows on an upstream that cannot be reached: another way, or another try. Any other error is final.
    pub(super) fn after_failure(
        &mut self,
        leg: &Leg,
        error: ProxyError,
        arrival: &Arrival,
    ) -> Result<Verdict, ProxyError> {
        // A request that was not sent whole cannot have been taken.
        let is_unsent = matches!(error, ProxyError::Broken) && !arrival.was_sent();
        if !is_unsent && !matches!(error, ProxyError::Unreachable(_)) {
            return Err(error);
        }
        if !self.worker.site.retry.includes_connect() || !arrival.can_be_sent_again() || !self.may_fail_again() {
            return Err(error);
        }
        tracing::debug!(%error, "an upstream cannot be reached; the request is tried again");
        if self.ways.give_up(leg.way) {
            return Ok(Verdict::Again(Duration::ZERO));
        }
        self.pause(arrival).map(Verdict::Again).ok_or(error)
    }

    /// The pause before the next attempt; `None` if the wait budget does not allow one.
    pub(super) fn pause(&self, arrival: &Arrival) -> Option<Duration> {
        let pacing = &self.worker.site.pacing;
        let pause = retry::pause(self.failures + 1, pacing.random());
        (pacing.clock().now().after(pause) <= arrival.latest).then_some(pause)
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        if let Some((trace, since)) = self.trace {
            let now = self.worker.site.pacing.clock().now();
            self.worker.site.returning.remember(trace, since, now);
        }
    }
}
