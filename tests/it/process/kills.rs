//! `kill -9`.

use std::time::Duration;

use serde_json::{Value, json};

use super::daemon::{Daemon, Home, id};
use super::guests::{second_time, waits};
use super::oracle;
use super::workload::{self, Clients, Dice, FED};

#[tokio::test(flavor = "multi_thread")]
async fn whatever_was_acknowledged_survives_kills_at_any_moment() {
    let home = workload::home();
    let (mut dice, mut clients) = (Dice::new(), Clients::default());
    for _ in 0..workload::setting("SANDCLOCK_TEST_KILLS").unwrap_or(12) {
        let starting = home.spawn(&[]);
        if dice.roll(4) == 0 {
            // A kill while it starts: it may be at its files, at its plugins or at what it takes back.
            tokio::time::sleep(Duration::from_millis(dice.roll(400))).await;
            starting.kill().await;
            continue;
        }
        let daemon = starting.ready().await;
        clients.feed(&daemon);
        clients.doom(&daemon);
        clients.more(1 + usize::try_from(dice.roll(40)).unwrap()).await;
        tokio::time::sleep(Duration::from_micros(dice.roll(40_000))).await;
        daemon.kill().await;
        clients.done().await;
    }

    let acknowledged = clients.done().await;
    let daemon = home.start(&[]).await;
    daemon.post("/background/tasks/tick/pause", json!({})).await;
    for run in oracle::all_runs(&daemon, None).await {
        daemon.terminal(&run).await;
    }
    let runs = oracle::all_runs(&daemon, None).await;
    for run in &acknowledged {
        assert!(runs.iter().any(|kept| id(kept) == id(run)), "an acknowledged run is lost: {run}");
    }
    check_all(&home, &daemon, &runs).await;
    for run in clients.cancelled() {
        assert_eq!(daemon.run(&run).await["status"], "cancelled", "an acknowledged cancel is lost: {run}");
    }
    println!("{} runs, {} acknowledged, {} cancelled", runs.len(), acknowledged.len(), clients.cancelled().len());
    oracle::check_counts(&daemon, &runs).await;
    oracle::check_occurrences(&daemon, "tick").await;
    daemon.stop().await;
}

/// Checks every run, and those of each task together.
async fn check_all(home: &Home, daemon: &Daemon, runs: &[Value]) {
    let mut lost = 0;
    for run in runs {
        let attempts = oracle::check(daemon, run).await;
        lost += attempts.iter().filter(|attempt| attempt["status"] == "interrupted").count();
        if ["marker", "flaky"].contains(&run["agent_id"].as_str().unwrap()) {
            oracle::check_marks(home, run, &attempts);
        }
    }
    println!("{lost} attempts were lost");
    for (task, end) in FED {
        let runs = oracle::all_runs(daemon, Some(task)).await;
        assert!(runs.iter().all(|run| run["status"] == end), "{runs:#?}");
        if task == "serial" {
            oracle::check_turns(daemon, &runs).await;
        }
    }
}

#[tokio::test]
async fn a_run_that_was_executing_is_taken_up_by_the_next_daemon_at_once() {
    // A lease of an hour: only the daemon's own knowledge of what it left can free the run within this test.
    let home = Home::new("[worker]\nlease_seconds = 3600\n", &[("twice", second_time())]);
    let daemon = home.start(&[]).await;
    daemon.task("t", "twice", json!({})).await;
    let run = daemon.fire("t").await;
    daemon.started(&run, 1).await;
    daemon.kill().await;

    let daemon = home.start(&[]).await;
    // Who is told that the daemon is ready finds the run taken back.
    let names: Vec<Value> = daemon.events(&run).await.iter().map(|event| event["event"].clone()).collect();
    assert!(names.contains(&json!("background_run_recovered")), "{names:?}");
    let ended = daemon.terminal(&run).await;
    assert_eq!((&ended["status"], &ended["result_preview"]), (&json!("completed"), &json!("second time")));
    let attempts = oracle::check(&daemon, &ended).await;
    assert_eq!((&attempts[0]["status"], &attempts[1]["reason"]), (&json!("interrupted"), &json!("lease_expired")));
    assert_eq!((attempts.len(), &ended["failures"]), (2, &json!(0)));
    let events = daemon.events(&run).await;
    let told: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap().trim_start_matches("background_run_")).collect();
    let story = ["queued", "claimed", "started", "progress", "recovered", "queued", "claimed", "started", "progress", "completed"];
    assert_eq!(told, story);
    assert_eq!(events[4]["reason"], "lease expired");
    daemon.stop().await;
}

#[tokio::test]
async fn w13_a_run_that_takes_its_daemon_down_every_time_ends_and_says_why() {
    let config = "[worker]\nlease_seconds = 3600\nshutdown_grace_seconds = 0\n";
    let home = Home::new(config, &[("poison", waits()), ("twice", second_time())]);
    let mut daemon = home.start(&[]).await;
    daemon.task("poison", "poison", json!({"max_recoveries": 1})).await;
    daemon.task("other", "twice", json!({})).await;
    let poison = daemon.fire("poison").await;
    let other = daemon.fire("other").await;
    daemon.started(&other, 1).await;
    for attempt in 1..=2 {
        daemon.started(&poison, attempt).await;
        daemon.kill().await;
        daemon = home.start(&[]).await;
    }
    let ended = daemon.terminal(&poison).await;
    assert_eq!((&ended["status"], &ended["error_kind"], &ended["attempt"]), (&json!("failed"), &json!("lost"), &json!(2)));
    let why = ended["error"].as_str().unwrap();
    assert!(why.contains("2 workers in a row were lost") && why.contains("max_recoveries = 1"), "{why}");
    oracle::check(&daemon, &ended).await;
    // A run that was executing beside it is none the worse for it.
    let bystander = daemon.terminal(&other).await;
    assert_eq!((&bystander["status"], &bystander["result_preview"]), (&json!("completed"), &json!("second time")));
    let next = daemon.fire("other").await;
    daemon.started(&next, 1).await;
    daemon.stop().await;
}
