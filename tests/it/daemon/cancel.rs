//! Cancels: of runs that wait, that execute, that have ended, and of those that end at the same moment.

use super::harness::conflict;
use super::*;
use crate::guest::plain;
use sandclock::store::{Change, ChangeId, Index, Put, RecordId};

#[tokio::test]
async fn a_queued_run_is_cancelled_at_once_and_never_starts() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "later"})).await;
    let run = daemon.fire(&task).await;
    let cancelled = daemon.cancel_run(&run.run_id, "api").await.unwrap();
    assert_eq!((cancelled.status, cancelled.cancel_requested_by.as_deref(), cancelled.attempt), (Status::Cancelled, Some("api"), 0));
    world.stage.echo("later");
    let next = daemon.run_to_end(&task).await;
    assert_eq!(next.status, Status::Completed, "the slot is free again");
    let payloads = daemon.payloads(&run.run_id).await;
    assert_eq!(daemon.names(&run.run_id).await, ["queued", "cancelled"]);
    assert_eq!(payloads[1]["by"], "api");
}

#[tokio::test]
async fn a_running_guest_hears_of_its_cancel() {
    let world = World::new().await;
    world.stage.add_component("sleeper", &plain::sleeper(3_600_000));
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "sleeper"})).await;
    let run = daemon.fire(&task).await;
    until("progress", async || daemon.names(&run.run_id).await.contains(&"progress".to_owned())).await;
    let asked = daemon.cancel_run(&run.run_id, "api").await.unwrap();
    assert_eq!((asked.status, asked.cancel_requested_at.is_some()), (Status::Running, true));
    let run = daemon.settled(&run.run_id).await;
    assert_eq!((run.status, run.error.as_deref()), (Status::Cancelled, Some("woken by a cancel")));
    assert_eq!(daemon.names(&run.run_id).await, ["queued", "claimed", "started", "progress", "cancel_requested", "cancelled"]);
    assert_eq!(daemon.tries(&run.run_id).await, [(AttemptReason::Initial, AttemptStatus::Cancelled)]);
}

#[tokio::test]
async fn a_guest_that_ignores_its_cancel_is_stopped_when_the_grace_is_over() {
    let world = World::new().await;
    world.stage.add_component("stubborn", &plain::ignores_cancel());
    let daemon = world.start().await;
    for (id, grace) in [("at-once", 0.0), ("soon", 0.05)] {
        let task = daemon.task(json!({"task_id": id, "agent_id": "stubborn", "cancel_grace_seconds": grace})).await;
        let run = daemon.fire(&task).await;
        until("progress", async || daemon.names(&run.run_id).await.contains(&"progress".to_owned())).await;
        daemon.cancel_run(&run.run_id, "api").await.unwrap();
        let run = daemon.settled(&run.run_id).await;
        assert_eq!(run.status, Status::Cancelled);
        assert!(run.error.unwrap().contains("did not stop within"));
    }
}

#[tokio::test]
async fn w_31_a_cancel_of_an_ended_run_is_a_conflict_and_changes_nothing() {
    let world = World::new().await;
    world.stage.add_component("permanent", &plain::permanent());
    let daemon = world.start().await;
    let failing = daemon.task(json!({"task_id": "failing", "agent_id": "permanent"})).await;
    let task = daemon.task(json!({"agent_id": "echo"})).await;
    let cancelled = daemon.task(json!({"task_id": "cancelled", "agent_id": "later"})).await;
    let cancelled = daemon.fire(&cancelled).await.run_id;
    daemon.cancel_run(&cancelled, "api").await.unwrap();
    let ended = [daemon.run_to_end(&task).await.run_id, daemon.run_to_end(&failing).await.run_id, cancelled];
    for (run, status) in ended.iter().zip(["completed", "failed", "cancelled"]) {
        let before = (daemon.raw(RecordId::run(run)).await, daemon.payloads(run).await);
        assert_eq!(conflict(daemon.cancel_run(run, "api").await), format!("Run {run} is {status}; it cannot be cancelled any more"));
        let resume = conflict(daemon.resume_run(run, None).await);
        assert_eq!(resume, format!("Run {run} is {status}; only a run in awaiting_approval or awaiting_budget can be resumed"));
        assert_eq!((daemon.raw(RecordId::run(run)).await, daemon.payloads(run).await), before);
    }
    let unknown = daemon.cancel_run(&RunId::parse("run_x").unwrap(), "api").await.unwrap_err();
    assert_eq!(unknown.to_string(), "Run not found: run_x");
}

#[tokio::test]
async fn a_cancel_that_was_acknowledged_wins_over_the_answer() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await;
    let guest = world.stage.guest().await;
    daemon.cancel_run(&run.run_id, "api").await.unwrap();
    guest.complete("too late");
    let run = daemon.settled(&run.run_id).await;
    assert_eq!((run.status, run.result_preview), (Status::Cancelled, None));
    assert_eq!(daemon.result(&run.run_id).await.unwrap(), None);
}

