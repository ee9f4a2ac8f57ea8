//! What is known of providers: how each states its limits, its errors and what it charges. Pure: bytes in, data out.

pub mod charge;
pub mod class;
pub mod limits;
mod unix_time;
mod value;

pub use unix_time::UnixTime;
