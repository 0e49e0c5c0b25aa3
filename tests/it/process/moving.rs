//! A store that is outgrown, copied, backed up and restored by the binary, and daemons that go on where the others stopped.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use sandclock::clock::SystemClock;
use sandclock::domain::event::EventName;
use sandclock::store::sql::sqlite::{SqlitePicture, SqliteStore};
use sandclock::store::transfer::Picture as _;
use sandclock::store::{Change, ChangeId, Kind, Put, Store as _};
use serde_json::{Value, json};

use super::daemon::{Daemon, Home, id, patiently};
use crate::cli::stage::{Ended, ended, file, sandclock};
use crate::guest::plain;
use crate::servers;
use crate::store;

/// A task whose agent is not there.
const LATER: &str = "[[tasks]]\ntask_id = \"later\"\nagent_id = \"late\"\nquery = \"q\"\nschedule = { type = \"manual\" }\n";

async fn verb(home: &Home, line: &[&str]) -> Ended {
    patiently("the end of a verb", ended(sandclock(home.0.path(), line))).await
}

/// What a run was and is, as the API tells it.
async fn all_of(daemon: &Daemon, run: &Value) -> (Value, Vec<Value>, Vec<Value>) {
    (daemon.run(run).await, daemon.events(run).await, daemon.attempts(run).await)
}

async fn listed(daemon: &Daemon) -> Vec<String> {
    let runs = daemon.get("/background/runs?limit=100").await;
    runs["runs"].as_array().unwrap().iter().map(|run| id(run).to_owned()).collect()
}

