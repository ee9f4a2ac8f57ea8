//! What is told of a simulation.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde::ser::{SerializeSeq as _, Serializer};

use super::tally::Figures;
use crate::load::Seconds;

/// One or two simulations of a workload. Its JSON is what `simulate --json` prints: names stay, new ones may come.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The file that describes it.
    pub workload: String,
    /// One for each configuration.
    pub runs: Vec<Run>,
}

/// One simulation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// The configuration's file.
    pub config: String,
    /// Each client, or group of clients that are alike.
    #[serde(serialize_with = "clients")]
    pub clients: Vec<(String, Figures)>,
    /// All of them together.
    pub all: Figures,
    /// Requests of a log that lead nowhere under this configuration.
    pub passed_over: u64,
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
    #[serde(flatten)]
    figures: &'a Figures,
}

/// More clients than this are not listed one by one; JSON has them all.
const MOST_ROWS: usize = 30;

fn clients<S: Serializer>(clients: &[(String, Figures)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(Some(clients.len()))?;
    for (name, figures) in clients {
        list.serialize_element(&Named { name, figures })?;
    }
    list.end()
}

impl Report {
    /// As JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("texts and numbers are JSON")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.runs.as_slice() {
            [one, other] => beside(f, one, other),
            runs => runs.iter().try_for_each(|run| write!(f, "{run}")),
        }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} requests, the last one answered after {}",
            self.config,
            self.all.requests,
            time(self.all.finished)
        )?;
        if self.passed_over > 0 {
            writeln!(f, "{} requests lead nowhere under this configuration", self.passed_over)?;
        }
        writeln!(f)?;
        write!(f, "  {:<20}{:>10}{:>10}{:>9}{:>9}", "client", "requests", "answered", "refused", "gave up")?;
        writeln!(f, "{:>10}{:>10}{:>10}{:>10}", "wait p50", "p99", "longest", "finished")?;
        for (name, figures) in self.clients.iter().take(MOST_ROWS) {
            row(f, name, figures)?;
        }
        if self.clients.len() > MOST_ROWS {
            writeln!(f, "  and {} more", self.clients.len() - MOST_ROWS)?;
        }
        if self.clients.len() > 1 {
            row(f, "all", &self.all)?;
        }
        if self.all.unfinished > 0 {
            writeln!(f, "\n  {} requests were not over within a year", self.all.unfinished)?;
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, figures: &Figures) -> fmt::Result {
    let refused = figures.refused_full + figures.refused_late;
    let Figures { requests, answered, gave_up, .. } = figures;
    write!(f, "  {name:<20}{requests:>10}{answered:>10}{refused:>9}{gave_up:>9}")?;
    let [p50, p99, longest] = [figures.wait_p50, figures.wait_p99, figures.wait_max].map(time);
    writeln!(f, "{p50:>10}{p99:>10}{longest:>10}{:>10}", time(figures.finished))
}

/// Two configurations, figure by figure.
fn beside(f: &mut fmt::Formatter<'_>, one: &Run, other: &Run) -> fmt::Result {
    writeln!(f, "  {:<32}{:>20}{:>20}", "", short(&one.config), short(&other.config))?;
    if one.passed_over + other.passed_over > 0 {
        writeln!(f, "  {:<32}{:>20}{:>20}", "lead nowhere", one.passed_over, other.passed_over)?;
    }
    for (name, figures) in one.clients.iter().take(MOST_ROWS) {
        if one.clients.len() > 1
            && let Some((_, theirs)) = other.clients.iter().find(|(client, _)| client == name)
        {
            writeln!(f, "{name}")?;
            both(f, figures, theirs)?;
        }
    }
    writeln!(f, "all")?;
    both(f, &one.all, &other.all)
}

fn both(f: &mut fmt::Formatter<'_>, one: &Figures, other: &Figures) -> fmt::Result {
    let refused = |figures: &Figures| figures.refused_full + figures.refused_late;
    for (what, one, other) in [
        ("requests", one.requests, other.requests),
        ("answered", one.answered, other.answered),
        ("refusals", refused(one), refused(other)),
        ("given up", one.gave_up, other.gave_up),
    ] {
        writeln!(f, "  {what:<32}{one:>20}{other:>20}")?;
    }
    for (what, one, other) in [
        ("wait p50", one.wait_p50, other.wait_p50),
        ("wait p99", one.wait_p99, other.wait_p99),
        ("longest wait", one.wait_max, other.wait_max),
        ("finished", one.finished, other.finished),
    ] {
        writeln!(f, "  {what:<32}{:>20}{:>20}", time(one), time(other))?;
    }
    Ok(())
}

/// The end of a long path.
fn short(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    if path.len() > 19 { name } else { path }
}

fn time(seconds: f64) -> Seconds {
    Seconds(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}
