//! Workspaces that go through a bucket from one machine to another: two daemons with folders of their own on one store and one bucket.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use futures::StreamExt as _;
use sandclock::daemon::{Bounds, DaemonSettings, FileContent, Retention};
use sandclock::store::{CountScope, Kind, RecordId};
use sandclock::workspace::{FileEntry, Workspaces};

use super::stage::Guest;
use super::*;
use crate::servers::bucket::TestBucket;

const PATIENT: Duration = Duration::from_secs(20);

/// One store, one bucket, and a folder for each daemon.
struct Place {
    world: World,
    bucket: TestBucket,
}

impl Place {
    async fn new() -> Option<Place> {
        let bucket = TestBucket::new()?;
        Some(Place { world: World::new().await, bucket })
    }

    fn root(&self, daemon: &str) -> PathBuf {
        self.world.root.path().join(format!("machine-{daemon}"))
    }

    async fn start(&self, daemon: &str) -> TestDaemon {
        self.start_with(daemon, PATIENT, |_| {}).await
    }

    /// A daemon that sees soon what others do and what the test does to the clock.
    async fn start_with(&self, daemon: &str, patience: Duration, change: impl FnOnce(&mut DaemonSettings)) -> TestDaemon {
        let workspaces = Workspaces::open(&self.root(daemon)).unwrap().with_bucket(self.bucket.bucket(patience));
        let settings = |settings: &mut DaemonSettings| {
            settings.poll = Duration::from_millis(5);
            change(settings);
        };
        self.world.start_in(daemon, workspaces, settings).await
    }

    /// A task whose runs are tried so often, at once.
    async fn task(&self, daemon: &TestDaemon, retries: u32) -> TaskId {
        daemon.task(json!({"retry_policy": {"max_retries": retries, "initial_delay_seconds": 0}})).await
    }

    /// Where a run's workspace lies on a daemon's machine.
    fn directory(&self, daemon: &str, run: &Run) -> PathBuf {
        self.root(daemon).join(&run.workspace_path)
    }
}

async fn paths(daemon: &TestDaemon, run: &RunId) -> Vec<String> {
    entries(daemon, run).await.into_iter().map(|entry| entry.path).collect()
}

async fn entries(daemon: &TestDaemon, run: &RunId) -> Vec<FileEntry> {
    daemon.workspace(run, None, 1000).await.unwrap().entries
}

/// A file as a daemon gives it, and whether it has it itself.
async fn file(daemon: &TestDaemon, run: &RunId, name: &str) -> Result<(Vec<u8>, bool), String> {
    let found = daemon.workspace_file(run, name).await.map_err(|error| error.to_string())?;
    match found.content {
        FileContent::Here(mut file) => {
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut file, &mut content).unwrap();
            Ok((content, true))
        }
        FileContent::Bucket(mut pieces) => {
            let mut content = Vec::new();
            while let Some(piece) = pieces.next().await {
                content.extend_from_slice(&piece.map_err(|error| error.to_string())?);
            }
            assert_eq!(content.len() as u64, found.size);
            Ok((content, false))
        }
    }
}

