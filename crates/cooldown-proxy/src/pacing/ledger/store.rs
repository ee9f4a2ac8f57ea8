//! The files of a ledger: one that grows, one that takes its place, and one that says whose they are.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::book;
use super::moment::Moment;

/// From this size on, what matters no more is left out now and then.
const COMPACT_FROM: u64 = 1024 * 1024;

/// The file grows no further, whatever clients choose to be called.
const LARGEST: u64 = 128 * 1024 * 1024;

/// A folder that belongs to this process.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    file: File,
    seed: u64,
    length: u64,
    /// At which size the file is written anew.
    compact_at: u64,
    /// Locked for as long as it is open.
    _lock: File,
}

/// What a folder held.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub bytes: Vec<u8>,
    /// It was no ledger, and is there now.
    pub moved_to: Option<PathBuf>,
}

impl Found {
    /// What can be read of a folder that cannot be taken.
    pub(super) fn read(folder: &Path) -> Self {
        Self { bytes: fs::read(folder.join("ledger")).unwrap_or_default(), moved_to: None }
    }
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// Another process uses it.
    #[error("another process uses it")]
    InUse,
    /// The system refuses.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl Store {
    /// Takes a folder, which is made if there is none. What it holds is written anew if it `is_known`, by the seed that it
    /// is read with, and otherwise moved aside.
    pub(super) fn open(
        folder: &Path,
        now: Moment,
        new_seed: u64,
        seed_of: impl Fn(&[u8]) -> Option<u64>,
    ) -> Result<(Self, Found), OpenError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let lock = options().open(folder.join("lock"))?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse),
            Err(TryLockError::Error(error)) => return Err(error.into()),
            Ok(()) => {}
        }
        let path = folder.join("ledger");
        let mut found = Found::default();
        match fs::read(&path) {
            Ok(bytes) => found.bytes = bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let seed = seed_of(&found.bytes);
        if seed.is_none() && !found.bytes.is_empty() {
            found.moved_to = Some(move_aside(&path)?);
            found.bytes.clear();
        }
        let known = seed.is_some();
        let seed = seed.unwrap_or(new_seed);
        let text = book::compact(&found.bytes, seed, now);
        let file = match replace(folder, &text) {
            Ok(file) => file,
            // There is no room for another one, but there may be for a few lines.
            Err(_) if known => options().append(true).open(&path)?,
            Err(error) => return Err(error.into()),
        };
        let length = file.metadata()?.len();
        let mut store = Self { folder: folder.to_owned(), file, seed, length, compact_at: 0, _lock: lock };
        store.plan_compaction();
        Ok((store, found))
    }

    /// What subjects are hashed with.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Its size in bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Appends whole lines, all of them or none.
    pub(super) fn append(&mut self, text: &[u8]) -> io::Result<()> {
        if self.length + text.len() as u64 > LARGEST {
            return Err(io::Error::other("it has grown to its largest size"));
        }
        let written = (&self.file).write_all(text);
        match written {
            Ok(()) => self.length += text.len() as u64,
            Err(_) => {
                // A torn line costs no more than itself, and begins a new one.
                let cut = self.file.set_len(self.length);
                if cut.is_err() && (&self.file).write_all(b"\n").is_ok() {
                    self.length = self.file.metadata().map_or(self.length, |metadata| metadata.len());
                }
            }
        }
        written
    }

    /// The same file, to be made to outlast a loss of power without holding up who writes.
    pub(super) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// What is to be done to leave out what matters no more, if the file has become long enough.
    pub(super) fn compaction(&mut self) -> Option<Compaction> {
        if self.length < self.compact_at {
            return None;
        }
        // Whatever comes of it, it is not tried again at once.
        self.compact_at = self.length.saturating_mul(2);
        Some(Compaction { folder: self.folder.clone(), seed: self.seed, length: self.length })
    }

    /// Goes on in the shorter file, with what was appended meanwhile.
    pub(super) fn go_on_in(&mut self, mut shorter: File, done: &Compaction) -> io::Result<()> {
        let mut tail = Vec::new();
        let mut longer = File::open(self.folder.join("ledger"))?;
        longer.seek(SeekFrom::Start(done.length))?;
        longer.read_to_end(&mut tail)?;
        shorter.write_all(&tail)?;
        fs::rename(self.folder.join("ledger.new"), self.folder.join("ledger"))?;
        self.length = shorter.metadata()?.len();
        self.file = shorter;
        self.plan_compaction();
        Ok(())
    }

    fn plan_compaction(&mut self) {
        self.compact_at = self.length.saturating_mul(2).max(COMPACT_FROM);
    }
}

/// A ledger that is to be written anew, up to a length.
#[derive(Debug)]
pub(super) struct Compaction {
    folder: PathBuf,
    seed: u64,
    length: u64,
}

impl Compaction {
    /// Writes the shorter file beside the other one, which may grow meanwhile.
    pub(super) fn write(&self, now: Moment) -> io::Result<File> {
        let mut bytes = Vec::new();
        File::open(self.folder.join("ledger"))?.take(self.length).read_to_end(&mut bytes)?;
        write_new(&self.folder, &book::compact(&bytes, self.seed, now))
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    options
}

/// Puts a file with this text in place of the ledger, whole or not at all.
fn replace(folder: &Path, text: &[u8]) -> io::Result<File> {
    let file = write_new(folder, text)?;
    fs::rename(folder.join("ledger.new"), folder.join("ledger"))?;
    File::open(folder).and_then(|folder| folder.sync_all())?;
    Ok(file)
}

fn write_new(folder: &Path, text: &[u8]) -> io::Result<File> {
    let path = folder.join("ledger.new");
    let mut file = options().open(&path)?;
    let written = file.set_len(0).and_then(|()| file.write_all(text)).and_then(|()| file.sync_data());
    if let Err(error) = written {
        // It takes room that the ledger may need.
        let _ = fs::remove_file(&path);
        return Err(error);
    }
    Ok(file)
}

fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let free = (1..).map(|nth: u32| path.with_extension(format!("unreadable-{nth}"))).find(|path| !path.exists());
    let aside = free.unwrap_or_else(|| path.with_extension("unreadable"));
    fs::rename(path, &aside)?;
    Ok(aside)
}
