//! What is told about one request: its figures and its access line. Whoever drops it has told everything.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};

use super::error::ProxyError;
use super::site::Route;
use crate::telemetry::{AccessLine, AccessLog, Metrics, RouteMetrics, WaitingGuard};

/// The story of one request.
#[derive(Debug)]
pub(super) struct Record {
    line: AccessLine,
    /// Figures of its upstream and of the domain that was asked for; empty until a route has matched.
    figures: Option<[Arc<RouteMetrics>; 2]>,
}

impl Record {
    /// A request arrived.
    pub(super) fn begin(log: &AccessLog, method: &Method, host: &str, path: &str) -> Self {
        Self { line: log.line(method, host, path), figures: None }
    }

    /// It takes this route.
    pub(super) fn matched(&mut self, route: &Route, host: &str, metrics: &Metrics) {
        self.line.route(&route.name);
        let figures = [Arc::clone(&route.metrics), metrics.domain(host)];
        figures.iter().for_each(|figures| figures.arrived());
        self.figures = Some(figures);
    }

    /// It belongs to this configured client.
    pub(super) fn client(&mut self, name: &str) {
        self.line.client(name);
    }

    /// It waits in line until the guards are dropped.
    pub(super) fn waiting(&mut self) -> Option<[WaitingGuard; 2]> {
        self.line.in_line();
        self.figures.as_ref().map(|figures| figures.each_ref().map(RouteMetrics::waiting))
    }

    /// It may leave after this time in line; zero if it left at once.
    pub(super) fn waited(&mut self, wait: Duration) {
        self.line.waited(wait);
        self.each(|figures| figures.waited(wait));
    }

    /// It is sent to the upstream.
    pub(super) fn sent(&mut self) {
        self.line.sent();
        self.each(RouteMetrics::attempt);
    }

    /// The upstream's response head came.
    pub(super) fn responded(&mut self, status: StatusCode) {
        self.line.responded(status);
        self.each(|figures| figures.responded(status));
    }

    /// The proxy answers itself.
    pub(super) fn failed(&mut self, error: &ProxyError) {
        self.line.refused(error.status(), error.code());
        if error.is_upstream() {
            self.each(|figures| figures.upstream_error(error.code()));
        } else {
            self.each(|figures| figures.refused(error.code()));
        }
    }

    /// This many bytes of the response's body went to the client.
    pub(super) fn bytes(&mut self, more: usize) {
        self.line.bytes(more);
    }

    /// The response was given to its last byte.
    pub(super) fn complete(&mut self) {
        self.line.complete();
    }

    fn each(&self, tell: impl Fn(&RouteMetrics)) {
        self.figures.iter().flatten().for_each(|figures| tell(figures));
    }
}
