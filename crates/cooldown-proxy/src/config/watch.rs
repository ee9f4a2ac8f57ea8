//! Whether the configuration file has changed, however it was replaced.
//!
//! Editors write a new file and rename it; Kubernetes swaps a symbolic link beside the file. A watch on the file itself
//! dies with the old one, so the folders are watched in which its name, and every link on the way to it, stands.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// A file is read when nothing has happened to it for this long: it may be written in several steps.
const QUIET: Duration = Duration::from_millis(200);
/// A file that changes all the time is read this long after the first change.
const PATIENCE: Duration = Duration::from_secs(1);
/// So many links are followed, as the system does it.
const MOST_LINKS: usize = 40;

/// Watches one file.
#[derive(Debug)]
pub struct FileWatch {
    path: PathBuf,
    watcher: RecommendedWatcher,
    /// What the folders below are watched for.
    names: Arc<Mutex<BTreeSet<OsString>>>,
    folders: BTreeSet<PathBuf>,
    touched: Arc<Notify>,
    /// A hash of what was last read; `None` while there is no file.
    content: Option<u64>,
}

impl FileWatch {
    /// Watches a file that is there.
    ///
    /// # Errors
    /// When the system cannot watch its folder.
    pub fn start(path: &Path) -> notify::Result<Self> {
        let path = std::path::absolute(path).map_err(notify::Error::io)?;
        let (names, touched) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(Notify::new()));
        let (of_thread, tell) = (Arc::clone(&names), Arc::clone(&touched));
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.map_or(true, |event| concerns(&event, &of_thread.lock())) {
                tell.notify_one();
            }
        })?;
        let content = content(&path);
        let mut watch = Self { path, watcher, names, folders: BTreeSet::new(), touched, content };
        watch.follow()?;
        Ok(watch)
    }

    /// Completes when the file holds something else than when it was last looked at.
    pub async fn changed(&mut self) {
        loop {
            self.touched.notified().await;
            let latest = Instant::now() + PATIENCE;
            while timeout_at(latest.min(Instant::now() + QUIET), self.touched.notified()).await.is_ok() {
                if Instant::now() >= latest {
                    break;
                }
            }
            if let Err(error) = self.follow() {
                tracing::warn!(%error, "a folder of the configuration cannot be watched any more");
            }
            // A file that is not there is about to be: it was moved away to make room for the next.
            let content = content(&self.path).or(self.content);
            if std::mem::replace(&mut self.content, content) != content {
                return;
            }
        }
    }

    /// Watches where the file is now.
    fn follow(&mut self) -> notify::Result<()> {
        let places = places(&self.path);
        *self.names.lock() = places.iter().filter_map(|place| Some(place.file_name()?.to_owned())).collect();
        let folders: BTreeSet<PathBuf> = places.iter().filter_map(|place| Some(place.parent()?.to_owned())).collect();
        for gone in self.folders.difference(&folders) {
            // A folder that was removed is not watched anyway.
            let _ = self.watcher.unwatch(gone);
        }
        let mut failed = None;
        for folder in &folders {
            // Also those that are watched: another folder may have taken the place of one.
            failed = self.watcher.watch(folder, RecursiveMode::NonRecursive).err().or(failed);
        }
        self.folders = folders;
        failed.map_or(Ok(()), Err)
    }
}

/// Whether something has happened to one of these names. That a file was read is nothing.
fn concerns(event: &Event, names: &BTreeSet<OsString>) -> bool {
    let is_named = |path: &PathBuf| path.file_name().is_some_and(|name| names.contains(name));
    event.need_rescan() || (!event.kind.is_access() && event.paths.iter().any(is_named))
}

