//! What is known of providers: how each states its limits, its errors and what it charges. Pure: bytes in, data out.

mod charge;
mod class;
mod limits;
mod unix_time;
mod value;

pub use charge::{Charge, OutputReservation, TokenLimits};
pub use class::{Class, LONGEST_BODY, classify, classify_error_json};
pub use limits::{ASSUMED_WINDOW, MOST_STATEMENTS, Meaning, Reset, Said, Scope, Statement, read_limits, tell_apart};
pub use unix_time::UnixTime;
