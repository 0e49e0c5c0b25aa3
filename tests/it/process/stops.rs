//! Orderly stops: nothing is lost, no attempt is spent.

use serde_json::{Value, json};

use super::daemon::{Daemon, Home};
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
    daemon.post(&format!("/background/runs/{}/cancel", super::daemon::id(&run)), Value::Null).await;
    assert_eq!(daemon.end().await.code(), Some(0));

    let daemon = home.start(&["--no-worker"]).await;
    assert_eq!(daemon.run(&run).await["status"], "cancelled");
    daemon.stop().await;
}
