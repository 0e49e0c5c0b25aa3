//! The plugins folder: what is taken up, what is refused and why, what the compile cache is trusted with, and the watcher.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests, which say what they need by failing")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sandclock::plugins::{Catalogue, Digest, Loader, PluginSettings, PluginState, PluginStatus, Preparer, ScanSummary};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
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
async fn the_same_bytes_are_compiled_and_prepared_once() {
    let house = House::new();
    for name in ["a.wasm", "b.wasm", "c.wasm"] {
        house.put(name, &component(1));
    }
    let catalogue = house.open();
    assert_eq!(catalogue.scan().await.accepted, names(&["a", "b", "c"]));
    let (a, b) = (catalogue.serving("a").unwrap(), catalogue.serving("b").unwrap());
    assert!(Arc::ptr_eq(&a.prepared, &b.prepared));
    assert_eq!((a.stem.as_str(), b.stem.as_str()), ("a", "b"));
    assert_eq!((catalogue.loader().compiles(), house.prepared.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn a_compile_that_takes_too_long_is_refused_and_not_cached() {
    let mut house = House::new();
    house.settings.compile_time_limit = Duration::ZERO;
    house.put("slow.wasm", &component(1));
    let catalogue = house.open();
    assert_eq!(catalogue.scan().await.rejected, names(&["slow.wasm"]));
    assert!(reason(&catalogue, "slow.wasm").contains("takes longer than 0 s"));
    // The next file's turn comes when the overlong compile has ended.
    house.put("next.wasm", &component(2));
    assert_eq!(catalogue.scan().await.rejected, names(&["next.wasm"]));
    assert!(house.cached().is_empty());
}

#[tokio::test]
async fn a_restart_compiles_nothing_again() {
    let house = House::new();
    let (a, b) = (house.put("a.wasm", &component(1)), house.put("b.wasm", &component(2)));
    let before = house.open();
    before.scan().await;
    assert_eq!((before.loader().compiles(), house.cached().len()), (2, 2));
    drop(before);

    let after = house.open();
    assert_eq!(after.scan().await.accepted, names(&["a", "b"]));
    assert_eq!((serving(&after, "a"), serving(&after, "b")), (Some(a), Some(b)));
    assert_eq!(after.loader().compiles(), 0);

    let mut config = wasmtime::Config::new();
    config.epoch_interruption(true);
    let other = Engine::new(&config).unwrap();
    let other = Catalogue::open(house.settings.clone(), other, Plain::default()).unwrap();
    other.scan().await;
    assert_eq!((other.loader().compiles(), house.cached().len()), (2, 4), "another engine's code is not taken");
}

#[tokio::test]
async fn a_tampered_cache_file_is_never_loaded() {
    let house = House::new();
    house.put("a.wasm", &component(1));
    house.open().scan().await;
    let path = house.cached().pop().unwrap();
    let whole = fs::read(&path).unwrap();

    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let foreign = {
        // A compiled component that another daemon, with a key of its own, authenticated.
        let house = House::new();
        house.put("a.wasm", &component(1));
        house.open().scan().await;
        fs::read(house.cached().pop().unwrap()).unwrap()
    };
    assert_eq!(foreign.len(), whole.len());
    let bare = whole[40..].to_vec();
    for bytes in [flipped(0), flipped(20), flipped(whole.len() - 1), whole[..30].to_vec(), vec![], bare, foreign] {
        fs::write(&path, &bytes).unwrap();
        let catalogue = house.open();
        assert_eq!(catalogue.scan().await.accepted, names(&["a"]));
        assert_eq!(catalogue.loader().compiles(), 1, "a file of {} bytes was loaded", bytes.len());
    }
    let catalogue = house.open();
    catalogue.scan().await;
    assert_eq!(catalogue.loader().compiles(), 0, "the last one wrote a good file in its place");

    // The file of another plugin, in place of this one's, is authentic and still not this plugin's.
    house.put("b.wasm", &component(2));
    catalogue.scan().await;
    let other = house.cached().into_iter().find(|file| *file != path).unwrap();
    fs::copy(&other, &path).unwrap();
    let catalogue = house.open();
    catalogue.scan().await;
    assert_eq!(catalogue.loader().compiles(), 1);
}

#[tokio::test]
async fn a_cache_that_others_can_write_is_not_used() {
    let house = House::new();
    house.put("a.wasm", &component(1));
    house.open().scan().await;
    for mode in [0o777, 0o770, 0o702] {
        fs::set_permissions(&house.settings.cache, Permissions::from_mode(mode)).unwrap();
        let catalogue = house.open();
        assert!(catalogue.loader().cache_fault().unwrap().contains("can be written by other users"));
        assert_eq!(catalogue.scan().await.accepted, names(&["a"]), "it is compiled without a cache");
        assert_eq!(catalogue.loader().compiles(), 1);
    }
    fs::set_permissions(&house.settings.cache, Permissions::from_mode(0o700)).unwrap();
    let private = house.root.path().join("private");
    fs::rename(&house.settings.cache, &private).unwrap();
    symlink(&private, &house.settings.cache).unwrap();
    assert!(house.open().loader().cache_fault().is_some(), "a link may point elsewhere at any time");
}

#[tokio::test]
async fn the_cache_is_private_and_a_key_that_others_could_read_is_replaced() {
    let house = House::new();
    house.put("a.wasm", &component(1));
    house.open().scan().await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let key = house.settings.cache.join("key");
    assert_eq!((mode(&house.settings.cache), mode(&key)), (0o700, 0o600));
    let old = fs::read(&key).unwrap();

    fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    let catalogue = house.open();
    catalogue.scan().await;
    assert_eq!((catalogue.loader().compiles(), mode(&key)), (1, 0o600));
    assert_ne!(fs::read(&key).unwrap(), old);
    assert_eq!(fs::read_dir(&house.settings.cache).unwrap().count(), 2, "no temporary files stay");
}

#[tokio::test]
async fn a_file_elsewhere_is_loaded_under_the_same_rules() {
    let house = House::new();
    let loader = Loader::open(&house.settings, Engine::default(), Plain::default()).unwrap();
    let loaded = loader.load(&house.aside("tool.wasm", &component(1))).await.unwrap();
    assert_eq!((loaded.stem.as_str(), loaded.digest), ("tool", Digest::of(&component(1))));
    let refused = loader.load(&house.aside("core.wasm", &wat::parse_str("(module)").unwrap())).await.unwrap_err();
    assert!(refused.to_string().contains("`core.wasm` is a core module"), "{refused}");
    let refused = loader.load(&house.root.path().join("none.wasm")).await.unwrap_err();
    assert!(refused.to_string().contains("`none.wasm`"), "{refused}");
}

#[tokio::test]
async fn the_watcher_notices_every_way_in_which_a_file_comes_changes_and_goes() {
    let house = House::new();
    let first = house.put("early.wasm", &component(1));
    let catalogue = house.open();
    let cancel = CancellationToken::new();
    let watching = catalogue.watch(cancel.clone());
    until(&catalogue, "what was there before", |now| serving(now, "early") == Some(first)).await;

    let written = house.put("hello.wasm", &component(2));
    until(&catalogue, "a file that was written", |now| serving(now, "hello") == Some(written)).await;
    fs::rename(house.aside("new", &component(3)), house.path("hello.wasm")).unwrap();
    let renamed = Digest::of(&component(3));
    until(&catalogue, "a file that was moved over it", |now| serving(now, "hello") == Some(renamed)).await;
    symlink(house.aside("target", &component(4)), house.path("linked.wasm")).unwrap();
    let linked = Digest::of(&component(4));
    until(&catalogue, "a link", |now| serving(now, "linked") == Some(linked)).await;
    fs::hard_link(house.path("early.wasm"), house.path("hard.wasm")).unwrap();
    until(&catalogue, "a hard link", |now| serving(now, "hard") == Some(first)).await;
    house.put("hello.wasm", &component(5)[..20]);
    until(&catalogue, "a bad file", |now| matches!(status(now, "hello.wasm").state, PluginState::Rejected { .. })).await;
    assert_eq!(serving(&catalogue, "hello"), Some(renamed));
    fs::remove_file(house.path("hello.wasm")).unwrap();
    until(&catalogue, "a file that was removed", |now| serving(now, "hello").is_none()).await;
    fs::rename(house.path("early.wasm"), house.path("late.wasm")).unwrap();
    until(&catalogue, "a new name", |now| serving(now, "late") == Some(first) && serving(now, "early").is_none()).await;

    cancel.cancel();
    watching.await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_unlinked_and_written_again_is_never_missing() {
    let house = House::new();
    let first = house.put("hello.wasm", &component(1));
    let catalogue = house.open();
    let cancel = CancellationToken::new();
    let watching = catalogue.watch(cancel.clone());
    until(&catalogue, "the first", |now| serving(now, "hello") == Some(first)).await;
    for number in 2..12 {
        fs::remove_file(house.path("hello.wasm")).unwrap();
        let next = house.put("hello.wasm", &component(number));
        until(&catalogue, "the next", |now| {
            assert!(serving(now, "hello").is_some(), "the agent is missing between two forms of its file");
            serving(now, "hello") == Some(next)
        })
        .await;
    }
    cancel.cancel();
    watching.await.unwrap();
}

#[tokio::test]
async fn polling_alone_notices_what_gives_no_notification() {
    let mut house = House::new();
    house.settings.poll_interval = Duration::from_millis(20);
    // The file behind a link lies outside of the folder, where no notification comes from.
    let target = house.aside("target", &component(1));
    symlink(&target, house.path("linked.wasm")).unwrap();
    let catalogue = house.open();
    let cancel = CancellationToken::new();
    let watching = catalogue.watch(cancel.clone());
    until(&catalogue, "the first", |now| serving(now, "linked") == Some(Digest::of(&component(1)))).await;
    fs::write(&target, component(2)).unwrap();
    until(&catalogue, "the second", |now| serving(now, "linked") == Some(Digest::of(&component(2)))).await;

    // The folder itself goes and another comes under its path.
    fs::rename(&house.settings.folder, house.root.path().join("away")).unwrap();
    until(&catalogue, "the loss of the folder", |now| now.fault().is_some()).await;
    assert!(serving(&catalogue, "linked").is_some());
    fs::create_dir(&house.settings.folder).unwrap();
    let hello = house.put("hello.wasm", &component(3));
    until(&catalogue, "the new folder", |now| serving(now, "hello") == Some(hello) && serving(now, "linked").is_none()).await;
    cancel.cancel();
    watching.await.unwrap();
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
