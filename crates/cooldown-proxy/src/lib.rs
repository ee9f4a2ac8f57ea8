//! Cooldown Proxy: a reverse proxy that delays requests to rate-limited APIs instead of refusing them.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod demo;
pub mod fields;
mod gather;
pub mod head;
pub mod http1;
pub mod load;
pub mod pacing;
pub mod provider;
pub mod proxy;
pub mod reload;
pub mod server;
pub mod service;
pub mod simulate;
pub mod status;
pub mod stream;
pub mod telemetry;
pub mod upstream;
