//! Clients' connections: listeners, worker threads, TLS, HTTP/1.1 and HTTP/2.

mod connection;
mod first;
mod http1;
mod listen;
mod streams;
mod tls;
mod worker;

pub use connection::Http;
pub use listen::Listeners;
pub use tls::Tls;
pub use worker::{Phase, WorkerThread};
