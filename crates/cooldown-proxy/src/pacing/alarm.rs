//! The thread that wakes lines at their instants: one for all lines, asleep until the earliest deadline.
//!
//! An async runtime counts time in milliseconds; a condition variable keeps the error of a departure below a tenth of
//! one, and the thread runs even while a worker is busy.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use cooldown_pacer::Instant;
use parking_lot::{Condvar, Mutex};
use slab::Slab;

use super::clock::Clock;
use super::line::Line;

/// Instants at which lines want to be looked at.
#[derive(Debug)]
pub(super) struct Alarm {
    deadlines: Mutex<Deadlines>,
    earlier: Condvar,
}

#[derive(Debug)]
struct Deadlines {
    lines: Slab<(Weak<Line>, Option<Instant>)>,
    /// How long the thread means to sleep; a deadline before this must wake it.
    asleep_until: Instant,
    stopped: bool,
}

/// The running thread. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct AlarmThread {
    alarm: Arc<Alarm>,
    thread: Option<JoinHandle<()>>,
}

impl Alarm {
    pub(super) fn new() -> Self {
        let deadlines = Deadlines { lines: Slab::new(), asleep_until: Instant::START, stopped: false };
        Self { deadlines: Mutex::new(deadlines), earlier: Condvar::new() }
    }

    /// Takes a line in, for as long as there is one. Its number.
    pub(super) fn enter(&self, line: Weak<Line>) -> usize {
        self.deadlines.lock().lines.insert((line, None))
    }

    /// A line is gone.
    pub(super) fn leave(&self, line: usize) {
        self.deadlines.lock().lines.remove(line);
    }

    /// Sets when the line with this number has something to do next.
    pub(super) fn set(&self, line: usize, due: Option<Instant>) {
        let mut deadlines = self.deadlines.lock();
        deadlines.lines[line].1 = due;
        if due.is_some_and(|due| due < deadlines.asleep_until) {
            self.earlier.notify_one();
        }
    }

    /// Sleeps until a line is due and tells which ones are: it may be that they are gone. `None` when the thread shall end.
    fn next(&self, clock: Clock) -> Option<Vec<Weak<Line>>> {
        let mut deadlines = self.deadlines.lock();
        loop {
            if deadlines.stopped {
                return None;
            }
            let now = clock.now();
            let due = deadlines.take_due(now);
            if !due.is_empty() {
                // Awake: whoever sets a deadline now need not notify.
                deadlines.asleep_until = Instant::START;
                return Some(due);
            }
            let earliest = deadlines.lines.iter().filter_map(|(_, (_, due))| *due).min().unwrap_or(Instant::NEVER);
            deadlines.asleep_until = earliest;
            if earliest == Instant::NEVER {
                self.earlier.wait(&mut deadlines);
            } else {
                self.earlier.wait_until(&mut deadlines, clock.at(earliest));
            }
        }
    }
}

impl Deadlines {
    fn take_due(&mut self, now: Instant) -> Vec<Weak<Line>> {
        let due =
            self.lines.iter_mut().filter_map(|(_, (line, due))| due.take_if(|due| *due <= now).map(|_| line.clone()));
        due.collect()
    }
}

impl AlarmThread {
    /// Starts the thread.
    pub(super) fn start(clock: Clock) -> std::io::Result<Self> {
        let alarm = Arc::new(Alarm::new());
        let shared = Arc::clone(&alarm);
        let run = move || {
            while let Some(due) = shared.next(clock) {
                due.iter().filter_map(Weak::upgrade).for_each(|line| line.depart());
            }
        };
        let thread = std::thread::Builder::new().name("alarm".to_owned()).spawn(run)?;
        Ok(Self { alarm, thread: Some(thread) })
    }

    /// What lines set.
    pub(super) fn alarm(&self) -> &Arc<Alarm> {
        &self.alarm
    }
}

impl Drop for AlarmThread {
    fn drop(&mut self) {
        self.alarm.deadlines.lock().stopped = true;
        self.alarm.earlier.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic in that thread has been reported by the panic hook already.
            let _ = thread.join();
        }
    }
}
