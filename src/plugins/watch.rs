//! Watching: when to survey the folder again, and which of its files are whole.
//!
//! Invariant: a file that was closed after writing, or moved into place, is surveyed at once; everything else when the
//! folder has been quiet for a moment, so that a file that is unlinked and written again is never missing in between.
//! A file that its writer has still open is left alone, and one that no notification tells of is taken when two polls
//! find it the same. Notifications are hints: they coalesce, and the poll makes up for any that is lost.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::folder::Stamp;
use super::{Catalogue, Preparer, folder};

/// How long nothing must happen after an event that does not tell that a file is whole.
const QUIET: Duration = Duration::from_millis(50);
const SHORTEST_POLL: Duration = Duration::from_millis(10);
/// How long after the last write a file is taken to be open still, when its writer was not seen to close it.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What an event says about the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hint {
    Nothing,
    /// Something goes on in the folder.
    Stirring,
    /// A plugin file is whole.
    Ready,
    /// Events were lost.
    Lost,
    /// The folder's path may name another folder.
    Elsewhere,
}

/// Why the folder is surveyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// It is the first time, or a notification asked for it.
    Told,
    /// The time has come, or events were lost: nothing tells which files are whole.
    Untold,
    /// The folder's path may name another folder.
    Elsewhere,
}

fn hint(event: &notify::Result<Event>, folder: &Path) -> Hint {
    let Ok(event) = event else { return Hint::Lost };
    if event.need_rescan() {
        return Hint::Lost;
    }
    let is_plugin = |path: &Path| path.file_name().and_then(folder::stem_of).is_some();
    let (mut is_folder, mut has_plugin, mut is_inside) = (false, false, false);
    for path in &event.paths {
        is_folder |= path == folder;
        is_inside |= path.parent() == Some(folder);
        has_plugin |= path.parent() == Some(folder) && is_plugin(path);
    }
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) if has_plugin => Hint::Ready,
        EventKind::Access(_) => Hint::Nothing,
        _ if is_folder => Hint::Elsewhere,
        EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) if has_plugin => Hint::Ready,
        // What was moved may be a link on the way to a plugin.
        EventKind::Modify(ModifyKind::Name(_)) if is_inside => Hint::Stirring,
        _ if has_plugin => Hint::Stirring,
        _ => Hint::Nothing,
    }
}

#[derive(Default)]
struct Signals {
    stirring: Notify,
    ready: Notify,
    lost: Notify,
    elsewhere: Notify,
    /// When the files were last written to that were not seen to be closed since.
    open: Mutex<HashMap<OsString, Instant>>,
}

