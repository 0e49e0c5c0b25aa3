//! Plugins that come, change, break and go while the daemon runs.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::daemon::{Daemon, Home};
use super::guests::gate;
use crate::guest::plain;

const TASK: &str = r#"
[[tasks]]
task_id = "t"
agent_id = "late"
query = "q"
schedule = { type = "manual" }
overlap_policy = "allow_parallel"
"#;

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Waits until the agents are listed so.
async fn until(daemon: &Daemon, wanted: impl Fn(&Value) -> bool) {
    daemon.until("/background/agents", |told| wanted(&told["agents"])).await;
}

fn late(agents: &Value) -> &Value {
    agents.as_array().unwrap().iter().find(|agent| agent["agent_id"] == "late").unwrap_or(&Value::Null)
}

/// Lets a run's guest through, and wants its answer and the digest that it ran.
async fn goes_through(home: &Home, daemon: &Daemon, run: &Value, answer: &str, digest: &str) {
    daemon.started(run, 1).await;
    home.put_into_workspace(run, "go");
    let ended = daemon.terminal(run).await;
    assert_eq!((&ended["status"], &ended["result_preview"]), (&json!("completed"), &json!(answer)));
    let attempts = daemon.attempts(run).await;
    assert_eq!((attempts.len(), &attempts[0]["digest"]), (1, &json!(digest)));
}

#[tokio::test]
async fn a_plugin_is_added_replaced_broken_and_removed_under_a_running_daemon() {
    let (one, two) = (gate("one"), gate("two"));
    let home = Home::new(TASK, &[("other", plain::echo())]);
    let daemon = home.start(&[]).await;
    daemon.logged("the agent of a task is not there").await;
    daemon.task("other", "other", json!({})).await;

    let first = daemon.fire("t").await;
    let other = daemon.fire("other").await;
    assert_eq!(daemon.terminal(&other).await["status"], "completed");
    assert_eq!(daemon.run(&first).await["attempt"], 0, "nothing can execute it yet");
    home.plugin("late", &one);
    daemon.started(&first, 1).await;

    home.plugin("late", &two);
    until(&daemon, |agents| late(agents)["digest"] == digest(&two)).await;
    let second = daemon.fire("t").await;
    goes_through(&home, &daemon, &second, "two", &digest(&two)).await;
    assert_eq!(daemon.run(&first).await["status"], "running", "the swap disturbs no attempt");
    goes_through(&home, &daemon, &first, "one", &digest(&one)).await;

    for bad in [&b"this is no component"[..], &two[..two.len() / 2], b""] {
        home.plugin("late", bad);
        until(&daemon, |agents| late(agents)["state"] == "rejected").await;
        assert_eq!(daemon.get("/background/agents/late").await["digest"], digest(&two));
        let told = daemon.verb(home.0.path(), &["plugins"]).await;
        assert_eq!(told.code, 0);
        let line = told.out.lines().find(|line| line.starts_with("late")).unwrap_or_else(|| panic!("{}", told.out));
        assert!(line.contains("rejected") && line.contains(&digest(&two)[..12]), "{line}");
        let plugins = daemon.get("/background/plugins").await;
        let reason = plugins["plugins"].as_array().unwrap().iter().find(|plugin| plugin["plugin"] == "late").unwrap()["reason"].clone();
        assert!(line.contains(reason.as_str().unwrap()), "the reason `{reason}` is not in: {line}");
        let run = daemon.fire("t").await;
        goes_through(&home, &daemon, &run, "two", &digest(&two)).await;
        home.plugin("late", &two);
        until(&daemon, |agents| late(agents)["state"] == "accepted").await;
    }

    std::fs::remove_file(home.path("plugins/late.wasm")).unwrap();
    until(&daemon, |agents| late(agents).is_null()).await;
    let waits = daemon.fire("t").await;
    let other = daemon.fire("other").await;
    assert_eq!(daemon.terminal(&other).await["status"], "completed");
    assert_eq!(daemon.run(&waits).await, waits);
    home.plugin("late", &one);
    goes_through(&home, &daemon, &waits, "one", &digest(&one)).await;
    daemon.stop().await;
}
