//! What is told about one request: its figures and its access line. Whoever drops it has told everything.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};

use super::error::ProxyError;
use super::site::Route;
use crate::head::RequestHead;
use crate::telemetry::{AccessLine, AccessLog, RouteMetrics, Trace, WaitingGuard, unix_seconds};

/// The story of one request.
#[derive(Debug)]
pub(super) struct Record {
    line: AccessLine,
    trace: Trace,
    /// Figures of its upstream, once a route has matched.
    route: Option<Arc<RouteMetrics>>,
    /// Figures of the domain that it asked for.
    domain: Option<Arc<RouteMetrics>>,
    /// When it arrived, in Unix seconds. Narrow, since every streamed response holds a record.
    at: u32,
    /// It was its turn before.
    has_left: bool,
}

impl Record {
    /// A request arrived.
    pub(super) fn begin<'a>(log: &AccessLog, method: &Method, host: impl FnOnce() -> &'a str, path: &str) -> Self {
        let (line, trace) = (log.line(method, host, path), Trace::default());
        let at = u32::try_from(unix_seconds()).unwrap_or(u32::MAX);
        Self { line, trace, route: None, domain: None, at, has_left: false }
    }

    /// The same, told as a trace too.
    pub(super) fn traced(self, trace: Trace) -> Self {
        Self { trace, ..self }
    }

    /// Tells the upstream, in the fields of the attempt that leaves next, which trace that belongs to.
    pub(super) fn propagate(&mut self, head: &mut Rc<RequestHead>) {
        if self.trace.is_on() {
            self.trace.propagate(&mut Rc::make_mut(head).headers);
        }
    }

    /// It asks for a domain with these figures.
    pub(super) fn asked_for(&mut self, domain: Arc<RouteMetrics>) {
        domain.arrived(self.at.into());
        self.domain = Some(domain);
    }

    /// It takes this route, perhaps after another one.
    pub(super) fn takes(&mut self, route: &Route) {
        if self.route.as_ref().is_some_and(|figures| Arc::ptr_eq(figures, &route.metrics)) {
            return;
        }
        self.line.route(&route.name);
        self.trace.route(&route.name);
        if self.route.is_none() {
            route.metrics.arrived(self.at.into());
        }
        self.route = Some(Arc::clone(&route.metrics));
    }

    /// Whether it took this route last.
    pub(super) fn has_taken(&self, route: &Route) -> bool {
        self.route.as_ref().is_some_and(|figures| Arc::ptr_eq(figures, &route.metrics))
    }

    /// It belongs to this configured client.
    pub(super) fn client(&mut self, name: &str) {
        self.line.client(name);
        self.trace.client(name);
    }

    /// It waits in line until the guards are dropped.
    pub(super) fn waiting(&mut self) -> [Option<WaitingGuard>; 2] {
        self.line.in_line();
        self.trace.in_line();
        [&self.route, &self.domain].map(|figures| figures.as_ref().map(RouteMetrics::waiting))
    }

    /// It stood in line for so long, which adds to earlier waits.
    pub(super) fn waited(&mut self, wait: Duration) {
        self.line.waited(wait);
        self.trace.waited();
    }

    /// It may leave, after so long in line in all; zero if it left at once. Figures tell the wait for the first attempt, once,
    /// even if nothing comes of that.
    pub(super) fn goes(&mut self, waited: Duration) {
        if !std::mem::replace(&mut self.has_left, true) {
            self.each(|figures| figures.waited(waited));
            if let (Some(id), Some(route)) = (self.trace.id(), &self.route) {
                route.traced(waited, id);
            }
        }
    }

    /// It is sent to the upstream.
    pub(super) fn sent(&mut self) {
        self.line.sent();
        self.trace.sent();
        self.each(RouteMetrics::attempt);
    }

    /// The upstream's response head came.
    pub(super) fn responded(&mut self, status: StatusCode) {
        self.line.responded(status);
        self.trace.responded(status);
        self.each(|figures| figures.responded(status));
    }

    /// The upstream turned an attempt away: this word says why.
    pub(super) fn turned_away(&mut self, why: &'static str) {
        self.trace.turned_away(why);
        self.each(|figures| figures.turned_away(why));
    }

    /// It is tried again.
    pub(super) fn retried(&self) {
        self.each(RouteMetrics::retried);
    }

    /// Its response told how many tokens it took; so many had been estimated.
    pub(super) fn tokens(&self, estimated: u64, actual: u64) {
        self.each(|figures| figures.tokens(estimated, actual));
    }

    /// The proxy answers itself.
    pub(super) fn failed(&mut self, error: &ProxyError) {
        self.line.refused(error.status(), error.code());
        self.trace.refused(error.status(), error.code());
        if error.is_upstream() {
            self.each(|figures| figures.upstream_error(error.code()));
        } else {
            self.each(|figures| figures.refused(error.code()));
        }
    }

    /// This many bytes of the response's body went to the client.
    pub(super) fn bytes(&mut self, more: usize) {
        self.line.bytes(more);
        self.trace.bytes(more);
    }

    /// The response was given to its last byte.
    pub(super) fn complete(&mut self) {
        self.line.complete();
        self.trace.complete();
    }

    fn each(&self, tell: impl Fn(&RouteMetrics)) {
        self.route.iter().chain(&self.domain).for_each(|figures| tell(figures));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn the_wait_of_a_request_is_counted_once_however_often_it_waits() {
        let metrics = Metrics::new();
        let mut record = Record::begin(&AccessLog::off(), &Method::GET, || "a.example", "/");
        record.asked_for(metrics.domain("a.example"));
        // It changes its way once, and then its connection fails, so that nothing is sent.
        record.waited(Duration::from_secs(1));
        record.waited(Duration::from_secs(1));
        record.goes(Duration::from_secs(2));
        record.waited(Duration::from_secs(3));
        record.goes(Duration::from_secs(5));
        record.sent();
        let text = metrics.encode().expect("figures");
        let told = |what: &str| text.lines().find(|line| line.contains(what)).and_then(|line| line.rsplit(' ').next());
        assert_eq!(told("wait_seconds_count"), Some("1"), "{text}");
        assert_eq!(told("wait_seconds_sum"), Some("2.0"), "{text}");
    }
}