fn write(guest: &Guest, name: &str, content: &[u8]) {
    let path = guest.spec.workspace.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn read(guest: &Guest, name: &str) -> Option<String> {
    std::fs::read_to_string(guest.spec.workspace.join(name)).ok()
}

async fn kept(daemon: &TestDaemon, run: &RunId) -> Value {
    let record = daemon.raw(RecordId::new(Kind::Workspace, run.as_str())).await;
    record.map_or(Value::Null, |(_, body)| serde_json::from_str(&body).unwrap())
}

fn is_below(path: &Path, root: &Path) -> bool {
    path.starts_with(root)
}

#[tokio::test]
async fn the_next_attempt_on_another_machine_has_what_the_last_one_left() {
    let Some(place) = Place::new().await else { return };
    let first = place.start("a").await;
    let task = place.task(&first, 3).await;
    let run = first.fire(&task).await;
    let guest = place.world.stage.guest().await;
    write(&guest, "deep/er/notes", b"one");
    write(&guest, "twice", b"one");
    std::fs::create_dir(guest.spec.workspace.join("empty")).unwrap();
    symlink("deep/er/notes", guest.spec.workspace.join("link")).unwrap();
    let second = place.start("b").await;
    let stopped = async {
        guest.stopped().await;
        guest.end(Ended::Stopped(Stop::ShuttingDown));
    };
    tokio::join!(first.stop(Duration::ZERO), stopped);
    // The stop gave the run back, with what its guest had written by then.
    let guest = place.world.stage.guest().await;
    assert!(is_below(&guest.spec.workspace, &place.root("b")));
    assert_eq!((read(&guest, "deep/er/notes").as_deref(), read(&guest, "twice").as_deref()), (Some("one"), Some("one")));
    assert!(guest.spec.workspace.join("empty").is_dir());
    assert_eq!(std::fs::read_link(guest.spec.workspace.join("link")).unwrap(), Path::new("deep/er/notes"));
    write(&guest, "twice", b"two");
    guest.complete("done");
    let ended = second.settled(&run.run_id).await;
    assert_eq!(ended.status, Status::Completed);
    assert_eq!(file(&second, &run.run_id, "twice").await.unwrap(), (b"two".to_vec(), true));

    let third = place.start("c").await;
    let names = ["deep", "deep/er", "deep/er/notes", "empty", "events.jsonl", "link", "output.md", "run.json", "twice"];
    assert_eq!(paths(&third, &run.run_id).await, names);
    assert_eq!(entries(&third, &run.run_id).await, entries(&second, &run.run_id).await, "sizes and times are the same");
    for name in ["deep/er/notes", "twice", "output.md", "run.json", "events.jsonl"] {
        let (here, there) = (file(&second, &run.run_id, name).await.unwrap(), file(&third, &run.run_id, name).await.unwrap());
        assert_eq!((here.0, here.1, there.1), (there.0, true, false), "{name}");
    }
    for name in ["nothing", "deep/nothing", "twice/x", "deep", "link", "link/x", "../x", "/etc/passwd", "a//b"] {
        let (here, there) = (file(&second, &run.run_id, name).await.unwrap_err(), file(&third, &run.run_id, name).await.unwrap_err());
        assert_eq!(here, there, "{name}");
    }
    let mirror: Value = serde_json::from_slice(&file(&third, &run.run_id, "run.json").await.unwrap().0).unwrap();
    assert_eq!(mirror["status"], "completed");
}

#[tokio::test]
async fn a_killed_attempt_leaves_nothing_and_the_next_begins_with_the_last_manifest() {
    let Some(place) = Place::new().await else { return };
    let first = place.start("a").await;
    let task = place.task(&first, 3).await;
    let run = first.fire(&task).await;
    let guest = place.world.stage.guest().await;
    write(&guest, "kept", b"by attempt 1");
    guest.fail(ErrorKind::GuestRetryable);
    let guest = place.world.stage.guest().await;
    assert_eq!(read(&guest, "kept").as_deref(), Some("by attempt 1"));
    write(&guest, "kept", b"half of what attempt 2 w");
    write(&guest, "lost", b"x");
    first.crash().await;
    let second = place.start("b").await;
    place.world.clock.advance(Duration::from_secs(31));
    let guest = place.world.stage.guest().await;
    assert!(is_below(&guest.spec.workspace, &place.root("b")));
    assert_eq!((read(&guest, "kept").as_deref(), read(&guest, "lost")), (Some("by attempt 1"), None));
    second.crash().await;
    drop(guest);
    // The machine that has the dirty directory of attempt 2 begins with the manifest all the same.
    let first = place.start("a").await;
    place.world.clock.advance(Duration::from_secs(31));
    let guest = place.world.stage.guest().await;
    assert!(is_below(&guest.spec.workspace, &place.root("a")));
    assert_eq!((read(&guest, "kept").as_deref(), read(&guest, "lost")), (Some("by attempt 1"), None));
    guest.complete("done");
    let ended = first.settled(&run.run_id).await;
    assert_eq!((ended.status, ended.attempt), (Status::Completed, 4));
}

#[tokio::test]
async fn what_did_not_change_is_neither_uploaded_nor_downloaded_again() {
    let Some(place) = Place::new().await else { return };
    let first = place.start("a").await;
    let task = place.task(&first, 3).await;
    let run = first.fire(&task).await;
    let guest = place.world.stage.guest().await;
    let large: Vec<u8> = (0..20_u32 << 18).flat_map(u32::to_le_bytes).collect();
    write(&guest, "large", &large);
    write(&guest, "same-as-large", &large);
    write(&guest, "small", b"1");
    guest.fail(ErrorKind::GuestRetryable);
    let guest = place.world.stage.guest().await;
    let puts = place.bucket.objects.puts();
    let mut lengths: Vec<usize> = puts.values().copied().filter(|length| *length >= 1 << 20 || *length == 1).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [1, 4 << 20, 8 << 20, 8 << 20], "in pieces, and what is the same once: {puts:?}");
    assert_eq!(place.bucket.objects.gets(), 0, "the directory is as attempt 1 left it");

    // The end of a file changes.
    let mut longer = large.clone();
    longer.extend_from_slice(b"and more");
    write(&guest, "large", &longer);
    guest.fail(ErrorKind::GuestRetryable);
    let guest = place.world.stage.guest().await;
    let puts = place.bucket.objects.puts();
    let changed: Vec<usize> = puts.values().copied().filter(|length| *length >= 1 << 20).collect();
    assert_eq!(changed, [(4 << 20) + 8], "only its last piece: {puts:?}");
    assert!(puts.keys().all(|key| key.contains("/2/")), "{puts:?}");
    assert_eq!(place.bucket.objects.gets(), 0);
    first.crash().await;
    drop(guest);

    let second = place.start("b").await;
    place.world.clock.advance(Duration::from_secs(31));
    let guest = place.world.stage.guest().await;
    assert_eq!(std::fs::read(guest.spec.workspace.join("large")).unwrap(), longer);
    assert_eq!(std::fs::read(guest.spec.workspace.join("same-as-large")).unwrap(), large);
    guest.complete("done");
    second.settled(&run.run_id).await;
    assert!(place.bucket.objects.puts().values().all(|length| *length < 1 << 20));
    let third = place.start("c").await;
    assert_eq!(file(&third, &run.run_id, "large").await.unwrap(), (longer, false));
}

