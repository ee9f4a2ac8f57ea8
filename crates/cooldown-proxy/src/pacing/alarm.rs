//! The thread that wakes lines at their instants: one for all lines, asleep until the earliest deadline.
//!
//! An async runtime counts time in milliseconds; a condition variable keeps the error of a departure below a tenth of
//! one, and the thread runs even while a worker is busy.

use std::sync::Arc;
use std::thread::JoinHandle;

use cooldown_pacer::Instant;
use parking_lot::{Condvar, Mutex};

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
    /// For each line, when it has something to do next.
    lines: Vec<Option<Instant>>,
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
    pub(super) fn new(lines: usize) -> Self {
        let deadlines = Deadlines { lines: vec![None; lines], asleep_until: Instant::START, stopped: false };
        Self { deadlines: Mutex::new(deadlines), earlier: Condvar::new() }
    }

    /// Sets when the line with this index has something to do next.
    pub(super) fn set(&self, line: usize, due: Option<Instant>) {
        let mut deadlines = self.deadlines.lock();
        deadlines.lines[line] = due;
        if due.is_some_and(|due| due < deadlines.asleep_until) {
            self.earlier.notify_one();
        }
    }

    /// Sleeps until a line is due and tells which ones are; `None` when the thread shall end.
    fn next(&self, clock: Clock) -> Option<Vec<usize>> {
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
            let earliest = deadlines.lines.iter().flatten().min().copied().unwrap_or(Instant::NEVER);
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
    fn take_due(&mut self, now: Instant) -> Vec<usize> {
        let due = |at: &Option<Instant>| at.is_some_and(|at| at <= now);
        let mut indices = Vec::new();
        for (index, at) in self.lines.iter_mut().enumerate() {
            if due(at) {
                *at = None;
                indices.push(index);
            }
        }
        indices
    }
}

impl AlarmThread {
    /// Starts the thread for these lines, which carry the indices of their places in the list.
    pub(super) fn start(alarm: Arc<Alarm>, lines: Vec<Arc<Line>>, clock: Clock) -> std::io::Result<Self> {
        let shared = Arc::clone(&alarm);
        let run = move || {
            while let Some(due) = shared.next(clock) {
                for index in due {
                    lines[index].depart();
                }
            }
        };
        let thread = std::thread::Builder::new().name("alarm".to_owned()).spawn(run)?;
        Ok(Self { alarm, thread: Some(thread) })
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
