//! The history: every name of the seed page from a real path, with its payload's keys.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::guest::{hostile, plain};

/// The keys of every payload, in the seed's order.
const KEYS: [&str; 16] = [
    "event",
    "timestamp",
    "agent_id",
    "task_id",
    "run_id",
    "session_id",
    "status",
    "attempt",
    "workspace_path",
    "worker_id",
    "lease_generation",
    "heartbeat_at",
    "lease_expires_at",
    "occurrence_id",
    "due_at",
    "sequence",
];

/// The twelve names of the page, with what each tells beside and the status that it shows.
const NAMES: [(&str, &[&str], &[&str]); 12] = [
    ("background_task_scheduled", &[], &["queued"]),
    ("background_run_queued", &[], &["queued"]),
    ("background_run_claimed", &[], &["claimed"]),
    ("background_run_started", &["digest"], &["running"]),
    ("background_run_heartbeat", &[], &["running"]),
    ("background_run_retrying", &["error", "error_kind", "retry_delay_seconds"], &["retrying"]),
    ("background_run_recovered", &["resumed", "reason"], &["retrying"]),
    ("background_run_completed", &[], &["completed"]),
    ("background_run_failed", &["error", "error_kind"], &["failed"]),
    ("background_run_timeout", &["error", "error_kind"], &["timeout"]),
    ("background_run_cancelled", &["by"], &["cancelled"]),
    ("background_run_skipped", &["reason"], &["skipped"]),
];

fn check(payload: &Value, run: &Run) {
    let keys: Vec<&str> = payload.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys[..16], KEYS, "{payload}");
    let name = payload["event"].as_str().unwrap();
    let Some((_, details, statuses)) = NAMES.iter().find(|(known, ..)| *known == name) else {
        assert!(["background_run_cancel_requested", "background_run_progress"].contains(&name), "{name}");
        return;
    };
    assert_eq!(keys[16..].iter().collect::<BTreeSet<_>>(), details.iter().collect(), "{payload}");
    assert!(statuses.contains(&payload["status"].as_str().unwrap()), "{payload}");
    assert_eq!(payload["run_id"], json!(run.run_id));
    assert_eq!(payload["session_id"], json!(run.session_id));
    assert_eq!(payload["occurrence_id"], json!(run.occurrence_id));
    assert_eq!(payload["workspace_path"], json!(run.workspace_path));
    let stamp = payload["timestamp"].as_str().unwrap();
    assert!(stamp.ends_with("+00:00") && stamp.len() == "2026-11-22T05:00:37.236363+00:00".len(), "{stamp}");
    let has_worker = ["claimed", "running"].contains(&payload["status"].as_str().unwrap()) || payload["status"] == "retrying";
    assert_eq!(payload["worker_id"].is_string(), has_worker, "{payload}");
}

