//! When a configuration file is worth another reading.
//!
//! Invariant: a file is taken for changed only when it is at rest: its writer has closed it or it was moved into place, or nothing has
//! been seen of it for a while. Notifications are hints; the poll makes up for any that is lost, and for links that are switched in
//! folders further up.
//!
//! How it fails: without notifications (told once) the poll alone finds a change, a little later.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// How often the file is looked at without a notification, and how long one must rest whose writer is not known to have ended.
const POLL: Duration = Duration::from_secs(2);
/// How long a file must rest that was closed or moved into place: several are often changed together.
const REST: Duration = Duration::from_millis(100);

/// What tells one content from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What the notifications say.
#[derive(Default)]
struct Signals {
    sign: Notify,
    /// Whether the file was written to and not closed since.
    is_open: AtomicBool,
}

impl Signals {
    fn take(&self, event: &notify::Result<Event>, own: &BTreeSet<OsString>) {
        let Ok(event) = event else { return self.sign.notify_one() };
        let is_own = event.paths.iter().filter_map(|path| path.file_name()).any(|name| own.contains(name));
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) if is_own => self.is_open.store(false, Ordering::Release),
            EventKind::Modify(ModifyKind::Data(_)) if is_own => self.is_open.store(true, Ordering::Release),
            // What is moved or removed may be a link on the way to the file, whatever its name.
            EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) if is_own => {
                self.is_open.store(false, Ordering::Release)
            }
            EventKind::Modify(ModifyKind::Name(_)) | EventKind::Create(_) | EventKind::Remove(_) => {}
            _ if event.need_rescan() => self.is_open.store(false, Ordering::Release),
            _ => return,
        }
        self.sign.notify_one();
    }
}

/// The notifications of the folders in which the file and what it links to lie, by the folders' identities.
struct Watched {
    folders: Vec<(u64, u64)>,
    _watcher: RecommendedWatcher,
}

/// Watches one file.
pub(super) struct FileWatch {
    path: PathBuf,
    signals: Arc<Signals>,
    watched: Option<Watched>,
    /// Whether it was told that there are no notifications.
    told: bool,
    seen: Option<Stamp>,
}

impl FileWatch {
    /// Watches a file, which is taken to be known as it is now.
    pub(super) async fn new(path: PathBuf) -> FileWatch {
        let mut watch = FileWatch { path, signals: Arc::default(), watched: None, told: false, seen: None };
        watch.rewatch().await;
        watch.seen = watch.look().await;
        watch
    }

    /// Whether the file is still what it was when it was last taken for changed, and nobody writes to it as far as it is known. One that is
    /// written to is taken for another when its writer has ended.
    pub(super) async fn is_as_seen(&mut self) -> bool {
        let look = self.look().await;
        if look.is_some() && self.is_open() {
            self.seen = None;
            return false;
        }
        look == self.seen
    }

    /// Whether a writer is known to have the file open.
    fn is_open(&self) -> bool {
        self.watched.is_some() && self.signals.is_open.load(Ordering::Acquire)
    }

    /// Reads until nothing wrote to the file meanwhile and no writer has it open, as far as it is known; after a while whatever it is.
    pub(super) async fn at_rest<T, R: Future<Output = T>>(&self, read: impl Fn() -> R) -> T {
        let until = tokio::time::Instant::now() + POLL;
        loop {
            let before = self.look().await;
            // Of a write just now the notification may be on its way.
            tokio::time::sleep(REST).await;
            let found = read().await;
            let rests = !self.is_open() && self.look().await == before;
            if rests || tokio::time::Instant::now() >= until {
                return found;
            }
        }
    }

    /// Ends when the file is another than it was and at rest; a file that is gone for a while is another one too.
    pub(super) async fn changed(&mut self) {
        loop {
            tokio::select! {
                () = self.signals.sign.notified() => {}
                () = tokio::time::sleep(POLL) => {}
            }
            let mut look = self.look().await;
            while look != self.seen {
                let is_closed = self.watched.is_some() && !self.is_open() && look.is_some();
                let has_rested = if is_closed {
                    tokio::time::sleep(REST).await;
                    // Of a write just before the notification may have come meanwhile.
                    !self.is_open()
                } else {
                    tokio::time::timeout(POLL, self.signals.sign.notified()).await.is_err()
                };
                let again = self.look().await;
                if again == look && has_rested {
                    self.seen = look;
                    self.signals.is_open.store(false, Ordering::Release);
                    // A link may lead elsewhere now.
                    self.rewatch().await;
                    return;
                }
                look = again;
            }
            self.rewatch().await;
        }
    }

    async fn look(&self) -> Option<Stamp> {
        tokio::fs::metadata(&self.path).await.ok().map(|metadata| Stamp::of(&metadata))
    }

    /// Keeps the notifications on the folders that the path leads through now.
    async fn rewatch(&mut self) {
        let (path, signals, watched) = (self.path.clone(), Arc::clone(&self.signals), self.watched.take());
        let done = tokio::task::spawn_blocking(move || watch(&path, &signals, watched)).await;
        let Ok(done) = done else { return };
        if let Err(error) = &done
            && !self.told
        {
            let every = POLL.as_secs();
            tracing::warn!(%error, "the configuration's folder gives no notifications; the file is looked at every {every} s");
        }
        self.told = done.is_err();
        self.watched = done.ok();
    }
}

