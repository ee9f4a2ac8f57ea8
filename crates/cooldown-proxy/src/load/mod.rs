//! A load generator that measures what the proxy promises, at any URL: 429s seen, share of a limit that was used, fairness
//! between clients, waits.
//!
//! Closed loop: each client has one request under way, and sends the next when it is answered. Open loop: requests leave
//! at a rate, however slow the answers are; their waits count from the instant at which they were due, so that a server
//! which stands still does not look fast (coordinated omission).

mod arguments;
mod call;
mod caller;
mod report;
mod seconds;
mod shares;
mod tally;
mod wire;

use std::cell::RefCell;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::time::{Duration, Instant};

use cooldown_pacer::{Limit, Rate, Unit};
use tokio::task::LocalSet;

pub use arguments::Arguments;
pub use call::{Call, Prompt};
pub use report::{Percentiles, Report};
pub use seconds::Seconds;
pub use shares::{Shares, jain};
pub use wire::{Answer, Failure, Wire};

use caller::{Caller, ClosedLoop, OpenLoop};
use tally::Tally;

/// What is to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// What each request is.
    pub call: Call,
    /// When requests leave.
    pub pace: Pace,
    /// How many clients there are, each under a name of its own.
    pub clients: usize,
    /// For how long new requests leave.
    pub duration: Duration,
    /// How long one request may take.
    pub timeout: Duration,
    /// What the target allows, in order to tell how much of it was used; `text` as it was written.
    pub limit: Option<(String, Limit)>,
}

/// When requests leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Each client has one under way; the first has this many more.
    Closed {
        /// How many more the first client has under way.
        greedy: usize,
    },
    /// At this rate, whatever becomes of those before; clients take turns.
    Open {
        /// So many in each period.
        rate: Rate,
    },
}

/// The most requests that an open loop has under way. Those that are due beyond it leave later, and their waits say so.
const MOST_UNDER_WAY: usize = 20_000;

/// Sends the load, and counts what comes of it.
///
/// # Errors
/// When TLS cannot be set up, or the system refuses a runtime.
pub fn measure(load: &Load) -> anyhow::Result<Report> {
    let endpoint = load.call.endpoint()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tally = Rc::new(RefCell::new(Tally::new(load.clients)));
    let took = LocalSet::new().block_on(&runtime, async {
        let began = Instant::now();
        let caller = Caller::new(Rc::new(load.call.clone()), endpoint, load.timeout, &tally);
        let loops = async {
            match load.pace {
                Pace::Closed { greedy } => ClosedLoop { clients: load.clients, greedy }.run(&caller).await,
                Pace::Open { rate } => {
                    OpenLoop { clients: load.clients, rate, most_under_way: MOST_UNDER_WAY }.run(&caller).await;
                }
            }
        };
        tokio::select! {
            () = loops => {}
            () = marked(load, &tally) => {}
        }
        began.elapsed()
    });
    let report = Report::new(load, &tally.borrow(), took);
    Ok(report)
}

/// Completes at the end. Shares count from the end of the limit's first period on: what goes before it is a burst.
async fn marked(load: &Load, tally: &RefCell<Tally>) {
    let first = load.warm_up();
    tokio::time::sleep(first).await;
    tally.borrow_mut().mark();
    tokio::time::sleep(load.duration - first).await;
}

impl Load {
    /// The first period of the limit, if there are at least two; else nothing.
    fn warm_up(&self) -> Duration {
        match self.limit {
            Some((_, Limit::Rate(rate))) if rate.period() * 2 <= self.duration => rate.period(),
            _ => Duration::ZERO,
        }
    }
}

/// Reads a rate of an open loop: `50/s`, `600/min`, or a plain number of requests per second.
fn rate(text: &str) -> Result<Rate, String> {
    let written = if text.contains('/') { text.to_owned() } else { format!("{text}/s") };
    match crate::config::limit(&written)? {
        Limit::Rate(rate) if rate.unit() == Unit::Requests => Ok(rate),
        _ => Err("requests per second are expected, such as `50` or `600/min`".to_owned()),
    }
}

/// Reads `INPUT[:OUTPUT]` tokens.
fn tokens(text: &str) -> Result<(NonZeroU64, Option<NonZeroU64>), String> {
    let (input, output) = text.split_once(':').map_or((text, None), |(input, output)| (input, Some(output)));
    let number = |text: &str| {
        let number =
            text.trim().parse().ok().and_then(NonZeroU64::new).filter(|number| number.get() <= call::MOST_TOKENS);
        number.ok_or_else(|| {
            format!("write tokens as INPUT or INPUT:OUTPUT, such as `800:200`; at most {}", call::MOST_TOKENS)
        })
    };
    Ok((number(input)?, output.map(number).transpose()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_tokens_read_as_people_write_them() {
        let read = |text| rate(text).map(|rate| (rate.amount(), rate.period().as_secs()));
        assert_eq!(read("50"), Ok((50, 1)));
        assert_eq!(read("0.5"), Ok((1, 2)));
        assert_eq!(read("600/min"), Ok((600, 60)));
        assert!(rate("0").is_err() && rate("60k tokens/min").is_err() && rate("fast").is_err());
        let number = |number| NonZeroU64::new(number).expect("above zero");
        assert_eq!(tokens("800"), Ok((number(800), None)));
        assert_eq!(tokens("800:200"), Ok((number(800), Some(number(200)))));
        assert!(tokens("0").is_err() && tokens("1:").is_err() && tokens("99999999999").is_err());
    }
}
