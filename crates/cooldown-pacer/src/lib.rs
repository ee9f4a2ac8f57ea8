//! Decides who may call a rate-limited API, and when.
//!
//! Pure and deterministic: no IO, no clock, no threads, no logging. Time is an argument.
//!
//! ```
//! use cooldown_pacer::{Admission, Ask, Departure, Flow, Instant, Key, Pacer, Rate, Settings, Spent, Unit};
//! use std::time::Duration;
//!
//! let mut pacer = Pacer::new(Settings::default());
//! let rate = Rate::new(Unit::Requests, 10, Duration::from_secs(1)).unwrap().with_burst(1).unwrap();
//! let limits = pacer.add_limits(vec![rate.into()]);
//! let ask = || Ask::new(Flow(1), [Key::whole(limits)]);
//!
//! let Admission::Go(first) = pacer.admit(Instant::START, ask()) else { panic!("the limit starts full") };
//! let Admission::Wait(second) = pacer.admit(Instant::START, ask()) else { panic!("one leaves at once") };
//! pacer.settle(Instant::START, first, Spent::AsEstimated);
//!
//! let mut departures = Vec::new();
//! let tenth = Instant::START.after(Duration::from_millis(100));
//! pacer.due(tenth, &mut departures);
//! assert!(matches!(departures[..], [Departure::Go(ticket, _)] if ticket == second));
//! ```

mod absorb;
mod ahead;
mod ask;
mod backlog;
mod bucket;
mod cooldown;
mod cost;
mod hand;
mod hearsay;
mod heirs;
mod history;
mod keys;
mod known;
mod learned;
mod limit;
mod line;
mod observation;
mod observe;
mod pace;
mod pacer;
mod past;
mod predict;
mod ramp;
mod reading;
mod search;
pub mod share;
mod shared;
mod taught;
mod time;
mod turn;
mod window;

pub use absorb::Moved;
pub use ahead::Entry;
pub use ask::{Admission, Ask, Departure, Flow, Key, LimitsId, Permit, Refusal, Spent, Ticket, Urgency, Weight, Why};
pub use backlog::{Backlog, FlowBacklog};
pub use cost::{Cost, Unit};
pub use hearsay::{Hearsay, Said};
pub use heirs::Heritage;
pub use known::{Closure, Room, Source};
pub use limit::{LARGEST_AMOUNT, LONGEST_PERIOD, Limit, Rate, RateError, SHORTEST_PERIOD};
pub use observation::{Lesson, Observation, Refill, Told};
pub use pacer::{Pacer, Settings, Teaching};
pub use past::{Noted, Past};
pub use time::Instant;