impl Signals {
    fn take(&self, event: &notify::Result<Event>, folder: &Path) {
        self.note_open(event);
        match hint(event, folder) {
            Hint::Nothing => {}
            Hint::Stirring => self.stirring.notify_one(),
            Hint::Ready => self.ready.notify_one(),
            Hint::Lost => self.lost.notify_one(),
            Hint::Elsewhere => self.elsewhere.notify_one(),
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<OsString, Instant>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_open(&self, event: &notify::Result<Event>) {
        let Ok(event) = event else { return };
        let names = event.paths.iter().filter_map(|path| path.file_name()).filter(|name| folder::stem_of(name).is_some());
        for name in names {
            match event.kind {
                EventKind::Modify(ModifyKind::Data(_)) => {
                    self.open().insert(name.to_owned(), Instant::now());
                }
                // A file that is moved over it has a writer of its own, who closed it as a rule.
                EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => {
                    self.open().remove(name);
                }
                _ => {}
            }
        }
    }

    fn is_open(&self, name: &OsStr) -> bool {
        self.open().get(name).is_some_and(|since| since.elapsed() < LONGEST_PAUSE)
    }

    /// Ends when the folder is worth a survey.
    async fn worth_a_survey(&self) -> Cause {
        tokio::select! {
            cause = self.clear() => return cause,
            () = self.stirring.notified() => {}
        }
        loop {
            tokio::select! {
                cause = self.clear() => return cause,
                () = self.stirring.notified() => {}
                () = sleep(QUIET) => return Cause::Told,
            }
        }
    }

    /// Ends with what is worth a survey at once.
    async fn clear(&self) -> Cause {
        let cause = tokio::select! {
            () = self.ready.notified() => Cause::Told,
            () = self.lost.notified() => Cause::Untold,
            () = self.elsewhere.notified() => Cause::Elsewhere,
        };
        // What stirred before a survey is seen by it, and is not worth another.
        let _ = self.stirring.notified().now_or_never();
        cause
    }
}

/// The notifications of the folder and of its place in the folder above it. The folder is known by its identity: its path
/// may come to name another one, or none.
struct Watched {
    identity: Option<(u64, u64)>,
    _watcher: RecommendedWatcher,
}

/// Keeps the notifications on what the folder's path names now.
fn rewatch(folder: &Path, signals: &Arc<Signals>, watched: Option<Watched>) -> Result<Watched, notify::Error> {
    let folder = std::path::absolute(folder).map_err(notify::Error::io)?;
    let identity = std::fs::metadata(&folder).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    if let Some(watched) = watched.filter(|watched| watched.identity == identity) {
        return Ok(watched);
    }
    let (signals, own) = (signals.clone(), folder.clone());
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| signals.take(&event, &own))?;
    if let Some(above) = folder.parent() {
        watcher.watch(above, RecursiveMode::NonRecursive)?;
    }
    if identity.is_some() {
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
    }
    Ok(Watched { identity, _watcher: watcher })
}

/// Which files are whole, as far as can be told.
#[derive(Default)]
struct Rest(HashMap<OsString, Stamp>);

impl Rest {
    /// Whether a file of a survey is to be examined.
    fn is_whole(&mut self, name: &OsStr, stamp: Stamp, cause: Cause, signals: &Signals) -> bool {
        let is_as_before = self.0.insert(name.to_owned(), stamp) == Some(stamp);
        !signals.is_open(name) && (cause != Cause::Untold || is_as_before)
    }