#[tokio::test]
async fn a_team_outgrows_sqlite_and_goes_on_with_postgres() {
    let Some(database) = servers::postgres().await else { return };
    let home = Home::new(LATER, &[("echo", plain::echo())]);
    let config = format!("{LATER}[store]\nurl = \"{}\"\n", database.url);
    file(home.0.path(), "new.toml", config.as_bytes());
    let password = database.url.split_once("://").unwrap().1.split_once('@').unwrap().0.split_once(':').unwrap().1;
    let daemon = home.start(&[]).await;
    daemon.task("t", "echo", json!({})).await;
    let mut runs = Vec::new();
    for _ in 0..3 {
        let run = daemon.fire("t").await;
        assert_eq!(daemon.terminal(&run).await["status"], "completed");
        runs.push(run);
    }
    let waits = daemon.fire("later").await;
    let refused = verb(&home, &["store", "copy", "--config", "sandclock.toml", "--to", "new.toml"]).await;
    assert!(refused.code == 4 && refused.err.contains(&format!("(process {})", daemon.pid())), "{refused:?}");
    // A backup is taken under a daemon that works.
    let backup = verb(&home, &["store", "backup", "store.backup", "--config", "sandclock.toml"]).await;
    assert!(backup.code == 0 && backup.out.contains("is in store.backup"), "{backup:?}");
    assert_eq!(home.path("store.backup").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let (mut before, order) = (Vec::new(), listed(&daemon).await);
    for run in &runs {
        before.push(all_of(&daemon, run).await);
    }
    daemon.stop().await;

    let copied = verb(&home, &["store", "copy", "--config", "sandclock.toml", "--to", "new.toml"]).await;
    assert_eq!(copied.code, 0, "{copied:?}");
    assert!(copied.out.contains("and is as it was") && copied.out.contains("run ") && copied.out.contains("event "), "{}", copied.out);
    assert!(!format!("{copied:?}").contains(password), "{copied:?}");
    let again = verb(&home, &["store", "copy", "--config", "sandclock.toml", "--to", "new.toml", "--anew"]).await;
    assert!(again.code == 4 && again.err.contains("not empty"), "a full store is not emptied: {again:?}");

    home.configure(&config);
    let daemon = home.start(&[]).await;
    assert_eq!(listed(&daemon).await, order);
    for (run, before) in runs.iter().zip(&before) {
        assert_eq!(&all_of(&daemon, run).await, before);
    }
    let run = daemon.fire("t").await;
    assert_eq!(daemon.terminal(&run).await["status"], "completed");
    home.plugin("late", &plain::ok());
    let waited = daemon.terminal(&waits).await;
    assert_eq!(waited["status"], "completed", "what waited is taken up: {waited}");
    let mut numbers = daemon.events(&waits).await.into_iter().map(|event| event["sequence"].as_u64().unwrap()).zip(1..);
    assert!(numbers.all(|(number, wanted)| number == wanted), "events go on without a gap");

    let in_use = verb(&home, &["store", "copy", "--from", "new.toml", "--to", "sqlite:///back.db"]).await;
    assert!(in_use.code == 4 && in_use.err.contains("a daemon works on postgres://"), "{in_use:?}");
    assert!(!format!("{in_use:?}").contains(password), "{in_use:?}");
    let in_sight = verb(&home, &["store", "copy", "--from", &database.url, "--to", "memory"]).await;
    assert!(in_sight.err.contains("note: whoever lists processes") && !in_sight.err.contains(password), "{in_sight:?}");
    let backup = verb(&home, &["store", "backup", "of-postgres", "--config", "sandclock.toml", "--json"]).await;
    let told: Value = serde_json::from_str(&backup.out).unwrap();
    assert_eq!((backup.code, &told["kinds"]["run"]["count"]), (0, &json!(5)), "{backup:?}");
    daemon.stop().await;

    home.configure(&format!("{LATER}[store]\nurl = \"sqlite:///restored.db\"\n"));
    let restored = verb(&home, &["store", "restore", "store.backup", "--config", "sandclock.toml"]).await;
    assert!(restored.code == 0 && restored.out.contains("its fences go on in epoch "), "{restored:?}");
    let again = verb(&home, &["store", "restore", "store.backup", "--config", "sandclock.toml"]).await;
    assert!(again.code == 4 && again.err.contains("not empty"), "{again:?}");
    let daemon = home.start(&[]).await;
    assert_eq!(daemon.terminal(&waits).await["status"], "completed", "it waited when the backup was taken");
    let attempts = daemon.attempts(&waits).await;
    assert!(attempts[0]["lease_generation"].as_u64().unwrap() > 1 << 32, "{attempts:?}");
    assert_eq!(all_of(&daemon, &runs[0]).await, before[0]);
    daemon.stop().await;
}

/// A store in a file with so many runs that wait for an agent that is not there.
async fn with_runs(home: &Home, name: &str, count: u32) {
    let store = SqliteStore::open(&home.path(name), Arc::new(SystemClock)).await.unwrap();
    let now = store.now().await.unwrap();
    for first in (0..count).step_by(500) {
        let runs: Vec<_> = (first..first + 500).map(|number| store::queued(number, "t", "nobody", now)).collect();
        let change = Change {
            id: ChangeId(u128::from(first) + 1),
            guards: Vec::new(),
            puts: runs.iter().map(|run| Put::run(run, now).unwrap()).collect(),
            deletes: Vec::new(),
            events: runs.iter().map(|run| store::event(run, EventName::Queued, now)).collect(),
        };
        store.apply(vec![change]).await.unwrap();
    }
    store.close().await;
}

/// Whether runs have been written to a file.
async fn has_runs(home: &Home, name: &str) -> bool {
    let Ok(mut picture) = SqlitePicture::of_file(&home.path(name)).await else { return false };
    picture.records(Kind::Run, 0, 1).await.is_ok_and(|found| !found.is_empty())
}

#[tokio::test]
async fn a_copy_that_was_killed_is_opened_by_no_daemon_and_started_anew() {
    let home = Home::new("[store]\nurl = \"sqlite:///target.db\"\n", &[]);
    with_runs(&home, "source.db", 8000).await;
    let line = ["store", "copy", "--from", "sqlite:///source.db", "--to", "sandclock.toml"];
    let mut copying = sandclock(home.0.path(), &line).spawn().unwrap();
    let killed = async {
        while !has_runs(&home, "target.db").await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        copying.kill().await.unwrap();
    };
    patiently("the first runs in the target", killed).await;
    let refused = home.refused(&[]).await;
    assert!(refused.code == 1 && refused.err.contains("the store is not whole: a copy from sqlite source.db"), "{refused:?}");
    let again = verb(&home, &line).await;
    assert!(again.code == 4 && again.err.contains("half filled"), "{again:?}");
    let anew = verb(&home, &[&line[..], &["--anew", "--json"]].concat()).await;
    let told: Value = serde_json::from_str(&anew.out).unwrap_or_else(|error| panic!("{error}: {anew:?}"));
    assert_eq!((&told["kinds"]["run"]["count"], &told["kinds"]["event"]["count"]), (&json!(8000), &json!(8000)));
    let daemon = home.start(&[]).await;
    assert_eq!(daemon.get("/background/status").await["status_counts"]["queued"], 8000);
    daemon.stop().await;
}

#[tokio::test]
async fn what_cannot_be_moved_is_told_in_a_sentence() {
    let home = Home::new("", &[]);
    with_runs(&home, "source.db", 500).await;
    file(home.0.path(), "foreign", b"{\"sandclock_backup\":1,\"cut");
    for (line, code, wanted) in [
        (vec!["copy", "--to", "memory", "--from", "sqlite:///source.db"], 2, "a store in memory is gone with its daemon"),
        (vec!["copy", "--to", "sqlite:///x.db", "--from", "memory"], 2, "a store in memory is gone with its daemon"),
        (vec!["copy", "--to", "sqlite:///source.db", "--from", "sqlite:///source.db"], 2, "cannot be copied into itself"),
        (vec!["copy", "--to", "sqlite:///x.db", "--from", "sqlite:///nowhere.db"], 2, "there is no store nowhere.db"),
        (vec!["copy", "--to", "mysql://u:tiger@h/d", "--from", "sqlite:///source.db"], 2, "--to has the unknown scheme `mysql`"),
        (vec!["copy", "--to", "none.toml", "--from", "sqlite:///source.db"], 2, "none.toml` cannot be read"),
        (vec!["copy", "--to", "redis://u:tiger@127.0.0.1:1", "--from", "sqlite:///source.db"], 1, "Redis at 127.0.0.1:1"),
        (vec!["restore", "foreign", "--to", "sqlite:///x.db"], 1, "is cut off"),
        (vec!["restore", "nowhere", "--to", "sqlite:///x.db"], 1, "cannot be read"),
        (vec!["restore", "source.db", "--to", "sqlite:///x.db"], 1, "is no backup of a sandclock store"),
        (vec!["backup", "none/file", "--from", "sqlite:///source.db"], 1, "cannot be written"),
        (vec!["backup", "foreign", "--from", "sqlite:///source.db"], 1, "is there already"),
    ] {
        let told = verb(&home, &[&["store"], &line[..]].concat()).await;
        assert!(told.code == code && told.err.contains(wanted), "{line:?}: {told:?}");
        assert!(!told.err.contains("tiger"), "{told:?}");
        let sentences = told.err.lines().filter(|line| line.starts_with("sandclock:")).count();
        assert_eq!((sentences, told.out.as_str()), (1, ""), "{told:?}");
    }
    assert!(!home.path("nowhere.db").exists(), "what was looked for is not made");
}
