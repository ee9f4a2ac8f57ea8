//! The ledger: what left and what was learned, written down so that it survives the process. See ADR 0016.
//!
//! A pacer says what is to be written, under its lock; who holds a permit because of it writes it, after that lock was
//! released and before anybody is told to go. All who decide something in between wait for the same write.

mod book;
mod moment;
mod record;
mod store;
mod syncing;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant as SystemInstant};

use cooldown_pacer::{Entry, Instant, Key, Limit, LimitsId, Pacer, Rate, Settings, Source, Teaching, Unit};
use foldhash::fast::RandomState;
use parking_lot::{Condvar, Mutex, RwLock};

use super::clock::Clock;
use crate::telemetry::{EventKind, Metrics};
use book::Book;
pub(super) use book::Memory;
use moment::{Moment, Watch};
use record::{Record, What};
use store::{OpenError, Store};
pub(super) use syncing::SyncingThread;

/// Limits with shorter periods are soon themselves again.
pub(super) const SHORTEST: Duration = Duration::from_secs(60);
/// Closings that are shorter are not written down.
const WORTH_WRITING: Duration = Duration::from_secs(1);
/// What cannot be written is kept up to this size, and written when it can be.
const MOST_UNWRITTEN: usize = 4 * 1024 * 1024;
/// A folder that cannot be used is tried again no sooner than after this.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// A ledger that is open, or that will be when its folder can be used.
pub(super) struct Ledger {
    path: PathBuf,
    watch: Watch,
    seed: u64,
    /// What lists of limits are called.
    names: RwLock<HashMap<LimitsId, Arc<str>, RandomState>>,
    queue: Mutex<Queue>,
    /// How much was ever queued, and how much of it was written or given up.
    queued: AtomicU64,
    written: AtomicU64,
    out: Mutex<Out>,
    /// Told when something was written that should outlast a loss of power.
    pub(super) grown: Condvar,
    metrics: Arc<Metrics>,
}

/// What waits to be written.
#[derive(Default)]
struct Queue {
    notes: Vec<(Moment, Key, What)>,
    count: u64,
}

/// Where it is written to.
struct Out {
    store: Option<Store>,
    /// Lines that could not be written yet.
    unwritten: Vec<u8>,
    /// When the folder was last tried.
    tried: SystemInstant,
    /// Something cannot be written, which has been told.
    is_failing: bool,
    stopped: bool,
    /// Whether something was written since it was last made to outlast a loss of power.
    is_fresh: bool,
}

/// What a file says if it is read as a ledger.
#[derive(Debug)]
pub struct LedgerLook {
    /// Of how many keys it says something.
    pub keys: usize,
    /// How many of its lines cannot be read.
    pub broken: usize,
    /// How much has left that still matters, all limits together.
    pub used: u64,
    /// How many limits hold for keys that start with it, in a pacer that has two.
    pub limited: usize,
    /// The same file without what matters no more.
    pub shorter: Vec<u8>,
}

/// Looks into a file's bytes without opening a ledger, and starts a pacer with them; `None` if they are none that this
/// program knows.
pub fn look_into_ledger(bytes: &[u8]) -> Option<LedgerLook> {
    let (now, seed) = (Watch::new().now(), book::seed(bytes)?);
    let Book { keys, broken } = Book::read(bytes, now, Ledger::EPOCH)?;
    let pasts = keys.values().flat_map(|memory| &memory.pasts);
    let used = pasts.fold(0, |sum: u64, (_, past)| sum.saturating_add(past.used(Ledger::EPOCH)));
    let mut pacer = Pacer::new(Settings::default());
    pacer.write_ahead(SHORTEST);
    let minute = |unit| Rate::new(unit, 1000, SHORTEST).map(Limit::from);
    let limits = [Unit::Requests, Unit::Tokens].into_iter().filter_map(|unit| minute(unit).ok()).collect();
    let limits = pacer.add_teaching_limits(limits, Teaching::Cautious);
    let room = keys.iter().map(|((_, subject), memory)| {
        let key = Key { limits, subject: *subject };
        memory.give_to(&mut pacer, Ledger::EPOCH, key);
        pacer.room(Ledger::EPOCH, key).into_iter().filter(|room| room.source == Source::Configured).count()
    });
    let limited = room.sum();
    Some(LedgerLook { keys: keys.len(), broken, used, limited, shorter: book::compact(bytes, seed, now) })
}

