//! Watching: when to survey the folder again.
//!
//! Invariant: a file that was closed after writing, or moved into place, is surveyed at once; everything else when the
//! folder has been quiet for a moment, so that a file that is unlinked and written again is never missing in between.
//! Notifications are hints: they coalesce, and the poll makes up for any that is lost.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::{Catalogue, Preparer, folder};

/// How long nothing must happen after an event that does not tell that a file is whole.
const QUIET: Duration = Duration::from_millis(50);
const SHORTEST_POLL: Duration = Duration::from_millis(10);

/// What an event says about the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hint {
    Nothing,
    /// Something goes on with a plugin file.
    Stirring,
    /// A plugin file is whole, or events were lost.
    Ready,
}

fn hint(event: &notify::Result<Event>) -> Hint {
    let Ok(event) = event else { return Hint::Ready };
    if event.need_rescan() {
        return Hint::Ready;
    }
    let names = event.paths.iter().filter_map(|path| path.file_name());
    if names.filter_map(folder::stem_of).next().is_none() {
        return Hint::Nothing;
    }
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Hint::Ready,
        EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => Hint::Ready,
        EventKind::Access(_) => Hint::Nothing,
        _ => Hint::Stirring,
    }
}

#[derive(Default)]
struct Signals {
    stirring: Notify,
    ready: Notify,
}

impl Signals {
    fn take(&self, event: &notify::Result<Event>) {
        match hint(event) {
            Hint::Nothing => {}
            Hint::Stirring => self.stirring.notify_one(),
            Hint::Ready => self.ready.notify_one(),
        }
    }

    /// Ends when the folder is worth a survey.
    async fn worth_a_survey(&self) {
        tokio::select! {
            () = self.ready.notified() => return self.forget_stirring(),
            () = self.stirring.notified() => {}
        }
        loop {
            tokio::select! {
                () = self.ready.notified() => return self.forget_stirring(),
                () = self.stirring.notified() => {}
                () = sleep(QUIET) => return,
            }
        }
    }

    /// What stirred before a survey is seen by it, and is not worth another.
    fn forget_stirring(&self) {
        let _ = self.stirring.notified().now_or_never();
    }
}

/// The notifications of one folder, by its identity: the path may come to name another one.
struct Watched {
    identity: (u64, u64),
    _watcher: RecommendedWatcher,
}

/// Keeps the notifications on what the folder's path names now.
fn rewatch(folder: &Path, signals: &Arc<Signals>, watched: Option<Watched>) -> Result<Watched, notify::Error> {
    let metadata = std::fs::metadata(folder).map_err(notify::Error::io)?;
    let identity = (metadata.dev(), metadata.ino());
    if let Some(watched) = watched.filter(|watched| watched.identity == identity) {
        return Ok(watched);
    }
    let signals = signals.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| signals.take(&event))?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(Watched { identity, _watcher: watcher })
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
        let mut watched = None;
        let mut told = false;
        let mut poll = interval(self.0.settings.poll_interval.max(SHORTEST_POLL));
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut jobs = FuturesUnordered::new();
        // It lives across the turns of the loop, because it remembers what it was told.
        let mut worth_a_survey = Box::pin(signals.worth_a_survey());
        loop {
            tokio::select! {
                () = &mut worth_a_survey => worth_a_survey.set(signals.worth_a_survey()),
                // The first tick is at once, and the notifications are begun before the survey, so that none is missed.
                _ = poll.tick() => watched = self.notified(&signals, watched.take(), &mut told).await,
                Some(_) = jobs.next(), if !jobs.is_empty() => continue,
            }
            jobs.extend(self.survey().await.pending.into_iter().map(|name| self.examine(name)));
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

    fn hint_of(kind: EventKind, name: &str) -> Hint {
        hint(&Ok(Event::new(kind).add_path(Path::new("plugins").join(name))))
    }

    #[test]
    fn whole_files_are_taken_at_once_and_others_when_it_is_quiet() {
        let close = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let into_place = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        for kind in [close, into_place] {
            assert_eq!(hint_of(kind, "hello.wasm"), Hint::Ready);
            assert_eq!(hint_of(kind, "hello.wasm.part"), Hint::Nothing);
            assert_eq!(hint_of(kind, ".hello.wasm"), Hint::Nothing);
        }
        let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let away = EventKind::Modify(ModifyKind::Name(RenameMode::From));
        for kind in [EventKind::Create(CreateKind::File), EventKind::Remove(RemoveKind::File), data, away] {
            assert_eq!(hint_of(kind, "hello.wasm"), Hint::Stirring);
        }
        assert_eq!(hint_of(EventKind::Access(AccessKind::Open(AccessMode::Any)), "hello.wasm"), Hint::Nothing);
    }

    #[test]
    fn lost_events_are_worth_a_survey() {
        assert_eq!(hint(&Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan))), Hint::Ready);
        assert_eq!(hint(&Err(notify::Error::generic("queue"))), Hint::Ready);
    }
}
