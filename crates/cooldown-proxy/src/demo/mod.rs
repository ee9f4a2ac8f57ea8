//! A demonstration that needs no network.

pub mod mock;
pub mod strict;
