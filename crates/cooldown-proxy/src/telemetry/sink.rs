//! Where log lines go: a bounded buffer that a thread of its own writes out, so that a slow reader never holds up a request.

use std::io::{self, Write};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

/// A line is written at the latest this long after it was logged.
const LATEST: Duration = Duration::from_millis(100);
/// This many bytes are written without waiting for more.
const ENOUGH: usize = 64 * 1024;
/// Lines are dropped, and counted, while this many bytes wait for the reader.
const MOST: usize = 4 * 1024 * 1024;
/// How long the end of the program waits for a reader that does not read.
const PATIENCE: Duration = Duration::from_secs(2);

/// A handle to the buffer; clones share it.
#[derive(Clone)]
pub struct Sink(Arc<Shared>);

/// Keeps the writing thread; when it is dropped, every line logged so far has been written.
#[must_use = "lines that wait are lost when this is not kept until the end"]
pub struct SinkGuard(Arc<Shared>);

struct Shared {
    buffer: Mutex<Buffer>,
    /// Told when there is a first line, when there is enough, and at the end.
    wake: Condvar,
    /// Told when the thread has written the last line.
    ended: Condvar,
}

struct Buffer {
    lines: Vec<u8>,
    dropped: u64,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Closing,
    Closed,
}

impl Sink {
    /// Starts the thread that writes to `out`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(out: Box<dyn Write + Send>) -> io::Result<(Self, SinkGuard)> {
        let shared = Arc::new(Shared {
            buffer: Mutex::new(Buffer { lines: Vec::new(), dropped: 0, phase: Phase::Open }),
            wake: Condvar::new(),
            ended: Condvar::new(),
        });
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || of_thread.write_out(out))?;
        Ok((Self(Arc::clone(&shared)), SinkGuard(shared)))
    }

    /// Takes one whole line, its end included. Never waits for the reader.
    pub fn line(&self, line: &[u8]) {
        let mut buffer = self.0.buffer.lock();
        if buffer.lines.len() + line.len() > MOST || buffer.phase == Phase::Closed {
            buffer.dropped += 1;
            return;
        }
        let before = buffer.lines.len();
        buffer.lines.extend_from_slice(line);
        let wake = before == 0 || (before < ENOUGH && buffer.lines.len() >= ENOUGH);
        drop(buffer);
        if wake {
            self.0.wake.notify_one();
        }
    }
}

impl Shared {
    /// The thread: sleeps until there is a line, gathers for a moment, writes.
    fn write_out(&self, mut out: Box<dyn Write + Send>) {
        let mut batch = Vec::new();
        loop {
            let (dropped, last) = self.next_batch(&mut batch);
            // Nobody is left to be told of a failure: a closed reader loses lines, the program goes on.
            let _ = out.write_all(&batch);
            if dropped > 0 {
                let _ = writeln!(out, "{dropped} log lines were dropped: the reader of this log is too slow");
            }
            let _ = out.flush();
            batch.clear();
            batch.shrink_to(ENOUGH);
            if last {
                self.buffer.lock().phase = Phase::Closed;
                self.ended.notify_all();
                return;
            }
        }
    }

    /// Waits for lines and takes them. Says how many were dropped, and whether these are the last.
    fn next_batch(&self, batch: &mut Vec<u8>) -> (u64, bool) {
        let mut buffer = self.buffer.lock();
        while buffer.lines.is_empty() && buffer.phase == Phase::Open {
            self.wake.wait(&mut buffer);
        }
        let until = Instant::now() + LATEST;
        while buffer.lines.len() < ENOUGH && buffer.phase == Phase::Open {
            if self.wake.wait_until(&mut buffer, until).timed_out() {
                break;
            }
        }
        mem::swap(&mut buffer.lines, batch);
        (mem::take(&mut buffer.dropped), buffer.phase == Phase::Closing)
    }
}

impl Drop for SinkGuard {
    fn drop(&mut self) {
        let mut buffer = self.0.buffer.lock();
        buffer.phase = Phase::Closing;
        self.0.wake.notify_one();
        let until = Instant::now() + PATIENCE;
        while buffer.phase != Phase::Closed {
            if self.0.ended.wait_until(&mut buffer, until).timed_out() {
                break;
            }
        }
    }
}

/// What `tracing` writes one formatted event to.
impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Sink {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    pub(crate) struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().clone()).expect("log lines are UTF-8")
        }
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A reader that reads nothing before it is told to.
    struct Stuck(std::sync::mpsc::Receiver<()>, Page);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_is_written_by_the_time_the_guard_is_dropped() {
        let page = Page::default();
        let (sink, guard) = Sink::start(Box::new(page.clone())).expect("a thread");
        for number in 0..10_000 {
            sink.line(format!("line {number}\n").as_bytes());
        }
        drop(guard);
        assert_eq!(page.text().lines().count(), 10_000);
        assert!(page.text().ends_with("line 9999\n"));
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_not_time_and_is_told_so() {
        let page = Page::default();
        let (go, stuck) = std::sync::mpsc::channel();
        let (sink, guard) = Sink::start(Box::new(Stuck(stuck, page.clone()))).expect("a thread");
        let line = vec![b'x'; ENOUGH];
        let given = 3 * MOST / ENOUGH;
        for _ in 0..given {
            sink.line(&line);
        }
        assert!(sink.0.buffer.lock().lines.len() <= MOST, "the buffer is bounded");
        drop(go);
        drop(guard);
        assert!(page.text().contains("log lines were dropped"));
    }

    #[test]
    fn lines_after_the_end_are_counted_and_harm_nothing() {
        let (sink, guard) = Sink::start(Box::new(Page::default())).expect("a thread");
        drop(guard);
        sink.line(b"late\n");
        assert_eq!(sink.0.buffer.lock().dropped, 1);
    }
}
