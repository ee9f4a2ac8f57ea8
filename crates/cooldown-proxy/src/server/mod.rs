//! Clients' connections: listeners, worker threads, HTTP/1.1.

mod connection;
mod listen;
mod watch;
mod worker;

pub use listen::Listeners;
pub use worker::{Phase, WorkerThread};