#[tokio::test]
async fn a_cancel_and_an_answer_at_the_same_moment_give_one_end() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"overlap_policy": "allow_parallel"})).await;
    let mut cancels = Vec::new();
    for at in 0..60 {
        daemon.fire(&task).await;
        let guest = world.stage.guest().await;
        let run = guest.run_id();
        let (manager, id) = (Manager::clone(&daemon), run.clone());
        let cancel = tokio::spawn(async move {
            for _ in 0..at % 12 {
                tokio::task::yield_now().await;
            }
            manager.cancel_run(&id, "api").await
        });
        guest.complete("done");
        cancels.push((run, cancel));
    }
    for (run, cancel) in cancels {
        let acknowledged = cancel.await.unwrap().is_ok();
        let run = daemon.settled(&run).await;
        assert_eq!(run.status, if acknowledged { Status::Cancelled } else { Status::Completed });
        let names = daemon.names(&run.run_id).await;
        let ends = names.iter().filter(|name| ["completed", "cancelled"].contains(&name.as_str())).count();
        assert_eq!((ends, names.last().map(String::as_str)), (1, Some(run.status.as_str())));
    }
}

#[tokio::test]
async fn a_cancel_while_a_retry_waits_is_the_end() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"retry_policy": {"max_retries": 3, "initial_delay_seconds": 3600, "max_delay_seconds": 3600}})).await;
    let run = daemon.fire(&task).await;
    world.stage.guest().await.fail(ErrorKind::Trap);
    daemon.becomes(&run.run_id, Status::Queued).await;
    let run = daemon.cancel_run(&run.run_id, "api").await.unwrap();
    assert_eq!((run.status, run.attempt), (Status::Cancelled, 1));
    assert_eq!(daemon.names(&run.run_id).await.last().unwrap(), "cancelled");
    let mirror: Value = serde_json::from_str(&world.file(&run, "run.json").unwrap()).unwrap();
    assert_eq!(mirror["status"], "cancelled", "the mirror of an earlier attempt is brought up to date");
}

/// A run of a task that holds runs whose outcome is unknown, parked: its worker was lost after the attempt's first outside effect.
async fn parked(world: &World, overlap: &str) -> (TestDaemon, TaskId, RunId) {
    let daemon = world.start_polling().await;
    let task = daemon.task(json!({"overlap_policy": overlap, "on_unknown": "hold"})).await;
    let run = daemon.fire(&task).await.run_id;
    drop(world.stage.guest().await);
    let mut attempt = daemon.attempts(&run).await.unwrap().remove(0);
    attempt.effects_began = true;
    let index = Index { run: Some(run.clone()), ..Index::default() };
    let puts = vec![Put::of(RecordId::attempt(&run, 1), index, &attempt).unwrap()];
    let change = Change { id: ChangeId(7), guards: vec![], puts, deletes: vec![], events: vec![] };
    world.store.apply(vec![change]).await.unwrap();
    daemon.crash().await;
    let daemon = world.start_polling().await;
    assert_eq!(daemon.settled(&run).await.status, Status::AwaitingApproval);
    (daemon, task, run)
}

#[tokio::test]
async fn w_07_a_parked_run_holds_its_place_until_it_is_cancelled() {
    let world = World::new().await;
    let (daemon, task, run) = parked(&world, "queue_next").await;
    let next = daemon.fire(&task).await.run_id;
    assert_eq!(daemon.run(&next).await.unwrap().status, Status::Queued);
    assert!(world.stage.guest_now().is_none());
    assert_eq!(daemon.cancel_run(&run, "api").await.unwrap().status, Status::Cancelled);
    world.stage.guest().await.complete("next");
    assert_eq!(daemon.settled(&next).await.status, Status::Completed);
}

#[tokio::test]
async fn w_07_cancel_previous_ends_a_parked_run() {
    let world = World::new().await;
    let (daemon, task, run) = parked(&world, "cancel_previous").await;
    let next = daemon.fire(&task).await.run_id;
    world.stage.guest().await.complete("next");
    assert_eq!(daemon.settled(&next).await.status, Status::Completed);
    assert_eq!(daemon.run(&run).await.unwrap().status, Status::Cancelled);
}

#[tokio::test]
async fn a_parked_run_is_resumed() {
    let world = World::new().await;
    let (daemon, _, run) = parked(&world, "skip_if_running").await;
    assert_eq!(daemon.resume_run(&run, None).await.unwrap().status, Status::Queued);
    world.stage.guest().await.complete("again");
    let ended = daemon.settled(&run).await;
    assert_eq!((ended.status, ended.attempt, ended.failures), (Status::Completed, 2, 0));
    let names = daemon.names(&run).await;
    let tail = ["awaiting_approval", "queued", "claimed", "started", "completed"];
    assert_eq!(names[names.len() - tail.len()..], tail);
}

#[tokio::test]
async fn w_26_a_parked_run_fails_when_its_wait_is_over() {
    let world = World::new().await;
    let (daemon, task, run) = parked(&world, "skip_if_running").await;
    assert_eq!(daemon.fire(&task).await.status, Status::Skipped);
    world.clock.advance(Duration::from_secs(24 * 3600));
    daemon.becomes(&run, Status::Failed).await;
    assert_eq!(daemon.fire(&task).await.status, Status::Queued);
}
