//! A demonstration that needs no network: a crowd of clients against a strict mock provider, first direct, then through
//! the proxy.

mod crowd;
mod dice;
pub mod in_process;
pub mod mock;
mod screen;
pub mod stamped;
pub mod strict;
mod tally;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

pub use dice::{Dice, FIRST_BACKOFF};
pub use tally::Figures;

use crowd::{CLIENTS, GREEDY};
use in_process::InProcess;
use mock::MockProvider;
use screen::Screen;
use strict::{Counting, Rule};
use tally::Tally;

/// How long both runs take together when nothing is said.
const DEFAULT_SECONDS: u64 = 20;
/// How often the screen is brought up to date.
const TICK: Duration = Duration::from_millis(100);
/// How long the mock provider takes for an answer.
const LATENCY: Duration = Duration::from_millis(20);
/// What the mock provider allows in each trailing second.
const AMOUNT: NonZeroU32 = NonZeroU32::new(50).expect("fifty is not zero");
const PERIOD: Duration = Duration::from_secs(1);

/// What both runs came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The clients against the provider itself.
    pub direct: Figures,
    /// The same clients through the proxy.
    pub paced: Figures,
}

impl Outcome {
    /// Whether the proxy kept its promise: no 429, neither at a client nor at the upstream.
    pub fn is_clean(&self) -> bool {
        self.paced.refused == 0 && self.paced.breaches == 0
    }
}

/// Runs the demonstration, shows it on standard output, and takes `seconds` for both runs together (20 if not given).
///
/// # Errors
/// When the mock provider or the proxy cannot be started.
pub fn run(seconds: Option<u64>) -> anyhow::Result<Outcome> {
    let span = Duration::from_secs(seconds.unwrap_or(DEFAULT_SECONDS).max(1)) / 2;
    let mut screen = Screen::new();
    introduce(&mut screen);
    let direct = run_direct(span, &mut screen)?;
    let paced = run_paced(span, &mut screen)?;
    screen.table(&direct, &paced);
    screen.say("");
    let outcome = Outcome { direct, paced };
    screen.title(&conclusion(&outcome));
    Ok(outcome)
}

fn introduce(screen: &mut Screen) {
    screen.title("Cooldown Proxy: the same clients, direct and paced");
    screen.say(&format!(
        "{CLIENTS} clients share an API that allows {AMOUNT} requests in every second and answers the rest with 429.\n\
         The first client is greedy: it has {} requests under way at once, the others have one each.\n\
         All of them back off and retry as the OpenAI SDK does.\n",
        GREEDY + 1
    ));
}

fn run_direct(span: Duration, screen: &mut Screen) -> anyhow::Result<Figures> {
    let provider = MockProvider::start(rule(), LATENCY)?;
    watch("direct", provider.address(), &provider, span, screen)
}

fn run_paced(span: Duration, screen: &mut Screen) -> anyhow::Result<Figures> {
    let provider = MockProvider::start(rule(), LATENCY)?;
    let sections =
        format!("routes: {{\"*\": {{upstream: \"http://{}\", limits: {{requests: {AMOUNT}/s}}}}}}", provider.address());
    screen.say("  The proxy's configuration:");
    screen.say(&format!("    {sections}"));
    let proxy = InProcess::start(&sections)?;
    watch("paced", proxy.address(), &provider, span, screen)
}

fn rule() -> Rule {
    Rule { counting: Counting::SlidingWindow, amount: AMOUNT, period: PERIOD }
}

/// Lets the crowd loose on `target` for `span`, shows how it goes, and returns the figures.
fn watch(
    run: &str,
    target: SocketAddr,
    provider: &MockProvider,
    span: Duration,
    screen: &mut Screen,
) -> anyhow::Result<Figures> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let figures = LocalSet::new().block_on(&runtime, async {
        let tally = Rc::new(RefCell::new(Tally::new()));
        let began = Instant::now();
        let _crowd = crowd::start(target, LATENCY, &tally);
        let mut burst_is_over = false;
        loop {
            let passed = began.elapsed();
            if !burst_is_over && passed >= PERIOD {
                tally.borrow_mut().count_fairness_from_here();
                burst_is_over = true;
            }
            let figures = tally.borrow().figures(provider.strict().breaches(), used(provider, passed));
            screen.progress(run, passed.min(span), span, &figures);
            if passed >= span {
                break figures;
            }
            tokio::time::sleep(TICK.min(span - passed)).await;
        }
    });
    screen.keep();
    Ok(figures)
}

/// The part that was used of what the provider allowed in `passed`. A period's amount may be used before the period is
/// over, so in between it would be more than all.
fn used(provider: &MockProvider, passed: Duration) -> f64 {
    let allowed = f64::from(AMOUNT.get()) * (passed.as_secs_f64() / PERIOD.as_secs_f64()).max(1.0);
    (provider.strict().accepted() as f64 / allowed).min(1.0)
}

/// One sentence that says what was shown.
fn conclusion(outcome: &Outcome) -> String {
    let Outcome { direct, paced } = outcome;
    let direct_met = format!("Direct, {} of {} requests met a 429", direct.refused, direct.sent);
    if outcome.is_clean() {
        format!(
            "{direct_met} and clients gave up {} times; through the proxy none did, with {:.1} % of the quota used.",
            direct.gave_up,
            paced.used * 100.0
        )
    } else {
        format!(
            "{direct_met}; through the proxy {} of {} did, which should not happen.",
            paced.refused.max(paced.breaches),
            paced.sent
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(refused: u64, breaches: u64) -> Figures {
        Figures { sent: 100, refused, breaches, ..Tally::new().figures(0, 0.996) }
    }

    #[test]
    fn a_run_is_clean_only_without_any_429() {
        let outcome = |refused, breaches| Outcome { direct: figures(80, 80), paced: figures(refused, breaches) };
        assert!(outcome(0, 0).is_clean());
        assert!(!outcome(1, 0).is_clean());
        assert!(!outcome(0, 1).is_clean());
    }

    #[test]
    fn the_last_sentence_tells_what_happened() {
        let clean = conclusion(&Outcome { direct: figures(80, 80), paced: figures(0, 0) });
        assert_eq!(
            clean,
            "Direct, 80 of 100 requests met a 429 and clients gave up 0 times; \
             through the proxy none did, with 99.6 % of the quota used."
        );
        let broken = conclusion(&Outcome { direct: figures(80, 80), paced: figures(0, 3) });
        assert!(broken.contains("through the proxy 3 of 100 did"), "{broken}");
    }
}
