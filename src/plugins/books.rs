//! What the catalogue knows: one entry for each file of the folder, and the digest that serves for each stem.
//!
//! Pure but for the map it publishes. Invariant: a verdict is taken only for the content it was asked for, so a slow
//! compile cannot undo a newer file; a stem serves until no file claims it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use super::folder::{Found, Stamp, shown};
use super::loader::{Examined, Order, Verdict};
use super::{Digest, Loaded, PluginState, PluginStatus};
use crate::domain::time::Timestamp;

/// The plugins that serve, by stem.
pub(super) type Serving<T> = HashMap<String, Arc<Loaded<T>>>;

/// The names of a content to be examined and of the job that examines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number(u64);

struct Entry {
    /// The stem, or why the name cannot be an agent's.
    stem: Result<String, String>,
    size_bytes: u64,
    modified_at: Option<Timestamp>,
    state: PluginState,
    /// What the content looked like that was judged, or that is to be.
    stamp: Option<Stamp>,
    /// Whether the same stamp proves the same content, and the verdict on it stands.
    trusted: bool,
    judged: Option<Digest>,
    /// The content that waits for a verdict.
    pending: Option<Number>,
    /// The job that sees to it; at most one a file.
    job: Option<Number>,
}

/// A file's job, begun and not yet done.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) name: OsString,
    pub(super) job: Number,
}

/// What a survey changed.
#[derive(Default)]
pub(super) struct Reconciled {
    /// The files that wait for a verdict.
    pub(super) pending: Vec<OsString>,
    /// Stems that left the catalogue.
    pub(super) removed: Vec<String>,
    /// Files that were refused by their look alone, with the sentence.
    pub(super) refused: Vec<(String, String)>,
    /// Files as they were.
    pub(super) unchanged: usize,
    /// Whether a listing shows something else than before.
    pub(super) changed: bool,
}

/// What a verdict changed.
pub(super) struct Settled {
    /// Whether the file's job is done; else its content changed meanwhile and it goes on.
    pub(super) done: bool,
    /// The entry's state, where it changed.
    pub(super) news: Option<PluginState>,
}

pub(super) struct Books<T> {
    entries: BTreeMap<OsString, Entry>,
    serving: Serving<T>,
    numbers: u64,
}

impl<T> Books<T> {
    pub(super) fn new() -> Self {
        Books { entries: BTreeMap::new(), serving: HashMap::new(), numbers: 0 }
    }

    /// The map to be published.
    pub(super) fn serving(&self) -> Serving<T> {
        self.serving.clone()
    }

    pub(super) fn list(&self) -> Vec<PluginStatus> {
        let status = |(name, entry): (&OsString, &Entry)| PluginStatus {
            stem: entry.stem.clone().unwrap_or_else(|_| shown_stem(name)),
            file_name: shown(name),
            size_bytes: entry.size_bytes,
            modified_at: entry.modified_at,
            state: entry.state.clone(),
            serving: entry.stem.as_ref().ok().and_then(|stem| self.serving.get(stem)).map(|loaded| loaded.digest),
        };
        self.entries.iter().map(status).collect()
    }

    /// Brings the books in line with what is in the folder.
    pub(super) fn reconcile(&mut self, found: Vec<Found>) -> Reconciled {
        let mut done = Reconciled::default();
        let mut claims: HashMap<String, Vec<String>> = HashMap::new();
        for file in &found {
            if let Ok(stem) = &file.stem {
                claims.entry(stem.clone()).or_default().push(shown(&file.name));
            }
        }
        let before = self.entries.len();
        self.entries.retain(|name, _| found.binary_search_by(|file| file.name.cmp(name)).is_ok());
        done.changed = self.entries.len() != before;
        self.serving.retain(|stem, _| {
            let claimed = claims.contains_key(stem);
            if !claimed {
                done.removed.push(stem.clone());
            }
            claimed
        });
        for file in found {
            let rivals = file.stem.as_ref().ok().and_then(|stem| claims.get(stem)).filter(|files| files.len() > 1);
            let rivals = rivals.map(|files| files.as_slice());
            self.take_found(file, rivals, &mut done);
        }
        done
    }

