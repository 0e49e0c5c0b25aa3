//! The page's HTTP examples as they stand: the same bodies, the same headers, an agent `default`.

use std::collections::BTreeSet;

use reqwest::header::CONTENT_TYPE;
use serde_json::Value;

use super::daemon::{Daemon, Home};
use crate::guest::plain;

const REGISTER: &str = r#"{
"task_id": "health_report",
"query": "Check system health and write the report.",
"schedule": {"type": "manual"},
"timeout_seconds": 60
}"#;

const RUN: &str = r#"{"wait": true}"#;

const TASK: &str = "task_id agent_id query schedule enabled timeout_seconds retry_policy overlap_policy session_policy workspace_policy \
    metadata created_at updated_at";
const SCHEDULE: &str = "type seconds expression run_at timezone start_at end_at jitter_seconds misfire_policy";
const RETRY: &str = "max_retries initial_delay_seconds max_delay_seconds backoff retry_on";
const WORKSPACE: &str = "namespace_template write_run_json write_events_jsonl";
const RUN_KEYS: &str = "run_id task_id agent_id status attempt max_attempts query_snapshot trigger_type triggered_at due_at occurrence_id \
    trigger_metadata session_id workspace_path lease_owner lease_token lease_generation lease_expires_at heartbeat_at queued_at claimed_at \
    started_at finished_at cancel_requested_at error result_preview metadata";
const ATTEMPT: &str =
    "attempt_id run_id attempt_number reason status worker_id lease_token started_at finished_at error retry_delay_seconds";
pub const EVENT: &str = "event timestamp agent_id task_id run_id session_id status attempt workspace_path worker_id lease_generation \
    heartbeat_at lease_expires_at occurrence_id due_at sequence";
const STATUS: &str = "running initialized worker_id lease_seconds agents tasks runs active_runs status_counts";
const COUNTS: &str = "queued claimed running retrying completed failed cancelled timeout skipped awaiting_approval awaiting_budget";

/// Wants that an object has these keys; it may have more.
pub fn has(object: &Value, keys: &str) {
    let known: BTreeSet<&str> = object.as_object().unwrap_or_else(|| panic!("no object: {object}")).keys().map(String::as_str).collect();
    let missing: Vec<&str> = keys.split_whitespace().filter(|key| !known.contains(key)).collect();
    assert!(missing.is_empty(), "{missing:?} are not in {object:#}");
}

/// `curl -X POST … -H "Content-Type: application/json" -d BODY`.
async fn post(daemon: &Daemon, path: &str, body: &'static str) -> Value {
    let request = daemon.client.post(format!("{}{path}", daemon.url)).header(CONTENT_TYPE, "application/json").body(body);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.headers()[CONTENT_TYPE].to_str().unwrap().starts_with("application/json"));
    response.json().await.unwrap()
}

#[tokio::test]
async fn the_page_s_examples_work_as_they_stand() {
    // The agent `default` is there without an entry; behind it is the plugin `hello`.
    let home = Home::new("", &[("hello", plain::echo())]);
    let daemon = home.start(&[]).await;
    let task = post(&daemon, "/background/tasks", REGISTER).await;
    for (object, keys) in [
        (&task, TASK),
        (&task["schedule"], SCHEDULE),
        (&task["retry_policy"], RETRY),
        (&task["session_policy"], "mode session_id"),
        (&task["workspace_policy"], WORKSPACE),
    ] {
        has(object, keys);
    }
    assert_eq!(
        (&task["agent_id"], &task["timeout_seconds"], &task["retry_policy"]["max_retries"]),
        (&"default".into(), &60.into(), &0.into())
    );
    let run = post(&daemon, "/background/tasks/health_report/run", RUN).await;
    has(&run, RUN_KEYS);
    assert_eq!((&run["status"], &run["session_id"]), (&"completed".into(), &"background:default:health_report".into()));
    assert_eq!(run["result_preview"], "Check system health and write the report.");
    reads(&daemon, &run).await;
    let again = daemon.client.post(format!("{}/background/tasks", daemon.url)).header(CONTENT_TYPE, "application/json").body(REGISTER);
    let refused = again.send().await.unwrap();
    assert_eq!(refused.status(), 409);
    assert_eq!(refused.json::<Value>().await.unwrap()["detail"], "Task already registered: health_report");
    daemon.stop().await;
}

/// The five that read.
async fn reads(daemon: &Daemon, run: &Value) {
    let run_id = run["run_id"].as_str().unwrap();
    let status = daemon.get("/background/status").await;
    has(&status, STATUS);
    has(&status["status_counts"], COUNTS);
    assert_eq!(
        (&status["running"], &status["lease_seconds"], &status["status_counts"]["completed"]),
        (&true.into(), &30.0.into(), &1.into())
    );
    let of_task = daemon.get("/background/tasks/health_report/status").await;
    has(&of_task, "task_id agent_id enabled schedule schedule_state runs active_runs latest_run");
    has(&of_task["latest_run"], RUN_KEYS);
    assert_eq!(daemon.get(&format!("/background/runs/{run_id}")).await, *run);
    let events = daemon.get(&format!("/background/runs/{run_id}/events")).await;
    has(&events, "run_id events count");
    let listed = events["events"].as_array().unwrap();
    assert_eq!(events["count"], listed.len());
    listed.iter().for_each(|event| has(event, EVENT));
    let names: Vec<&str> = listed.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["background_run_queued", "background_run_claimed", "background_run_started", "background_run_completed"]);
    let workspace = daemon.get(&format!("/background/runs/{run_id}/workspace")).await;
    has(&workspace, "run_id task_id agent_id workspace_path files");
    let files = workspace["files"].as_array().unwrap();
    files.iter().for_each(|file| has(file, "path name modified_at is_dir"));
    let mut names: Vec<&str> = files.iter().map(|file| file["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["events.jsonl", "output.md", "run.json"]);
    let attempts = daemon.attempts(run).await;
    assert_eq!(attempts.len(), 1);
    has(&attempts[0], ATTEMPT);
}
