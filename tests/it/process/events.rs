//! Each of the page's twelve event names, from what really happens to a daemon, over HTTP.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::daemon::{Daemon, Home, id};
use super::guests::gate;
use super::page;
use crate::guest::plain;

/// The names, with what each tells beside the keys that all have.
const NAMES: [(&str, &str); 12] = [
    ("background_task_scheduled", ""),
    ("background_run_queued", ""),
    ("background_run_claimed", ""),
    ("background_run_started", "digest"),
    ("background_run_heartbeat", ""),
    ("background_run_retrying", "error error_kind retry_delay_seconds"),
    ("background_run_recovered", "resumed reason"),
    ("background_run_completed", ""),
    ("background_run_failed", "error error_kind"),
    ("background_run_timeout", "error error_kind"),
    ("background_run_cancelled", "by"),
    ("background_run_skipped", "reason"),
];

/// A lease of three seconds, so that the first heartbeat comes after less than one.
const CONFIG: &str = r#"
[worker]
lease_seconds = 3

[[tasks]]
task_id = "due"
agent_id = "gate"
query = "q"
schedule = { type = "once", run_at = 2026-01-01T00:00:00Z }
cancel_grace_seconds = 0
"#;

/// The events of a run as a stream tells them.
async fn streamed(daemon: &Daemon, run: &Value) -> Vec<Value> {
    let url = format!("{}/background/runs/{}/events", daemon.url, id(run));
    let response = daemon.client.get(url).header("accept", "text/event-stream").send().await.unwrap();
    let text = response.text().await.unwrap();
    text.lines().filter_map(|line| line.strip_prefix("data: ")).map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// Makes every event happen; the runs have ended then.
async fn happenings(home: &Home) -> (Daemon, Vec<Value>) {
    let daemon = home.start(&[]).await;
    let due = daemon.until("/background/tasks/due/status", |status| status["latest_run"].is_object()).await["latest_run"].clone();
    daemon.event(&due, |event| event["event"] == "background_run_heartbeat").await;
    let skipped = daemon.fire("due").await;
    daemon.kill().await;

    let daemon = home.start(&[]).await;
    daemon.started(&due, 2).await;
    daemon.post(&format!("/background/runs/{}/cancel", id(&due)), json!({})).await;
    let retry = json!({"max_retries": 1, "initial_delay_seconds": 0});
    let mut runs = vec![due, skipped];
    for (agent, timeout) in [("flaky", 60.0), ("never", 60.0), ("sleeper", 0.05)] {
        daemon.task(agent, agent, json!({"retry_policy": retry, "timeout_seconds": timeout})).await;
        runs.push(daemon.fire(agent).await);
    }
    for run in &mut runs {
        *run = daemon.terminal(run).await;
    }
    (daemon, runs)
}

#[tokio::test]
async fn each_of_the_twelve_names_comes_over_http_with_its_keys() {
    let plugins =
        [("gate", gate("never")), ("flaky", plain::flaky(2)), ("never", plain::permanent()), ("sleeper", plain::sleeper(3_600_000))];
    let home = Home::new(CONFIG, &plugins);
    let (daemon, runs) = happenings(&home).await;
    let ends: Vec<&str> = runs.iter().map(|run| run["status"].as_str().unwrap()).collect();
    assert_eq!(ends, ["cancelled", "skipped", "completed", "failed", "timeout"]);
    let mut seen = BTreeSet::new();
    for run in &runs {
        let events = daemon.events(run).await;
        assert_eq!(streamed(&daemon, run).await, events);
        // A run that never executed has no workspace.
        if run["attempt"] != 0 {
            let mirror = std::fs::read_to_string(home.workspace(run).join("events.jsonl")).unwrap();
            assert_eq!(mirror.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>(), events);
        }
        for event in events {
            page::has(&event, page::EVENT);
            if let Some((name, details)) = NAMES.iter().find(|(name, _)| event["event"] == *name) {
                page::has(&event, details);
                seen.insert(*name);
            }
        }
    }
    assert_eq!(seen, NAMES.iter().map(|(name, _)| *name).collect());
    daemon.stop().await;
}