    fn take_found(&mut self, file: Found, rivals: Option<&[String]>, done: &mut Reconciled) {
        let number = self.number();
        let entry = self.entries.entry(file.name.clone()).or_insert_with(|| {
            done.changed = true;
            Entry::new(file.stem.clone())
        });
        if (entry.size_bytes, entry.modified_at) != (file.size_bytes, file.modified_at) {
            (entry.size_bytes, entry.modified_at) = (file.size_bytes, file.modified_at);
            done.changed = true;
        }
        let stamp = match (file.stem, rivals, file.look) {
            (Err(reason), _, _) | (Ok(_), None, Err(reason)) => Err(reason),
            (Ok(stem), Some(files), _) => {
                let files = files.join("` and `");
                Err(format!("`{files}` all claim the agent `{stem}`: remove or rename all but one"))
            }
            (Ok(_), None, Ok(stamp)) => Ok(stamp),
        };
        let stamp = match stamp {
            Ok(stamp) => stamp,
            Err(reason) => {
                if entry.refuse(reason.clone()) {
                    done.changed = true;
                    done.refused.push((shown(&file.name), reason));
                } else {
                    done.unchanged += 1;
                }
                return;
            }
        };
        let same = entry.stamp == Some(stamp);
        if same && entry.pending.is_none() && entry.trusted {
            done.unchanged += 1;
            return;
        }
        if !same || entry.pending.is_none() {
            entry.stamp = Some(stamp);
            entry.trusted = false;
            entry.pending = Some(number);
        }
        done.pending.push(file.name);
    }

    fn number(&mut self) -> Number {
        self.numbers = self.numbers.saturating_add(1);
        Number(self.numbers)
    }

    /// Begins a file's job, unless another has it or nothing waits for a verdict.
    pub(super) fn begin(&mut self, name: &OsStr) -> Option<Task> {
        let job = self.number();
        let entry = self.entries.get_mut(name).filter(|entry| entry.job.is_none() && entry.pending.is_some())?;
        entry.job = Some(job);
        Some(Task { name: name.to_owned(), job })
    }

    fn entry_of(&mut self, task: &Task) -> Option<&mut Entry> {
        self.entries.get_mut(&task.name).filter(|entry| entry.job == Some(task.job))
    }

    /// What the job has to examine now; none, and the job is over, when nothing waits for a verdict.
    pub(super) fn order(&mut self, task: &Task, folder: &Path) -> Option<(Number, Order)> {
        let entry = self.entry_of(task)?;
        let Some(content) = entry.pending else {
            entry.job = None;
            return None;
        };
        let order = Order { path: folder.join(&task.name), name: shown(&task.name), known: entry.judged };
        Some((content, order))
    }

    /// Whether this content is still what waits for a verdict.
    pub(super) fn wants(&mut self, task: &Task, content: Number) -> bool {
        self.entry_of(task).is_some_and(|entry| entry.pending == Some(content))
    }

    /// Notes that the content has to be compiled. Returns whether a listing shows something else than before.
    pub(super) fn compiling(&mut self, task: &Task, content: Number) -> bool {
        let Some(entry) = self.entry_of(task).filter(|entry| entry.pending == Some(content)) else { return false };
        entry.judged = None;
        let news = entry.state != PluginState::Compiling;
        entry.state = PluginState::Compiling;
        news
    }

    /// Takes a verdict on the content it was asked for; one on an older content is dropped.
    pub(super) fn settle(&mut self, task: &Task, content: Number, examined: Examined<T>) -> Settled {
        let Some(entry) = self.entry_of(task) else { return Settled { done: true, news: None } };
        if entry.pending != Some(content) {
            return Settled { done: false, news: None };
        }
        let (digest, state, stands, prepared) = match examined.verdict {
            // Both are asked for again by the next survey.
            Verdict::NeedsCompile(_) | Verdict::Unwanted => (None, PluginState::Compiling, false, None),
            Verdict::Known => (entry.judged, entry.state.clone(), true, None),
            Verdict::Ready(digest, prepared) => (Some(digest), PluginState::Accepted { digest }, true, Some(prepared)),
            Verdict::Refused(digest, refused) => {
                let digest = digest.filter(|_| !refused.for_now);
                (digest, PluginState::Rejected { reason: refused.reason }, !refused.for_now, None)
            }
        };
        let settled = examined.read.is_some_and(|(_, settled)| settled);
        entry.stamp = examined.read.map_or(entry.stamp, |(stamp, _)| Some(stamp));
        (entry.judged, entry.trusted) = (digest, stands && settled);
        (entry.pending, entry.job) = (None, None);
        let news = (entry.state != state).then(|| state.clone());
        entry.state = state;
        if let (Some(digest), Some(prepared), Ok(stem)) = (digest, prepared, entry.stem.clone()) {
            self.serve(stem, digest, prepared);
        }
        Settled { done: true, news }
    }

    fn serve(&mut self, stem: String, digest: Digest, prepared: Arc<T>) {
        if self.serving.get(&stem).is_none_or(|loaded| loaded.digest != digest) {
            let loaded = Arc::new(Loaded { digest, stem: stem.clone(), prepared });
            self.serving.insert(stem, loaded);
        }
    }

    /// Gives a job up that will not go on, so that another can begin.
    pub(super) fn release(&mut self, task: &Task) {
        if let Some(entry) = self.entry_of(task) {
            entry.job = None;
        }
    }
}

