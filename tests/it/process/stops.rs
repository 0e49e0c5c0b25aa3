//! Orderly stops: nothing is lost, no attempt is spent.

use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Executor as _};

use super::daemon::{Daemon, Home, id};
use super::guests::gate;
use super::oracle;
use crate::guest::plain;

#[tokio::test]
async fn what_is_queued_at_a_stop_completes_after_the_start() {
    let home = Home::new("", &[("echo", plain::echo())]);
    let daemon = home.start(&["--no-worker"]).await;
    assert_eq!(daemon.get("/background/status").await["executes"], false);
    daemon.task("t", "echo", json!({})).await;
    let run = daemon.fire("t").await;
    daemon.stop().await;
    // Twice, for a start without a worker must not disturb it either.
    let daemon = home.start(&["--no-worker"]).await;
    assert_eq!(daemon.run(&run).await, run);
    daemon.stop().await;

    let daemon = home.start(&[]).await;
    let ended = daemon.terminal(&run).await;
    assert_eq!((&ended["status"], &ended["result_preview"]), (&json!("completed"), &json!("q")));
    assert_eq!(oracle::check(&daemon, &ended).await.len(), 1);
    daemon.stop().await;
}

/// A daemon whose guest waits at its gate.
async fn with_a_guest(home: &Home) -> (Daemon, Value) {
    let daemon = home.start(&[]).await;
    daemon.task("t", "gate", json!({})).await;
    let run = daemon.fire("t").await;
    daemon.started(&run, 1).await;
    (daemon, run)
}

#[tokio::test]
async fn a_guest_finishes_within_the_grace() {
    let home = Home::new("[worker]\nshutdown_grace_seconds = 600\n", &[("gate", gate("through"))]);
    let (daemon, run) = with_a_guest(&home).await;
    daemon.terminate();
    daemon.logged("waiting for running attempts to end").await;
    home.put_into_workspace(&run, "go");
    assert_eq!(daemon.end().await.code(), Some(0));

    let daemon = home.start(&["--no-worker"]).await;
    let ended = daemon.run(&run).await;
    assert_eq!((&ended["status"], &ended["result_preview"]), (&json!("completed"), &json!("through")));
    assert_eq!(oracle::check(&daemon, &ended).await.len(), 1);
    daemon.stop().await;
}

/// Wants that the run of a daemon that has ended was handed back, and that it completes in the next one.
async fn handed_back(home: &Home, run: &Value) {
    let daemon = home.start(&["--no-worker"]).await;
    let waits = daemon.run(run).await;
    assert_eq!((&waits["status"], &waits["attempt"], &waits["lease_owner"]), (&json!("queued"), &json!(1), &Value::Null));
    let attempts = daemon.attempts(run).await;
    assert_eq!((attempts.len(), &attempts[0]["status"]), (1, &json!("interrupted")));
    daemon.stop().await;

    let daemon = home.start(&[]).await;
    daemon.started(run, 2).await;
    home.put_into_workspace(run, "go");
    let ended = daemon.terminal(run).await;
    assert_eq!((&ended["status"], &ended["result_preview"]), (&json!("completed"), &json!("through")));
    assert_eq!((&ended["failures"], &ended["recoveries"], &ended["max_attempts"]), (&json!(0), &json!(0), &json!(2)));
    let attempts = oracle::check(&daemon, &ended).await;
    assert_eq!((attempts.len(), &attempts[1]["reason"]), (2, &json!("recovery")));
    daemon.stop().await;
}

#[tokio::test]
async fn a_guest_that_outlives_the_grace_is_handed_back() {
    let home = Home::new("[worker]\nshutdown_grace_seconds = 0\n", &[("gate", gate("through"))]);
    let (daemon, run) = with_a_guest(&home).await;
    daemon.stop().await;
    handed_back(&home, &run).await;
}

#[tokio::test]
async fn a_second_signal_ends_the_grace() {
    let home = Home::new("[worker]\nshutdown_grace_seconds = 600\n", &[("gate", gate("through"))]);
    let (daemon, run) = with_a_guest(&home).await;
    daemon.terminate();
    daemon.logged("waiting for running attempts to end").await;
    daemon.stop().await;
    handed_back(&home, &run).await;
}

#[tokio::test]
async fn a_daemon_that_waits_for_its_attempts_lets_them_be_watched_and_cancelled() {
    let config = "[worker]\nshutdown_grace_seconds = 600\ncancel_grace_seconds = 0\n";
    let home = Home::new(config, &[("gate", gate("through"))]);
    let (daemon, run) = with_a_guest(&home).await;
    daemon.terminate();
    daemon.logged("waiting for running attempts to end").await;
    assert_eq!(daemon.run(&run).await["status"], "running");
    daemon.post(&format!("/background/runs/{}/cancel", id(&run)), Value::Null).await;
    assert_eq!(daemon.end().await.code(), Some(0));

    let daemon = home.start(&["--no-worker"]).await;
    assert_eq!(daemon.run(&run).await["status"], "cancelled");
    daemon.stop().await;
}

