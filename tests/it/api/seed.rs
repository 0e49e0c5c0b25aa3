//! What a script written against the system that people come from sends and reads.

use std::time::Duration;

use serde_json::{Value, json};

use super::house::{Order, house, keys};

const TASK_KEYS: &[&str] = &[
    "task_id",
    "agent_id",
    "query",
    "schedule",
    "enabled",
    "timeout_seconds",
    "retry_policy",
    "overlap_policy",
    "session_policy",
    "workspace_policy",
    "metadata",
    "created_at",
    "updated_at",
];

const RUN_KEYS: &[&str] = &[
    "run_id",
    "task_id",
    "agent_id",
    "status",
    "attempt",
    "max_attempts",
    "query_snapshot",
    "trigger_type",
    "triggered_at",
    "due_at",
    "occurrence_id",
    "trigger_metadata",
    "session_id",
    "workspace_path",
    "lease_owner",
    "lease_token",
    "lease_generation",
    "lease_expires_at",
    "heartbeat_at",
    "queued_at",
    "claimed_at",
    "started_at",
    "finished_at",
    "cancel_requested_at",
    "error",
    "result_preview",
    "metadata",
];

#[tokio::test]
async fn the_seven_calls_of_the_page_work_as_they_stand() {
    let house = house().await;
    let body = json!({"task_id": "health_report", "query": "Check system health and write the report.", "schedule": {"type": "manual"}, "timeout_seconds": 60});
    let (status, task) = house.post("/background/tasks", body).await;
    assert_eq!((status, &keys(&task)[..TASK_KEYS.len()]), (200, TASK_KEYS));
    assert_eq!((&task["agent_id"], &task["timeout_seconds"]), (&json!("default"), &json!(60)));
    let (status, run) = house.post("/background/tasks/health_report/run", json!({"wait": true})).await;
    assert_eq!((status, &keys(&run)[..RUN_KEYS.len()]), (200, RUN_KEYS));
    assert_eq!((&run["status"], &run["attempt"], &run["lease_token"]), (&json!("completed"), &json!(1), &Value::Null));
    assert_eq!(run["result_preview"], "did: Check system health and write the report.");
    let id = run["run_id"].as_str().unwrap();

    let (status, manager) = house.get("/background/status").await;
    assert_eq!((status, &manager["running"], &manager["runs"]), (200, &json!(true), &json!(1)));
    assert_eq!(manager["status_counts"].as_object().unwrap().len(), 11);
    let (_, task_status) = house.get("/background/tasks/health_report/status").await;
    assert_eq!((&task_status["runs"], &task_status["latest_run"]["run_id"]), (&json!(1), &json!(id)));
    assert_eq!(house.get(&format!("/background/runs/{id}")).await, (200, run.clone()));

    let (_, events) = house.get(&format!("/background/runs/{id}/events")).await;
    let names: Vec<_> = events["events"].as_array().unwrap().iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["background_run_queued", "background_run_claimed", "background_run_started", "background_run_completed"]);
    assert_eq!((&events["run_id"], &events["count"], &events["next_cursor"]), (&json!(id), &json!(4), &Value::Null));

    let (_, workspace) = house.get(&format!("/background/runs/{id}/workspace")).await;
    assert_eq!(&keys(&workspace)[..5], ["run_id", "task_id", "agent_id", "workspace_path", "files"]);
    let path = workspace["workspace_path"].as_str().unwrap();
    assert_eq!(path, format!("background/default/health_report/{id}"));
    let run_json = workspace["files"].as_array().unwrap().iter().find(|file| file["name"] == "run.json").unwrap();
    assert_eq!(run_json["path"], format!("{path}/run.json"));
    assert!(run_json["modified_at"].as_str().unwrap().ends_with("+00:00"));
    house.close().await;
}

#[tokio::test]
async fn a_task_is_changed_paused_resumed_and_deleted() {
    let house = house().await;
    house.task("t", "a").await;
    let again = json!({"task_id": "t", "query": "a", "schedule": {"type": "manual"}});
    let (status, problem) = house.post("/background/tasks", again.clone()).await;
    assert_eq!((status, &problem["detail"]), (409, &json!("Task already registered: t")));
    let mut replacing = again;
    replacing["replace"] = json!(true);
    assert_eq!(house.post("/background/tasks", replacing).await.0, 200);
    let (status, task) = house.patch("/background/tasks/t", json!({"query": "b", "schedule": {"type": "interval", "seconds": 3600}})).await;
    assert_eq!((status, &task["query"]), (200, &json!("b")));
    let (status, mut shown) = house.get("/background/tasks/t").await;
    let sums = ["used", "budgets"].map(|name| shown.as_object_mut().unwrap().shift_remove(name).unwrap());
    assert_eq!((status, shown), (200, task));
    assert_eq!((&sums[0]["runs"], &sums[0]["tokens"], &sums[1]), (&json!(0), &json!(0), &json!([])));
    assert_eq!(house.post("/background/tasks/t/pause", json!({})).await, (200, json!({"status": "paused"})));
    assert_eq!(house.get("/background/tasks/t/status").await.1["schedule_state"]["paused"], true);
    // No body at all is as good as an empty object.
    assert_eq!(house.send(house.client.post(house.url("/background/tasks/t/resume"))).await, (200, json!({"status": "resumed"})));
    let (_, next) = house.get("/background/tasks/t/next?count=3").await;
    assert_eq!(next["occurrences"].as_array().unwrap().len(), 3);
    assert_eq!(house.get("/background/tasks/t/skips").await.1["skips"], json!([]));
    assert_eq!(house.delete("/background/tasks/t?delete_runs=true").await, (200, json!({"status": "deleted"})));
    let (status, problem) = house.get("/background/tasks/t").await;
    assert_eq!((status, &problem["detail"]), (404, &json!("Task not found: t")));
    assert_eq!(house.delete("/background/tasks/t").await.0, 404);
    house.close().await;
}

