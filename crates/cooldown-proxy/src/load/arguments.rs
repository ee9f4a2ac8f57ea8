//! What `load` is told on the command line.

use std::num::NonZeroU64;
use std::time::Duration;

use clap::Args;
use cooldown_pacer::Rate;

use super::call::{Call, Prompt};
use super::{Load, Pace, rate, tokens};
use crate::config;

/// The arguments of `load`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Where requests go, with path and query
    #[arg(value_name = "URL")]
    url: String,
    /// How many clients there are, each named by the field `x-cooldown-client`
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// Closed loop: the first client has this many more requests under way than the others, which have one
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    greedy: u32,
    /// Open loop: requests leave at this rate, such as 50/s or 600/min, however slow the answers are
    #[arg(long, value_name = "RATE", value_parser = rate, conflicts_with = "greedy")]
    rate: Option<Rate>,
    /// For how long requests leave
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// How long one request may take, its wait in the proxy's line included
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    timeout: Duration,
    /// What the target allows, such as 50/s or "60k tokens/min": the share of it that was used is told
    #[arg(long, value_name = "LIMIT")]
    limit: Option<String>,
    /// A field of each request; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The method [default: GET, or POST with a body]
    #[arg(long, value_name = "METHOD")]
    method: Option<http::Method>,
    /// The body, or @FILE to read it from
    #[arg(long, value_name = "TEXT", conflicts_with = "tokens")]
    body: Option<String>,
    /// Send chat requests with about so many tokens of prompt, and this `max_tokens`
    #[arg(long, value_name = "INPUT[:OUTPUT]", value_parser = tokens)]
    tokens: Option<(NonZeroU64, Option<NonZeroU64>)>,
    /// The model of chat requests
    #[arg(long, value_name = "NAME", default_value = "gpt-4o-mini")]
    model: String,
    /// Ask for the answers of chat requests as streams
    #[arg(long, requires = "tokens")]
    stream: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// Longer runs and waits are not meant.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

fn duration(text: &str) -> Result<Duration, String> {
    let duration = config::duration(text)?;
    if duration.is_zero() || duration > LONGEST {
        return Err("a time above zero and of at most 7d is expected".to_owned());
    }
    Ok(duration)
}

impl Arguments {
    /// What is to be measured.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn load(self) -> Result<Load, String> {
        let mut call = Call::get(&self.url).map_err(|why| format!("{}: {why}", self.url))?;
        if let Some(body) = self.body {
            call = match body.strip_prefix('@') {
                Some(path) => call.with_body(std::fs::read(path).map_err(|error| format!("--body {path}: {error}"))?),
                None => call.with_body(body),
            };
        }
        if let Some((input, output)) = self.tokens {
            call = call.with_prompt(&Prompt { model: self.model, input, output, stream: self.stream });
        }
        for header in &self.headers {
            call = call.with_header(header).map_err(|why| format!("--header: {why}"))?;
        }
        if let Some(method) = self.method {
            call = call.with_method(method);
        }
        let limit = match self.limit {
            Some(text) => {
                let limit = config::limit(&text).map_err(|why| format!("--limit {text:?}: {why}"))?;
                Some((text, limit))
            }
            None => None,
        };
        let pace = match self.rate {
            Some(rate) => Pace::Open { rate },
            None => Pace::Closed { greedy: self.greedy as usize },
        };
        Ok(Load { call, pace, clients: self.clients as usize, duration: self.duration, timeout: self.timeout, limit })
    }
}