#[tokio::test]
async fn an_attempt_that_lost_its_lease_names_nothing_and_what_it_uploaded_goes() {
    let Some(place) = Place::new().await else { return };
    let first = place.start("a").await;
    let task = place.task(&first, 3).await;
    let run = first.fire(&task).await;
    let lost = place.world.stage.guest().await;
    write(&lost, "whose", b"the lost one's");
    // Its clock and the store's differ, so that it does not know of its loss.
    place.world.clock.advance(Duration::from_secs(31));
    let second = place.start_with("b", PATIENT, |_| {}).await;
    let guest = tokio::time::timeout(PATIENT, place.world.stage.guest()).await.unwrap();
    assert_eq!(read(&guest, "whose"), None);
    lost.complete("too late");
    write(&guest, "whose", b"the other one's");
    guest.complete("done");
    let ended = second.settled(&run.run_id).await;
    assert_eq!((ended.status, ended.result_preview.as_deref()), (Status::Completed, Some("done")));
    assert_eq!(kept(&second, &run.run_id).await["manifest"]["fence"], ended.lease_generation);
    for daemon in [&second, &place.start("c").await] {
        assert_eq!(file(daemon, &run.run_id, "whose").await.unwrap().0, b"the other one's");
    }
    // Until its attempt has learnt of the loss, the first one shows what that attempt sees.
    until("the other one's file", async || file(&first, &run.run_id, "whose").await.unwrap().0 == b"the other one's").await;
}

