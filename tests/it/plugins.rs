//! The plugins folder: what is taken up, what is refused and why, what the compile cache is trusted with, and the watcher.

mod cache;
mod watch;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sandclock::plugins::{Catalogue, Digest, PluginSettings, PluginState, PluginStatus, Preparer, ScanSummary};
use tempfile::TempDir;
use wasmtime::Engine;
use wasmtime::component::Component;

/// Accepts every component but those that export something.
#[derive(Default)]
struct Plain {
    prepared: Arc<AtomicUsize>,
}

impl Preparer for Plain {
    type Prepared = Component;
    fn prepare(&self, component: &Component) -> Result<Component, String> {
        self.prepared.fetch_add(1, Ordering::SeqCst);
        match component.component_type().exports(component.engine()).next() {
            Some((name, _)) => Err(format!("it exports `{name}`, which no agent has: take it away")),
            None => Ok(component.clone()),
        }
    }
}

/// A component of its own for each number.
fn component(number: u32) -> Vec<u8> {
    wat::parse_str(format!("(component (core module (func (export \"number\") (result i32) i32.const {number})))")).unwrap()
}

struct House {
    root: TempDir,
    settings: PluginSettings,
    prepared: Arc<AtomicUsize>,
}

impl House {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut settings = PluginSettings::new(root.path().join("plugins"), root.path().join("cache"));
        // Longer than any test waits: what is noticed was notified, unless a test says otherwise.
        settings.poll_interval = Duration::from_secs(3600);
        fs::create_dir(&settings.folder).unwrap();
        House { root, settings, prepared: Arc::default() }
    }

    fn open(&self) -> Catalogue<Plain> {
        let preparer = Plain { prepared: self.prepared.clone() };
        Catalogue::open(self.settings.clone(), Engine::default(), preparer).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.settings.folder.join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Digest {
        fs::write(self.path(name), bytes).unwrap();
        Digest::of(bytes)
    }

    fn aside(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.root.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn cached(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(&self.settings.cache).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.file_name().unwrap().len() == 64).collect()
    }
}

fn serving(catalogue: &Catalogue<Plain>, stem: &str) -> Option<Digest> {
    catalogue.serving(stem).map(|loaded| loaded.digest)
}

fn status(catalogue: &Catalogue<Plain>, file_name: &str) -> PluginStatus {
    let list = catalogue.list();
    list.iter().find(|status| status.file_name == file_name).unwrap_or_else(|| panic!("{file_name} in {list:?}")).clone()
}

