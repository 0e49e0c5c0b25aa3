//! Two daemons, one store and one workspace root: the first is frozen past its lease while a careless operator removes the store's lock
//! and starts the second, which takes the run over; then the first wakes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};

use super::daemon::{Daemon, Home, id, patiently};
use super::guests::appender;
use super::oracle;

/// What two daemons share, and their homes.
struct Shared {
    place: tempfile::TempDir,
    homes: [Home; 2],
}

impl Shared {
    fn new() -> Shared {
        let place = tempfile::tempdir().unwrap();
        let (store, workspaces) = (place.path().join("store.db"), place.path().join("workspace"));
        let config = format!(
            "[store]\nurl = \"sqlite:///{}\"\n[paths]\nworkspace = \"{}\"\n[worker]\nlease_seconds = 4\n",
            store.display(),
            workspaces.display()
        );
        let home = || Home::new(&config, &[("appender", appender())]);
        Shared { homes: [home(), home()], place }
    }

    fn workspace(&self, run: &Value) -> PathBuf {
        self.place.path().join("workspace").join(run["workspace_path"].as_str().unwrap())
    }

    /// The directory in which the first attempt worked, once it is set aside.
    fn aside(&self, run: &Value) -> PathBuf {
        let beside = format!("{}@aside/fence-1", run["workspace_path"].as_str().unwrap());
        self.place.path().join("workspace").join(beside)
    }

