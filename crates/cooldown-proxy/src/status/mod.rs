//! `status`: asks a running proxy how everything stands, and draws it in the terminal.

mod ask;
mod picture;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;

use crate::telemetry::snapshot::Snapshot;
use ask::Asked;
use picture::Picture;

/// The environment variable that the token comes from: command lines are seen by others.
const TOKEN: &str = "COOLDOWN_ADMIN_TOKEN";
/// How often `--watch` asks.
const EVERY: Duration = Duration::from_secs(1);

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The admin listener.
    pub url: String,
    /// Whether to go on, once a second, until interrupted.
    pub watch: bool,
    /// Whether the answer is printed as it came, one line each.
    pub json: bool,
}

/// Prints how everything stands.
///
/// # Errors
/// When the URL is none, nobody answers there, or the answer is no snapshot.
pub fn run(status: &Status) -> anyhow::Result<()> {
    let token = std::env::var(TOKEN).ok().filter(|token| !token.is_empty());
    let asked = Asked::new(&status.url, token)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(show(status, &asked))
}

async fn show(status: &Status, asked: &Asked) -> anyhow::Result<()> {
    let live = io::stdout().is_terminal();
    let colour = live && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    loop {
        let text = asked.snapshot().await?;
        let shown = if status.json { text } else { drawn(&text, colour)? };
        // A terminal is drawn anew from its upper left corner, without a blank moment between.
        let (before, after) = if status.watch && live && !status.json { ("\x1b[H\x1b[2J", "") } else { ("", "\n") };
        let mut out = io::stdout().lock();
        match write!(out, "{before}{}{after}", shown.trim_end()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
        drop(out);
        if !status.watch {
            return Ok(());
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn drawn(text: &str, colour: bool) -> anyhow::Result<String> {
    let snapshot: Snapshot = serde_json::from_str(text).context("the answer is no snapshot of a Cooldown Proxy")?;
    Ok(Picture { snapshot: &snapshot, colour }.to_string())
}
