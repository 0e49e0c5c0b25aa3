//! Digests that crash too often in a row.

use serde_json::{Value, json};

use super::{digest, done, good, why};
use crate::guest::{hostile, plain};
use crate::process::daemon::{Daemon, Home};

const AFTER_THREE: &str = "[plugins]\nquarantine_after = 3\n[worker]\nmax_running = 1\n";

async fn failed(daemon: &Daemon) -> Value {
    let run = daemon.fire("t").await;
    assert_eq!(daemon.terminal(&run).await["status"], "failed");
    run
}

async fn quarantined(daemon: &Daemon, run: &Value) -> usize {
    daemon.events(run).await.iter().filter(|event| event["event"] == "background_agent_quarantined").count()
}

#[tokio::test]
async fn a_digest_that_crashes_three_times_in_a_row_starts_no_fourth_attempt() {
    let home = Home::new(AFTER_THREE, &[("a", hostile::trap()), ("other", plain::echo())]);
    let daemon = home.start(&[]).await;
    daemon.task("t", "a", json!({"overlap_policy": "allow_parallel"})).await;
    daemon.task("other", "other", json!({})).await;
    let (first, second, third) = (failed(&daemon).await, failed(&daemon).await, failed(&daemon).await);
    assert_eq!([quarantined(&daemon, &first).await, quarantined(&daemon, &second).await, quarantined(&daemon, &third).await], [0, 0, 1]);
    let events = daemon.events(&third).await;
    let event = events.iter().find(|event| event["event"] == "background_agent_quarantined").unwrap();
    assert_eq!((&event["digest"], &event["crashes"]), (&json!(digest(&hostile::trap())), &json!(3)));
    assert_eq!(events.last().unwrap()["event"], "background_run_failed");
    let mirrored = std::fs::read_to_string(home.workspace(&third).join("events.jsonl")).unwrap();
    assert_eq!(mirrored.lines().count(), events.len());
    daemon.logged("a digest goes into quarantine").await;

    let waits = daemon.fire("t").await;
    let other = daemon.fire("other").await;
    assert_eq!(daemon.terminal(&other).await["status"], "completed");
    let told = why(&daemon, &waits).await;
    assert!(told["code"] == "agent_quarantined" && told["sentence"].as_str().unwrap().contains("sandclock agents release a"), "{told}");
    assert_eq!(daemon.run(&waits).await["attempt"], 0, "nothing of it is burned");
    assert!(done(&home, &daemon, &["agents", "show", "a"]).await.contains("quarantine"));
    daemon.stop().await;

    // It is in the store: a restart changes nothing, and another digest ends it.
    let daemon = home.start(&[]).await;
    let other = daemon.fire("other").await;
    assert_eq!(daemon.terminal(&other).await["status"], "completed");
    assert_eq!(why(&daemon, &waits).await["code"], "agent_quarantined");
    assert_eq!(daemon.run(&waits).await["attempt"], 0);
    good(&daemon, "a", plain::ok()).await;
    assert_eq!(daemon.terminal(&waits).await["status"], "completed");
    done(&home, &daemon, &["agents", "rollback", "a", "--to", "folder"]).await;
    let waits = daemon.fire("t").await;
    assert_eq!(why(&daemon, &waits).await["code"], "agent_quarantined", "it is the digest's");
    done(&home, &daemon, &["agents", "release", "a"]).await;
    assert_eq!(daemon.terminal(&waits).await["status"], "failed");
    failed(&daemon).await;
    assert_eq!(quarantined(&daemon, &failed(&daemon).await).await, 1, "after a release it takes as many again");
    home.plugin("a", &plain::echo());
    let waits = daemon.fire("t").await;
    assert_eq!(daemon.terminal(&waits).await["status"], "completed", "a file that is replaced ends it, too");
    daemon.stop().await;
}

#[tokio::test]
async fn failures_that_a_guest_declares_hold_nothing_back_and_a_retry_that_waits_is_not_burned() {
    let home = Home::new(AFTER_THREE, &[("declares", plain::permanent()), ("a", hostile::trap())]);
    let daemon = home.start(&[]).await;
    daemon.task("declares", "declares", json!({"overlap_policy": "allow_parallel"})).await;
    for _ in 0..5 {
        let run = daemon.fire("declares").await;
        assert_eq!(daemon.terminal(&run).await["status"], "failed");
    }
    assert!(daemon.get("/background/agents/declares").await["quarantined"].is_null());
    let retry = json!({"retry_policy": {"max_retries": 10, "initial_delay_seconds": 0.01}});
    daemon.task("t", "a", retry).await;
    let run = daemon.fire("t").await;
    daemon.event(&run, |event| event["event"] == "background_agent_quarantined").await;
    let told =
        daemon.until(&format!("/background/runs/{}/why", run["run_id"].as_str().unwrap()), |why| why["code"] == "agent_quarantined").await;
    assert!(told["retry"]["number"] == 3, "{told}");
    assert_eq!(daemon.attempts(&run).await.len(), 3, "exactly so many");
    home.plugin("a", &plain::echo());
    assert_eq!(daemon.terminal(&run).await["status"], "completed");
    assert_eq!(daemon.attempts(&run).await.len(), 4);
    daemon.stop().await;
}
