//! Limits that other instances use too. See ADR 0015 and ADR 0019.
//!
//! One thread holds what this instance has of each, and renews it at a Redis or Valkey; what an upstream closes is told
//! there, too. Lines are told what they may use. No request waits for any of it, and nothing here is on its way.

mod held;
mod holdings;
mod message;
mod schedule;
mod standing;
mod store;
mod task;
mod tidings;
mod watch;

use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use cooldown_pacer::{Key, Limit, LimitsId};
use foldhash::quality::{FixedState, RandomState};
use parking_lot::Mutex;
use tokio::sync::mpsc::{self, UnboundedSender};
use xxhash_rust::xxh3::xxh3_64;

pub(super) use watch::Watch;

use super::clock::Clock;
use super::line::Line;
use crate::config::model::Shared;
use crate::config::{Config, Secret};
use crate::telemetry::Metrics;
use crate::telemetry::snapshot::SharedView;
use standing::Figures;
use task::Task;
use watch::News;

/// Where the thread of all this is told what it must know. Nothing is said more often than the thread looks.
pub(super) type Sharer = UnboundedSender<News>;

/// This instance among those that share its limits. Dropping it ends its thread.
#[derive(Debug)]
pub(super) struct Sharing {
    sharer: Sharer,
    figures: Arc<Figures>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A list of limits that other instances use too.
#[derive(Debug, Clone)]
pub(super) struct SharedList {
    pub line: Arc<Line>,
    pub id: LimitsId,
    /// What all instances call it.
    pub name: String,
    /// The upstream that teaches it, if one does.
    pub upstream: Option<String>,
    pub limits: Vec<Limit>,
    /// The keys that are used as long as there is the list. Others come and go with requests.
    pub lasting: Vec<Key>,
}

/// Who this instance is to the others.
#[derive(Debug, Clone)]
struct Identity {
    /// The same after a restart.
    name: String,
    /// Another one after each start.
    boot: u64,
}

impl Sharing {
    /// Starts the thread, if the configuration says that limits are shared.
    pub(super) fn start(config: &Config, clock: Clock, metrics: &Arc<Metrics>) -> io::Result<Option<Self>> {
        let Some(shared) = config.shared.as_deref() else { return Ok(None) };
        let figures = Arc::new(Figures::default());
        let (sharer, news) = mpsc::unbounded_channel();
        let identity = Identity::of(shared, config.server.port);
        let longest = longest_request(config);
        let task = Task::new(shared, identity, (clock, longest), Arc::clone(&figures), Arc::clone(metrics));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = move || runtime.block_on(task.run(news));
        let thread = std::thread::Builder::new().name("shared".to_owned()).spawn(run)?;
        Ok(Some(Self { sharer, figures, thread: Mutex::new(Some(thread)) }))
    }

    /// What lines tell it by.
    pub(super) fn sharer(&self) -> Sharer {
        self.sharer.clone()
    }

    /// A person closed a key for so long.
    pub(super) fn closed(&self, key: Key, lasting: Duration) {
        self.tell(News::Closed(key, lasting));
    }

    /// A person opened a key.
    pub(super) fn opened(&self, key: Key) {
        self.tell(News::Opened(key));
    }

    /// A person paused a key, or lets it go on.
    pub(super) fn paused(&self, key: Key, paused: bool) {
        self.tell(News::Paused(key, paused));
    }

    /// These are the lists that are shared, from now on.
    pub(super) fn state(&self, lists: Vec<SharedList>) {
        self.tell(News::Lists(lists));
    }

    /// How it stands now.
    pub(super) fn view(&self) -> SharedView {
        self.figures.view()
    }

    /// Gives everything back: nothing may leave any more. Returns when the others can know, or nobody can be told.
    pub(super) fn leave(&self) {
        self.tell(News::Leave);
        self.end();
    }

    fn tell(&self, news: News) {
        // Whom there is nobody to tell, it does not concern any more.
        let _ = self.sharer.send(news);
    }

    fn end(&self) {
        if let Some(thread) = self.thread.lock().take() {
            // A panic in that thread has been reported by the panic hook already.
            let _ = thread.join();
        }
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        self.tell(News::End);
        self.end();
    }
}

impl Identity {
    fn of(shared: &Shared, port: u16) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let boot = RandomState::default().hash_one((since, std::process::id()));
        let of_host = || host_name().filter(|_| port != 0).map(|host| format!("{host}:{port}"));
        // An instance without a name is another one after a restart.
        let name = shared.instance.clone().or_else(of_host).unwrap_or_else(|| format!("{boot:016x}"));
        Self { name, boot }
    }
}

fn host_name() -> Option<String> {
    let told = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME")).ok()?;
    let name = told.trim();
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()) && name != "localhost";
    is_name.then(|| name.to_owned())
}

/// How long a request is in flight at the longest, as far as one knows: so long is a place kept for one that was lost.
fn longest_request(config: &Config) -> Duration {
    let routes = config.routes.iter().map(|route| route.upstream.timeout);
    let providers = config.providers.iter().map(|provider| provider.upstream.timeout);
    routes.chain(providers).max().unwrap_or_default()
}

/// A number for who or what a limit is counted for. Where limits are shared it is the same on all instances: it has no seed.
pub(super) fn fingerprint(is_shared: bool, hasher: &FixedState, identity: &[u8]) -> u64 {
    if is_shared { xxh3_64(identity) } else { hasher.hash_one(identity) }
}

/// What an API key of ours is counted under where its limits are shared: a part of its SHA-256.
pub(super) fn subject_of_key(key: &Secret) -> u64 {
    let digest = digest::digest(&digest::SHA256, key.expose().as_bytes());
    digest.as_ref().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
