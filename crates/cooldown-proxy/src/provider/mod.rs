//! What the kinds of API say about models, tokens and limits, read from bytes. Pure: no IO and no clock.
//!
//! Of a request: [`peek`] finds what routing and cost need, [`Edit`] changes that much of its body and no more, and an
//! [`Estimator`] tells beforehand how many tokens it will take. Of a response: a [`UsageReader`] beside the stream reads
//! how many it took, and a [`UsageHider`] removes what only the proxy asked for.

mod decode;
mod document;
mod estimate;
mod event;
mod frames;
mod hide;
mod peek;
mod rewrite;
mod sse;
mod strings;
mod usage;

pub use estimate::{Estimate, Estimator, Reserve};
pub use hide::UsageHider;
pub use peek::{ModelName, Peek, PeekFault, PeekField, model_of_path, peek};
pub use rewrite::{Edit, rewrite};
pub use sse::{Block, SseScanner};
pub use usage::{FirstEvent, Partial, Usage, UsageReader};
