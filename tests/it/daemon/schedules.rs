//! Scheduled tasks: what is dispatched, once, and what a bad one does to the others.

use super::harness::conflict;
use super::*;
use bytes::Bytes;
use sandclock::store::{Change, ChangeId, Index, Put, RecordId, When};

const PAST: &str = "2026-01-01T00:00:00Z";

/// `occurrences = runs + skips`, and the runs are there.
async fn assert_balanced(daemon: &TestDaemon, task: &TaskId) -> Value {
    let state = daemon.state(task).await;
    let total = |name: &str| state["totals"][name].as_u64().unwrap();
    assert_eq!(total("occurrences"), total("runs") + total("skipped"), "{state}");
    let scheduled = daemon.runs_of(task).await.iter().filter(|run| run.occurrence_id.is_some()).count();
    assert_eq!(total("runs"), scheduled as u64);
    let ranges = daemon.skip_ranges(task, sandclock::store::PageRequest::first(1000)).await.unwrap();
    assert_eq!(total("skipped"), ranges.items.iter().map(|range| range["count"].as_u64().unwrap()).sum::<u64>());
    state
}

#[tokio::test]
async fn a_once_task_runs_once() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "echo", "schedule": {"type": "once", "run_at": PAST}})).await;
    until("the run", async || daemon.count(&task, Status::Completed).await == 1).await;
    let run = daemon.runs_of(&task).await.remove(0);
    assert_eq!(run.trigger_type.as_str(), "once");
    assert_eq!(
        (run.due_at.unwrap().to_string(), run.occurrence_id.as_deref()),
        ("2026-01-01T00:00:00.000000Z".to_owned(), Some("once:1:2026-01-01T00:00:00.000000+00:00"))
    );
    assert_eq!(daemon.names(&run.run_id).await, ["task_scheduled", "queued", "claimed", "started", "completed"]);
    let state = assert_balanced(&daemon, &task).await;
    assert_eq!((&state["next_due_at"], &state["totals"]["occurrences"]), (&json!(null), &json!(1)));
}

#[tokio::test]
async fn an_interval_keeps_its_phase_and_what_is_missed_is_counted() {
    let world = World::new().await;
    let daemon = world.start_polling().await;
    let task = daemon.task(json!({"agent_id": "echo", "schedule": {"type": "interval", "seconds": 100}})).await;
    let first = daemon.state(&task).await["next_due_at"].as_str().unwrap().to_owned();
    assert!(daemon.runs_of(&task).await.is_empty());
    world.clock.advance(Duration::from_secs(101));
    until("the first", async || daemon.count(&task, Status::Completed).await == 1).await;
    assert_eq!(json!(daemon.runs_of(&task).await[0].due_at), json!(first));
    world.clock.advance(Duration::from_secs(500));
    until("the second", async || daemon.count(&task, Status::Completed).await == 2).await;
    let state = assert_balanced(&daemon, &task).await;
    assert_eq!(state["totals"], json!({"occurrences": 6, "runs": 2, "skipped": 4}));
}

#[tokio::test]
async fn a_cron_task_runs_at_its_minutes() {
    let world = World::new().await;
    let daemon = world.start_polling().await;
    let task = daemon
        .task(json!({"agent_id": "echo", "schedule": {"type": "cron", "expression": "* * * * *", "misfire_policy": "queue_all"},
        "overlap_policy": "queue_next"}))
        .await;
    world.clock.advance(Duration::from_secs(180));
    until("three minutes", async || daemon.count(&task, Status::Completed).await >= 3).await;
    assert_balanced(&daemon, &task).await;
    for run in daemon.runs_of(&task).await {
        assert_eq!((run.trigger_type.as_str(), run.due_at.unwrap().micros() % 60_000_000), ("cron", 0));
    }
}

