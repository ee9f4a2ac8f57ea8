//! The load and the strict upstreams of the comparison with other proxies, which `bench/compare/run.py` starts: a load at a
//! constant rate, a load that holds many requests in line, and a crowd against an upstream that forgives nothing. Each
//! prints one line of JSON at its end.

mod caller;
mod crowd;
mod hold;
mod steady;
mod strict;
mod tally;

/// The strict provider of the integration tests, so that tests and published figures have the same judge.
#[path = "../../crates/cooldown-proxy/tests/it/support"]
mod support {
    #[allow(dead_code, unused_imports, reason = "the tests use what the benches do not")]
    pub(crate) mod provider;
}

use clap::{Parser, Subcommand};
use tokio::task::LocalSet;

#[derive(Parser)]
#[command(about = "The load and the strict upstreams of bench/compare.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A constant rate, whatever the answers do: latencies count from the instant at which a request was due.
    Steady(steady::Steady),
    /// Many connections, each with one request after the other, most of which wait in the proxy.
    Hold(hold::Hold),
    /// An upstream that refuses every breach, and a crowd that comes to it through whatever stands in between.
    Strict(strict::Strict),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        match cli.command {
            Command::Steady(steady) => steady.run().await,
            Command::Hold(hold) => hold.run().await,
            Command::Strict(strict) => strict.run().await,
        }
    })
}
