//! The demo's output: a redrawn block in a terminal, plain lines in a pipe.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::tally::Figures;
use crate::load::Seconds;

const BAR: usize = 30;
const SPARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Where and how things are shown.
#[derive(Debug)]
pub(super) struct Screen {
    live: bool,
    colour: bool,
    /// Lines of the block that the next one replaces.
    height: usize,
    /// The last second that a plain line was written for.
    second: Option<u64>,
}

/// How a word is meant.
#[derive(Debug, Clone, Copy)]
enum Tone {
    Good,
    Bad,
    Strong,
    Quiet,
}

impl Screen {
    /// The screen that standard output is.
    pub(super) fn new() -> Self {
        let live = io::stdout().is_terminal();
        let colour = live && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { live, colour, height: 0, second: None }
    }

    /// Writes a line that stays.
    pub(super) fn say(&mut self, line: &str) {
        self.write(&format!("{line}\n"));
    }

    /// Writes a heading.
    pub(super) fn title(&mut self, line: &str) {
        let line = self.paint(Tone::Strong, line);
        self.say(&line);
    }

    /// Shows how a run stands after `passed` of `span`: in a terminal in place of what it showed before, else at most
    /// one line a second.
    pub(super) fn progress(&mut self, run: &str, passed: Duration, span: Duration, figures: &Figures) {
        if self.live {
            self.redraw(&self.block(run, passed, span, figures));
        } else if self.second != Some(passed.as_secs()) {
            self.second = Some(passed.as_secs());
            self.say(&format!(
                "{run:<6} {:>3} s  answered {:>5}  429s {:>5}  quota used {:>5.1} %",
                passed.as_secs(),
                figures.answered,
                figures.refused,
                figures.used * 100.0,
            ));
        }
    }

    /// What was drawn last stays; the next block comes below it.
    pub(super) fn keep(&mut self) {
        self.height = 0;
        self.second = None;
        self.say("");
    }

    /// The table of both runs.
    pub(super) fn table(&mut self, direct: &Figures, paced: &Figures) {
        let heading = format!("{:<44}{:>10}{:>14}", "", "direct", "through proxy");
        self.title(&heading);
        self.count("requests that clients sent", direct.sent, paced.sent, false);
        self.count("answered", direct.answered, paced.answered, false);
        self.count("given up by clients", direct.gave_up, paced.gave_up, true);
        self.count("429s seen by clients", direct.refused, paced.refused, true);
        self.count("429s at the upstream", direct.breaches, paced.breaches, true);
        self.count("other errors seen by clients", direct.failed, paced.failed, true);
        let percent = |used: f64| format!("{:.1} %", used * 100.0);
        self.row("share of the quota used", &percent(direct.used), &percent(paced.used));
        let index = |fairness: f64| format!("{fairness:.3}");
        self.row("fairness between clients (Jain index)", &index(direct.fairness), &index(paced.fairness));
        let wait = |wait: Duration| Seconds(wait).to_string();
        self.row("wait p50, all but the greedy client", &wait(direct.wait_p50), &wait(paced.wait_p50));
        self.row("wait p99, all but the greedy client", &wait(direct.wait_p99), &wait(paced.wait_p99));
        self.row("wait p99, the greedy client", &wait(direct.greedy_wait_p99), &wait(paced.greedy_wait_p99));
    }

    fn count(&mut self, what: &str, direct: u64, paced: u64, bad: bool) {
        let cell = |screen: &Self, number: u64, width: usize| {
            let text = format!("{number:>width$}");
            match (bad, number) {
                (true, 0) => screen.paint(Tone::Good, &text),
                (true, _) => screen.paint(Tone::Bad, &text),
                (false, _) => text,
            }
        };
        let line = format!("  {what:<42}{}{}", cell(self, direct, 10), cell(self, paced, 14));
        self.say(&line);
    }

    fn row(&mut self, what: &str, direct: &str, paced: &str) {
        self.say(&format!("  {what:<42}{direct:>10}{paced:>14}"));
    }

    fn block(&self, run: &str, passed: Duration, span: Duration, figures: &Figures) -> Vec<String> {
        let refused = figures.refused as f64 / figures.sent.max(1) as f64;
        let seconds = format!("{:.1} of {:.1} s", passed.as_secs_f64(), span.as_secs_f64());
        vec![
            format!("  {:<11}{}", self.paint(Tone::Strong, &format!("{run:<11}")), self.paint(Tone::Quiet, &seconds)),
            format!(
                "  quota used  {} {:>5.1} %   {} answered",
                self.paint(Tone::Good, &bar(figures.used)),
                figures.used * 100.0,
                figures.answered
            ),
            format!(
                "  429s        {} {:>5.1} %   {} of {} requests",
                self.paint(Tone::Bad, &bar(refused)),
                refused * 100.0,
                figures.refused,
                figures.sent
            ),
            format!("  per client  {}  {}", sparks(&figures.by_client), self.paint(Tone::Quiet, "greedy one first")),
        ]
    }

    fn redraw(&mut self, lines: &[String]) {
        let mut text = if self.height > 0 { format!("\x1b[{}A", self.height) } else { String::new() };
        for line in lines {
            text.push('\r');
            text.push_str(line);
            text.push_str("\x1b[K\n");
        }
        self.height = lines.len();
        self.write(&text);
    }

    fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Strong => "1",
            Tone::Quiet => "2",
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn write(&mut self, text: &str) {
        let mut out = io::stdout().lock();
        // A reader that went away must not end the demo before its verdict, which is the exit code.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

fn bar(share: f64) -> String {
    let full = (share.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    "█".repeat(full) + &"░".repeat(BAR - full)
}

/// One column for each client, relative to the largest.
fn sparks(by_client: &[u64]) -> String {
    let most = by_client.iter().copied().max().unwrap_or(0).max(1);
    by_client.iter().map(|&count| SPARKS[(count * 7).div_ceil(most) as usize]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_and_columns_fit_their_place() {
        assert_eq!(bar(0.0), "░".repeat(BAR));
        assert_eq!(bar(2.0), "█".repeat(BAR), "a share above one is a full bar");
        assert_eq!(sparks(&[0, 5, 10]), "▁▅█");
        assert_eq!(sparks(&[0, 0]), "▁▁");
    }
}
