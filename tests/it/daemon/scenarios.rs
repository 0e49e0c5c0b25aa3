//! What happens when things break, where no other test has it; docs/semantics.md lists all scenarios.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::faulty::Fault;
use super::*;

#[tokio::test]
async fn scenario_01_a_daemon_that_dies_between_a_claim_and_its_start_loses_no_run() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "echo"})).await;
    // It is claimed, and the daemon never hears of it.
    *world.faulty.plan.lock().unwrap() = Box::new(|call| (call == "claim").then_some(Fault::After));
    let run = daemon.fire(&task).await.run_id;
    until("the claim", async || world.store.events(&run, 0, 9).await.unwrap().len() == 3).await;
    daemon.crash().await;
    *world.faulty.plan.lock().unwrap() = Box::new(|_| None);
    let daemon = world.start().await;
    let run = daemon.settled(&run).await;
    assert_eq!((run.status, run.lease_generation, run.failures), (Status::Completed, 2, 0), "one fence more, no retry less");
    let tries = [(AttemptReason::Initial, AttemptStatus::Interrupted), (AttemptReason::LeaseExpired, AttemptStatus::Completed)];
    assert_eq!(daemon.tries(&run.run_id).await, tries);
}

#[tokio::test]
async fn scenario_02_a_daemon_that_dies_before_its_outcome_is_committed_leaves_nothing_of_it() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    let gate = world.faulty.gate.write().await;
    let at_gate = world.faulty.at_gate.load(Ordering::SeqCst);
    guest.complete("lost");
    until("the outcome", async || world.faulty.at_gate.load(Ordering::SeqCst) > at_gate).await;
    daemon.crash().await;
    drop(gate);
    let daemon = world.start().await;
    world.stage.guest().await.complete("kept");
    let run = daemon.settled(&run).await;
    assert_eq!((run.status, run.attempt, run.result_preview.as_deref()), (Status::Completed, 2, Some("kept")));
    let names = daemon.names(&run.run_id).await;
    assert_eq!(names, ["queued", "claimed", "started", "recovered", "queued", "claimed", "started", "completed"]);
}

#[tokio::test]
async fn scenario_03_a_daemon_that_dies_after_a_commit_whose_answer_was_lost_repeats_nothing() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    let applied = AtomicU32::new(0);
    *world.faulty.plan.lock().unwrap() = Box::new(move |call| match call {
        "apply" if applied.fetch_add(1, Ordering::SeqCst) == 0 => Some(Fault::After),
        "apply" | "get" | "claim" | "renew" if applied.load(Ordering::SeqCst) > 0 => Some(Fault::Before),
        _ => None,
    });
    guest.complete("done");
    // Histories can be read all the while.
    until("the commit", async || world.store.events(&run, 3, 9).await.unwrap().len() == 1).await;
    daemon.crash().await;
    *world.faulty.plan.lock().unwrap() = Box::new(|_| None);
    let daemon = world.start().await;
    let run = daemon.run(&run).await.unwrap();
    assert_eq!((run.status, run.attempt, run.lease_generation), (Status::Completed, 1, 1));
    assert_eq!(daemon.names(&run.run_id).await, ["queued", "claimed", "started", "completed"]);
    assert_eq!(daemon.fire(&task).await.status, Status::Queued, "the slot was given back with it");
}

#[tokio::test]
async fn scenario_07_an_outcome_and_a_recovery_at_the_same_moment_give_one_end() {
    let world = World::new().await;
    let daemon = world.start_polling().await;
    let task = daemon.task(json!({"overlap_policy": "allow_parallel"})).await;
    for _ in 0..30 {
        let run = daemon.fire(&task).await.run_id;
        let guest = world.stage.guest().await;
        let clock = Arc::clone(&world.clock);
        let expiry = tokio::spawn(async move { clock.advance(Duration::from_secs(31)) });
        guest.complete("first");
        expiry.await.unwrap();
        let come = async || {
            let now = daemon.run(&run).await.unwrap();
            now.status == Status::Completed || now.attempt == 2
        };
        until("an end or a second attempt", come).await;
        if daemon.run(&run).await.unwrap().attempt == 2 {
            world.stage.guest().await.complete("second");
        }
        let ended = daemon.settled(&run).await;
        let expected = if ended.attempt == 1 { "first" } else { "second" };
        assert_eq!((ended.status, ended.result_preview.as_deref()), (Status::Completed, Some(expected)));
        let names = daemon.names(&run).await;
        assert_eq!(names.iter().filter(|name| *name == "completed").count(), 1, "{names:?}");
        assert_eq!(names.iter().filter(|name| *name == "recovered").count(), ended.attempt as usize - 1, "{names:?}");
    }
}

