//! What must hold for any bytes. Each target is a function that panics when it does not; libFuzzer calls it with what it
//! makes up, and a test of the main workspace with every file of `corpus/` and with mutations of them.

pub mod client_bytes;
pub mod configuration;
pub mod ledger;
pub mod limit_headers;
pub mod model_peeker;
pub mod refusal_bodies;
pub mod response;
pub mod running;
pub mod strict;
pub mod upstream_bytes;
pub mod usage_reader;