#[tokio::test]
async fn each_of_the_twelve_names_comes_from_a_real_path_with_its_keys() {
    let world = World::new().await;
    world.stage.add_component("flaky", &plain::flaky(2));
    world.stage.add_component("never", &plain::permanent());
    world.stage.add_component("sleeper", &plain::sleeper(3_600_000));
    let mut runs = Vec::new();

    let daemon = world.start_as("a", |settings| settings.lease = Duration::from_secs(2)).await;
    let once = daemon.task(json!({"task_id": "once", "schedule": {"type": "once", "run_at": "2026-01-01T00:00:00Z"}})).await;
    let guest = world.stage.guest().await;
    let scheduled = guest.run_id();
    runs.push(daemon.fire(&once).await.run_id);
    until("a heartbeat", async || daemon.names(&scheduled).await.contains(&"heartbeat".to_owned())).await;
    daemon.cancel_run(&scheduled, "api").await.unwrap();
    guest.complete("too late");
    daemon.settled(&scheduled).await;
    runs.push(scheduled);
    let retry = json!({"max_retries": 1, "initial_delay_seconds": 0});
    for (id, agent, timeout) in [("flaky", "flaky", 60.0), ("never", "never", 60.0), ("slow", "sleeper", 0.05)] {
        let task = daemon.task(json!({"task_id": id, "agent_id": agent, "retry_policy": retry, "timeout_seconds": timeout})).await;
        runs.push(daemon.run_to_end(&task).await.run_id);
    }
    let task = daemon.task(json!({"task_id": "stopped"})).await;
    let stopped = daemon.fire(&task).await.run_id;
    drop(world.stage.guest().await);
    daemon.crash();
    let daemon = world.start().await;
    world.stage.guest().await.complete("done");
    daemon.settled(&stopped).await;
    runs.push(stopped);

    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for run in &runs {
        let run = daemon.run(run).await.unwrap();
        for payload in daemon.payloads(&run.run_id).await {
            check(&payload, &run);
            *seen.entry(payload["event"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    for (name, ..) in NAMES {
        assert!(seen.contains_key(name), "{name} was never seen: {seen:?}");
    }
}

#[tokio::test]
async fn what_a_guest_tells_is_in_the_history_in_order() {
    let world = World::new().await;
    world.stage.add_component("progress", &plain::progress());
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "progress"})).await;
    let run = daemon.run_to_end(&task).await;
    assert_eq!(daemon.names(&run.run_id).await, ["queued", "claimed", "started", "progress", "agent_event", "progress", "completed"]);
    let told = &daemon.payloads(&run.run_id).await[3..6];
    assert_eq!((&told[0]["message"], &told[0]["fraction"]), (&json!("half"), &json!(0.5)));
    assert_eq!((&told[1]["name"], &told[1]["payload"]), (&json!("found"), &json!("x")));
    assert_eq!((&told[2]["message"], &told[2]["fraction"]), (&json!("all"), &json!(1.0)));
}

#[tokio::test]
async fn what_a_guest_tells_is_seen_while_it_runs() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    let mut watch = daemon.watch_run(&run);
    guest.host.report("half".to_owned(), Some(0.5));
    tokio::time::timeout(harness::PATIENCE, watch.changed()).await.unwrap();
    assert_eq!(daemon.names(&run).await.last().unwrap(), "progress");
    guest.host.emit("found".to_owned(), r#"{"event": "background_run_completed", "run_id": "forged"}"#.to_owned());
    guest.host.emit("odd".to_owned(), "not JSON".to_owned());
    guest.complete("done");
    daemon.settled(&run).await;
    let payloads = daemon.payloads(&run).await;
    assert_eq!(payloads[4]["event"], "background_agent_event");
    assert_eq!((&payloads[4]["run_id"], &payloads[4]["payload"]["run_id"]), (&json!(run), &json!("forged")));
    assert_eq!(payloads[5]["payload"], "not JSON");
}

#[tokio::test]
async fn a_flood_of_reports_is_bounded_and_counted() {
    let world = World::new().await;
    world.stage.add_component("flood", &hostile::progressflood(Some(5_000)));
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "flood"})).await;
    let run = daemon.run_to_end(&task).await;
    let names = daemon.names(&run.run_id).await;
    let reports = names.iter().filter(|name| *name == "progress").count();
    let usage = daemon.attempts(&run.run_id).await.unwrap().remove(0).usage.unwrap();
    assert_eq!((run.status, reports, usage.events_dropped), (Status::Completed, 1_000, 4_000), "{:?}", run.error);
}

#[tokio::test]
async fn a_page_of_events_starts_behind_a_number() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "echo"})).await;
    let run = daemon.run_to_end(&task).await.run_id;
    let page = daemon.events(&run, 1, 2).await.unwrap();
    assert_eq!(page.iter().map(|payload| payload["sequence"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(daemon.events(&run, 4, 10).await.unwrap(), Vec::<Value>::new());
}

#[tokio::test]
async fn a_heartbeat_that_is_decided_with_the_end_does_not_come_behind_it() {
    let world = World::new().await;
    let daemon = world.start_as("a", |settings| {
        settings.lease = Duration::from_millis(1200);
        settings.heartbeat_events = Duration::ZERO;
    });
    let daemon = daemon.await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    let beats = async || daemon.names(&run).await.iter().filter(|name| *name == "heartbeat").count();
    until("a heartbeat", async || beats().await > 0).await;
    let held = world.faulty.gate.write().await;
    let waiting = world.faulty.at_gate.load(std::sync::atomic::Ordering::SeqCst);
    // Behind this commit the attempt's end waits for the next batch, and behind that the heartbeat of the next renewal.
    let (manager, other) = (Manager::clone(&daemon), task.clone());
    let fired = tokio::spawn(async move { manager.run_now(&other, RunWish::default()).await });
    until("a commit", async || world.faulty.at_gate.load(std::sync::atomic::Ordering::SeqCst) > waiting).await;
    guest.complete("done");
    for _ in 0..2 {
        let before = daemon.run(&run).await.unwrap().heartbeat_at;
        until("a renewal", async || daemon.run(&run).await.unwrap().heartbeat_at > before).await;
    }
    drop(held);
    fired.await.unwrap().unwrap();
    assert_eq!(daemon.settled(&run).await.status, Status::Completed);
    assert_eq!(daemon.names(&run).await.last().unwrap(), "completed");
}