/// The file by each of its names: as it is configured, and wherever a link on the way to it leads.
fn places(path: &Path) -> BTreeSet<PathBuf> {
    let mut places = BTreeSet::from([path.to_owned()]);
    let mut follow = vec![path.to_owned()];
    let mut links = 0;
    while let Some(path) = follow.pop() {
        for part in path.ancestors() {
            let Ok(target) = std::fs::read_link(part) else { continue };
            links += 1;
            if links > MOST_LINKS {
                return places;
            }
            let rest = path.strip_prefix(part).unwrap_or(Path::new(""));
            let target = part.parent().unwrap_or(Path::new("/")).join(target).join(rest);
            // Joining nothing leaves a slash behind, which `components` takes away.
            let target: PathBuf = target.components().collect();
            if places.insert(target.clone()) {
                follow.push(target);
            }
            places.insert(part.to_owned());
        }
    }
    places
}

fn content(path: &Path) -> Option<u64> {
    let bytes = std::fs::read(path).ok()?;
    Some(BuildHasherDefault::<DefaultHasher>::default().hash_one(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    async fn is_seen(watch: &mut FileWatch) -> bool {
        timeout(LONG, watch.changed()).await.is_ok()
    }

    fn folder(text: &str) -> (TempDir, PathBuf) {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("config.yaml");
        fs::write(&path, text).expect("written");
        (folder, path)
    }

    #[tokio::test]
    async fn a_file_that_is_written_or_replaced_has_changed_each_time() {
        let (folder, path) = folder("1");
        let mut watch = FileWatch::start(&path).expect("watched");
        fs::write(&path, "2").expect("written");
        assert!(is_seen(&mut watch).await, "written");
        for text in ["3", "4"] {
            let new = folder.path().join("new");
            fs::write(&new, text).expect("written");
            fs::rename(&new, &path).expect("renamed");
            assert!(is_seen(&mut watch).await, "renamed");
        }
        fs::remove_file(&path).expect("removed");
        tokio::time::sleep(2 * QUIET).await;
        fs::write(&path, "5").expect("written");
        assert!(is_seen(&mut watch).await, "written anew");
    }

    #[tokio::test]
    async fn what_leaves_the_content_as_it_was_is_no_change() {
        let (folder, path) = folder("1");
        let mut watch = FileWatch::start(&path).expect("watched");
        fs::write(folder.path().join("other"), "2").expect("written");
        fs::write(&path, "1").expect("written");
        assert!(timeout(3 * QUIET, watch.changed()).await.is_err());
    }

    /// `config.yaml` → `..data/config.yaml`, `..data` → a folder with a date: a new folder, and the link swapped by a rename.
    #[tokio::test]
    async fn the_links_of_kubernetes_are_followed() {
        let folder = TempDir::new().expect("a folder");
        let root = folder.path();
        let publish = |name: &str, text: &str| {
            fs::create_dir(root.join(name)).expect("a folder");
            fs::write(root.join(name).join("config.yaml"), text).expect("written");
            symlink(name, root.join("..data_tmp")).expect("a link");
            fs::rename(root.join("..data_tmp"), root.join("..data")).expect("renamed");
        };
        publish("..2026_1", "1");
        symlink("..data/config.yaml", root.join("config.yaml")).expect("a link");
        let mut watch = FileWatch::start(&root.join("config.yaml")).expect("watched");
        for (name, before, text) in [("..2026_2", "..2026_1", "2"), ("..2026_3", "..2026_2", "3")] {
            publish(name, text);
            fs::remove_dir_all(root.join(before)).expect("removed");
            assert!(is_seen(&mut watch).await, "{name}");
        }
    }

    #[tokio::test]
    async fn a_folder_that_is_a_link_is_followed_to_the_next() {
        let folder = TempDir::new().expect("a folder");
        let root = folder.path();
        for name in ["1", "2"] {
            fs::create_dir(root.join(name)).expect("a folder");
            fs::write(root.join(name).join("config.yaml"), name).expect("written");
        }
        symlink("1", root.join("current")).expect("a link");
        let mut watch = FileWatch::start(&root.join("current/config.yaml")).expect("watched");
        symlink("2", root.join("next")).expect("a link");
        fs::rename(root.join("next"), root.join("current")).expect("renamed");
        assert!(is_seen(&mut watch).await, "swapped");
        fs::write(root.join("2/config.yaml"), "3").expect("written");
        assert!(is_seen(&mut watch).await, "written behind the link");
    }
}