/// What a schedule has come to, and how many runs there are of it.
async fn fired(daemon: &TestDaemon, tasks: &[TaskId]) -> Vec<usize> {
    let mut fired = Vec::new();
    for task in tasks {
        fired.push(daemon.runs_of(task).await.len());
    }
    fired
}

#[tokio::test]
async fn scenario_17_a_schedule_that_changes_while_it_is_dispatched_fires_no_ghost() {
    let world = World::new().await;
    let dispatching = world.start_as("a", |settings| settings.poll = Duration::from_millis(2)).await;
    let editing = world.start_as("b", |settings| settings.executes = false).await;
    let mut tasks = Vec::new();
    for at in 0..60 {
        let schedule = json!({"type": "interval", "seconds": 3600});
        let body = json!({"task_id": format!("t{at}"), "agent_id": "echo", "overlap_policy": "allow_parallel", "schedule": schedule});
        tasks.push(editing.task(body).await);
    }
    world.clock.advance(Duration::from_secs(3601));
    for (at, task) in tasks.iter().enumerate() {
        match at % 3 {
            0 => editing.pause_task(task).await.unwrap(),
            1 => {
                let far = json!({"schedule": {"type": "once", "run_at": "2099-01-01T00:00:00Z"}});
                editing.update_task(task, far).await.unwrap();
            }
            _ => editing.delete_task(task, false).await.unwrap(),
        }
        let runs = editing.runs_of(task).await.len();
        assert!(runs <= 1, "{task} fired {runs} times");
        if at % 3 < 2 {
            let totals = editing.state(task).await["totals"].clone();
            let count = |name: &str| totals[name].as_u64().unwrap();
            assert_eq!((count("runs"), count("occurrences")), (runs as u64, runs as u64 + count("skipped")), "{task}");
        }
    }
    let before = fired(&editing, &tasks).await;
    // One more that is due after all of them: when it has run, the dispatcher has been past them.
    let past = json!({"type": "once", "run_at": "2026-01-01T00:00:00Z"});
    let last = editing.task(json!({"task_id": "last", "agent_id": "echo", "schedule": past})).await;
    until("the last run", async || dispatching.count(&last, Status::Completed).await == 1).await;
    assert_eq!(fired(&editing, &tasks).await, before, "a task fired after its schedule was taken away");
}

#[tokio::test]
async fn scenario_26_a_backlog_of_schedules_is_dispatched_in_parts_and_starves_nobody() {
    let world = World::new().await;
    let daemon = world.start_as("a", |settings| settings.executes = false).await;
    let mut tasks = Vec::new();
    for at in 0..200 {
        let policy = ["run_once", "skip_missed", "queue_all", "bounded"][at % 4];
        let mut schedule = json!({"type": "interval", "seconds": 3600, "misfire_policy": policy});
        if policy == "bounded" {
            schedule["max_catch_up"] = json!(2);
        }
        let body = json!({"task_id": format!("t{at}"), "agent_id": "echo", "overlap_policy": "allow_parallel", "schedule": schedule});
        tasks.push(daemon.task(body).await);
    }
    let manual = daemon.task(json!({"task_id": "manual", "agent_id": "echo"})).await;
    daemon.crash().await;
    // Five hours and a half off.
    world.clock.advance(Duration::from_secs(5 * 3600 + 1800));
    let small = |settings: &mut sandclock::daemon::DaemonSettings| {
        settings.poll = Duration::from_millis(5);
        settings.dispatch_batch = 16;
    };
    let daemon = world.start_as("a", small).await;
    assert_eq!(daemon.run_to_end(&manual).await.status, Status::Completed);
    for (at, task) in tasks.iter().enumerate() {
        let runs = [1, 0, 5, 2][at % 4];
        let totals = json!({"occurrences": 5, "runs": runs, "skipped": 5 - runs});
        until("the totals", async || daemon.state(task).await["totals"] == totals).await;
        until("the runs", async || daemon.count(task, Status::Completed).await == runs).await;
    }
}