    /// Forgets files that wait for nothing.
    fn keep(&mut self, stamps: &HashMap<OsString, Stamp>) {
        self.0.retain(|name, _| stamps.contains_key(name));
    }
}

impl<P: Preparer> Catalogue<P> {
    /// Watches the folder until `cancel`, and surveys it at once, on every notification and at every poll. Ends soon
    /// after `cancel`; a compile that is under way is left to its thread.
    pub fn watch(&self, cancel: CancellationToken) -> JoinHandle<()> {
        let catalogue = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = catalogue.keep_up() => {}
            }
        })
    }

    async fn keep_up(&self) {
        let signals = Arc::new(Signals::default());
        let (mut watched, mut rest) = (None, Rest::default());
        let mut told = false;
        let mut poll = interval(self.0.settings.poll_interval.max(SHORTEST_POLL));
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut jobs = FuturesUnordered::new();
        // It lives across the turns of the loop, because it remembers what it was told.
        let mut worth_a_survey = Box::pin(signals.worth_a_survey());
        let mut is_first = true;
        loop {
            let cause = tokio::select! {
                cause = &mut worth_a_survey => {
                    worth_a_survey.set(signals.worth_a_survey());
                    cause
                }
                _ = poll.tick() => Cause::Untold,
                Some(_) = jobs.next(), if !jobs.is_empty() => continue,
            };
            if cause != Cause::Told {
                // The first tick is at once, and the notifications are begun before the survey, so that none is missed.
                watched = self.notified(&signals, watched.take(), &mut told).await;
            }
            let cause = if std::mem::take(&mut is_first) { Cause::Told } else { cause };
            let survey = self.survey().await;
            rest.keep(&survey.stamps);
            let is_whole = |name: &OsString| survey.stamps.get(name).is_none_or(|stamp| rest.is_whole(name, *stamp, cause, &signals));
            let whole: Vec<OsString> = survey.pending.into_iter().filter(is_whole).collect();
            jobs.extend(whole.into_iter().map(|name| self.examine(name)));
        }
    }

    async fn notified(&self, signals: &Arc<Signals>, watched: Option<Watched>, told: &mut bool) -> Option<Watched> {
        let (folder, signals) = (self.0.settings.folder.clone(), signals.clone());
        let rewatched = tokio::task::spawn_blocking(move || rewatch(&folder, &signals, watched)).await.ok()?;
        if let Err(error) = &rewatched
            && !*told
        {
            let every = self.0.settings.poll_interval.as_secs_f64();
            tracing::warn!(%error, "the plugins folder gives no notifications; it is looked at every {every} s");
        }
        *told = rewatched.is_err();
        rewatched.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{CreateKind, DataChange, Flag, RemoveKind};

    const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
    const INTO_PLACE: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));
    const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));

    fn event(kind: EventKind, path: &str) -> notify::Result<Event> {
        Ok(Event::new(kind).add_path(Path::new("/d/plugins").join(path)))
    }

    fn hint_of(kind: EventKind, path: &str) -> Hint {
        hint(&event(kind, path), Path::new("/d/plugins"))
    }

    #[test]
    fn whole_files_are_taken_at_once_and_others_when_it_is_quiet() {
        for kind in [CLOSED, INTO_PLACE] {
            assert_eq!(hint_of(kind, "hello.wasm"), Hint::Ready);
        }
        for name in ["hello.wasm.part", ".hello.wasm", "4913", ".hello.wasm.swp", "hello.wasm~", ".#hello.wasm"] {
            assert_eq!(hint_of(CLOSED, name), Hint::Nothing, "{name}");
            assert_eq!(hint_of(WRITTEN, name), Hint::Nothing, "{name}");
        }
        let away = EventKind::Modify(ModifyKind::Name(RenameMode::From));
        for kind in [EventKind::Create(CreateKind::File), EventKind::Remove(RemoveKind::File), WRITTEN, away] {
            assert_eq!(hint_of(kind, "hello.wasm"), Hint::Stirring);
        }
        assert_eq!(hint_of(EventKind::Access(AccessKind::Open(AccessMode::Any)), "hello.wasm"), Hint::Nothing);
        assert_eq!(hint_of(INTO_PLACE, "..data"), Hint::Stirring, "a link on the way to plugins");
    }

    #[test]
    fn lost_events_are_worth_a_survey() {
        let folder = Path::new("/d/plugins");
        assert_eq!(hint(&Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)), folder), Hint::Lost);
        assert_eq!(hint(&Err(notify::Error::generic("queue")), folder), Hint::Lost);
    }

    #[test]
    fn another_folder_under_the_path_is_noticed_and_its_neighbours_are_not() {
        for kind in [EventKind::Remove(RemoveKind::Folder), EventKind::Create(CreateKind::Folder), INTO_PLACE] {
            assert_eq!(hint_of(kind, ""), Hint::Elsewhere);
            assert_eq!(hint_of(kind, "../neighbour"), Hint::Nothing);
            assert_eq!(hint(&Ok(Event::new(kind).add_path("/d/other.wasm".into())), Path::new("/d/plugins")), Hint::Nothing);
        }
    }

    #[test]
    fn an_open_file_is_left_alone_and_an_untold_one_must_be_found_the_same_twice() {
        let (signals, mut rest, name) = (Signals::default(), Rest::default(), OsStr::new("a.wasm"));
        let (one, two) = (Stamp::numbered(1), Stamp::numbered(2));
        let take = |kind| signals.take(&event(kind, "a.wasm"), Path::new("/d/plugins"));
        assert!(rest.is_whole(name, one, Cause::Told, &signals));
        take(WRITTEN);
        assert!(!rest.is_whole(name, one, Cause::Told, &signals));
        take(CLOSED);
        assert!(rest.is_whole(name, one, Cause::Told, &signals));
        assert!(!rest.is_whole(name, two, Cause::Untold, &signals));
        assert!(rest.is_whole(name, two, Cause::Untold, &signals));
        take(WRITTEN);
        take(INTO_PLACE);
        assert!(rest.is_whole(name, one, Cause::Told, &signals));
        rest.keep(&HashMap::new());
        assert!(!rest.is_whole(name, one, Cause::Untold, &signals), "it was forgotten");
    }
}