#[tokio::test]
async fn objects_that_are_missing_or_spoilt_fail_the_attempt_in_words_and_the_run_goes_on_when_they_are_back() {
    let Some(place) = Place::new().await else { return };
    let first = place.start("a").await;
    let task = place.task(&first, 3).await;
    let run = first.fire(&task).await;
    let guest = place.world.stage.guest().await;
    write(&guest, "precious", b"precious");
    guest.fail(ErrorKind::GuestRetryable);
    let guest = place.world.stage.guest().await;
    first.crash().await;
    drop(guest);
    let hash = blake3::hash(b"precious");
    let key = format!("{}/1/{hash}", run.run_id);
    assert!(place.bucket.keys().await.contains(&key));

    place.bucket.spoil(&key, b"pRecious").await;
    let spoilt = place.start_with("b", PATIENT, |settings| settings.executes = false).await;
    let refused = file(&spoilt, &run.run_id, "precious").await.unwrap_err();
    assert!(refused.contains(&key) && refused.contains("is not what was uploaded (its hash differs)"), "{refused}");
    place.bucket.lose(std::slice::from_ref(&key)).await;
    let refused = file(&spoilt, &run.run_id, "precious").await.unwrap_err();
    assert!(refused.contains(&key) && refused.contains("is missing"), "{refused}");

    let second = place.start("c").await;
    place.world.clock.advance(Duration::from_secs(31));
    let ended = second.settled(&run.run_id).await;
    assert_eq!((ended.status, ended.error_kind), (Status::Failed, Some(ErrorKind::Host)));
    let error = ended.error.unwrap();
    assert!(error.contains("is missing in the bucket s3://test") && error.contains("restore it"), "{error}");
}

#[tokio::test]
async fn an_outcome_waits_for_a_bucket_that_is_away_and_says_so() {
    let Some(place) = Place::new().await else { return };
    let daemon = place.start("a").await;
    let task = place.task(&daemon, 0).await;
    let run = daemon.fire(&task).await;
    let guest = place.world.stage.guest().await;
    write(&guest, "f", b"content");
    place.bucket.objects.is_away.store(true, Ordering::SeqCst);
    guest.complete("done");
    let waits = async || daemon.why(&run.run_id).await.unwrap().sentence.contains("its outcome waits until its workspace is uploaded");
    until("the wait", waits).await;
    let why = daemon.why(&run.run_id).await.unwrap();
    assert!(why.sentence.contains("s3://test cannot be reached now") && why.status.is_leased(), "{why:?}");
    // Other runs go on meanwhile.
    let other = daemon.task(json!({"task_id": "other"})).await;
    daemon.fire(&other).await;
    drop(place.world.stage.guest().await);
    place.bucket.objects.is_away.store(false, Ordering::SeqCst);
    assert_eq!(daemon.settled(&run.run_id).await.status, Status::Completed);
    assert_eq!(file(&place.start("b").await, &run.run_id, "f").await.unwrap(), (b"content".to_vec(), false));
}

#[tokio::test]
async fn an_outcome_is_kept_when_patience_ends_and_the_machine_that_has_the_files_goes_on_with_them() {
    let Some(place) = Place::new().await else { return };
    let daemon = place.start_with("a", Duration::from_millis(100), |_| {}).await;
    let task = place.task(&daemon, 1).await;
    let run = daemon.fire(&task).await;
    let guest = place.world.stage.guest().await;
    write(&guest, "f", b"content");
    place.bucket.objects.is_away.store(true, Ordering::SeqCst);
    guest.fail(ErrorKind::GuestRetryable);
    // The directory is as this very daemon's attempt left it, so nothing is wanted of the bucket.
    let guest = place.world.stage.guest().await;
    assert_eq!(read(&guest, "f").as_deref(), Some("content"));
    guest.complete("done");
    let ended = daemon.settled(&run.run_id).await;
    assert_eq!(ended.status, Status::Completed);
    let owed = &kept(&daemon, &run.run_id).await["owed"];
    assert_eq!((&owed["daemon"], &owed["fence"]), (&json!("worker_a"), &json!(2)));
    let last = daemon.payloads(&run.run_id).await.pop().unwrap();
    assert!(last["workspace_not_uploaded"].as_str().unwrap().contains("cannot be reached"), "{last}");
    assert_eq!(file(&daemon, &run.run_id, "f").await.unwrap(), (b"content".to_vec(), true));
    let other = place.start("b").await;
    let page = other.workspace(&run.run_id, None, 10).await.unwrap();
    assert!(page.entries.is_empty() && page.note.as_deref().unwrap().contains("is on daemon worker_a only"), "{page:?}");
}

