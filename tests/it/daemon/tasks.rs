//! Tasks: changed, deleted, with runs in all states.

use super::*;
use sandclock::store::{PageRequest, RecordId};

#[tokio::test]
async fn w_30_a_change_that_is_refused_leaves_the_task_as_it_is() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"schedule": {"type": "interval", "seconds": 100}})).await;
    let records = async || (daemon.raw(RecordId::task(&task)).await, daemon.raw(RecordId::schedule(&task)).await);
    let before = records().await;
    for patch in [
        json!({"schedule": {"type": "cron", "expression": "61 * * * *"}}),
        json!({"query": null}),
        json!({"enabled": false, "timeout_seconds": -1}),
        json!({"task_id": "other"}),
        json!({"overlap": "queue_next"}),
    ] {
        assert!(matches!(daemon.update_task(&task, patch.clone()).await, Err(ManagerError::Invalid(_))), "{patch}");
    }
    assert!(matches!(daemon.register_task(json!({"task_id": "../x"}), false, None).await, Err(ManagerError::Invalid(_))));
    assert_eq!(records().await, before);
    assert_eq!(daemon.tasks(None, PageRequest::first(10)).await.unwrap().total, 1);
}

#[tokio::test]
async fn a_run_keeps_what_its_task_said_when_it_was_made() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "guest", "retry_policy": {"max_retries": 1, "initial_delay_seconds": 0}})).await;
    let run = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    daemon.update_task(&task, json!({"query": "New.", "retry_policy": {"max_retries": 0}, "timeout_seconds": 1})).await.unwrap();
    guest.fail(ErrorKind::Trap);
    let again = world.stage.guest().await;
    assert_eq!((again.spec.query.as_str(), again.spec.time_limit), ("Do it.", Some(Duration::from_secs(3600))));
    again.complete("done");
    assert_eq!(daemon.settled(&run).await.status, Status::Completed);
}

#[tokio::test]
async fn w_08_the_queued_runs_of_a_deleted_task_end_and_its_executing_run_goes_on() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"overlap_policy": "queue_next"})).await;
    let live = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    for _ in 0..300 {
        daemon.fire(&task).await;
    }
    let other = daemon.task(json!({"task_id": "other", "agent_id": "echo"})).await;
    daemon.delete_task(&task, false).await.unwrap();
    assert_eq!(daemon.count(&task, Status::Cancelled).await, 300);
    assert_eq!(daemon.run_to_end(&other).await.status, Status::Completed);
    guest.complete("done");
    assert_eq!(daemon.settled(&live).await.status, Status::Completed);
    assert_eq!(daemon.task(json!({})).await, task, "the name is free");
    assert_eq!(daemon.fire(&task).await.status, Status::Queued, "and so is the slot");
    assert_eq!(daemon.delete_task(&TaskId::parse("x").unwrap(), false).await.unwrap_err().to_string(), "Task not found: x");
}

#[tokio::test]
async fn deleting_a_task_gives_none_of_its_queued_runs_a_turn() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"overlap_policy": "queue_next", "agent_id": "later"})).await;
    let mut runs = Vec::new();
    for _ in 0..50 {
        runs.push(daemon.fire(&task).await.run_id);
    }
    daemon.delete_task(&task, false).await.unwrap();
    for run in &runs {
        assert_eq!(daemon.names(run).await, ["queued", "cancelled"]);
        let (rev, _) = daemon.raw(RecordId::run(run)).await.unwrap();
        assert_eq!(rev, 2, "it was made, and cancelled; a turn in between would let a worker start it");
    }
}

#[tokio::test]
async fn w_34_deleting_with_the_runs_keeps_the_record_of_one_that_executes_until_it_has_ended() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"overlap_policy": "allow_parallel"})).await;
    let done = daemon.fire(&task).await.run_id;
    world.stage.guest().await.complete("x".repeat(2000).as_str());
    let done = daemon.settled(&done).await;
    assert!(world.file(&done, "run.json").is_some());
    let live = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    daemon.delete_task(&task, true).await.unwrap();
    assert_eq!(daemon.run(&done.run_id).await.unwrap_err().to_string(), format!("Run not found: {}", done.run_id));
    let hanging = [RecordId::attempt(&done.run_id, 1), RecordId::new(sandclock::store::Kind::Result, done.run_id.as_str())];
    for record in hanging {
        assert_eq!(daemon.raw(record).await, None);
    }
    assert!(world.store.events(&done.run_id, 0, 10).await.unwrap().is_empty());
    assert!(world.file(&done, "run.json").is_none() && world.file(&done, "output.md").is_none());
    guest.cancelled().await;
    guest.end(Ended::Cancelled { message: "stopped".to_owned() });
    let live = daemon.settled(&live).await;
    assert_eq!((live.status, live.cancel_requested_by.as_deref()), (Status::Cancelled, Some("delete_task")));
}

#[tokio::test]
async fn lists_are_paged_and_counted() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "later", "overlap_policy": "allow_parallel"})).await;
    let mut made = Vec::new();
    for _ in 0..25 {
        made.push(daemon.fire(&task).await.run_id);
    }
    daemon.cancel_run(&made[3], "api").await.unwrap();
    let (mut seen, mut page) = (Vec::new(), PageRequest::first(10));
    loop {
        let listed = daemon.runs(Some(task.clone()), None, page).await.unwrap();
        assert_eq!(listed.total, 25);
        seen.extend(listed.items.into_iter().map(|run| run.run_id));
        match listed.next {
            Some(after) => page.after = Some(after),
            None => break,
        }
    }
    assert_eq!(seen, made);
    let cancelled = daemon.runs(Some(task.clone()), Some(Status::Cancelled), PageRequest::first(10)).await.unwrap();
    assert_eq!((cancelled.total, cancelled.items.len(), &cancelled.items[0].run_id), (1, 1, &made[3]));
}
