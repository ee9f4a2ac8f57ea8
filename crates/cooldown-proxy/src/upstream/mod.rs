//! Connections to upstreams: made, kept and reused by each worker for itself.

mod carrier;
mod congested;
mod connect;
mod connection;
mod deadline;
mod multiplexed;
mod pool;
mod sending;
mod sent;
mod tls;

pub use carrier::Carrier;
pub use connect::{ConnectError, Endpoint};
pub use connection::{Connection, ExchangeError};
pub use pool::{Lease, Pool};
pub use sending::Sending;
pub use tls::{Tls, TlsError};
