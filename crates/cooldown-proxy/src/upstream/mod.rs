//! Connections to upstreams: made, kept and reused by each worker for itself.

mod connect;
mod connection;
mod deadline;
mod pool;
mod stream;

pub use connect::{ConnectError, Endpoint, Tls};
pub use connection::{Connection, ExchangeError};
pub use pool::{Lease, Pool};
pub use stream::Stream;
