//! What became of a request so far: the ways it may still take, and how often it has been tried.

use std::rc::Rc;
use std::time::Duration;

use super::arrival::Arrival;
use super::error::ProxyError;
use super::forward::Answer;
use super::record::Record;
use super::retry;
use super::returning::Trace;
use super::way::{Leg, Ways};
use super::worker::Worker;
use crate::telemetry::EventKind;

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
    /// It was refused for a limit that it was not known to be concerned by.
    has_strayed: bool,
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
    /// None was made: its way closed while it waited.
    Elsewhere,
}

impl Journey {
    /// Finds the ways that a request can take.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn begin(worker: &Rc<Worker>, arrival: &Arrival) -> Result<Self, ProxyError> {
        let ways = Ways::find(&worker.site, arrival)?;
        let route = ways.get(0).route;
        let trace = arrival.trace.map(|trace| (trace, arrival.since));
        let (attempts, failures, waited) = (0, 0, Duration::ZERO);
        let (has_strayed, worker) = (false, Rc::clone(worker));
        Ok(Self { worker, ways, attempts, failures, waited, has_strayed, route, trace })
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

    /// It was refused for a limit that it was not known to be concerned by; whether for the first time.
    pub(super) fn strays_first(&mut self) -> bool {
        !std::mem::replace(&mut self.has_strayed, true)
    }

    /// It stood in line for so long.
    pub(super) fn waits(&mut self, wait: Duration, record: &mut Record) {
        self.waited += wait;
        record.waited(wait);
    }

    /// Sets off on a leg. Each upstream that a request comes to may try a fifth of it again.
    pub(super) fn takes(&mut self, leg: &Leg) {
        self.route = self.ways.get(leg.way).route;
        if self.ways.come_to(self.route) {
            self.worker.site.routes[self.route].retry_budget.earn();
        }
    }

    /// Whether another attempt may follow one that failed for another reason than a limit. Counts it. One that can be made
    /// elsewhere asks nothing more of the upstream that is in trouble.
    pub(super) fn may_fail_again(&mut self) -> bool {
        self.failures += 1;
        let site = &self.worker.site;
        let is_allowed = || self.ways.lead_elsewhere(self.route) || site.routes[self.route].retry_budget.spend();
        self.failures < site.retry.attempts && is_allowed()
    }

    /// What follows on an upstream that cannot be reached: a way to another one, or another try. Any other error is final.
    pub(super) fn after_failure(
        &mut self,
        leg: &Leg,
        error: ProxyError,
        arrival: &Arrival,
    ) -> Result<Verdict, ProxyError> {
        // A request that was not sent whole cannot have been taken.
        let is_unsent = matches!(error, ProxyError::Broken) && !arrival.was_sent();
        // Nor can one that the upstream says it has not looked at.
        let is_unsent = is_unsent || matches!(error, ProxyError::NotAccepted);
        if matches!(error, ProxyError::Unreachable(_)) {
            let site = &self.worker.site;
            let route = &site.routes[self.route];
            route.reach.lost(site.pacing.clock().now());
            site.metrics.events().tell(EventKind::Unreachable, Some(&route.name), "connect", error.to_string());
        }
        if !is_unsent && !matches!(error, ProxyError::Unreachable(_)) {
            return Err(error);
        }
        if !self.worker.site.retry.includes_connect() || !arrival.can_be_sent_again() || !self.may_fail_again() {
            return Err(error);
        }
        tracing::debug!(%error, "an upstream cannot be reached; the request is tried again");
        if self.ways.give_up_upstream(leg.way) {
            return Ok(Verdict::Again(Duration::ZERO));
        }
        self.pause(arrival).map(Verdict::Again).ok_or(error)
    }

    /// The pause before the next attempt; `None` if the wait budget does not allow one.
    pub(super) fn pause(&self, arrival: &Arrival) -> Option<Duration> {
        self.within_budget(retry::pause(self.failures + 1, self.worker.site.pacing.random()), arrival)
    }

    /// The pause after a refusal that told this wait and that the line does not know of. Without a wait it grows with each.
    pub(super) fn pause_of(&self, wait: Option<Duration>, arrival: &Arrival) -> Option<Duration> {
        let grown = retry::pause(self.attempts + 1, self.worker.site.pacing.random());
        self.within_budget(wait.unwrap_or_default().max(grown), arrival)
    }

    fn within_budget(&self, pause: Duration, arrival: &Arrival) -> Option<Duration> {
        (self.worker.site.pacing.clock().now().after(pause) <= arrival.latest).then_some(pause)
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
