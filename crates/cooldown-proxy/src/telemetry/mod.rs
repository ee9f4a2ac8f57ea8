//! What the program tells about itself: figures for a scraper, log lines for people and for machines.

pub mod access;
pub mod logs;
pub mod metrics;
mod scrape;
mod sink;

pub use access::{AccessLine, AccessLog};
pub use logs::Logs;
pub use metrics::{CooldownFigure, LimitFigures, Metrics, RoomFigure, RouteMetrics, Scope, WaitingGuard, unix_seconds};
pub use sink::Sink;
