//! Which files are sources, and when they are others than before.
//!
//! Invariant: a change is one of content. What a build or an editor writes anew as it was, opens or touches is none, so that nothing that
//! a build does by itself makes it run for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::project::{Build, Project};
use crate::config::AGENT_FILE;

/// How long the files must rest before a change counts: several are saved together.
const REST: Duration = Duration::from_millis(100);
/// How often the files are looked at without a notification.
const POLL: Duration = Duration::from_secs(1);
/// The most files that are watched.
const MOST: usize = 20_000;
/// The largest file whose content is compared, in bytes; of a larger one its size and times are.
const LARGEST: u64 = 32 << 20;
/// Two writes closer together than this may leave the same time stamps.
const GRANULARITY: Duration = Duration::from_millis(50);
/// Folders that hold what is made of sources, or what comes with them.
const FOLDERS: [&str; 6] = ["target", "node_modules", "dist", "__pycache__", "venv", "CVS"];
/// How the names end that editors and downloads give to what is not ready.
const ENDINGS: [&str; 11] = ["~", ".swp", ".swo", ".swx", ".tmp", ".temp", ".part", ".bak", ".orig", ".pyc", ".cwasm"];

/// A file as it was seen.
#[derive(Clone, Debug)]
struct Seen {
    stamp: (u64, u64, u64, i64, i64),
    /// Whether the same stamp proves the same content.
    is_settled: bool,
    /// The hash of the content; of its stamp where it is too large.
    content: blake3::Hash,
}

/// All sources as they were seen at one time.
pub(super) type Snapshot = BTreeMap<PathBuf, blake3::Hash>;

/// What is no source.
#[derive(Clone, Debug)]
struct Rules {
    ignore: Vec<String>,
    /// The build writes components; without one the component is the source.
    has_build: bool,
}

impl Rules {
    fn ignores(&self, name: &OsStr, is_folder: bool) -> bool {
        let text = name.to_string_lossy();
        let is_hidden = text.starts_with('.') && !matches!(&*text, ".cargo" | ".env");
        let is_temporary =
            ENDINGS.iter().any(|ending| text.ends_with(ending)) || text == "4913" || (text.starts_with('#') && text.ends_with('#'));
        let is_made = if is_folder { FOLDERS.contains(&&*text) } else { self.has_build && text.ends_with(".wasm") };
        is_hidden || is_temporary || is_made || self.ignore.iter().any(|pattern| matches(pattern.as_bytes(), name.as_bytes()))
    }
}

/// Whether a name fits a pattern, in which `*` stands for anything.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|at| name.get(at..).is_some_and(|name| matches(rest, name))),
        Some((letter, rest)) => name.split_first().is_some_and(|(first, name)| first == letter && matches(rest, name)),
    }
}

/// What one look found.
#[derive(Default)]
struct Look {
    files: BTreeMap<PathBuf, Seen>,
    folders: BTreeSet<PathBuf>,
    has_too_many: bool,
}

struct Plan {
    roots: Vec<PathBuf>,
    rules: Rules,
}

impl Plan {
    fn look(&self, before: &BTreeMap<PathBuf, Seen>) -> Look {
        let mut look = Look::default();
        for root in &self.roots {
            match std::fs::metadata(root) {
                Ok(about) if about.is_dir() => self.folder(root.clone(), before, &mut look),
                Ok(_) => {
                    look.folders.extend(root.parent().map(Path::to_owned));
                    self.file(root.clone(), before, &mut look);
                }
                // It may come.
                Err(_) => look.folders.extend(root.parent().map(Path::to_owned)),
            }
        }
        look
    }