#[tokio::test]
async fn a_hung_bucket_holds_up_neither_leases_nor_cancels_nor_a_stop() {
    let Some(place) = Place::new().await else { return };
    let daemon = place.start_with("a", PATIENT, |settings| settings.lease = Duration::from_secs(8)).await;
    let task = daemon.task(json!({"cancel_grace_seconds": 0.2, "retry_policy": {"max_retries": 0}})).await;
    let cancelled = daemon.fire(&task).await;
    let guest = place.world.stage.guest().await;
    place.bucket.objects.hangs.store(true, Ordering::SeqCst);
    guest.complete("done");
    // Its lease is renewed beyond its first end while the upload hangs.
    let first_end = daemon.run(&cancelled.run_id).await.unwrap().lease_expires_at.unwrap();
    until("renewals", async || daemon.run(&cancelled.run_id).await.unwrap().lease_expires_at.is_some_and(|end| end > first_end)).await;
    daemon.cancel_run(&cancelled.run_id, "test").await.unwrap();
    assert_eq!(daemon.settled(&cancelled.run_id).await.status, Status::Cancelled);

    let run = daemon.fire(&task).await;
    let guest = place.world.stage.guest().await;
    guest.complete("done");
    let store = std::sync::Arc::clone(&daemon.store);
    daemon.stop(Duration::ZERO).await;
    let record = store.get(&[RecordId::run(&run.run_id)]).await.unwrap().pop().unwrap().unwrap();
    assert!(!record.decode_run().unwrap().status.is_leased(), "the stop left it to its lease");
}

#[tokio::test]
async fn retention_takes_all_that_a_run_left_in_the_bucket_after_a_crash_and_an_outage_too() {
    let Some(place) = Place::new().await else { return };
    let daemon = place.start("a").await;
    let task = place.task(&daemon, 3).await;
    let run = daemon.fire(&task).await;
    let guest = place.world.stage.guest().await;
    write(&guest, "f", b"1");
    guest.fail(ErrorKind::GuestRetryable);
    let guest = place.world.stage.guest().await;
    write(&guest, "f", b"2");
    guest.complete("done");
    let run = daemon.settled(&run.run_id).await;
    until("the end of what was replaced", async || place.bucket.keys().await.len() < 8).await;
    let orphan = format!("{}/1/{}", run.run_id, blake3::hash(b"a lost attempt's"));
    place.bucket.spoil(&orphan, b"a lost attempt's").await;
    place.bucket.spoil("other/1/not-ours", b"x").await;
    daemon.stop(Duration::ZERO).await;

    let kept_for = Some(Duration::from_secs(86_400));
    let retention = Retention { completed: kept_for, pass: Duration::from_millis(5), ..Retention::default() };
    let bounds = |settings: &mut DaemonSettings| settings.bounds = Bounds { retention, ..Bounds::default() };
    place.bucket.objects.is_away.store(true, Ordering::SeqCst);
    let deleting = place.start_with("b", PATIENT, bounds.clone()).await;
    place.world.clock.advance(Duration::from_secs(90_000));
    let notes = async || place.world.store.counts(CountScope::All(Kind::Removal)).await.unwrap().total;
    until("the note", async || notes().await == 1).await;
    assert_eq!(kept(&deleting, &run.run_id).await, Value::Null, "the record goes with its run");
    deleting.crash().await;
    place.bucket.objects.is_away.store(false, Ordering::SeqCst);
    let clearing = place.start_with("c", PATIENT, bounds).await;
    until("the end of the note", async || notes().await == 0).await;
    assert_eq!(place.bucket.keys().await, ["other/1/not-ours"]);
    drop(clearing);
}

#[tokio::test]
async fn an_attempt_that_cannot_have_its_workspace_says_so_and_is_given_back_unharmed() {
    let Some(place) = Place::new().await else { return };
    let first = place.start("a").await;
    let task = place.task(&first, 1).await;
    let run = first.fire(&task).await;
    let guest = place.world.stage.guest().await;
    write(&guest, "f", b"content");
    guest.fail(ErrorKind::GuestRetryable);
    let guest = place.world.stage.guest().await;
    first.crash().await;
    drop(guest);
    place.bucket.objects.is_away.store(true, Ordering::SeqCst);
    let second = place.start_with("b", Duration::from_millis(300), |_| {}).await;
    place.world.clock.advance(Duration::from_secs(31));
    until("the wait", async || second.why(&run.run_id).await.unwrap().sentence.contains("it has not begun")).await;
    // Again and again, and no retry is used up.
    until("three attempts", async || second.run(&run.run_id).await.unwrap().attempt >= 5).await;
    assert!(place.world.stage.guest_now().is_none());
    place.bucket.objects.is_away.store(false, Ordering::SeqCst);
    let guest = place.world.stage.guest().await;
    assert_eq!(read(&guest, "f").as_deref(), Some("content"));
    guest.complete("done");
    assert_eq!(second.settled(&run.run_id).await.status, Status::Completed);
}

