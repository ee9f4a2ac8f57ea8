//! Workloads as people describe them: who asks for what, how often, and how long an answer takes.

use std::time::Duration;

use cooldown_pacer::{Limit, Rate, Unit, Urgency};
use serde::Deserialize;

use crate::config;

/// What is to be simulated.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Workload {
    pub(super) groups: Vec<Group>,
}

/// Clients that are alike.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    pub(super) name: String,
    /// How many of them there are.
    pub(super) count: u32,
    pub(super) target: Target,
    pub(super) arrivals: Arrivals,
    /// When the first request is made.
    pub(super) start: Duration,
    pub(super) tokens: Option<Tokens>,
    /// From the departure to the last byte of the answer.
    pub(super) takes: Duration,
    /// How long each request may wait at most.
    pub(super) patience: Option<Duration>,
    pub(super) urgency: Option<Urgency>,
    /// How often a request that was refused asks again, each time after what it was told to wait.
    pub(super) retries: u32,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Target {
    /// Lower case, without port.
    pub(super) host: String,
    pub(super) path: String,
    pub(super) model: Option<String>,
}

/// When one client's requests are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Arrivals {
    /// So many, all at the start.
    AtOnce { requests: u64 },
    /// Evenly, whatever becomes of those before.
    Evenly { rate: Rate, requests: u64, until: Duration },
    /// So many under way, each followed by another once it is over and `think` has passed.
    Closed { under_way: u32, think: Duration, requests: u64, until: Duration },
}

/// What a request takes of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tokens {
    /// Of the prompt.
    pub(super) input: u64,
    /// Of the answer.
    #[serde(default)]
    pub(super) output: u64,
    /// What the request states as the most of its answer, if it states any.
    #[serde(default)]
    pub(super) max_output: Option<u64>,
}

/// More clients than this are not simulated.
const MOST_CLIENTS: u64 = 100_000;
/// More requests than this are not kept at once.
const MOST_AT_ONCE: u64 = 10_000_000;
/// What an answer takes where nothing is said.
const USUAL_TIME: Duration = Duration::from_secs(1);
/// As often as OpenAI's and Anthropic's SDKs.
const USUAL_RETRIES: u32 = 2;
const NEVER: Duration = Duration::MAX;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// For how long new requests are made, where a client does not say it.
    #[serde(default)]
    duration: Option<String>,
    clients: Vec<WrittenGroup>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenGroup {
    name: String,
    #[serde(default)]
    count: Option<u32>,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    requests: Option<u64>,
    #[serde(default)]
    rate: Option<String>,
    #[serde(default)]
    under_way: Option<u32>,
    #[serde(default)]
    think: Option<String>,
    #[serde(default)]
    start: Option<String>,
    #[serde(default)]
    duration: Option<String>,
    #[serde(default)]
    tokens: Option<Tokens>,
    #[serde(default)]
    takes: Option<String>,
    #[serde(default)]
    patience: Option<String>,
    #[serde(default)]
    urgency: Option<u8>,
    #[serde(default)]
    retries: Option<u32>,
}

impl Workload {
    /// Reads a description in YAML.
    ///
    /// # Errors
    /// The first thing that is wrong with it, for a person.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let written: Written = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let duration = written.duration.as_deref().map(config::duration).transpose()?;
        let groups: Result<Vec<Group>, String> = written
            .clients
            .into_iter()
            .map(|group| {
                let name = group.name.clone();
                group.read(duration).map_err(|why| format!("client {name}: {why}"))
            })
            .collect();
        let groups = groups?;
        if groups.is_empty() {
            return Err("nobody asks for anything: name at least one client under `clients:`".to_owned());
        }
        if groups.iter().map(|group| u64::from(group.count)).sum::<u64>() > MOST_CLIENTS {
            return Err(format!("at most {MOST_CLIENTS} clients can be simulated"));
        }
        if groups.iter().map(Group::at_once).fold(0, u64::saturating_add) > MOST_AT_ONCE {
            return Err(format!("at most {MOST_AT_ONCE} requests can be made at once"));
        }
        Ok(Self { groups })
    }
}

impl Group {
    /// When its nth client begins: those of a rate are spread over its interval.
    pub(super) fn start_of(&self, nth: u32) -> Duration {
        match self.arrivals {
            Arrivals::Evenly { rate, .. } => {
                let interval = rate.period().as_secs_f64() / rate.amount() as f64;
                self.start.saturating_add(Duration::from_secs_f64(interval * f64::from(nth) / f64::from(self.count)))
            }
            Arrivals::AtOnce { .. } | Arrivals::Closed { .. } => self.start,
        }
    }

