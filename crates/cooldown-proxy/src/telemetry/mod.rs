//! What the program tells about itself: figures for a scraper, log lines for people and for machines.

pub mod access;
mod callers;
pub mod events;
pub mod logs;
pub mod metrics;
mod scrape;
mod sink;
pub mod snapshot;
pub mod traces;
mod waits;

pub use access::{AccessLine, AccessLog};
pub use callers::Caller;
pub use events::{Event, EventKind, Events};
pub use logs::{LogLevel, Logs};
pub use metrics::{
    CooldownFigure, LimitFigures, Metrics, RoomFigure, RouteMetrics, Scope, WaitingGuard, unix_millis, unix_seconds,
};
pub use sink::Sink;
pub use traces::{Exporter, Trace, Tracer};
pub use waits::WAIT_BUCKETS;