#[tokio::test]
async fn a_thousand_missed_occurrences_are_one_run_and_skips() {
    let world = World::new().await;
    let daemon = world.start_polling().await;
    let schedule = json!({"type": "interval", "seconds": 1, "misfire_policy": "queue_all"});
    let task = daemon.task(json!({"schedule": schedule})).await;
    world.clock.advance(Duration::from_secs(1_000));
    let guest = world.stage.guest().await;
    until("the skips", async || daemon.count(&task, Status::Skipped).await >= 999).await;
    assert_eq!((daemon.count(&task, Status::Queued).await, daemon.count(&task, Status::Running).await), (0, 1));
    daemon.pause_task(&task).await.unwrap();
    assert_balanced(&daemon, &task).await;
    guest.complete("done");
}

#[tokio::test]
async fn w_01_a_once_task_that_is_made_again_runs_again() {
    let world = World::new().await;
    let daemon = world.start().await;
    let body = json!({"agent_id": "echo", "schedule": {"type": "once", "run_at": PAST}});
    for round in 1..=3 {
        let task = daemon.task(body.clone()).await;
        until("the run", async || daemon.count(&task, Status::Completed).await == round).await;
        assert_eq!(daemon.state(&task).await["next_due_at"], json!(null), "the schedule has moved on");
        daemon.delete_task(&task, false).await.unwrap();
    }
    assert_eq!(daemon.runs_of(&TaskId::parse("t").unwrap()).await.len(), 3, "runs outlive their task");
}

#[tokio::test]
async fn w_01_a_cron_task_that_is_made_again_in_its_minute_goes_on() {
    let world = World::new().await;
    let daemon = world.start_polling().await;
    let body = json!({"agent_id": "echo", "schedule": {"type": "cron", "expression": "* * * * *"}});
    let task = daemon.task(body.clone()).await;
    world.clock.advance(Duration::from_secs(60));
    until("the first", async || daemon.count(&task, Status::Completed).await == 1).await;
    daemon.delete_task(&task, false).await.unwrap();
    daemon.task(body).await;
    world.clock.advance(Duration::from_secs(60));
    until("the second", async || daemon.count(&task, Status::Completed).await == 2).await;
    world.clock.advance(Duration::from_secs(60));
    until("the third", async || daemon.count(&task, Status::Completed).await == 3).await;
}

#[tokio::test]
async fn a_disabled_task_is_not_dispatched_and_goes_on_past_now() {
    let world = World::new().await;
    let daemon = world.start_polling().await;
    let other = daemon.task(json!({"task_id": "other", "agent_id": "echo", "schedule": {"type": "interval", "seconds": 100}})).await;
    let schedule = json!({"type": "interval", "seconds": 100});
    let task = daemon.task(json!({"agent_id": "echo", "enabled": false, "schedule": schedule})).await;
    world.clock.advance(Duration::from_secs(350));
    until("the other", async || daemon.count(&other, Status::Completed).await == 1).await;
    assert!(daemon.runs_of(&task).await.is_empty());
    daemon.update_task(&task, json!({"enabled": true})).await.unwrap();
    let state = assert_balanced(&daemon, &task).await;
    assert_eq!(state["totals"], json!({"occurrences": 3, "runs": 0, "skipped": 3}));
    world.clock.advance(Duration::from_secs(60));
    until("the run", async || daemon.count(&task, Status::Completed).await == 1).await;
}