/// What a ledger holds at the start.
pub(super) struct Opened {
    pub ledger: Arc<Ledger>,
    /// By the name of the list, and the subject.
    pub keys: HashMap<(String, u64), Memory, RandomState>,
}

impl Ledger {
    /// Opens the ledger in a folder and reads it at a moment that the clock calls the present. A folder that cannot be used
    /// is reported, and tried again later.
    ///
    /// # Errors
    /// When another process uses it.
    pub(super) fn open(path: &Path, clock: Clock, metrics: Arc<Metrics>) -> anyhow::Result<Opened> {
        let watch = Watch::new();
        let (now, present) = (watch.now(), clock.now());
        let new_seed = std::hash::BuildHasher::hash_one(&foldhash::quality::RandomState::default(), 0);
        let opened = match Store::open(path, now, new_seed, book::seed) {
            Ok(opened) => Ok(opened),
            Err(OpenError::InUse) => {
                anyhow::bail!("state: {} is used by another process; give each its own `path`", path.display())
            }
            Err(OpenError::System(error)) => Err(error),
        };
        let (store, found, error) = match opened {
            Ok((store, found)) => (Some(store), found, None),
            // It may be there to be read.
            Err(error) => (None, store::Found::read(path), Some(error)),
        };
        let book = Book::read(&found.bytes, now, present).unwrap_or_default();
        let seed = book::seed(&found.bytes).or(store.as_ref().map(Store::seed)).unwrap_or(new_seed);
        let out = Out {
            store,
            unwritten: Vec::new(),
            tried: SystemInstant::now(),
            is_failing: false,
            stopped: false,
            is_fresh: false,
        };
        let ledger = Arc::new(Self {
            path: path.to_owned(),
            watch,
            seed,
            names: RwLock::default(),
            queue: Mutex::default(),
            queued: AtomicU64::new(0),
            written: AtomicU64::new(0),
            out: Mutex::new(out),
            grown: Condvar::new(),
            metrics,
        });
        ledger.tell_what_was_found(&found, &book, error);
        Ok(Opened { ledger, keys: book.keys })
    }

    fn tell_what_was_found(&self, found: &store::Found, book: &Book, error: Option<io::Error>) {
        self.metrics.state().is_kept();
        if let Some(aside) = &found.moved_to {
            self.tell_fault(format!("it holds no ledger of this version: moved to {}", aside.display()));
        }
        if book.broken > 0 {
            self.tell_fault(format!("{} lines of the ledger were torn or damaged and are left out", book.broken));
        }
        if let Some(error) = error {
            self.fail(&mut self.out.lock(), &error);
        }
    }

    /// What the file says now, by the names of lists and the subjects: for a list that was not there when it was opened.
    pub(super) fn look_again(&self, clock: Clock) -> HashMap<String, Vec<(u64, Memory)>, RandomState> {
        let found = store::Found::read(&self.path);
        let is_ours = book::seed(&found.bytes) == Some(self.seed);
        let book = is_ours.then(|| Book::read(&found.bytes, self.watch.now(), clock.now())).flatten();
        let mut lists: HashMap<String, Vec<(u64, Memory)>, RandomState> = HashMap::default();
        for ((list, subject), memory) in book.unwrap_or_default().keys {
            lists.entry(list).or_default().push((subject, memory));
        }
        lists
    }

    /// What subjects are hashed with.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Tells what lists of limits are called from now on.
    pub(super) fn name_lists(&self, names: impl Iterator<Item = (LimitsId, String)>) {
        self.names.write().extend(names.map(|(id, name)| (id, Arc::from(name))));
    }

    /// Takes what a pacer wants to have written down. Called under the pacer's lock, so that it stays in order.
    pub(super) fn add(&self, entries: &mut Vec<Entry>) {
        let at = self.watch.now();
        self.queue(entries.drain(..).map(|entry| (at, entry.key, What::left(entry.unit, &entry.noted))));
    }

    /// A key has closed for so long; or it is open, if that is nothing.
    pub(super) fn add_closed(&self, key: Key, lasting: Duration) {
        if lasting.is_zero() || lasting >= WORTH_WRITING {
            self.queue([(self.watch.now(), key, What::Closed { lasting: lasting.as_millis() as u64 })]);
        }
    }

    /// A key of ours is left alone for so long; or not any more, if that is nothing.
    pub(super) fn add_rest(&self, key: Key, lasting: Duration) {
        self.queue([(self.watch.now(), key, What::Rests { lasting: lasting.as_millis() as u64 })]);
    }