    fn folder(&self, folder: PathBuf, before: &BTreeMap<PathBuf, Seen>, look: &mut Look) {
        let mut waiting = vec![folder];
        while let Some(folder) = waiting.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            if !look.folders.insert(folder) {
                continue;
            }
            for entry in entries.flatten() {
                // What a link leads to counts as a file and never as a folder, so that no circle is followed.
                let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if self.rules.ignores(&entry.file_name(), is_folder) {
                    continue;
                }
                if is_folder {
                    waiting.push(entry.path());
                } else {
                    self.file(entry.path(), before, look);
                }
            }
        }
    }

    fn file(&self, path: PathBuf, before: &BTreeMap<PathBuf, Seen>, look: &mut Look) {
        let Some(about) = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file) else { return };
        if look.files.len() >= MOST {
            look.has_too_many = true;
            return;
        }
        let stamp = (about.dev(), about.ino(), about.size(), about.ctime(), about.ctime_nsec());
        let known = before.get(&path).filter(|seen| seen.is_settled && seen.stamp == stamp).cloned();
        let seen = known.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let changed = Duration::new(u64::try_from(stamp.3).unwrap_or(0), u32::try_from(stamp.4).unwrap_or(0));
            let content = match std::fs::read(&path) {
                Ok(bytes) if stamp.2 <= LARGEST => blake3::hash(&bytes),
                _ => blake3::hash(format!("{stamp:?}").as_bytes()),
            };
            Seen { stamp, is_settled: now >= changed + GRANULARITY, content }
        });
        look.files.insert(path, seen);
    }
}

/// The sources of a project.
pub(super) struct Sources {
    plan: Arc<Plan>,
    signs: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    known: Arc<BTreeMap<PathBuf, Seen>>,
    /// What is to be said once.
    notes: Vec<String>,
}

