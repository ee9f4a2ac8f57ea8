//! Decides who may call a rate-limited API, and when.
//!
//! Pure and deterministic: no IO, no clock, no threads, no logging. Time is an argument.

mod ask;
mod cost;
mod limit;
mod time;

pub use ask::{
    Admission, Ask, Departure, Flow, Key, LimitsId, Observation, Permit, Refusal, Spent, Ticket, Urgency, Wait, Weight,
    Why,
};
pub use cost::{Cost, Unit};
pub use limit::{LARGEST_AMOUNT, LONGEST_PERIOD, Limit, Rate, RateError, SHORTEST_PERIOD};
pub use time::Instant;