    /// Freezes a daemon at a moment at which it does not write to the store.
    async fn freeze(&self, daemon: &Daemon) {
        loop {
            daemon.freeze().await;
            let options = SqliteConnectOptions::new().filename(self.place.path().join("store.db")).busy_timeout(Duration::ZERO);
            let mut store = options.connect().await.unwrap();
            let is_free = store.execute("BEGIN IMMEDIATE; ROLLBACK").await.is_ok();
            store.close().await.unwrap();
            if is_free {
                return;
            }
            daemon.thaw();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The attempts whose lines a file has, in order.
fn lines(folder: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(folder.join("lines")).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// Returns when so many lines of an attempt are there.
async fn written(folder: &Path, attempt: u64, count: usize) {
    let writing = async {
        while lines(folder).iter().filter(|line| **line == attempt).count() < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    patiently("the guest's lines", writing).await;
}

/// The first daemon is frozen, and its run executes in the second.
async fn taken_over(shared: &Shared) -> (Daemon, Daemon, Value, usize) {
    let first = shared.homes[0].start(&[]).await;
    first.task("t", "appender", json!({})).await;
    let run = first.fire("t").await;
    written(&shared.workspace(&run), 1, 3).await;
    shared.freeze(&first).await;
    let before = lines(&shared.workspace(&run)).len();

    let refused = shared.homes[1].refused(&[]).await;
    assert!(refused.err.contains("in use by another daemon"), "{}", refused.err);
    std::fs::remove_file(shared.place.path().join("store.db.lock")).unwrap();
    let second = shared.homes[1].start(&[]).await;
    written(&shared.workspace(&run), 2, 3).await;
    assert_eq!(lines(&shared.workspace(&run))[..before], vec![1; before], "the copy has what was there");
    (first, second, run, before)
}

/// Wakes the first daemon and wants that it finds itself fenced, says so once, and goes on serving what it can.
async fn wakes_fenced(first: &Daemon, run: &Value) {
    first.thaw();
    first.logged("the lease of a run was lost").await;
    first.logged("the daemon lost its store").await;
    assert_eq!(first.get("/health").await["status"], "ok");
    let post = first.client.post(format!("{}/background/tasks/t/run", first.url)).json(&json!({}));
    let refused = post.send().await.unwrap();
    assert_eq!(refused.status(), 503);
    let told: Value = refused.json().await.unwrap();
    assert!(told["detail"].as_str().unwrap().contains("Another daemon has taken the store over"), "{told}");
    assert_eq!(first.client.get(format!("{}/ready", first.url)).send().await.unwrap().status(), 503);
    assert_eq!(first.run(run).await["lease_generation"], 2, "what is in the store can still be read");
    // Whatever works by itself would have had its turn by then, and would have something to say.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let log = first.log();
    let count = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!((count("the lease of a run was lost"), count("the daemon lost its store")), (1, 1), "{log:#?}");
    let said = log.iter().find(|line| line.contains("the lease of a run was lost")).unwrap();
    assert!(said.contains(id(run)) && said.contains("fence=1"), "{said}");
    let is_of_a_request = |line: &String| line.contains("request{");
    let is_other = |line: &&String| (line.contains("WARN") || line.contains("ERROR")) && !line.contains("lost") && !is_of_a_request(line);
    assert_eq!(log.iter().filter(is_other).count(), 0, "{log:#?}");
}

/// What the second daemon has made of the run, whatever the first one did.
async fn unharmed(shared: &Shared, second: &Daemon, run: &Value, before: usize) {
    let ended = second.terminal(run).await;
    assert_eq!((&ended["status"], &ended["result_preview"]), (&json!("completed"), &json!("2")));
    let attempts = oracle::check(second, &ended).await;
    assert_eq!((attempts.len(), &attempts[0]["status"], &attempts[1]["reason"]), (2, &json!("interrupted"), &json!("lease_expired")));
    let all = lines(&shared.workspace(run));
    assert_eq!(all.iter().filter(|line| **line == 1).count(), before, "the first guest wrote into the second one's file: {all:?}");
    assert!(all.is_sorted(), "{all:?}");
    let aside = lines(&shared.aside(run));
    assert!(aside.len() <= before + 1 && aside.iter().all(|line| *line == 1), "it wrote on after it woke: {aside:?}");
    assert!(!shared.aside(run).join("run.json").exists(), "the first attempt has left mirrors");
    let mirror: Value = serde_json::from_slice(&std::fs::read(shared.workspace(run).join("run.json")).unwrap()).unwrap();
    assert_eq!((&mirror["lease_generation"], &mirror["result_preview"]), (&json!(2), &json!("2")));
    let told = second.events(run).await;
    let mirrored = async {
        // What a heartbeat has added while the outcome was on its way is there a moment after it.
        loop {
            let lines = std::fs::read_to_string(shared.workspace(run).join("events.jsonl")).unwrap();
            if lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).eq(told.iter().cloned()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    patiently("the whole history in its mirror", mirrored).await;
    oracle::check_counts(second, &oracle::all_runs(second, None).await).await;
}

#[tokio::test]
async fn a_daemon_that_wakes_while_another_one_has_its_run_is_fenced() {
    let shared = Shared::new();
    let (first, second, run, before) = taken_over(&shared).await;
    wakes_fenced(&first, &run).await;
    // The second one's guest has never stopped.
    let so_far = lines(&shared.workspace(&run)).iter().filter(|line| **line == 2).count();
    written(&shared.workspace(&run), 2, so_far + 3).await;
    std::fs::write(shared.workspace(&run).join("go"), "").unwrap();
    unharmed(&shared, &second, &run, before).await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_daemon_that_wakes_after_another_one_has_ended_its_run_is_fenced() {
    let shared = Shared::new();
    let (first, second, run, before) = taken_over(&shared).await;
    std::fs::write(shared.workspace(&run).join("go"), "").unwrap();
    unharmed(&shared, &second, &run, before).await;
    // Were it not fenced, it could answer now.
    std::fs::write(shared.aside(&run).join("go"), "").unwrap();
    wakes_fenced(&first, &run).await;
    unharmed(&shared, &second, &run, before).await;
    // The other way round it is the second one that goes; the first one's next incarnation owns the store again.
    second.stop().await;
    first.stop().await;
    let first = shared.homes[0].start(&[]).await;
    unharmed(&shared, &first, &run, before).await;
    first.stop().await;
}