fn watch(path: &Path, signals: &Arc<Signals>, watched: Option<Watched>) -> Result<Watched, notify::Error> {
    let mut places = vec![std::path::absolute(path).map_err(notify::Error::io)?];
    places.extend(std::fs::canonicalize(path));
    let folders: BTreeSet<PathBuf> = places.iter().filter_map(|place| place.parent()).map(Path::to_owned).collect();
    let identity = |folder: &PathBuf| std::fs::metadata(folder).map(|about| (about.dev(), about.ino()));
    let identities: Vec<_> = folders.iter().map(identity).collect::<Result<_, _>>().map_err(notify::Error::io)?;
    if let Some(watched) = watched.filter(|watched| watched.folders == identities) {
        return Ok(watched);
    }
    let own: BTreeSet<OsString> = places.iter().filter_map(|place| place.file_name()).map(ToOwned::to_owned).collect();
    let signals = Arc::clone(signals);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| signals.take(&event, &own))?;
    for folder in &folders {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
    }
    Ok(Watched { folders: identities, _watcher: watcher })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::symlink;

    use super::*;

    async fn comes(watch: &mut FileWatch) {
        tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.expect("the change was not seen");
    }

    #[tokio::test]
    async fn a_change_is_seen_in_whatever_way_it_comes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.toml");
        std::fs::write(&path, "a").unwrap();
        let mut watch = FileWatch::new(path.clone()).await;
        assert!(watch.watched.is_some());
        std::fs::write(&path, "ab").unwrap();
        comes(&mut watch).await;
        std::fs::write(folder.path().join("new"), "abc").unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        comes(&mut watch).await;
        std::fs::remove_file(&path).unwrap();
        comes(&mut watch).await;
        assert!(watch.seen.is_none());
        std::fs::write(&path, "back").unwrap();
        comes(&mut watch).await;
        let is_there = watch.seen.is_some();
        assert!(is_there && watch.is_as_seen().await);
    }

    #[tokio::test]
    async fn links_that_are_switched_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for version in ["v1", "v2"] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("s.toml"), version).unwrap();
        }
        symlink("v1", at("..data")).unwrap();
        symlink("..data/s.toml", at("s.toml")).unwrap();
        let mut watch = FileWatch::new(at("s.toml")).await;
        symlink("v2", at("..new")).unwrap();
        std::fs::rename(at("..new"), at("..data")).unwrap();
        comes(&mut watch).await;
        // The new target's folder is watched by now.
        std::fs::write(at("v2").join("s.toml"), "other").unwrap();
        comes(&mut watch).await;
    }

    #[test]
    fn a_file_that_is_written_to_is_open_until_it_is_closed_or_replaced() {
        let signals = Signals::default();
        let own = BTreeSet::from([OsString::from("s.toml")]);
        let take = |kind, name: &str| signals.take(&Ok(Event::new(kind).add_path(Path::new("/f").join(name))), &own);
        let is_open = || signals.is_open.load(Ordering::Acquire);
        let written = EventKind::Modify(ModifyKind::Data(notify::event::DataChange::Any));
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        take(written, ".s.toml.swp");
        assert!(!is_open(), "another file");
        take(written, "s.toml");
        take(closed, "4913");
        assert!(is_open());
        take(closed, "s.toml");
        assert!(!is_open());
        take(written, "s.toml");
        take(EventKind::Modify(ModifyKind::Name(RenameMode::To)), "s.toml");
        assert!(!is_open());
    }

    #[tokio::test]
    async fn whoever_asks_for_a_reading_gets_none_of_a_half_written_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.toml");
        std::fs::write(&path, "whole").unwrap();
        let watch = FileWatch::new(path.clone()).await;
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        // The writer rests for longer than a closed file does, and has not ended.
        let writing = tokio::task::spawn_blocking(move || {
            std::thread::sleep(REST * 5);
            file.write_all(b" and half").unwrap();
        });
        let read = watch.at_rest(|| async { std::fs::read_to_string(&path).unwrap() }).await;
        assert_eq!(read, "half and half");
        writing.await.unwrap();
        assert_eq!(watch.at_rest(|| async { std::fs::read_to_string(&path).unwrap() }).await, "half and half");
    }

    /// A watched file that its writer has begun and not closed, in its folder.
    async fn half_written() -> (tempfile::TempDir, FileWatch, std::fs::File) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.toml");
        std::fs::write(&path, "whole").unwrap();
        let watch = FileWatch::new(path.clone()).await;
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(b"ha").unwrap();
        (folder, watch, file)
    }

    #[tokio::test]
    async fn a_file_is_not_taken_while_its_writer_has_it_open() {
        let (_folder, mut watch, mut file) = half_written().await;
        // The writer is slower than a closed file's rest, and faster than an open one's.
        let writing = tokio::task::spawn_blocking(move || {
            for _ in 0..8 {
                std::thread::sleep(REST * 2);
                file.write_all(b"lf").unwrap();
            }
            file.metadata().unwrap().len()
        });
        comes(&mut watch).await;
        let whole = writing.await.unwrap();
        assert_eq!(watch.seen.unwrap().size, whole);
    }

    #[tokio::test]
    async fn a_file_that_is_written_to_when_its_watch_begins_is_taken_when_its_writer_has_ended() {
        let (_folder, mut watch, mut file) = half_written().await;
        while !watch.is_open() {
            watch.signals.sign.notified().await;
        }
        // As if the watch had begun just now.
        watch.seen = watch.look().await;
        assert!(!watch.is_as_seen().await);
        file.write_all(b"lf").unwrap();
        drop(file);
        comes(&mut watch).await;
        assert!(watch.is_as_seen().await);
    }
}
