//! Cooldown Proxy: a reverse proxy that delays requests to rate-limited APIs instead of refusing them.

pub mod admin;
pub mod cli;
pub mod config;
pub mod provider;
pub mod telemetry;