    fn at_once(&self) -> u64 {
        let of_each = match self.arrivals {
            Arrivals::AtOnce { requests } => requests,
            Arrivals::Closed { under_way, .. } => u64::from(under_way),
            Arrivals::Evenly { .. } => 1,
        };
        of_each.saturating_mul(u64::from(self.count))
    }
}

impl WrittenGroup {
    fn read(self, duration: Option<Duration>) -> Result<Group, String> {
        let time = |text: &Option<String>| text.as_deref().map(config::duration).transpose();
        let duration = time(&self.duration)?.or(duration);
        let start = time(&self.start)?.unwrap_or(Duration::ZERO);
        let arrivals = self.arrivals(start, duration, time(&self.think)?.unwrap_or(Duration::ZERO))?;
        let urgency = match self.urgency {
            Some(level) => Some(Urgency::new(level).ok_or("`urgency` goes from 0 to 7")?),
            None => None,
        };
        Ok(Group {
            count: self.count.unwrap_or(1),
            arrivals,
            start,
            tokens: self.tokens,
            takes: time(&self.takes)?.unwrap_or(USUAL_TIME),
            patience: time(&self.patience)?,
            urgency,
            retries: self.retries.unwrap_or(USUAL_RETRIES),
            target: Target {
                host: self.host.unwrap_or_else(|| "localhost".to_owned()).to_ascii_lowercase(),
                path: self.path.unwrap_or_else(|| "/".to_owned()),
                model: self.model,
            },
            name: self.name,
        })
    }

    fn arrivals(&self, start: Duration, duration: Option<Duration>, think: Duration) -> Result<Arrivals, String> {
        let until = duration.map_or(NEVER, |duration| start.saturating_add(duration));
        if self.requests.is_none() && duration.is_none() {
            return Err("it never ends: give `requests` or `duration`".to_owned());
        }
        let requests = self.requests.unwrap_or(u64::MAX);
        match (&self.rate, self.under_way) {
            (Some(_), Some(_)) => Err("`rate` and `under_way` contradict each other".to_owned()),
            (Some(rate), None) => match config::limit(rate)? {
                Limit::Rate(rate) if rate.unit() == Unit::Requests => Ok(Arrivals::Evenly { rate, requests, until }),
                _ => Err("`rate` is in requests, such as `10/min`".to_owned()),
            },
            (None, Some(0)) => Err("`under_way` is at least 1".to_owned()),
            (None, Some(under_way)) => Ok(Arrivals::Closed { under_way, think, requests, until }),
            (None, None) => match self.requests {
                Some(requests) => Ok(Arrivals::AtOnce { requests }),
                None => Err("give `rate`, `under_way` or `requests`".to_owned()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn a_workload_reads_as_it_is_described() {
        let text = "duration: 1d\nclients:\n  - {name: a, rate: 10/min, count: 3}\n  - {name: b, requests: 5}\n  - {name: c, under_way: 2, think: 5s, duration: 1h, start: 8h}\n";
        let workload = Workload::parse(text).expect("valid");
        let [a, b, c] = workload.groups.as_slice() else { panic!("three groups") };
        assert_eq!(a.count, 3);
        assert!(matches!(a.arrivals, Arrivals::Evenly { requests: u64::MAX, until, .. } if until.as_secs() == 86_400));
        assert_eq!(b.arrivals, Arrivals::AtOnce { requests: 5 });
        assert!(matches!(c.arrivals, Arrivals::Closed { under_way: 2, until, .. } if until.as_secs() == 9 * 3600));
    }

    #[test]
    fn the_example_of_the_docs_is_a_workload() {
        let page = include_str!("../../../../docs/commands.md");
        let example = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
        let workload = Workload::parse(example).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(workload.groups.len(), 3);
    }

    #[rstest]
    #[case("clients: []", "nobody")]
    #[case("clients: [{name: a}]", "never ends")]
    #[case("clients: [{name: a, requests: 1, rate: 1/s, under_way: 1}]", "contradict")]
    #[case("clients: [{name: a, requests: 1, rate: 1k tokens/s}]", "requests")]
    #[case("clients: [{name: a, requests: 1, urgency: 8}]", "urgency")]
    #[case("clients: [{name: a, requests: 1, takes: fast}]", "client a")]
    #[case("clients: [{name: a, requests: 1, count: 100001}]", "at most")]
    #[case("clients: [{name: a, request: 1}]", "request")]
    #[case("duration: 1d\nclients: [{name: a}]", "give `rate`")]
    fn what_is_wrong_is_told(#[case] text: &str, #[case] part: &str) {
        let error = Workload::parse(text).expect_err(text);
        assert!(error.contains(part), "{error}");
    }
}
