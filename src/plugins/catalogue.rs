//! The catalogue: surveys the folder, has changed files examined, and publishes what serves.
//!
//! Invariant: readers never wait, neither for a scan nor for a compile; the map they read is replaced whole.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use wasmtime::Engine;

use super::books::{Books, Serving, Task};
use super::folder::Stamp;
use super::{Digest, Loaded, Loader, PluginError, PluginSettings, PluginState, PluginStatus, Preparer, folder};

/// What one scan found changed, or could not do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanSummary {
    /// The files that were accepted with a new content, by stem.
    pub accepted: Vec<String>,
    /// The files that were rejected anew, by file name.
    pub rejected: Vec<String>,
    /// The stems that left the catalogue.
    pub removed: Vec<String>,
    /// How many files are as they were.
    pub unchanged: usize,
    /// Why the folder could not be read, if so; then nothing was changed.
    pub fault: Option<String>,
}

pub(super) struct Inner<P: Preparer> {
    pub(super) settings: PluginSettings,
    loader: Loader<P>,
    books: Mutex<Books<P::Prepared>>,
    /// Held while the folder is surveyed, so that no older survey is taken for the newer one.
    surveying: Mutex<()>,
    serving: ArcSwap<Serving<P::Prepared>>,
    fault: ArcSwap<Option<String>>,
    version: watch::Sender<u64>,
}

/// The plugins of the folder. Cheap to clone; all clones are the same catalogue.
pub struct Catalogue<P: Preparer>(pub(super) Arc<Inner<P>>);

impl<P: Preparer> Clone for Catalogue<P> {
    fn clone(&self) -> Self {
        Catalogue(self.0.clone())
    }
}

/// What a survey left to be done.
pub(super) struct Survey {
    /// The files that wait for a verdict.
    pub(super) pending: Vec<OsString>,
    /// What the files looked like that can be plugins.
    pub(super) stamps: HashMap<OsString, Stamp>,
    summary: ScanSummary,
}

/// One file's examination. Dropped before its end it leaves the file to the next scan.
struct Job<P: Preparer> {
    inner: Arc<Inner<P>>,
    task: Task,
}

impl<P: Preparer> Drop for Job<P> {
    fn drop(&mut self) {
        self.inner.books().release(&self.task);
    }
}

impl<P: Preparer> Catalogue<P> {
    /// Opens the catalogue, still empty; makes the folder where there is none.
    ///
    /// # Errors
    /// The folder cannot be made, or the threads that compile cannot be started.
    pub fn open(settings: PluginSettings, engine: Engine, preparer: P) -> Result<Self, PluginError> {
        let folder = &settings.folder;
        std::fs::create_dir_all(folder).map_err(|source| PluginError::Folder { path: folder.clone(), source })?;
        let loader = Loader::open(&settings, engine, preparer)?;
        Ok(Catalogue(Arc::new(Inner {
            settings,
            loader,
            books: Mutex::new(Books::new()),
            surveying: Mutex::new(()),
            serving: ArcSwap::default(),
            fault: ArcSwap::default(),
            version: watch::Sender::new(0),
        })))
    }

    /// Looks at the whole folder once, and ends when every file that it found changed is accepted or rejected. Files that
    /// another scan is examining already are left to it. Dropping the future leaves the rest to the next scan.
    pub async fn scan(&self) -> ScanSummary {
        let Survey { pending, mut summary, .. } = self.survey().await;
        let mut jobs: FuturesUnordered<_> = pending.into_iter().map(|name| self.examine(name)).collect();
        while let Some(news) = jobs.next().await {
            match news {
                Some((stem, _, PluginState::Accepted { .. })) => summary.accepted.push(stem),
                Some((_, file_name, PluginState::Rejected { .. })) => summary.rejected.push(file_name),
                Some((_, _, PluginState::Compiling)) => {}
                None => summary.unchanged += 1,
            }
        }
        for names in [&mut summary.accepted, &mut summary.rejected, &mut summary.removed] {
            names.sort();
        }
        summary
    }

    /// The digest that new attempts of a plugin start from.
    pub fn serving(&self, stem: &str) -> Option<Arc<Loaded<P::Prepared>>> {
        self.0.serving.load().get(stem).cloned()
    }

    /// All plugin files, in the order of their names.
    pub fn list(&self) -> Vec<PluginStatus> {
        self.0.books().list()
    }