    /// The upstream told of a limit.
    pub(super) fn add_told(&self, key: Key, rate: Rate) {
        if rate.period() >= SHORTEST {
            self.queue([(self.watch.now(), key, What::told(rate))]);
        }
    }

    /// This rate was found by trying.
    pub(super) fn add_found(&self, key: Key, rate: Rate) {
        self.queue([(self.watch.now(), key, What::found(rate))]);
    }

    fn queue(&self, notes: impl IntoIterator<Item = (Moment, Key, What)>) {
        let mut queue = self.queue.lock();
        let before = queue.notes.len();
        queue.notes.extend(notes);
        queue.count += (queue.notes.len() - before) as u64;
        self.queued.store(queue.count, Ordering::Release);
    }

    /// Whether something was queued that is not written yet, by whomever.
    pub(super) fn is_behind(&self) -> bool {
        self.queued.load(Ordering::Acquire) != self.written.load(Ordering::Acquire)
    }

    /// Writes all that was queued so far, or waits until somebody else has. What cannot be written is reported once, and
    /// kept for later.
    pub(super) fn write(&self) {
        let mut out = self.out.lock();
        let (notes, count) = {
            let mut queue = self.queue.lock();
            (std::mem::take(&mut queue.notes), queue.count)
        };
        if notes.is_empty() && out.unwritten.is_empty() {
            return;
        }
        self.metrics.state().wrote(notes.len() as u64);
        let mut text = std::mem::take(&mut out.unwritten);
        let names = self.names.read();
        for (at, key, what) in notes {
            if let Some(list) = names.get(&key.limits) {
                record::write(&Record { at, list: list.to_string(), key: key.subject, what }, &mut text);
            }
        }
        drop(names);
        self.append(&mut out, text);
        self.written.store(count, Ordering::Release);
    }

    fn append(&self, out: &mut Out, text: Vec<u8>) {
        if out.store.is_none() && out.tried.elapsed() >= TRY_AGAIN {
            self.try_again(out);
        }
        let Some(store) = &mut out.store else { return self.keep(out, text) };
        match store.append(&text) {
            Ok(()) => {
                self.metrics.state().is_long(store.length());
                if std::mem::take(&mut out.is_failing) {
                    tracing::info!(path = %self.path.display(), "state: the ledger is written again, nothing was lost");
                }
            }
            Err(error) => {
                self.fail(out, &error);
                self.keep(out, text);
            }
        }
        // It may have to be made shorter as well.
        if !std::mem::replace(&mut out.is_fresh, true) {
            self.grown.notify_one();
        }
    }

    /// A folder that could not be used may have become one that can.
    fn try_again(&self, out: &mut Out) {
        out.tried = SystemInstant::now();
        // What it holds by another seed than that of this process was not read.
        let seed_of = |bytes: &[u8]| book::seed(bytes).filter(|seed| *seed == self.seed);
        match Store::open(&self.path, self.watch.now(), self.seed, seed_of) {
            Ok((store, _)) => out.store = Some(store),
            Err(error) => self.fail(out, &io::Error::other(error)),
        }
    }

    fn keep(&self, out: &mut Out, text: Vec<u8>) {
        out.unwritten = text;
        if out.unwritten.len() > MOST_UNWRITTEN {
            let now = self.watch.now();
            let shorter = book::compact(&out.unwritten, self.seed, now);
            out.unwritten = shorter;
        }
        if out.unwritten.len() > MOST_UNWRITTEN {
            self.tell_fault("too much could not be written: what was not is forgotten by a restart".to_owned());
            out.unwritten = Vec::new();
        }
    }

    fn fail(&self, out: &mut Out, error: &io::Error) {
        if !std::mem::replace(&mut out.is_failing, true) {
            self.tell_fault(format!(
                "the ledger cannot be written ({error}); limits hold, but a crash or restart now forgets what leaves from here on"
            ));
        }
    }

    /// Something is wrong with the ledger that a person should know of.
    fn tell_fault(&self, text: String) {
        self.metrics.state().failed();
        tracing::error!(path = %self.path.display(), "state: {text}");
        self.metrics.events().tell(EventKind::State, None, "", text);
    }

    /// Writes the last that pacers have to say.
    pub(super) fn close(&self, entries: &mut Vec<Entry>) {
        self.add(entries);
        self.write();
    }

    /// The instant of a clock at which nothing that is remembered lies before its beginning.
    pub(super) const EPOCH: Instant = Instant::from_nanos(100 * 24 * 3600 * 1_000_000_000);
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("path", &self.path).finish_non_exhaustive()
    }
}
