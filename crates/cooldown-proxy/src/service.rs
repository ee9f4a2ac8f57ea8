//! The service manager: the sockets that it opened for us, and how it hears of what we do.
//!
//! Without a service manager nothing here does anything. It speaks by environment variables, which are read by libraries: see
//! `sd_listen_fds(3)` and `sd_notify(3)`.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, bail};
use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// The name of the socket on which the admin listener listens. All others are for clients.
const ADMIN: &str = "admin";

/// Sockets that were opened before the program was started.
#[derive(Debug, Default)]
pub struct Sockets {
    /// For clients; where there are none, the configuration says where to listen.
    pub clients: Vec<TcpListener>,
    /// For the admin listener.
    pub admin: Option<TcpListener>,
}

/// The watchdog's question to every worker, and how many have answered it.
#[derive(Debug, Clone)]
pub struct Pulse {
    asked: watch::Receiver<()>,
    answers: Arc<AtomicUsize>,
}

/// Tells the service manager that the workers live, for as long as they do.
struct Watchdog {
    ask: watch::Sender<()>,
    answers: Arc<AtomicUsize>,
    /// How long it may hear nothing.
    patience: Duration,
}

impl Sockets {
    /// Takes what the service manager passed. Called once, before there is a second thread: it changes the environment, so
    /// that no child process takes them for its own.
    ///
    /// # Errors
    /// When something was passed that is no TCP socket, or two sockets are for the admin listener.
    pub fn inherited() -> anyhow::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut passed = ListenFd::from_env();
        let mut names = names.split(':');
        let mut sockets = Self::default();
        for index in 0..passed.len() {
            let name = names.next().unwrap_or_default();
            let listener = passed.take_tcp_listener(index);
            let listener = listener.with_context(|| format!("socket {index} (`{name}`) was passed in vain"))?;
            let Some(listener) = listener else { continue };
            match name {
                ADMIN if sockets.admin.is_some() => bail!("two sockets are called `{ADMIN}`"),
                ADMIN => sockets.admin = Some(listener),
                _ => sockets.clients.push(listener),
            }
        }
        Ok(sockets)
    }
}

/// Everything is open, and requests are served.
pub(crate) fn serving(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is read again; [`serving`] follows.
pub(crate) fn reloading() {
    // systemd tells one reload from the next by the time.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "the time cannot be told"),
    }
}

/// What is under way is finished, and nothing new is begun.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("finishing what is under way")]);
}

/// Begins to tell the service manager that all workers live, if it wants to know. Workers answer the pulse.
pub(crate) fn watched() -> Option<Pulse> {
    let patience = sd_notify::watchdog_enabled().filter(|patience| !patience.is_zero())?;
    let (ask, asked) = watch::channel(());
    let answers = Arc::new(AtomicUsize::new(0));
    let watchdog = Watchdog { ask, answers: Arc::clone(&answers), patience };
    tokio::spawn(watchdog.run(|| tell(&[NotifyState::Watchdog])));
    Some(Pulse { asked, answers })
}

/// A service manager that cannot be told is no reason to stop.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

impl Pulse {
    /// Answers for as long as anybody asks.
    pub(crate) async fn answer(mut self) {
        while self.asked.changed().await.is_ok() {
            self.answers.fetch_add(1, Relaxed);
        }
    }
}

impl Watchdog {
    /// Asks twice in the time in which an answer is expected. A worker that has ended is asked no more.
    async fn run(self, all_live: impl Fn()) {
        let mut ticks = interval(self.patience / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is now, when nobody has been asked.
        ticks.tick().await;
        all_live();
        loop {
            self.answers.store(0, Relaxed);
            self.ask.send_replace(());
            ticks.tick().await;
            let asked = self.ask.receiver_count();
            if self.answers.load(Relaxed) >= asked {
                all_live();
            } else {
                tracing::warn!("a worker stands still");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_while_every_worker_that_runs_answers() {
        let (ask, asked) = watch::channel(());
        let answers = Arc::new(AtomicUsize::new(0));
        let watchdog = Watchdog { ask, answers: Arc::clone(&answers), patience: Duration::from_secs(2) };
        let fed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&fed);
        let pulse = Pulse { asked, answers };
        let worker = tokio::spawn(pulse.clone().answer());
        tokio::spawn(pulse.answer());
        tokio::spawn(watchdog.run(move || {
            count.fetch_add(1, Relaxed);
        }));
        tokio::time::sleep(Duration::from_millis(5500)).await;
        assert_eq!(fed.load(Relaxed), 6, "at once, and each second");
        worker.abort();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(fed.load(Relaxed), 8, "a worker that has ended is not missed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_stands_still_starves_the_watchdog() {
        let (ask, asked) = watch::channel(());
        let answers = Arc::new(AtomicUsize::new(0));
        let watchdog = Watchdog { ask, answers: Arc::clone(&answers), patience: Duration::from_secs(2) };
        let fed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&fed);
        // Asked, and never answering: it is not polled.
        let stands_still = Pulse { asked, answers };
        tokio::spawn(stands_still.clone().answer());
        tokio::spawn(watchdog.run(move || {
            count.fetch_add(1, Relaxed);
        }));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(fed.load(Relaxed), 1, "only at the start");
        drop(stands_still);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(fed.load(Relaxed) > 1);
    }
}