    /// A version that rises with every change of what serves, of a listing or of a fault.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.version.subscribe()
    }

    /// Has everybody who follows [`Catalogue::changes`] look again, for a reason of the caller's own.
    pub fn touch(&self) {
        self.0.version.send_modify(|version| *version += 1);
    }

    /// The largest plugin file, in bytes.
    pub fn max_file_bytes(&self) -> u64 {
        self.0.settings.max_file_bytes
    }

    /// Why the folder cannot be read, if so. What serves is then what served before.
    pub fn fault(&self) -> Option<String> {
        self.0.fault.load().as_ref().clone()
    }

    /// The loader behind the catalogue: loads other files under the same rules, and counts what was compiled.
    pub fn loader(&self) -> &Loader<P> {
        &self.0.loader
    }

    /// Examines a file that waits for a verdict, unless another job has it. Returns its new state where it has one.
    pub(super) async fn examine(&self, name: OsString) -> Option<News> {
        let task = self.0.books().begin(&name)?;
        Job { inner: self.0.clone(), task }.run().await
    }

    pub(super) async fn survey(&self) -> Survey {
        let inner = self.0.clone();
        let survey = tokio::task::spawn_blocking(move || survey(&inner)).await;
        survey.unwrap_or_else(|_| Survey {
            pending: Vec::new(),
            stamps: HashMap::new(),
            summary: ScanSummary { fault: Some("the scan was given up: scan again".to_owned()), ..ScanSummary::default() },
        })
    }
}

fn survey<P: Preparer>(inner: &Inner<P>) -> Survey {
    let _turn = inner.surveying.lock().unwrap_or_else(PoisonError::into_inner);
    let path = &inner.settings.folder;
    let found = match folder::survey(path, inner.settings.max_file_bytes) {
        Ok(found) => found,
        Err(error) => {
            let fault = unreadable(path, &error);
            inner.note_fault(Some(fault.clone()));
            let summary = ScanSummary { fault: Some(fault), ..ScanSummary::default() };
            return Survey { pending: Vec::new(), stamps: HashMap::new(), summary };
        }
    };
    inner.note_fault(None);
    let stamps = found.iter().filter_map(|file| Some((file.name.clone(), *file.look.as_ref().ok()?))).collect();
    let mut books = inner.books();
    let done = books.reconcile(found);
    if done.changed || !done.removed.is_empty() {
        inner.publish(&books);
    }
    drop(books);
    for stem in &done.removed {
        tracing::info!(plugin = %stem, "the plugin was removed; attempts that run go on");
    }
    for (file_name, reason) in &done.refused {
        tracing::warn!(file = %file_name, reason, "the plugin is rejected");
    }
    let rejected = done.refused.into_iter().map(|(file_name, _)| file_name).collect();
    let (removed, unchanged) = (done.removed, done.unchanged);
    Survey { pending: done.pending, stamps, summary: ScanSummary { rejected, removed, unchanged, ..ScanSummary::default() } }
}

fn unreadable(folder: &Path, error: &std::io::Error) -> String {
    let folder = folder.display();
    format!("the plugins folder `{folder}` cannot be read: {error}; bring it back or let the daemon read it")
}

impl<P: Preparer> Inner<P> {
    fn books(&self) -> MutexGuard<'_, Books<P::Prepared>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called under the books' lock, so that an older map never follows a newer one.
    fn publish(&self, books: &Books<P::Prepared>) {
        self.serving.store(Arc::new(books.serving()));
        self.version.send_modify(|version| *version += 1);
    }

    fn note_fault(&self, fault: Option<String>) {
        if *self.fault.load_full() != fault {
            if let Some(why) = &fault {
                tracing::warn!(why, "the plugins stay as they are");
            }
            self.fault.store(Arc::new(fault));
            self.version.send_modify(|version| *version += 1);
        }
    }
}

/// A file's stem and name, and what became of it.
pub(super) type News = (String, String, PluginState);

impl<P: Preparer> Job<P> {
    /// Examines the file, and again as long as it changes meanwhile.
    async fn run(self) -> Option<News> {
        loop {
            let (content, order) = self.inner.books().order(&self.task, &self.inner.settings.folder)?;
            let compiling = || {
                let mut books = self.inner.books();
                if books.compiling(&self.task, content) {
                    self.inner.publish(&books);
                }
            };
            let wanted = || self.inner.books().wants(&self.task, content);
            let (name, known) = (order.name.clone(), order.known);
            let examined = self.inner.loader.examine(order, compiling, wanted).await;
            let mut books = self.inner.books();
            let settled = books.settle(&self.task, content, examined);
            if settled.news.is_some() {
                self.inner.publish(&books);
            }
            drop(books);
            if settled.done {
                return settled.news.map(|state| tell(name, known, state));
            }
        }
    }
}

fn tell(file_name: String, before: Option<Digest>, state: PluginState) -> News {
    let stem = Path::new(&file_name).file_stem().map(folder::shown).unwrap_or_default();
    match &state {
        PluginState::Accepted { digest } => {
            tracing::info!(plugin = %stem, %digest, before = before.map(tracing::field::display), "the plugin serves");
        }
        PluginState::Rejected { reason } => tracing::warn!(file = %file_name, reason, "the plugin is rejected"),
        PluginState::Compiling => {}
    }
    (stem, file_name, state)
}