#[tokio::test]
async fn a_run_takes_its_query_and_metadata_and_nothing_else() {
    let house = house().await;
    house.task("t", "of the task").await;
    let (_, run) = house.post("/background/tasks/t/run", json!({"wait": true, "query": "mine", "metadata": {"by": "me"}})).await;
    assert_eq!((&run["query_snapshot"], &run["trigger_metadata"]), (&json!("mine"), &json!({"by": "me"})));
    for nothing in [json!({"query": ""}), json!({"query": null}), json!({}), Value::Null] {
        let (status, run) = house.post("/background/tasks/t/run", nothing.clone()).await;
        assert_eq!((status, &run["query_snapshot"]), (200, &json!("of the task")), "{nothing}");
    }
    let (status, run) = house.send(house.client.post(house.url("/background/tasks/t/run"))).await;
    assert_eq!((status, &run["trigger_type"]), (200, &json!("manual")));
    house.patch("/background/tasks/t", json!({"enabled": false})).await;
    assert_eq!(house.post("/background/tasks/t/run", json!({})).await.0, 409);
    house.close().await;
}

#[tokio::test]
async fn a_wait_that_runs_out_names_the_run() {
    let house = house().await;
    house.task("t", "hold").await;
    let (status, problem) = house.post("/background/tasks/t/run", json!({"wait": true, "timeout_seconds": 0.05})).await;
    assert_eq!((status, &problem["detail"]), (504, &json!("Background run did not finish within 0.05 seconds")));
    assert!(["queued", "claimed", "running"].contains(&problem["run_status"].as_str().unwrap()), "{problem}");
    assert_eq!((&problem["task_id"], &problem["wait_timeout_seconds"]), (&json!("t"), &json!(0.05)));
    assert_eq!(problem["request_timeout_seconds"], 60);
    // The run goes on without anybody who waits.
    house.orders.send(Order::Answer("at last".into())).unwrap();
    let id = problem["run_id"].as_str().unwrap();
    assert_eq!(house.manager.wait_for_run(&id.parse_id(), Duration::from_secs(60)).await.unwrap().status.as_str(), "completed");
    house.close().await;
}

#[tokio::test]
async fn a_run_is_cancelled_once_and_a_finished_one_is_not_touched() {
    let house = house().await;
    house.task("t", "hold").await;
    let id = house.start("t").await;
    let path = format!("/background/runs/{id}");
    assert_eq!(house.post(&format!("{path}/cancel"), json!({})).await, (200, json!({"status": "cancel_requested"})));
    house.manager.wait_for_run(&id.as_str().parse_id(), Duration::from_secs(60)).await.unwrap();
    let (_, run) = house.get(&path).await;
    assert_eq!((&run["status"], &run["cancel_requested_by"]), (&json!("cancelled"), &json!("api")));
    for verb in ["cancel", "resume"] {
        let (status, problem) = house.post(&format!("{path}/{verb}"), json!({})).await;
        assert_eq!(status, 409);
        assert!(problem["detail"].as_str().unwrap().starts_with(&format!("Run {id} is cancelled")), "{problem}");
    }
    assert_eq!(house.get(&path).await.1, run);
    let (status, attempts) = house.get(&format!("{path}/attempts")).await;
    assert_eq!((status, &attempts[0]["attempt_number"], &attempts[0]["lease_token"]), (200, &json!(1), &Value::Null));
    house.close().await;
}

#[tokio::test]
async fn an_agent_of_a_seed_spec_needs_a_daemon_with_plugins_and_keeps_no_key() {
    let house = house().await;
    assert_eq!(house.get("/background/agents").await, (200, json!({"total": 0, "agents": []})));
    assert_eq!(house.get("/background/plugins").await.0, 200);
    let spec = json!({"agent_id": "a", "system_instruction": "x", "model_config": {"provider": "openai", "model": "m"}});
    assert_eq!(house.post("/background/agents", json!({"spec": spec})).await.0, 409);
    let mut with_key = spec.clone();
    with_key["model_config"]["api_key"] = json!("abc123");
    let (status, problem) = house.post("/background/agents", json!({"spec": with_key})).await;
    assert_eq!((status, problem["detail"].as_str().unwrap().contains("[credentials.openai]")), (422, true), "{problem}");
    assert!(!problem.to_string().contains("abc123"), "{problem}");
    let (status, problem) = house.post("/background/agents", json!({"agent_id": "b", "spec": spec})).await;
    assert_eq!((status, problem["detail"].as_str().unwrap().contains("make them the same")), (422, true), "{problem}");
    let (status, problem) = house.post("/background/agents", json!({"spec": {"name": "no id"}})).await;
    assert_eq!((status, problem["detail"].as_str().unwrap().contains("agent_id")), (422, true), "{problem}");
    assert_eq!(house.post("/background/agents", json!({"agent_id": "other"})).await.0, 422);
    assert_eq!(house.delete("/background/agents/nobody?force=true").await.0, 404);
    house.close().await;
}

trait ParseId {
    fn parse_id(&self) -> sandclock::domain::id::RunId;
}

impl ParseId for &str {
    fn parse_id(&self) -> sandclock::domain::id::RunId {
        sandclock::domain::id::RunId::parse(self).unwrap()
    }
}
