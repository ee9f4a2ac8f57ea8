//! Cooldown Proxy: a reverse proxy that delays requests to rate-limited APIs instead of refusing them.

pub mod config;
pub mod demo;
