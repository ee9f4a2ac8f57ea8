//! The thread that lets a ledger outlast a loss of power, and keeps it short: nobody who leaves waits for a disk.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Ledger;
use super::store::Compaction;

/// What was written reaches the disk no later than this.
const EVERY: Duration = Duration::from_secs(1);

/// The running thread. Dropping it ends the thread, after everything was written.
#[derive(Debug)]
pub(in super::super) struct SyncingThread {
    ledger: Arc<Ledger>,
    thread: Option<JoinHandle<()>>,
}

impl SyncingThread {
    /// Starts the thread.
    pub(in super::super) fn start(ledger: Arc<Ledger>) -> std::io::Result<Self> {
        let shared = Arc::clone(&ledger);
        let thread = std::thread::Builder::new().name("ledger".to_owned()).spawn(move || while shared.sync() {})?;
        Ok(Self { ledger, thread: Some(thread) })
    }

    pub(in super::super) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }
}

impl Ledger {
    /// Sleeps until something was written and a while has passed, and makes it outlast a loss of power. False at the end.
    fn sync(&self) -> bool {
        let mut out = self.out.lock();
        while !out.is_fresh && !out.stopped {
            self.grown.wait(&mut out);
        }
        let until = Instant::now() + EVERY;
        while !out.stopped && !self.grown.wait_until(&mut out, until).timed_out() {}
        out.is_fresh = false;
        let goes_on = !out.stopped;
        let Some(store) = &mut out.store else { return goes_on };
        let (file, compaction) = (store.file(), store.compaction());
        drop(out);
        if let Some(Err(error)) = compaction.map(|compaction| self.compact(&compaction)) {
            tracing::warn!(%error, path = %self.path.display(), "state: the ledger cannot be made shorter");
        }
        if let Err(error) = file.and_then(|file| file.sync_data()) {
            tracing::warn!(%error, path = %self.path.display(), "state: the ledger may not outlast a loss of power");
        }
        goes_on
    }

    fn compact(&self, compaction: &Compaction) -> std::io::Result<()> {
        let shorter = compaction.write(self.watch.now())?;
        let mut out = self.out.lock();
        out.store.as_mut().map_or(Ok(()), |store| store.go_on_in(shorter, compaction))
    }
}

impl Drop for SyncingThread {
    fn drop(&mut self) {
        self.ledger.out.lock().stopped = true;
        self.ledger.grown.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic in that thread has been reported by the panic hook already.
            let _ = thread.join();
        }
    }
}
