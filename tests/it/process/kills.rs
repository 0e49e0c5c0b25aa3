//! `kill -9`, and other ways in which a daemon's life may end.

use std::time::Duration;

use futures::StreamExt as _;
use serde_json::{Value, json};

use super::chaos::Chaos;
use super::daemon::{Daemon, Home, id};
use super::guests::{second_time, waits};
use super::oracle;
use super::vitals::{self, Vitals};
use super::workload::{self, Clients, FED};

/// From so many kills on it is a soak: there is time for a long life too.
const SOAK: u64 = 200;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_was_acknowledged_survives_kills_at_any_moment() {
    let wanted = workload::setting("SANDCLOCK_TEST_KILLS").unwrap_or(20);
    let mut chaos = Chaos::new();
    let most = if wanted < SOAK { 40 } else { 12 };
    let mut told = 0;
    while chaos.kills < wanted {
        chaos.life(most).await;
        if chaos.kills >= told + 50 {
            told = chaos.kills;
            println!("{told} kills, {} runs acknowledged", chaos.clients.acknowledged().len());
        }
    }

    chaos.release();
    let daemon = chaos.home.start(&[]).await;
    let mut report = vec![vitals::flat("many short lives", &chaos.vitals)];
    if wanted >= SOAK {
        report.push(long_life(&mut chaos.clients, &daemon).await);
        report.push(vitals::flat_store(&chaos.store));
    }
    daemon.post("/background/tasks/tick/pause", json!({})).await;
    let runs = settled(&daemon).await;
    let acknowledged = chaos.clients.acknowledged();
    let kept: std::collections::HashSet<&str> = runs.iter().map(id).collect();
    for run in &acknowledged {
        assert!(kept.contains(run.as_str()), "an acknowledged run is lost: {run}");
    }
    let lost = check_all(&chaos.home, &daemon, &runs).await;
    for run in chaos.clients.cancelled() {
        let run = daemon.get(&format!("/background/runs/{run}")).await;
        assert_eq!(run["status"], "cancelled", "an acknowledged cancel is lost: {run}");
    }
    oracle::check_counts(&daemon, &runs).await;
    oracle::check_occurrences(&daemon, "tick").await;
    daemon.stop().await;
    oracle::check_file(&chaos.home.path(".sandclock/sandclock.db")).await;
    report.iter().for_each(|line| println!("{line}"));
    println!(
        "kills {}, orderly stops {}, sleeps past the lease {}, runs {}, acknowledged {}, cancelled {}, lost attempts {lost}, violations 0, \
         from a restart to the run's execution {}",
        chaos.kills,
        chaos.stops,
        chaos.pauses,
        runs.len(),
        acknowledged.len(),
        chaos.clients.cancelled().len(),
        percentiles(chaos.restarts),
    );
}

/// A daemon that is busy for long, and takes no more of the machine at the end than at the beginning.
async fn long_life(clients: &mut Clients, daemon: &Daemon) -> String {
    let mut seen = Vec::new();
    for _ in 0..40 {
        clients.feed(daemon);
        clients.doom(daemon);
        clients.more(100).await;
        clients.rest().await;
        seen.push(Vitals::of(daemon).await);
        daemon.until("/background/tasks/serial/status", |status| status["active_runs"].as_u64() < Some(50)).await;
    }
    vitals::flat("a long life", &seen)
}

/// All runs, when all have ended. Those that lost their worker several times in a row wait for minutes.
async fn settled(daemon: &Daemon) -> Vec<Value> {
    let ending = async {
        while daemon.get("/background/status").await["active_runs"] != 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(1200), ending).await.expect("all runs end");
    oracle::all_runs(daemon, None).await
}

/// Checks every run, and those of each task together. Returns how many attempts were lost.
async fn check_all(home: &Home, daemon: &Daemon, runs: &[Value]) -> usize {
    let checks = runs.iter().map(async |run| {
        let attempts = oracle::check(daemon, run).await;
        if ["marker", "flaky", "sentry"].contains(&run["agent_id"].as_str().unwrap()) {
            oracle::check_marks(&home.workspace(run), run, &attempts);
        }
        attempts.iter().filter(|attempt| attempt["status"] == "interrupted").count()
    });
    let lost = futures::stream::iter(checks).buffer_unordered(8).fold(0, async |sum, lost| sum + lost).await;
    for (task, end) in FED {
        let of_task: Vec<Value> = runs.iter().filter(|run| run["task_id"] == task).cloned().collect();
        let other = of_task.iter().find(|run| run["status"] != end);
        assert!(other.is_none(), "{other:#?}");
        if task == "serial" {
            oracle::check_turns(daemon, &of_task).await;
        }
    }
    lost
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let Some(last) = times.len().checked_sub(1) else { return "never measured".to_owned() };
    let at = |share: usize| times[(last * share).div_ceil(100)].as_millis();
    format!("p50 {} ms, p99 {} ms, max {} ms of {}", at(50), at(99), at(100), times.len())
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
async fn a_daemon_that_does_not_know_its_runs_waits_for_the_end_of_their_leases() {
    let config = "[store]\nurl = \"sqlite:///store.db\"\n[worker]\nlease_seconds = 3\n[paths]\nworkspace = \"workspace\"\n";
    let home = Home::new(config, &[("twice", second_time())]);
    let daemon = home.start(&[]).await;
    daemon.task("t", "twice", json!({})).await;
    let run = daemon.fire("t").await;
    daemon.started(&run, 1).await;
    let lease = daemon.run(&run).await["lease_expires_at"].clone();
    daemon.kill().await;

    std::fs::remove_file(home.path(".sandclock/daemon.id")).unwrap();
    let daemon = home.start(&[]).await;
    let ended = daemon.terminal(&run).await;
    let attempts = oracle::check(&daemon, &ended).await;
    assert_eq!((&ended["status"], attempts.len()), (&json!("completed"), 2));
    assert!(attempts[1]["started_at"].as_str() >= lease.as_str(), "{lease} {attempts:#?}");
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
