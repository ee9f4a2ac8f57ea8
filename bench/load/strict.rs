//! One run against an upstream that refuses every breach, by the instants at which the kernel received the requests.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, ValueEnum};
use cooldown_pacer::Unit;
use cooldown_proxy::demo::strict::Counting;
use serde_json::{Value, json};
use tokio::time::{sleep, sleep_until};

use crate::crowd::{self, Sizes};
use crate::support::provider::{Allowance, Attempt, Behaviour, Dialect, LlmProvider, Outcome};
use crate::tally::{Tally, quantile};

/// What the limit's amount is for.
const PERIOD: Duration = Duration::from_secs(1);
/// Windows are one per cent shorter, for the noise of a shared machine. Buckets need no such help.
const SHORTER_WINDOW: Duration = Duration::from_millis(990);
/// How long an answer takes.
const LATENCY: Duration = Duration::from_millis(5);

/// A strict upstream and a crowd.
#[derive(Debug, Args)]
pub(crate) struct Strict {
    #[arg(long, value_enum)]
    counting: Window,
    /// The limit is on tokens, and the chats are of various sizes.
    #[arg(long)]
    tokens: bool,
    /// What a second allows.
    #[arg(long)]
    amount: NonZeroU32,
    /// Tells nothing of its limit, neither in fields nor in words.
    #[arg(long)]
    silent: bool,
    /// How many requests each client has under way; the greedy one has more.
    #[arg(long, default_value_t = 1)]
    each: usize,
    #[arg(long)]
    seconds: f64,
}

/// How the upstream counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Window {
    Sliding,
    Fixed,
    Bucket,
}

impl Strict {
    /// Prints where the upstream listens, reads from standard input where the crowd shall go, and prints what it came to.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let upstream = LlmProvider::start(self.behaviour());
        println!("{}", upstream.address());
        let target: SocketAddr = line()?.trim().parse().context("the address that the crowd shall go to")?;

        let tally = Rc::new(RefCell::new(Tally::new()));
        let began = Instant::now();
        let sizes = if self.tokens { Sizes::Varied } else { Sizes::Same };
        let crowd = crowd::start(target, sizes, self.each, &tally);
        sleep(PERIOD).await;
        tally.borrow_mut().count_fairness_from_here();
        let end = began + Duration::from_secs_f64(self.seconds);
        sleep_until(end.into()).await;
        let clients = tally.borrow().figures();
        drop(crowd);
        let attempts: Vec<Attempt> =
            upstream.attempts().into_iter().filter(|attempt| (began..=end).contains(&attempt.arrival)).collect();
        println!("{}", json!({"clients": clients, "upstream": self.figures(&attempts, began)}));
        Ok(())
    }

    fn behaviour(&self) -> Behaviour {
        let (counting, period) = match self.counting {
            Window::Sliding => (Counting::SlidingWindow, SHORTER_WINDOW),
            Window::Fixed => (Counting::FixedWindow, SHORTER_WINDOW),
            Window::Bucket => (Counting::TokenBucket(self.amount), PERIOD),
        };
        let unit = if self.tokens { Unit::Tokens } else { Unit::Requests };
        let allowance = Allowance::new(unit, self.amount.get(), period).counted(counting);
        let dialect = if self.silent { Dialect::Silent } else { Dialect::OpenAi };
        Behaviour::new(dialect).limit(allowance).latency(LATENCY)
    }

    /// The figures that only the upstream knows.
    fn figures(&self, attempts: &[Attempt], began: Instant) -> Value {
        let count = |outcome| attempts.iter().filter(|attempt| attempt.outcome == outcome).count();
        let accepted = attempts.iter().filter(|attempt| attempt.outcome == Outcome::Accepted);
        let cost = |attempt: &Attempt| if self.tokens { attempt.tokens.input + attempt.tokens.output } else { 1 };
        let taken: u64 = accepted.clone().map(cost).sum();
        let spread = accepted.map(|attempt| attempt.arrival).filter(|arrival| *arrival >= began + PERIOD);
        json!({
            "breaches": count(Outcome::Breach),
            "accepted": count(Outcome::Accepted),
            "other": attempts.len() - count(Outcome::Breach) - count(Outcome::Accepted),
            "used": taken as f64 / (f64::from(self.amount.get()) * self.seconds),
            "jitter_ms": if self.tokens { None } else { jitter_ms(spread.collect(), self.amount) },
        })
    }
}

/// How far the time between two arrivals strays from the even one: the 99th percentile.
fn jitter_ms(mut arrivals: Vec<Instant>, amount: NonZeroU32) -> Option<f64> {
    arrivals.sort_unstable();
    let even = PERIOD / amount.get();
    let strays = arrivals.windows(2).map(|pair| (pair[1] - pair[0]).abs_diff(even).as_secs_f64() * 1000.0);
    let mut strays: Vec<f64> = strays.collect();
    strays.sort_by(f64::total_cmp);
    quantile(&strays, 0.99)
}

fn line() -> anyhow::Result<String> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_arrivals_have_no_jitter() {
        let began = Instant::now();
        let amount = NonZeroU32::new(50).expect("not zero");
        let even: Vec<Instant> = (0..100).map(|number| began + Duration::from_millis(20) * number).collect();
        assert_eq!(jitter_ms(even, amount), Some(0.0));
        let pairs: Vec<Instant> = (0..100).map(|number| began + Duration::from_millis(40) * (number / 2)).collect();
        assert_eq!(jitter_ms(pairs, amount), Some(20.0));
        assert_eq!(jitter_ms(vec![began], amount), None);
    }
}
