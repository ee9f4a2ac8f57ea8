//! Counts instructions, where a stopwatch would tell how busy the machine is, and fails when a step takes more than is
//! recorded for it.
//!
//!     guard               counts every step and compares
//!     guard --record      counts every step and records the counts as the new ceilings
//!     guard --work STEP N does a step N times; what the guard runs under callgrind

mod callgrind;
mod ceilings;
mod pacing;
mod proxied;
mod routing;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};

use ceilings::{Ceilings, Count};
use proxied::Traffic;

/// Work of the program's own code that is done in a process of its own.
#[derive(Debug, Clone, Copy)]
struct Step {
    name: &'static str,
    times: u64,
    work: fn(u64),
}

const STEPS: [Step; 6] = [
    Step { name: "admit and settle, one rate", times: 20_000, work: pacing::one_rate },
    Step { name: "admit and settle, two rates and a concurrency", times: 20_000, work: pacing::rates_and_concurrency },
    Step { name: "join, leave and settle, 1,000 wait", times: 20_000, work: pacing::with_a_line },
    Step { name: "route by host, 1,000 routes", times: 20_000, work: routing::by_host },
    Step { name: "route by wildcard, 1,000 routes", times: 20_000, work: routing::by_wildcard },
    Step { name: "route by path, 1,000 routes", times: 20_000, work: routing::by_path },
];

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => compare(),
        ["--record"] => record(),
        ["--work", step, times] => work(step, times.parse()?),
        _ => bail!("usage: guard [--record]"),
    }
}

fn compare() -> anyhow::Result<ExitCode> {
    let ceilings = Ceilings::load()?;
    let counts = count_all()?;
    let exceeded = ceilings.compare(&counts);
    if exceeded.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for line in exceeded {
        eprintln!("guard: {line}");
    }
    eprintln!(
        "guard: make it cheaper; where it must cost so much, `make guard-record` records the new counts, to be committed with the reason"
    );
    Ok(ExitCode::FAILURE)
}

fn record() -> anyhow::Result<ExitCode> {
    ceilings::record(&count_all()?)?;
    Ok(ExitCode::SUCCESS)
}

/// What one of each step takes, in instructions.
fn count_all() -> anyhow::Result<Vec<Count>> {
    let this = std::env::current_exe().context("where this program is")?;
    let proxy = beside(&this)?;
    let mut counts = Vec::new();
    for step in STEPS {
        let run = |times: u64| callgrind::run(&this, &["--work", step.name, &times.to_string()]);
        counts.push(count(step.name, step.times, run)?);
    }
    for traffic in proxied::all() {
        let run = |times| traffic.count(&proxy, times);
        counts.push(count(traffic.name, Traffic::REQUESTS, run)?);
    }
    Ok(counts)
}

/// One of a step: what twice as many take more than so many. So neither start nor end counts.
fn count(name: &'static str, times: u64, run: impl Fn(u64) -> anyhow::Result<u64>) -> anyhow::Result<Count> {
    let (once, twice) = (run(times)?, run(2 * times)?);
    let instructions = twice.checked_sub(once).context("twice the work takes more instructions")? / times;
    println!("{instructions:>10}  {name}");
    Ok(Count { name, instructions })
}

fn work(name: &str, times: u64) -> anyhow::Result<ExitCode> {
    let step = STEPS.iter().find(|step| step.name == name).context("no such step")?;
    (step.work)(times);
    Ok(ExitCode::SUCCESS)
}

/// The proxy's binary of the same build.
fn beside(this: &Path) -> anyhow::Result<PathBuf> {
    let proxy = this.with_file_name("cooldown-proxy");
    if !proxy.exists() {
        bail!("{} is missing: run .ci/guard, which builds both", proxy.display());
    }
    Ok(proxy)
}
