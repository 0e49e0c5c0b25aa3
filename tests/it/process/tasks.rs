//! The tasks of the configuration, start after start.

use std::sync::Arc;

use sandclock::clock::SystemClock;
use sandclock::store::sql::sqlite::SqliteStore;
use sandclock::store::{CountScope, Kind, Store as _};
use serde_json::{Value, json};

use super::daemon::{Daemon, Home};
use crate::guest::plain;

const REPORT: &str = r#"
[[tasks]]
task_id = "report"
agent_id = "echo"
query = "Report."
schedule = { type = "cron", expression = "0 6 * * mon-fri", timezone = "Europe/Berlin" }
timeout_seconds = 60
retry_policy = { max_retries = 2, initial_delay_seconds = 5, backoff = "exponential" }
metadata = { team = "ops", since = 2026-11-22T05:00:00Z }
"#;

const NIGHTLY: &str = r#"
[[tasks]]
task_id = "nightly"
agent_id = "echo"
query = "Tidy up."
schedule = { type = "interval", seconds = 86400 }
"#;

/// A task and its schedule's state.
async fn kept(daemon: &Daemon, task: &str) -> (Value, Value) {
    let state = daemon.get(&format!("/background/tasks/{task}/status")).await["schedule_state"].clone();
    (daemon.get(&format!("/background/tasks/{task}")).await, state)
}

fn warnings(daemon: &Daemon) -> Vec<String> {
    daemon.log().into_iter().filter(|line| line.contains(" WARN ")).collect()
}

#[tokio::test]
async fn w_38_the_same_file_changes_nothing_and_another_one_changes_what_differs() {
    let home = Home::new(&format!("{REPORT}{NIGHTLY}"), &[("echo", plain::echo())]);
    let daemon = home.start(&[]).await;
    let (report, nightly) = (kept(&daemon, "report").await, kept(&daemon, "nightly").await);
    assert!(report.0["source"].as_str().unwrap().ends_with("/sandclock.toml"), "{}", report.0);
    assert_eq!(warnings(&daemon), [""; 0]);
    daemon.stop().await;

    let daemon = home.start(&[]).await;
    assert_eq!((&kept(&daemon, "report").await, &kept(&daemon, "nightly").await), (&report, &nightly));
    daemon.post("/background/tasks/nightly/pause", json!({})).await;
    let paused = kept(&daemon, "nightly").await;
    daemon.stop().await;

    // Another query and another schedule for one of them; comments and the order of keys are nothing.
    let changed = REPORT.replace("Report.", "Report all.").replace("0 6 *", "0 7 *");
    home.configure(&format!("# Tasks\n{NIGHTLY}{changed}"));
    let daemon = home.start(&[]).await;
    let (task, state) = kept(&daemon, "report").await;
    assert_eq!((&task["query"], &task["schedule"]["expression"]), (&json!("Report all."), &json!("0 7 * * mon-fri")));
    assert_eq!((&task["created_at"], &task["timeout_seconds"]), (&report.0["created_at"], &json!(60)));
    assert_ne!(task["updated_at"], report.0["updated_at"]);
    assert_eq!(state["schedule_revision"], report.1["schedule_revision"].as_u64().unwrap() + 1);
    assert_eq!(kept(&daemon, "nightly").await, paused, "a pause stays");
    assert_eq!(warnings(&daemon), [""; 0]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_task_that_is_gone_from_the_file_is_reported_and_stays() {
    let home = Home::new(&format!("{REPORT}{NIGHTLY}"), &[("echo", plain::echo())]);
    let daemon = home.start(&[]).await;
    let nightly = kept(&daemon, "nightly").await;
    daemon.stop().await;
    home.configure(REPORT);
    for _ in 0..2 {
        let daemon = home.start(&[]).await;
        let warned = warnings(&daemon);
        assert!(warned.len() == 1 && warned[0].contains("sandclock tasks delete nightly"), "{warned:?}");
        assert_eq!(kept(&daemon, "nightly").await, nightly);
        daemon.stop().await;
    }
    let daemon = home.start(&[]).await;
    assert_eq!(daemon.verb(home.0.path(), &["tasks", "delete", "nightly"]).await.code, 0);
    daemon.stop().await;
    let daemon = home.start(&[]).await;
    assert_eq!(warnings(&daemon), [""; 0]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_task_of_the_api_is_left_alone() {
    let home = Home::new("", &[("echo", plain::echo())]);
    let daemon = home.start(&[]).await;
    daemon.task("report", "echo", json!({"metadata": {"by": "hand"}})).await;
    let made = kept(&daemon, "report").await;
    assert_eq!(made.0["source"], Value::Null);
    daemon.stop().await;
    home.configure(&format!("{REPORT}{NIGHTLY}"));
    let daemon = home.start(&[]).await;
    let warned = warnings(&daemon);
    assert!(warned.len() == 1 && warned[0].contains("report") && warned[0].contains("made through the API"), "{warned:?}");
    assert_eq!(kept(&daemon, "report").await, made);
    assert_eq!(daemon.get("/background/tasks").await["total"], 2, "the other one is there");
    daemon.stop().await;
}

#[tokio::test]
async fn a_schedule_that_the_file_has_stopped_does_not_fire_at_the_start() {
    // The tasks before it take the daemon a while.
    let task = |enabled: bool| {
        let task = |id: &str, more: &str| format!("[[tasks]]\ntask_id = \"{id}\"\nagent_id = \"echo\"\nquery = \"q\"\n{more}\n");
        let others =
            (0..30).map(|other| task(&format!("other{other}"), &format!("enabled = {enabled}\nschedule = {{ type = \"manual\" }}")));
        let often = task("often", &format!("enabled = {enabled}\nschedule = {{ type = \"interval\", seconds = 0.05 }}"));
        others.chain([often]).collect::<String>()
    };
    let home = Home::new(&task(true), &[("echo", plain::echo())]);
    let daemon = home.start(&[]).await;
    daemon.until("/background/tasks/often/status", |status| status["runs"].as_u64().unwrap() > 1).await;
    daemon.stop().await;

    // By the time it looks at its schedules again, occurrences are due.
    home.configure(&task(false));
    let before = kept_runs(&home).await;
    let daemon = home.start(&[]).await;
    let status = daemon.get("/background/tasks/often/status").await;
    assert_eq!((&status["runs"], &status["schedule_state"]["next_due_at"]), (&json!(before), &Value::Null), "the file had stopped it");
    super::oracle::check_occurrences(&daemon, "often").await;
    daemon.stop().await;
}

/// How many runs there are in the store of a daemon that has ended.
async fn kept_runs(home: &Home) -> u64 {
    let store = SqliteStore::open(&home.path(".sandclock/sandclock.db"), Arc::new(SystemClock)).await.unwrap();
    let counts = store.counts(CountScope::All(Kind::Run)).await.unwrap();
    store.close().await;
    counts.total
}
