//! Configuration in two stages: what was written, then what is meant.

pub mod model;
pub mod secret;

pub use model::Config;
pub use secret::Secret;
