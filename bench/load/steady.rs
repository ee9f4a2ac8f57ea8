//! A load at a constant rate. A request that could not be sent when it was due, because every connection was still busy,
//! has waited since then: so a slow answer is not hidden by the requests that it held up (coordinated omission).

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use hdrhistogram::Histogram;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::caller::{Asked, Caller};

/// What is sent before latencies count.
const WARM_UP: Duration = Duration::from_secs(1);
/// The longest latency that is told from a longer one.
const LONGEST: Duration = Duration::from_secs(60);

/// A load at a constant rate.
#[derive(Debug, Args)]
pub(crate) struct Steady {
    /// Where to.
    #[arg(long)]
    target: SocketAddr,
    /// Requests a second.
    #[arg(long)]
    rate: f64,
    /// Over so many connections.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// For so long, after a second of warming up.
    #[arg(long)]
    seconds: f64,
    #[command(flatten)]
    asked: Asked,
}

/// What the connections share.
struct Course {
    asked: Asked,
    began: Instant,
    interval: Duration,
    /// One permit for each request that is due.
    due: Semaphore,
    next: Cell<u32>,
    latencies: RefCell<Histogram<u64>>,
    failed: Cell<u64>,
}

impl Steady {
    /// Prints `begun` when the figures begin, and the figures when they end.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        ensure!(self.rate > 0.0 && self.rate <= 1e6, "a rate between 0 and a million requests a second");
        let interval = Duration::from_secs_f64(1.0 / self.rate);
        let mut callers = Vec::new();
        for _ in 0..self.connections {
            let mut caller = Caller::new(self.target, None);
            caller.connect().await?;
            callers.push(caller);
        }
        let course = Rc::new(Course {
            asked: self.asked,
            began: Instant::now(),
            interval,
            due: Semaphore::new(0),
            next: Cell::new(0),
            latencies: RefCell::new(Histogram::new_with_max(LONGEST.as_nanos() as u64, 3)?),
            failed: Cell::new(0),
        });
        let mut crowd = JoinSet::new();
        for caller in callers {
            crowd.spawn_local(Rc::clone(&course).call_when_due(caller));
        }
        course.keep_time(WARM_UP + Duration::from_secs_f64(self.seconds)).await?;
        course.print();
        Ok(())
    }
}

impl Course {
    /// Says how many requests are due, as precisely as the kernel tells: timers of the runtime are good for a millisecond.
    async fn keep_time(&self, span: Duration) -> anyhow::Result<()> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        let interval = TimeSpec::from_duration(self.interval);
        timer.set(Expiration::Interval(interval), TimerSetTimeFlags::empty())?;
        // It is read as a pipe is: eight bytes that say how often it has expired since.
        let mut ticks = Receiver::from_owned_fd_unchecked(OwnedFd::from(timer))?;
        let mut warm = false;
        while self.began.elapsed() < span {
            let mut count = [0; 8];
            ticks.read_exact(&mut count).await?;
            self.due.add_permits(u64::from_ne_bytes(count) as usize);
            if !warm && self.began.elapsed() >= WARM_UP {
                println!("begun");
                warm = true;
            }
        }
        Ok(())
    }

    async fn call_when_due(self: Rc<Self>, mut caller: Caller) -> anyhow::Result<()> {
        loop {
            self.due.acquire().await?.forget();
            self.next.set(self.next.get() + 1);
            let due = self.interval * self.next.get();
            let request = self.asked.request()?;
            let answer = caller.send(request).await;
            let counts = due >= WARM_UP;
            if counts && answer.is_ok_and(|answer| answer.status.is_success()) {
                let latency = self.began.elapsed().saturating_sub(due);
                self.latencies.borrow_mut().saturating_record(latency.as_nanos() as u64);
            } else if counts {
                self.failed.set(self.failed.get() + 1);
            }
        }
    }

    fn print(&self) {
        let latencies = self.latencies.borrow();
        let micros = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
        // Those that are under way at the end, and those that were never sent, did not come in time.
        let unanswered = self.due.available_permits();
        println!(
            "{}",
            serde_json::json!({
                "answered": latencies.len(),
                "failed": self.failed.get(),
                "unsent": unanswered,
                "p50_us": micros(0.5),
                "p99_us": micros(0.99),
            })
        );
    }
}
