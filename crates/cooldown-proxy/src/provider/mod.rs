//! What the kinds of API say about models, tokens, limits and errors, read from bytes. Pure: no IO and no clock.
//!
//! Of a request: [`peek`] finds what routing and cost need, [`Edit`] changes that much of its body and no more, and an
//! [`Estimator`] tells beforehand how many tokens it will take, from its bytes or from what a [`Tokenizer`] counts;
//! [`Charge`] says what its provider reserves. Of a
//! response: [`read_limits`] reads what its head states, [`classify`] judges a refusal, a [`UsageReader`] beside the
//! stream reads how many tokens it took, and a [`UsageHider`] removes what only the proxy asked for.

mod charge;
mod class;
mod decode;
mod document;
mod estimate;
mod event;
mod frames;
mod hide;
mod limits;
mod members;
mod peek;
mod rewrite;
mod sse;
mod strings;
mod tokenizer;
mod unix_time;
mod usage;
mod value;

pub use charge::{Charge, OutputReservation, TokenLimits};
pub use class::{Class, LONGEST_BODY, begins_like_an_error, classify, classify_error_json, classify_in_place};
pub use decode::{Decoder, decoded};
pub use estimate::{Estimate, Estimator, PromptSize, Reserve};
pub use hide::UsageHider;
pub use limits::{
    ASSUMED_WINDOW, Basis, MOST_STATEMENTS, Meaning, Reset, Said, Scope, Statement, read_limits, speak_of_limits,
    tell_apart, usual_scope,
};
pub use peek::{ModelName, Peek, PeekFault, PeekField, model_of_path, peek};
pub use rewrite::{Edit, rewrite};
pub use sse::{Block, SseScanner};
pub use tokenizer::Tokenizer;
pub use unix_time::UnixTime;
pub use usage::{FirstEvent, Partial, Usage, UsageReader};