impl Sources {
    /// Begins to watch; `now` is what [`Sources::changed`] compares with first.
    pub(super) async fn watch(project: &Project) -> (Sources, Snapshot) {
        let rules = Rules { ignore: project.ignore.clone(), has_build: project.build != Build::None };
        let roots = match project.watch.as_slice() {
            [] => match (&project.build, &project.component) {
                (Build::None, Some(component)) => vec![component.clone(), project.folder.join(AGENT_FILE)],
                _ => vec![project.folder.clone()],
            },
            named => named.iter().map(|path| project.folder.join(path)).chain([project.folder.join(AGENT_FILE)]).collect(),
        };
        let signs = Arc::new(Notify::new());
        let sign = Arc::clone(&signs);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // What was only read is no sign.
            let is_read = event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_)) && !event.need_rescan());
            if !is_read {
                sign.notify_one();
            }
        });
        let mut sources = Sources {
            plan: Arc::new(Plan { roots, rules }),
            signs,
            watcher: watcher.ok(),
            watched: BTreeSet::new(),
            known: Arc::default(),
            notes: Vec::new(),
        };
        let now = sources.snapshot().await;
        (sources, now)
    }

    /// What is to be told of the watching, once.
    pub(super) fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// The sources as they are now.
    pub(super) async fn snapshot(&mut self) -> Snapshot {
        let (plan, known) = (Arc::clone(&self.plan), Arc::clone(&self.known));
        let look = tokio::task::spawn_blocking(move || plan.look(&known)).await.unwrap_or_default();
        if look.has_too_many {
            let note =
                format!("there are more than {MOST} files, and only so many are watched; name what counts with `watch` in {AGENT_FILE}");
            self.notes.push(note);
        }
        self.rewatch(&look.folders);
        let snapshot = look.files.iter().map(|(path, seen)| (path.clone(), seen.content)).collect();
        self.known = Arc::new(look.files);
        snapshot
    }

    fn rewatch(&mut self, folders: &BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        // A folder that is gone takes its watch with it.
        self.watched.retain(|folder| folders.contains(folder));
        let new: Vec<PathBuf> = folders.difference(&self.watched).cloned().collect();
        for folder in new {
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(folder);
                }
                Err(error) if folder.exists() => {
                    self.notes
                        .push(format!("the system gives no notifications ({error}); the files are looked at every {} s", POLL.as_secs()));
                    self.watcher = None;
                    return;
                }
                Err(_) => {}
            }
        }
    }

    /// Ends when the sources differ from `before` and rest; answers with what they are now and which files differ.
    pub(super) async fn changed(&mut self, before: &Snapshot) -> (Snapshot, Vec<PathBuf>) {
        loop {
            let mut now = self.snapshot().await;
            let mut files = differing(before, &now);
            if !files.is_empty() {
                // Until a look after a rest finds what the look before it found.
                loop {
                    tokio::time::sleep(REST).await;
                    let again = self.snapshot().await;
                    if again == now {
                        break;
                    }
                    now = again;
                }
                files = differing(before, &now);
                if !files.is_empty() {
                    return (now, files);
                }
            }
            tokio::select! {
                () = self.signs.notified() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }
}

/// The files that came, went or have another content.
pub(super) fn differing(before: &Snapshot, now: &Snapshot) -> Vec<PathBuf> {
    let changed = now.iter().filter(|(path, content)| before.get(*path) != Some(content)).map(|(path, _)| path);
    let gone = before.keys().filter(|path| !now.contains_key(*path));
    changed.chain(gone).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(folder: &Path, watch: &[&str], ignore: &[&str]) -> Project {
        Project {
            folder: folder.to_owned(),
            build: Build::Command("true".to_owned()),
            component: None,
            agent: None,
            query: None,
            watch: watch.iter().map(PathBuf::from).collect(),
            ignore: ignore.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn put(folder: &Path, name: &str, text: &str) {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn names(folder: &Path, snapshot: &Snapshot) -> Vec<String> {
        snapshot.keys().map(|path| path.strip_prefix(folder).unwrap().to_string_lossy().into_owned()).collect()
    }

    #[tokio::test]
    async fn what_is_made_hidden_or_temporary_is_no_source() {
        let folder = tempfile::tempdir().unwrap();
        let sources = ["src/main.rs", "Cargo.toml", ".cargo/config.toml", ".env", "agent.toml"];
        let others =
            ["target/x", "node_modules/x/y.js", ".git/HEAD", "a.wasm", "src/.main.rs.swp", "src/main.rs~", "src/4913", "#x#", "x.log"];
        for name in sources.iter().chain(&others) {
            put(folder.path(), name, "x");
        }
        let (_, now) = Sources::watch(&project(folder.path(), &[], &["*.log"])).await;
        let mut expected: Vec<&str> = sources.to_vec();
        expected.sort_unstable();
        assert_eq!(names(folder.path(), &now), expected);
        let (_, now) = Sources::watch(&project(folder.path(), &["src"], &[])).await;
        assert_eq!(names(folder.path(), &now), ["agent.toml", "src/main.rs"]);
    }

    #[tokio::test]
    async fn a_change_is_one_of_content_and_new_folders_are_watched() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "a.rs", "one");
        let (mut sources, now) = Sources::watch(&project(folder.path(), &[], &[])).await;
        assert!(sources.watcher.is_some());
        put(folder.path(), "a.rs", "one");
        assert!(differing(&now, &sources.snapshot().await).is_empty(), "written anew as it was");
        put(folder.path(), "a.rs", "two");
        let (now, files) = sources.changed(&now).await;
        assert_eq!(files, [folder.path().join("a.rs")]);
        put(folder.path(), "new/deep/b.rs", "x");
        let (now, files) = sources.changed(&now).await;
        assert_eq!(files, [folder.path().join("new/deep/b.rs")]);
        put(folder.path(), "new/deep/b.rs", "y");
        let (now, _) = sources.changed(&now).await;
        std::fs::remove_dir_all(folder.path().join("new")).unwrap();
        let (_, files) = sources.changed(&now).await;
        assert_eq!(files, [folder.path().join("new/deep/b.rs")]);
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, name, fits) in
            [("*.log", "a.log", true), ("*.log", "a.logs", false), ("gen*", "gen", true), ("a*b*c", "axxbc", true), ("a", "b", false)]
        {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), fits, "{pattern} {name}");
        }
    }
}
