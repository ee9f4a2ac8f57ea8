//! The path of a request: what it is, who sends it, when it may leave, and what comes back.

pub mod body;
mod budget;
mod caller;
mod compact;
mod error;
mod forward;
mod headers;
mod outgoing;
mod peer;
mod readahead;
mod record;
pub mod route;
mod serve;
mod site;
mod target;
mod tunnel;
mod worker;

pub use error::ProxyError;
pub use peer::Peer;
pub use serve::serve;
pub use site::Site;
pub use worker::{InFlight, Worker};