impl Entry {
    fn new(stem: Result<String, String>) -> Self {
        Entry {
            stem,
            size_bytes: 0,
            modified_at: None,
            state: PluginState::Compiling,
            stamp: None,
            trusted: false,
            judged: None,
            pending: None,
            job: None,
        }
    }

    /// Refuses the file without a look into it. Returns whether that is news.
    fn refuse(&mut self, reason: String) -> bool {
        (self.stamp, self.trusted, self.judged, self.pending) = (None, false, None, None);
        let state = PluginState::Rejected { reason };
        let news = self.state != state;
        self.state = state;
        news
    }
}

fn shown_stem(name: &OsStr) -> String {
    shown(Path::new(name).file_stem().unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::Refused;

    fn found(name: &str, content: u64) -> Found {
        let stem = Ok(name.trim_end_matches(".wasm").to_owned());
        Found { name: name.into(), stem, look: Ok(Stamp::numbered(content)), size_bytes: 1, modified_at: None }
    }

    fn digest(content: u64) -> Digest {
        Digest::of(&content.to_be_bytes())
    }

    fn ready(content: u64, settled: bool) -> Examined<u64> {
        let read = Some((Stamp::numbered(content), settled));
        Examined { read, verdict: Verdict::Ready(digest(content), Arc::new(content)) }
    }

    fn begin(books: &mut Books<u64>) -> (Task, Number, Order) {
        let task = books.begin(OsStr::new("a.wasm")).unwrap();
        let (content, order) = books.order(&task, Path::new("plugins")).unwrap();
        (task, content, order)
    }

    fn serving(books: &Books<u64>) -> Option<u64> {
        books.serving().get("a").map(|loaded| *loaded.prepared)
    }

    #[test]
    fn a_verdict_on_an_older_content_is_dropped_and_the_job_goes_on() {
        let mut books = Books::new();
        books.reconcile(vec![found("a.wasm", 1)]);
        let (task, first, _) = begin(&mut books);
        assert_eq!(books.reconcile(vec![found("a.wasm", 2)]).pending, ["a.wasm"]);
        assert!(books.begin(OsStr::new("a.wasm")).is_none(), "one job a file");
        assert!(!books.wants(&task, first) && !books.compiling(&task, first));
        assert!(!books.settle(&task, first, ready(1, true)).done);
        assert_eq!(serving(&books), None);
        let (second, _) = books.order(&task, Path::new("plugins")).unwrap();
        assert!(books.settle(&task, second, ready(2, true)).done);
        assert_eq!(serving(&books), Some(2));
    }

    #[test]
    fn a_verdict_on_a_file_that_is_gone_changes_nothing() {
        let mut books = Books::new();
        books.reconcile(vec![found("a.wasm", 1)]);
        let (task, content, _) = begin(&mut books);
        books.reconcile(vec![]);
        books.reconcile(vec![found("a.wasm", 1)]);
        let (other, _, _) = begin(&mut books);
        let late = books.settle(&task, content, ready(1, true));
        assert!(late.done && late.news.is_none() && serving(&books).is_none());
        books.release(&task);
        assert!(books.begin(OsStr::new("a.wasm")).is_none(), "the newer job keeps the file");
        books.release(&other);
        assert!(books.begin(OsStr::new("a.wasm")).is_some(), "a job that was given up can begin again");
    }

    #[test]
    fn only_a_settled_stamp_spares_the_next_look() {
        let mut books = Books::new();
        books.reconcile(vec![found("a.wasm", 1)]);
        let (task, content, order) = begin(&mut books);
        assert_eq!(order.known, None);
        books.settle(&task, content, ready(1, false));
        assert_eq!(books.reconcile(vec![found("a.wasm", 1)]).pending, ["a.wasm"]);
        let (task, content, order) = begin(&mut books);
        assert_eq!(order.known, Some(digest(1)));
        let read = Some((Stamp::numbered(1), true));
        let settled = books.settle(&task, content, Examined { read, verdict: Verdict::Known });
        assert!(settled.news.is_none());
        let quiet = books.reconcile(vec![found("a.wasm", 1)]);
        assert!(quiet.pending.is_empty() && quiet.unchanged == 1 && !quiet.changed);
    }

    #[test]
    fn a_refusal_for_now_is_looked_at_again_and_one_for_good_is_not() {
        for (refused, again) in [(Refused::for_now(String::new()), true), (Refused::for_good(String::new()), false)] {
            let mut books: Books<u64> = Books::new();
            books.reconcile(vec![found("a.wasm", 1)]);
            let (task, content, _) = begin(&mut books);
            let read = Some((Stamp::numbered(1), true));
            books.settle(&task, content, Examined { read, verdict: Verdict::Refused(Some(digest(1)), refused) });
            assert_eq!(!books.reconcile(vec![found("a.wasm", 1)]).pending.is_empty(), again);
        }
    }
}