#[tokio::test]
async fn a_grace_longer_than_the_lease_loses_no_lease_and_begins_nothing() {
    let config = "[worker]\nlease_seconds = 3\nshutdown_grace_seconds = 600\n[scheduler]\npoll_seconds = 0.1\n";
    let home = Home::new(config, &[("gate", gate("through")), ("echo", plain::echo())]);
    let (daemon, run) = with_a_guest(&home).await;
    daemon.task("echo", "echo", json!({})).await;
    let tick = json!({"task_id": "tick", "agent_id": "echo", "query": "q", "schedule": {"type": "interval", "seconds": 1}});
    daemon.post("/background/tasks", tick).await;
    daemon.until("/background/tasks/tick/status", |status| status["latest_run"]["status"] == "completed").await;
    daemon.terminate();
    daemon.logged("waiting for running attempts to end").await;
    let ticks = daemon.get("/background/tasks/tick/status").await["runs"].clone();
    let (status, problem) = daemon.ask(daemon.client.get(format!("{}/ready", daemon.url))).await;
    assert_eq!((status, &problem["detail"]), (503, &json!("the daemon is stopping")));

    // It is kept, and nobody executes it any more.
    let asked = daemon.fire("echo").await;
    // Seven renewals, one each quarter of a lease: the lease would have ended, and the schedule would have fired.
    let path = format!("/background/runs/{}", id(&run));
    let mut last = Value::Null;
    for _ in 0..8 {
        let now = daemon.until(&path, |run| run["lease_expires_at"] != last).await;
        assert_eq!((&now["status"], &now["attempt"]), (&json!("running"), &json!(1)), "{now:#}");
        last = now["lease_expires_at"].clone();
    }
    assert_eq!(daemon.get("/background/tasks/tick/status").await["runs"], ticks, "an occurrence was dispatched");
    assert_eq!(daemon.run(&asked).await["attempt"], 0, "a run was claimed");
    home.put_into_workspace(&run, "go");
    assert_eq!(daemon.end().await.code(), Some(0));

    let daemon = home.start(&[]).await;
    let ended = daemon.run(&run).await;
    assert_eq!((&ended["status"], &ended["attempt"], &ended["max_attempts"]), (&json!("completed"), &json!(1), &json!(1)));
    let asked = daemon.terminal(&asked).await;
    assert_eq!((&asked["status"], oracle::check(&daemon, &asked).await.len()), (&json!("completed"), 1));
    daemon.post("/background/tasks/tick/pause", json!({})).await;
    daemon.until("/background/status", |status| status["active_runs"] == 0).await;
    oracle::check_occurrences(&daemon, "tick").await;
    daemon.stop().await;
}

/// Holds the store of a home, so that its daemon cannot write.
pub async fn hold(home: &Home) -> SqliteConnection {
    let mut outsider = SqliteConnectOptions::new().filename(home.path(".sandclock/sandclock.db")).connect().await.unwrap();
    outsider.execute("BEGIN IMMEDIATE").await.unwrap();
    outsider
}

#[tokio::test]
async fn a_stop_waits_for_a_store_that_is_away() {
    let home = Home::new("[worker]\nshutdown_grace_seconds = 600\n", &[("gate", gate("through"))]);
    let (daemon, run) = with_a_guest(&home).await;
    let mut outsider = hold(&home).await;
    daemon.terminate();
    daemon.logged("waiting for running attempts to end").await;
    home.put_into_workspace(&run, "go");
    daemon.logged("the store takes nothing new").await;
    outsider.execute("ROLLBACK").await.unwrap();
    assert_eq!(daemon.end().await.code(), Some(0));
    let daemon = home.start(&["--no-worker"]).await;
    let ended = daemon.run(&run).await;
    assert_eq!((&ended["status"], &ended["attempt"]), (&json!("completed"), &json!(1)));
    oracle::check(&daemon, &ended).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_third_signal_ends_a_stop_that_hangs_on_its_store_and_nothing_is_lost() {
    let home = Home::new("[worker]\nshutdown_grace_seconds = 600\n", &[("gate", gate("through"))]);
    let (daemon, run) = with_a_guest(&home).await;
    let mut outsider = hold(&home).await;
    daemon.terminate();
    daemon.logged("waiting for running attempts to end").await;
    daemon.terminate();
    // The run cannot be handed back.
    daemon.logged("the store takes nothing new").await;
    daemon.terminate();
    assert_eq!(daemon.end().await.code(), Some(130));
    outsider.execute("ROLLBACK").await.unwrap();

    let daemon = home.start(&[]).await;
    daemon.started(&run, 2).await;
    home.put_into_workspace(&run, "go");
    let ended = daemon.terminal(&run).await;
    assert_eq!((&ended["status"], &ended["failures"], &ended["max_attempts"]), (&json!("completed"), &json!(0), &json!(2)));
    assert_eq!(oracle::check(&daemon, &ended).await[1]["reason"], "lease_expired", "it was taken back");
    daemon.stop().await;
}

#[tokio::test]
async fn a_signal_while_it_starts_ends_it_at_once() {
    let home = Home::new("", &[("echo", plain::echo())]);
    let daemon = home.start(&[]).await;
    daemon.task("t", "echo", json!({})).await;
    daemon.stop().await;
    let (mut is_orderly, mut wait) = (false, std::time::Duration::ZERO);
    // From before it listens for signals, when it is simply gone, until it ends as it should.
    while !is_orderly {
        let starting = home.spawn(&[]);
        tokio::time::sleep(wait).await;
        starting.send(Signal::TERM);
        let status = starting.end().await;
        is_orderly = status.code() == Some(0);
        let is_gone = std::os::unix::process::ExitStatusExt::signal(&status) == Some(15);
        assert!(is_orderly || is_gone, "{status}");
        wait += std::time::Duration::from_millis(2);
    }
    let daemon = home.start(&[]).await;
    let run = daemon.fire("t").await;
    assert_eq!(daemon.terminal(&run).await["status"], "completed");
    daemon.stop().await;
}