#[tokio::test]
async fn a_machine_s_own_directories_go_with_their_runs_and_what_it_owes_is_uploaded_later() {
    let Some(place) = Place::new().await else { return };
    let passes = |settings: &mut DaemonSettings| settings.bounds.retention.pass = Duration::from_millis(5);
    let daemon = place.start_with("a", Duration::from_millis(50), passes).await;
    let task = place.task(&daemon, 0).await;
    let run = daemon.fire(&task).await;
    let guest = place.world.stage.guest().await;
    write(&guest, "f", b"content");
    place.bucket.objects.is_away.store(true, Ordering::SeqCst);
    guest.complete("done");
    let run = daemon.settled(&run.run_id).await;
    assert!(kept(&daemon, &run.run_id).await["owed"].is_object());
    place.bucket.objects.is_away.store(false, Ordering::SeqCst);
    until("the upload", async || kept(&daemon, &run.run_id).await["owed"].is_null()).await;
    // The directory is marked a moment later.
    until("its own directory", async || file(&daemon, &run.run_id, "f").await.unwrap() == (b"content".to_vec(), true)).await;

    // Another machine's daemon deletes the run, and this one's directory goes. What is no run's stays.
    let stranger = place.directory("a", &run).with_file_name("stranger");
    std::fs::create_dir(&stranger).unwrap();
    let kept_for = Some(Duration::from_secs(86_400));
    let retention = Retention { completed: kept_for, pass: Duration::from_millis(5), ..Retention::default() };
    let other = place.start_with("b", PATIENT, |settings| settings.bounds = Bounds { retention, ..Bounds::default() }).await;
    assert_eq!(file(&other, &run.run_id, "f").await.unwrap(), (b"content".to_vec(), false));
    place.world.clock.advance(Duration::from_secs(90_000));
    until("the end of the directory", async || !place.directory("a", &run).exists()).await;
    until("the end of its mark", async || std::fs::read_dir(stranger.parent().unwrap()).unwrap().count() == 1).await;
    assert!(stranger.exists());
    until("the end of the objects", async || place.bucket.keys().await.is_empty()).await;
}

#[tokio::test]
async fn a_cancel_between_attempts_and_a_rebuilt_mirror_reach_the_bucket() {
    let Some(place) = Place::new().await else { return };
    let daemon = place.start("a").await;
    let task = daemon.task(json!({"retry_policy": {"max_retries": 3, "initial_delay_seconds": 600}})).await;
    let run = daemon.fire(&task).await;
    let guest = place.world.stage.guest().await;
    write(&guest, "f", b"1");
    guest.fail(ErrorKind::GuestRetryable);
    daemon.becomes(&run.run_id, Status::Queued).await;
    let other = place.start_with("b", PATIENT, |settings| settings.executes = false).await;
    other.cancel_run(&run.run_id, "test").await.unwrap();
    assert!(!place.directory("b", &run).exists(), "no directory is made for mirrors alone");
    for daemon in [&daemon, &other] {
        let mirror: Value = serde_json::from_slice(&file(daemon, &run.run_id, "run.json").await.unwrap().0).unwrap();
        assert_eq!(mirror["status"], "cancelled");
        assert_eq!(file(daemon, &run.run_id, "f").await.unwrap().0, b"1");
    }
    let (_, written) = other.mirror_run(&run.run_id).await.unwrap();
    assert_eq!(written, ["run.json", "events.jsonl"]);
    assert_eq!(paths(&daemon, &run.run_id).await, ["events.jsonl", "f", "run.json"]);
}