#[tokio::test]
async fn w_19_a_pause_survives_an_edit_and_a_resume_catches_nothing_up() {
    let world = World::new().await;
    let daemon = world.start_polling().await;
    let schedule = |seconds: u32| json!({"type": "interval", "seconds": seconds, "misfire_policy": "queue_all"});
    let task = daemon.task(json!({"agent_id": "echo", "schedule": schedule(100), "overlap_policy": "queue_next"})).await;
    daemon.pause_task(&task).await.unwrap();
    world.clock.advance(Duration::from_secs(1_050));
    daemon.update_task(&task, json!({"schedule": schedule(200)})).await.unwrap();
    let state = assert_balanced(&daemon, &task).await;
    assert_eq!((&state["paused"], &state["schedule_revision"]), (&json!(true), &json!(2)));
    assert_eq!(state["totals"]["skipped"], 10);
    let by_hand = daemon.run_to_end(&task).await;
    assert_eq!(by_hand.status, Status::Completed, "a paused task runs when it is asked to");
    world.clock.advance(Duration::from_secs(1_050));
    daemon.resume_task(&task).await.unwrap();
    assert_eq!(daemon.runs_of(&task).await.len(), 1, "nothing is caught up");
    let state = assert_balanced(&daemon, &task).await;
    assert_eq!((&state["paused"], &state["totals"]["skipped"]), (&json!(false), &json!(15)));
    world.clock.advance(Duration::from_secs(200));
    until("the run", async || daemon.count(&task, Status::Completed).await == 2).await;
    for missing in [daemon.pause_task(&TaskId::parse("x").unwrap()).await, daemon.resume_task(&TaskId::parse("x").unwrap()).await] {
        assert_eq!(missing.unwrap_err().to_string(), "Task not found: x");
    }
}

#[tokio::test]
async fn a_task_that_is_registered_again_as_it_is_keeps_its_schedule_and_pause() {
    let world = World::new().await;
    let daemon = world.start().await;
    let body = json!({"task_id": "t", "query": "q", "schedule": {"type": "interval", "seconds": 100}});
    let before = daemon.register_task(body.clone(), false, None).await.unwrap();
    daemon.pause_task(&before.task_id).await.unwrap();
    let state = daemon.state(&before.task_id).await;
    assert_eq!(conflict(daemon.register_task(body.clone(), false, None).await), "Task already registered: t");
    let after = daemon.register_task(body, true, None).await.unwrap();
    assert_eq!((after, daemon.state(&before.task_id).await), (before, state));
}

#[tokio::test]
async fn w_04_a_schedule_that_cannot_be_read_stops_no_other() {
    let world = World::new().await;
    let id = RecordId::schedule(&TaskId::parse("bad").unwrap());
    let index = Index { due: Some(When::In(Duration::ZERO)), ..Index::default() };
    let puts = vec![Put { id: id.clone(), index, body: Bytes::from_static(b"{\"nonsense\": 1}") }];
    world.store.apply(vec![Change { id: ChangeId(1), guards: vec![], puts, deletes: vec![], events: vec![] }]).await.unwrap();
    let daemon = world.start_as("a", |settings| settings.dispatch_batch = 1).await;
    let by_hand = daemon.task(json!({"task_id": "by-hand", "agent_id": "echo"})).await;
    assert_eq!(daemon.run_to_end(&by_hand).await.status, Status::Completed);
    for at in 0..5 {
        let body = json!({"task_id": format!("t{at}"), "agent_id": "echo", "schedule": {"type": "once", "run_at": PAST}});
        let task = daemon.task(body).await;
        until("the run", async || daemon.count(&task, Status::Completed).await == 1).await;
    }
}

#[tokio::test]
async fn w_20_each_of_three_hundred_due_tasks_is_dispatched_once() {
    let world = World::new().await;
    let daemon = world.start_as("a", |settings| settings.dispatch_batch = 25).await;
    let mut tasks = Vec::new();
    for at in 0..300 {
        let body = json!({"task_id": format!("t{at}"), "agent_id": "echo", "schedule": {"type": "once", "run_at": PAST}});
        tasks.push(daemon.task(body).await);
    }
    for task in &tasks {
        until("the run", async || daemon.count(task, Status::Completed).await == 1).await;
        assert_eq!(daemon.runs_of(task).await.len(), 1);
    }
}

#[tokio::test]
async fn a_daemon_stops_also_when_something_is_always_due() {
    let world = World::new().await;
    let daemon = world.start().await;
    let schedule = json!({"type": "interval", "seconds": 0.001, "misfire_policy": "queue_all"});
    for at in 0..20 {
        daemon.task(json!({"task_id": format!("t{at}"), "agent_id": "later", "schedule": schedule})).await;
    }
    until("skips", async || daemon.count(&TaskId::parse("t0").unwrap(), Status::Skipped).await > 50).await;
    daemon.stop(Duration::ZERO).await;
}
