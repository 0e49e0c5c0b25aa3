//! run.json, events.jsonl and output.md.

use super::*;
use crate::guest::{files, plain};

/// The lines of a run's events.jsonl.
fn lines(world: &World, run: &Run) -> Vec<Value> {
    world.file(run, "events.jsonl").unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Both mirrors tell exactly what the API tells.
async fn assert_mirrored(world: &World, daemon: &TestDaemon, run: &RunId) {
    let run = daemon.run(run).await.unwrap();
    assert_eq!(lines(world, &run), daemon.payloads(&run.run_id).await);
    let mut mirror: Value = serde_json::from_str(&world.file(&run, "run.json").unwrap()).unwrap();
    let mut shown = serde_json::to_value(&run).unwrap();
    for record in [&mut mirror, &mut shown] {
        // The store's own word on the last renewal.
        record.as_object_mut().unwrap().shift_remove("heartbeat_at");
    }
    assert_eq!(mirror, shown);
}

#[tokio::test]
async fn the_mirrors_tell_what_the_api_tells_however_an_attempt_ends() {
    let world = World::new().await;
    world.stage.add_component("progress", &plain::progress());
    world.stage.add_component("flaky", &plain::flaky(2));
    world.stage.add_component("permanent", &plain::permanent());
    world.stage.add_component("sleeper", &plain::sleeper(3_600_000));
    let daemon = world.start().await;
    let retry = json!({"max_retries": 1, "initial_delay_seconds": 0});
    for (agent, status) in [
        ("echo", Status::Completed),
        ("progress", Status::Completed),
        ("flaky", Status::Completed),
        ("permanent", Status::Failed),
        ("sleeper", Status::Timeout),
    ] {
        let timeout = if agent == "sleeper" { 0.05 } else { 60.0 };
        let task = daemon.task(json!({"task_id": agent, "agent_id": agent, "retry_policy": retry, "timeout_seconds": timeout})).await;
        let run = daemon.run_to_end(&task).await;
        assert_eq!(run.status, status);
        assert_mirrored(&world, &daemon, &run.run_id).await;
    }
}

#[tokio::test]
async fn the_mirrors_know_of_a_cancel_that_came_at_the_last_moment() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"overlap_policy": "allow_parallel"})).await;
    for _ in 0..20 {
        let run = daemon.fire(&task).await.run_id;
        let guest = world.stage.guest().await;
        let (manager, id) = (Manager::clone(&daemon), run.clone());
        let cancel = tokio::spawn(async move { manager.cancel_run(&id, "api").await.is_ok() });
        guest.end(Ended::Cancelled { message: "stopped".to_owned() });
        let run = daemon.settled(&run).await;
        let _ = cancel.await.unwrap();
        until("the mirrors", async || lines(&world, &run) == daemon.payloads(&run.run_id).await).await;
    }
}

#[tokio::test]
async fn a_task_can_switch_the_mirrors_off_and_the_history_is_complete() {
    let world = World::new().await;
    let daemon = world.start().await;
    for (id, json_on, events_on) in [("none", false, false), ("one", true, false), ("other", false, true)] {
        let policy = json!({"write_run_json": json_on, "write_events_jsonl": events_on});
        let task = daemon.task(json!({"task_id": id, "agent_id": "echo", "workspace_policy": policy})).await;
        let run = daemon.run_to_end(&task).await;
        assert_eq!(world.file(&run, "run.json").is_some(), json_on);
        assert_eq!(world.file(&run, "events.jsonl").is_some(), events_on);
        assert_eq!(daemon.names(&run.run_id).await, ["queued", "claimed", "started", "completed"]);
        assert_eq!(daemon.result(&run.run_id).await.unwrap().as_deref(), Some("did: Do it."));
        assert_eq!(world.file(&run, "output.md").is_some(), json_on || events_on, "a task that wants no files gets none");
    }
}

#[tokio::test]
async fn the_answer_becomes_output_md_unless_the_guest_wrote_one() {
    let world = World::new().await;
    world.stage.add_component("writer", &files::write_text("output.md", "by the guest"));
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "writer"})).await;
    let run = daemon.run_to_end(&task).await;
    assert_eq!((run.status, world.file(&run, "output.md").as_deref()), (Status::Completed, Some("by the guest")));
}

#[tokio::test]
async fn a_guest_cannot_forge_a_mirror() {
    let world = World::new().await;
    world.stage.add_component("forger", &files::write_text("run.json", "forged"));
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "forger"})).await;
    let run = daemon.run_to_end(&task).await;
    assert_mirrored(&world, &daemon, &run.run_id).await;
}

#[tokio::test]
async fn the_mirrors_of_a_run_that_recovery_ends_know_of_the_end() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"max_recoveries": 0})).await;
    let run = daemon.fire(&task).await.run_id;
    drop(world.stage.guest().await);
    daemon.crash().await;
    let daemon = world.start().await;
    assert_eq!(daemon.settled(&run).await.status, Status::Failed);
    assert_mirrored(&world, &daemon, &run).await;
}

#[tokio::test]
async fn a_heartbeat_that_comes_while_the_outcome_is_on_its_way_is_in_the_mirror_too() {
    let world = World::new().await;
    let daemon = world.start_as("a", |settings| settings.lease = Duration::from_secs(3)).await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await;
    let guest = world.stage.guest().await;
    // The heartbeat of the first renewal waits for its commit, and so does the outcome behind it, which the mirrors tell of already.
    let closed = world.faulty.gate.write().await;
    let calls = world.faulty.at_gate.load(std::sync::atomic::Ordering::SeqCst);
    until("the heartbeat", async || world.faulty.at_gate.load(std::sync::atomic::Ordering::SeqCst) > calls).await;
    guest.complete("done");
    until("the mirrors", async || world.file(&run, "output.md").is_some()).await;
    drop(closed);
    daemon.settled(&run.run_id).await;
    let told = daemon.payloads(&run.run_id).await;
    assert!(told.iter().any(|payload| payload["event"] == "background_run_heartbeat"), "{told:?}");
    let mirrored = async || {
        let text = world.file(&run, "events.jsonl").unwrap();
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).eq(told.iter().cloned())
    };
    until("the whole history in its mirror", mirrored).await;
}