fn reason(catalogue: &Catalogue<Plain>, file_name: &str) -> String {
    match status(catalogue, file_name).state {
        PluginState::Rejected { reason } => reason,
        other => panic!("{file_name} is {other:?}"),
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Waits until the catalogue is as it should be, looking whenever it says that it changed.
async fn until(catalogue: &Catalogue<Plain>, what: &str, holds: impl Fn(&Catalogue<Plain>) -> bool) {
    let mut changes = catalogue.changes();
    let wait = async {
        loop {
            changes.borrow_and_update();
            if holds(catalogue) {
                return;
            }
            changes.changed().await.unwrap();
        }
    };
    if tokio::time::timeout(Duration::from_secs(60), wait).await.is_err() {
        panic!("waited for: {what}; there is {:?}", catalogue.list());
    }
}

#[tokio::test]
async fn a_file_is_added_replaced_in_place_and_by_rename_and_removed() {
    let house = House::new();
    let catalogue = house.open();
    assert_eq!(catalogue.scan().await, ScanSummary::default());

    let first = house.put("hello.wasm", &component(1));
    let summary = catalogue.scan().await;
    assert_eq!(summary, ScanSummary { accepted: names(&["hello"]), ..ScanSummary::default() });
    let held = catalogue.serving("hello").unwrap();
    assert_eq!((held.digest, held.stem.as_str()), (first, "hello"));
    let line = status(&catalogue, "hello.wasm");
    assert_eq!((line.stem.as_str(), line.state, line.serving), ("hello", PluginState::Accepted { digest: first }, Some(first)));
    assert_eq!(line.size_bytes, component(1).len() as u64);
    assert!(line.modified_at.is_some());

    let second = house.put("hello.wasm", &component(2));
    assert_eq!(catalogue.scan().await.accepted, names(&["hello"]));
    assert_eq!(serving(&catalogue, "hello"), Some(second));

    fs::rename(house.aside("new.wasm", &component(3)), house.path("hello.wasm")).unwrap();
    assert_eq!(catalogue.scan().await.accepted, names(&["hello"]));
    assert_eq!(serving(&catalogue, "hello"), Some(Digest::of(&component(3))));

    fs::remove_file(house.path("hello.wasm")).unwrap();
    let summary = catalogue.scan().await;
    assert_eq!(summary, ScanSummary { removed: names(&["hello"]), ..ScanSummary::default() });
    assert!(catalogue.serving("hello").is_none() && catalogue.list().is_empty());
    assert_eq!(held.digest, first, "who started on a digest keeps it");
    assert!(held.prepared.component_type().imports(held.prepared.engine()).next().is_none());
}

#[tokio::test]
async fn a_scan_without_changes_changes_nothing() {
    let house = House::new();
    house.put("a.wasm", &component(1));
    house.put("b.wasm", b"bad");
    let catalogue = house.open();
    catalogue.scan().await;
    let (version, prepared) = (*catalogue.changes().borrow(), house.prepared.load(Ordering::SeqCst));
    for _ in 0..3 {
        assert_eq!(catalogue.scan().await, ScanSummary { unchanged: 2, ..ScanSummary::default() });
    }
    assert_eq!(*catalogue.changes().borrow(), version);
    assert_eq!((catalogue.loader().compiles(), house.prepared.load(Ordering::SeqCst)), (1, prepared));
}

#[tokio::test]
async fn links_are_followed_when_they_are_read() {
    let house = House::new();
    let catalogue = house.open();
    let (one, two) = (house.aside("one", &component(1)), house.aside("two", &component(2)));
    symlink(&one, house.path("linked.wasm")).unwrap();
    catalogue.scan().await;
    assert_eq!(serving(&catalogue, "linked"), Some(Digest::of(&component(1))));

    symlink(&two, house.path("next")).unwrap();
    fs::rename(house.path("next"), house.path("linked.wasm")).unwrap();
    assert_eq!(catalogue.scan().await.accepted, names(&["linked"]));
    assert_eq!(serving(&catalogue, "linked"), Some(Digest::of(&component(2))));

    fs::remove_file(two).unwrap();
    assert_eq!(catalogue.scan().await.rejected, names(&["linked.wasm"]));
    assert!(reason(&catalogue, "linked.wasm").contains("a link to a file that does not exist"));
    assert_eq!(serving(&catalogue, "linked"), Some(Digest::of(&component(2))), "the old one goes on");
}

#[tokio::test]
async fn a_bad_file_says_why_and_leaves_the_old_digest_and_the_other_plugins_alone() {
    let house = House::new();
    let catalogue = house.open();
    let good = house.put("hello.wasm", &component(1));
    catalogue.scan().await;

    let invalid = {
        let mut bytes = component(2);
        let at = bytes.windows(2).position(|pair| pair == [0x41, 2]).unwrap();
        bytes[at] = 0x00; // `unreachable`, and then a stray `block`.
        bytes
    };
    let exporting = wat::parse_str("(component (instance $i) (export \"odd\" (instance $i)))").unwrap();
    let core = wat::parse_str("(module)").unwrap();
    for (bytes, expected) in [
        (b"".as_slice(), "is empty"),
        (b"\x7fELF compiled ahead", "is not WebAssembly"),
        (&core, "is a core module, not a component: build with --target wasm32-wasip2"),
        (&invalid, "is not a component that can be compiled"),
        (&exporting, "it exports `odd`, which no agent has"),
    ] {
        house.put("hello.wasm", bytes);
        let summary = catalogue.scan().await;
        let reason = reason(&catalogue, "hello.wasm");
        assert!(reason.contains(expected) && !reason.contains('\n'), "{expected}: {reason}");
        assert_eq!(summary.rejected, names(&["hello.wasm"]));
        assert_eq!(serving(&catalogue, "hello"), Some(good));
        assert_eq!(status(&catalogue, "hello.wasm").serving, Some(good));
    }
    let other = house.put("other.wasm", &component(3));
    catalogue.scan().await;
    assert_eq!(serving(&catalogue, "other"), Some(other));

    house.put("hello.wasm", &component(1));
    catalogue.scan().await;
    assert_eq!(status(&catalogue, "hello.wasm").state, PluginState::Accepted { digest: good });
}

#[tokio::test]
async fn a_half_written_file_leaves_the_old_one_serving_until_it_is_whole() {
    let house = House::new();
    let catalogue = house.open();
    let old = house.put("hello.wasm", &component(1));
    catalogue.scan().await;
    let whole = component(2);
    house.put("hello.wasm", &whole[..whole.len() / 2]);
    catalogue.scan().await;
    assert!(reason(&catalogue, "hello.wasm").contains("is not a whole component"));
    assert_eq!(serving(&catalogue, "hello"), Some(old));
    let new = house.put("hello.wasm", &whole);
    catalogue.scan().await;
    assert_eq!(serving(&catalogue, "hello"), Some(new));
    assert_eq!(status(&catalogue, "hello.wasm").state, PluginState::Accepted { digest: new });
}

#[tokio::test]
async fn names_that_are_no_agents_are_refused_and_names_that_are_no_plugins_are_ignored() {
    let house = House::new();
    let catalogue = house.open();
    for name in [".hidden.wasm", ".hello.wasm.swp", "hello.wasm~", "#hello.wasm#", "a.wasm.tmp", "a.wasm.part", "a.cwasm", "README.md"] {
        house.put(name, &component(1));
    }
    fs::create_dir(house.path("folder.wasm")).unwrap();
    fs::write(house.path("folder.wasm").join("inner.wasm"), component(1)).unwrap();
    assert_eq!(catalogue.scan().await, ScanSummary::default());
    assert!(catalogue.list().is_empty());

    let long = format!("{}.wasm", "a".repeat(129));
    for name in ["with space.wasm", "grün.wasm", &long] {
        house.put(name, &component(1));
        assert_eq!(catalogue.scan().await.rejected, names(&[name]));
        let reason = reason(&catalogue, name);
        assert!(reason.contains("cannot name an agent") && reason.ends_with("rename it"), "{reason}");
    }
    house.put("line\nbreak.wasm", &component(1));
    catalogue.scan().await;
    assert!(reason(&catalogue, "line\\nbreak.wasm").contains("cannot name an agent"));
    assert_eq!(catalogue.loader().compiles(), 0);
}

#[tokio::test]
async fn two_files_for_one_agent_are_both_refused_until_one_is_gone() {
    let house = House::new();
    house.put("Hello.wasm", &component(1));
    house.put("Hello.WASM", &component(2));
    let other = house.put("hello.wasm", &component(3));
    let catalogue = house.open();
    let summary = catalogue.scan().await;
    assert_eq!((summary.rejected, summary.accepted), (names(&["Hello.WASM", "Hello.wasm"]), names(&["hello"])));
    for name in ["Hello.wasm", "Hello.WASM"] {
        let reason = reason(&catalogue, name);
        assert!(reason.contains("`Hello.WASM` and `Hello.wasm` all claim the agent `Hello`"), "{reason}");
    }
    assert_eq!((serving(&catalogue, "Hello"), serving(&catalogue, "hello")), (None, Some(other)));

    fs::remove_file(house.path("Hello.wasm")).unwrap();
    assert_eq!(catalogue.scan().await.accepted, names(&["Hello"]));
    assert_eq!(serving(&catalogue, "Hello"), Some(Digest::of(&component(2))));

    house.put("Hello.wasm", &component(1));
    catalogue.scan().await;
    assert_eq!(serving(&catalogue, "Hello"), Some(Digest::of(&component(2))), "what served goes on, neither file replaces it");
    assert!(reason(&catalogue, "Hello.WASM").contains("claim the agent"));
}

#[tokio::test]
async fn what_is_too_large_or_no_regular_file_is_refused_unread() {
    let mut house = House::new();
    house.settings.max_file_bytes = component(1).len() as u64;
    house.put("fits.wasm", &component(1));
    let mut large = component(1);
    large.push(0);
    house.put("large.wasm", &large);
    // Reading it would wait for a writer for ever.
    rustix::fs::mkfifoat(rustix::fs::CWD, house.path("pipe.wasm"), rustix::fs::Mode::RUSR).unwrap();
    symlink("/dev/zero", house.path("zero.wasm")).unwrap();
    symlink("loop.wasm", house.path("loop.wasm")).unwrap();
    let catalogue = house.open();
    let summary = catalogue.scan().await;
    assert_eq!(summary.accepted, names(&["fits"]));
    assert_eq!(summary.rejected, names(&["large.wasm", "loop.wasm", "pipe.wasm", "zero.wasm"]));
    let limit = format!("has {} bytes, and a plugin may have {}", large.len(), large.len() - 1);
    assert!(reason(&catalogue, "large.wasm").contains(&limit));
    assert!(reason(&catalogue, "pipe.wasm").contains("is not a regular file"));
    assert!(reason(&catalogue, "zero.wasm").contains("is not a regular file"));
    assert!(reason(&catalogue, "loop.wasm").contains("cannot be read"));
}

#[tokio::test]
async fn a_folder_that_goes_away_leaves_what_serves() {
    let house = House::new();
    let digest = house.put("hello.wasm", &component(1));
    let catalogue = house.open();
    catalogue.scan().await;
    fs::rename(&house.settings.folder, house.root.path().join("away")).unwrap();
    let fault = catalogue.scan().await.fault.unwrap();
    assert!(fault.contains("cannot be read"), "{fault}");
    assert_eq!((catalogue.fault(), serving(&catalogue, "hello")), (Some(fault), Some(digest)));
    fs::rename(house.root.path().join("away"), &house.settings.folder).unwrap();
    assert_eq!((catalogue.scan().await.fault, catalogue.fault()), (None, None));
}

#[tokio::test]
async fn concurrent_scans_and_a_dropped_one_lose_nothing() {
    let house = House::new();
    let catalogue = house.open();
    for number in 0..8 {
        house.put(&format!("p{number}.wasm"), &component(number));
    }
    {
        let mut scan = Box::pin(catalogue.scan());
        assert!(futures::poll!(&mut scan).is_pending());
    }
    let (one, two, three) = tokio::join!(catalogue.scan(), catalogue.scan(), catalogue.scan());
    let accepted = one.accepted.len() + two.accepted.len() + three.accepted.len();
    assert_eq!((accepted, catalogue.loader().compiles()), (8, 8));
    for number in 0..8 {
        assert_eq!(serving(&catalogue, &format!("p{number}")), Some(Digest::of(&component(number))));
    }
}

/// Prepares when it is let.
struct Held {
    entered: Arc<tokio::sync::Notify>,
    go: Mutex<Receiver<()>>,
}

impl Preparer for Held {
    type Prepared = ();
    fn prepare(&self, _: &Component) -> Result<(), String> {
        self.entered.notify_one();
        self.go.lock().unwrap().recv().map_err(|error| error.to_string())
    }
}

#[tokio::test]
async fn a_file_whose_scan_was_dropped_half_way_is_taken_by_the_next_one() {
    let house = House::new();
    house.put("a.wasm", &component(1));
    let (entered, (go, held)) = (Arc::new(tokio::sync::Notify::new()), channel());
    let preparer = Held { entered: entered.clone(), go: Mutex::new(held) };
    let catalogue = Catalogue::open(house.settings.clone(), Engine::default(), preparer).unwrap();
    tokio::select! {
        summary = catalogue.scan() => panic!("{summary:?}"),
        () = entered.notified() => {}
    }
    assert_eq!(catalogue.list()[0].state, PluginState::Compiling);
    go.send(()).unwrap();
    go.send(()).unwrap();
    assert_eq!(catalogue.scan().await.accepted, names(&["a"]));
}
