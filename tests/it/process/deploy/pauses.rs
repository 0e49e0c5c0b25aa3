//! Paused agents.

use serde_json::json;

use super::{done, good, post, verb, why};
use crate::guest::plain;
use crate::process::daemon::Home;
use crate::process::guests::gate;

#[tokio::test]
async fn a_paused_agents_runs_wait_over_restarts_until_somebody_resumes_it() {
    let home = Home::new("", &[("other", plain::echo())]);
    let daemon = home.start(&[]).await;
    good(&daemon, "a", gate("through")).await;
    daemon.task("t", "a", json!({"overlap_policy": "allow_parallel"})).await;
    daemon.task("other", "other", json!({})).await;
    let runs = daemon.fire("t").await;
    daemon.started(&runs, 1).await;
    done(&home, &daemon, &["agents", "pause", "a", "--reason", "the ledger is being moved"]).await;
    let waits = daemon.fire("t").await;
    home.put_into_workspace(&runs, "go");
    assert_eq!(daemon.terminal(&runs).await["status"], "completed", "what runs goes on");
    let other = daemon.fire("other").await;
    assert_eq!(daemon.terminal(&other).await["status"], "completed");
    assert_eq!(daemon.run(&waits).await["attempt"], 0);
    let told = why(&daemon, &waits).await;
    let sentence = told["sentence"].as_str().unwrap();
    assert!(told["code"] == "agent_paused" && sentence.contains("the ledger is being moved"), "{told}");
    assert!(sentence.contains("sandclock agents resume a"), "{told}");
    let refused = verb(&home, &daemon, &["agents", "pause", "a"]).await;
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(done(&home, &daemon, &["agents", "history", "a"]).await.contains("the ledger is being moved"));
    // A push to a paused agent does not wake it.
    good(&daemon, "a", plain::ok()).await;
    assert_eq!(daemon.run(&waits).await["attempt"], 0);
    daemon.stop().await;

    let daemon = home.start(&[]).await;
    let other = daemon.fire("other").await;
    assert_eq!(daemon.terminal(&other).await["status"], "completed");
    assert_eq!(why(&daemon, &waits).await["code"], "agent_paused");
    assert_eq!(daemon.get("/background/agents/a").await["paused"]["reason"], "the ledger is being moved");
    done(&home, &daemon, &["agents", "resume", "a"]).await;
    assert_eq!(daemon.terminal(&waits).await["result_preview"], "hello from wat");
    for (path, body, status) in [
        ("a/resume", json!({}), 409),
        ("none/pause", json!({}), 404),
        ("a/pause", json!({"until": 5}), 422),
        ("a/pause", json!({"reason": "x".repeat(2000)}), 422),
        ("a/release", json!({}), 409),
    ] {
        let (got, told) = post(&daemon, &format!("/background/agents/{path}"), body).await;
        assert_eq!(got, status, "{path}: {told}");
    }
    daemon.stop().await;
}
