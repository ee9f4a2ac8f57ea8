//! Everything that needs real sockets, in one binary. What the proxy promises is counted at the upstream.

mod support;

mod admin;
mod bodies;
mod clients;
mod commands;
mod dashboard;
mod demo;
mod departures;
mod faults;
mod fields;
mod fuzz_corpus;
mod hang_ups;
mod keepalive;
mod keys;
mod learning;
mod limits;
mod load;
mod logs;
mod mock;
mod models;
mod promises;
mod providers;
mod refusals;
mod retries;
mod routing;
mod sdk;
mod shutdown;
mod simulate;
mod smuggling;
mod streaming;
mod tls;
mod tokens;
mod unread;
mod ways;
