//! Defects of the system that users come from, each looked for where it would show, and told by its number. More of them are beside
//! what they are about; docs/semantics.md lists all.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use sandclock::domain::id::WorkerId;
use sandclock::store::{Change, ChangeId, Index, Put, RecordId, Renewal};

use super::faulty::Fault;
use super::*;
use crate::guest::hostile;

/// Counts the calls of the store, by name, from now on.
fn counted(world: &World) -> Arc<Mutex<BTreeMap<&'static str, u32>>> {
    let calls = Arc::new(Mutex::new(BTreeMap::new()));
    let counts = Arc::clone(&calls);
    *world.faulty.plan.lock().unwrap() = Box::new(move |call| {
        *counts.lock().unwrap().entry(call).or_default() += 1;
        None
    });
    calls
}

#[tokio::test]
async fn w_02_a_renewal_at_any_moment_stands_in_no_outcomes_way() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"overlap_policy": "allow_parallel"})).await;
    let worker = WorkerId::parse("worker_a.1").unwrap();
    for round in 0..20 {
        let run = daemon.fire(&task).await.run_id;
        let guest = world.stage.guest().await;
        let rev = daemon.raw(RecordId::run(&run)).await.unwrap().0;
        // The outcome is decided on the record as it was read; it waits here while the lease is renewed.
        let gate = world.faulty.gate.write().await;
        let at_gate = world.faulty.at_gate.load(Ordering::SeqCst);
        guest.complete(&round.to_string());
        until("the outcome", async || world.faulty.at_gate.load(Ordering::SeqCst) > at_gate).await;
        let renewed = world.store.renew(&worker, &[(run.clone(), 1)], Duration::from_secs(60)).await.unwrap();
        assert!(matches!(renewed[..], [Renewal::Held(_)]));
        assert_eq!(daemon.raw(RecordId::run(&run)).await.unwrap().0, rev, "a renewal is no decision");
        drop(gate);
        let run = daemon.settled(&run).await;
        assert_eq!((run.status, run.attempt, run.result_preview), (Status::Completed, 1, Some(round.to_string())));
    }
}

#[tokio::test]
async fn w_03_cancel_previous_overwrites_no_run_that_ends_meanwhile() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"overlap_policy": "cancel_previous"})).await;
    for _ in 0..40 {
        let live = daemon.fire(&task).await.run_id;
        let guest = world.stage.guest().await;
        let (manager, task) = (Manager::clone(&daemon), task.clone());
        let next = tokio::spawn(async move { manager.run_now(&task, RunWish::default()).await.unwrap().run_id });
        guest.complete("done");
        let next = next.await.unwrap();
        let ended = daemon.settled(&live).await;
        let result = (ended.status, ended.result_preview.as_deref());
        assert!(matches!(result, (Status::Completed, Some("done")) | (Status::Cancelled, None)), "neither of the two ends: {ended:?}");
        let names = daemon.names(&live).await;
        assert_eq!(names.iter().filter(|name| matches!(name.as_str(), "completed" | "cancelled")).count(), 1, "{names:?}");
        let guest = world.stage.guest().await;
        assert_eq!((guest.run_id(), daemon.run(&live).await.unwrap()), (next.clone(), ended), "a run that has ended is not touched");
        guest.complete("done");
        daemon.settled(&next).await;
    }
}

#[tokio::test]
async fn w_04_a_run_that_cannot_be_read_holds_up_no_others() {
    let world = World::new().await;
    let daemon = world.start().await;
    let damaged = daemon.task(json!({"task_id": "damaged", "agent_id": "later"})).await;
    let id = RecordId::run(&daemon.fire(&damaged).await.run_id);
    let record = daemon.store.get(std::slice::from_ref(&id)).await.unwrap().pop().unwrap().unwrap();
    let index = Index::of_run(&record.decode_run().unwrap(), daemon.store.now().await.unwrap());
    let put = Put { id, index, body: "{\"run_id\": \"another\"}".into() };
    let change = Change { id: ChangeId(7), guards: Vec::new(), puts: vec![put], deletes: Vec::new(), events: Vec::new() };
    daemon.store.apply(vec![change]).await.unwrap();
    world.stage.echo("later");
    let other = daemon.task(json!({"task_id": "other", "agent_id": "later"})).await;
    assert_eq!(daemon.run_to_end(&other).await.status, Status::Completed);
}

#[tokio::test]
async fn w_06_the_cursor_and_the_run_of_an_occurrence_are_one_commit() {
    for fault in [Fault::Before, Fault::After] {
        let world = World::new().await;
        let daemon = world.start_polling().await;
        let task = daemon.task(json!({"agent_id": "echo", "schedule": {"type": "interval", "seconds": 3600}})).await;
        let tried = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&tried);
        *world.faulty.plan.lock().unwrap() = Box::new(move |call| match call {
            "apply" => (count.fetch_add(1, Ordering::SeqCst) == 0 || fault == Fault::Before).then_some(fault),
            // Whether it was written cannot be found out before the daemon dies.
            "get" => (count.load(Ordering::SeqCst) > 0).then_some(Fault::Before),
            _ => None,
        });
        world.clock.advance(Duration::from_secs(3600));
        until("the dispatch", async || tried.load(Ordering::SeqCst) > 0).await;
        daemon.crash().await;
        *world.faulty.plan.lock().unwrap() = Box::new(|_| None);
        let daemon = world.start_polling().await;
        until("the run", async || daemon.count(&task, Status::Completed).await > 0).await;
        assert_eq!(daemon.runs_of(&task).await.len(), 1);
        assert_eq!(daemon.state(&task).await["totals"], json!({"occurrences": 1, "runs": 1, "skipped": 0}));
        world.clock.advance(Duration::from_secs(3600));
        until("the next run", async || daemon.count(&task, Status::Completed).await > 1).await;
    }
}

#[tokio::test]
async fn w_08_runs_that_cannot_start_hold_up_no_others() {
    let world = World::new().await;
    let daemon = world.start().await;
    let orphans = daemon.task(json!({"task_id": "orphans", "agent_id": "later", "overlap_policy": "allow_parallel"})).await;
    let line = daemon.task(json!({"task_id": "line", "overlap_policy": "queue_next"})).await;
    daemon.fire_at_once(&orphans, 120).await;
    daemon.fire_at_once(&line, 106).await;
    let first = world.stage.guest().await;
    let other = daemon.task(json!({"task_id": "other", "agent_id": "echo"})).await;
    assert_eq!(daemon.run_to_end(&other).await.status, Status::Completed);
    assert_eq!((daemon.count(&orphans, Status::Queued).await, daemon.count(&line, Status::Queued).await), (120, 105));
    first.complete("done");
}

#[tokio::test]
async fn w_12_a_run_whose_task_is_gone_is_recovered_to_its_end() {
    for (max_recoveries, status) in [(0, Status::Failed), (3, Status::Completed)] {
        let world = World::new().await;
        let daemon = world.start().await;
        let task = daemon.task(json!({"max_recoveries": max_recoveries, "retry_policy": {"max_retries": 1}})).await;
        let run = daemon.fire(&task).await.run_id;
        drop(world.stage.guest().await);
        daemon.delete_task(&task, false).await.unwrap();
        daemon.crash().await;
        let daemon = world.start().await;
        if status == Status::Completed {
            world.stage.guest().await.complete("done");
        }
        assert_eq!(daemon.settled(&run).await.status, status);
        let other = daemon.task(json!({"task_id": "other", "agent_id": "echo"})).await;
        assert_eq!(daemon.run_to_end(&other).await.status, Status::Completed, "recovery goes on");
    }
}

#[tokio::test]
async fn w_14_work_that_outlasts_its_lease_is_kept() {
    let world = World::new().await;
    world.stage.add_component("busy", &hostile::spin());
    let daemon = world.start_as("a", |settings| settings.lease = Duration::from_secs(3)).await;
    let task = daemon.task(json!({"agent_id": "busy", "cancel_grace_seconds": 0})).await;
    let run = daemon.fire(&task).await.run_id;
    let given_until = daemon.becomes(&run, Status::Running).await.lease_expires_at.unwrap();
    // It computes without a pause past the lease that it was given; whoever renews is elsewhere.
    until("renewals", async || daemon.run(&run).await.unwrap().heartbeat_at.is_some_and(|beat| beat > given_until)).await;
    let now = daemon.run(&run).await.unwrap();
    assert_eq!((now.status, now.attempt, now.recoveries), (Status::Running, 1, 0));
    daemon.cancel_run(&run, "api").await.unwrap();
    assert_eq!(daemon.settled(&run).await.status, Status::Cancelled);
}

#[tokio::test]
async fn w_18_a_guest_that_heeds_nothing_is_stopped_in_time_and_never_runs_beside_itself() {
    let world = World::new().await;
    world.stage.add_component("busy", &hostile::spin());
    let daemon = world.start().await;
    let retry = json!({"max_retries": 2, "initial_delay_seconds": 0});
    let task = daemon.task(json!({"agent_id": "busy", "timeout_seconds": 0.1, "retry_policy": retry})).await;
    let run = daemon.run_to_end(&task).await;
    assert_eq!((run.status, run.attempt), (Status::Timeout, 3));
    let attempts = daemon.attempts(&run.run_id).await.unwrap();
    assert!(attempts.windows(2).all(|pair| pair[0].finished_at.unwrap() <= pair[1].started_at), "two attempts at once: {attempts:?}");
}

#[tokio::test]
async fn w_21_a_history_goes_on_over_restarts_and_is_the_same_for_everybody() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await.run_id;
    world.stage.guest().await.host.report("half".to_owned(), Some(0.5));
    until("progress", async || daemon.names(&run).await.contains(&"progress".to_owned())).await;
    daemon.crash().await;
    let daemon = world.start().await;
    world.stage.guest().await.complete("done");
    let run = daemon.settled(&run).await;
    let told = daemon.payloads(&run.run_id).await;
    assert_eq!(told.len(), 9, "{:?}", daemon.names(&run.run_id).await);
    let other = world.start_as("b", |settings| settings.executes = false).await;
    assert_eq!(other.payloads(&run.run_id).await, told, "another process reads another history");
    let mirror = world.file(&run, "events.jsonl").unwrap();
    let mirrored: Vec<Value> = mirror.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(mirrored, told);
}

#[tokio::test]
async fn w_24_a_run_that_is_waited_for_runs_though_many_older_ones_wait() {
    let world = World::new().await;
    let daemon = world.start().await;
    let older = daemon.task(json!({"task_id": "older", "agent_id": "later", "overlap_policy": "allow_parallel"})).await;
    daemon.fire_at_once(&older, 80).await;
    let task = daemon.task(json!({"agent_id": "echo"})).await;
    assert_eq!(daemon.run_to_end(&task).await.status, Status::Completed);
    assert_eq!(daemon.count(&older, Status::Queued).await, 80);
}

#[tokio::test]
async fn w_35_of_two_hundred_wishes_at_once_none_is_turned_away() {
    let world = World::new().await;
    let daemon = world.start().await;
    for policy in ["allow_parallel", "queue_next"] {
        let task = daemon.task(json!({"task_id": policy, "agent_id": "echo", "overlap_policy": policy})).await;
        for run in daemon.fire_at_once(&task, 200).await {
            assert_eq!(daemon.settled(&run.run_id).await.status, Status::Completed);
        }
        assert_eq!(daemon.count(&task, Status::Completed).await, 200);
    }
}

#[tokio::test]
async fn w_36_runs_of_the_same_moment_start_in_the_order_in_which_they_were_asked_for() {
    let world = World::new().await;
    let idle = world.start_as("b", |settings| settings.executes = false).await;
    let task = idle.task(json!({"agent_id": "echo", "overlap_policy": "allow_parallel"})).await;
    let mut asked = Vec::new();
    for _ in 0..150 {
        asked.push(idle.fire(&task).await.run_id);
    }
    let daemon = world.start_as("a", |settings| settings.max_running = 1).await;
    let mut started = Vec::new();
    for run in &asked {
        started.push((daemon.settled(run).await.started_at, run.clone()));
    }
    started.sort();
    let started: Vec<RunId> = started.into_iter().map(|(_, run)| run).collect();
    assert_eq!(started, asked);
}

#[tokio::test]
async fn w_39_a_run_costs_a_handful_of_calls_of_the_store() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    let calls = counted(&world);
    let runs = 20;
    for _ in 0..runs {
        let run = daemon.fire(&task).await.run_id;
        world.stage.guest().await.complete("done");
        daemon.settled(&run).await;
    }
    let mut calls = calls.lock().unwrap().clone();
    // Renewals come by the clock, one for all runs; what the daemon asks of its own accord is spread over the runs.
    calls.remove("renew");
    assert!(calls.get("apply") == Some(&(2 * runs)) && calls.values().sum::<u32>() <= 16 * runs, "{calls:?}");
}

#[tokio::test]
async fn w_41_a_wish_reads_no_more_when_many_runs_wait() {
    let world = World::new().await;
    let daemon = world.start_as("a", |settings| settings.executes = false).await;
    let task = daemon.task(json!({"agent_id": "later", "overlap_policy": "allow_parallel"})).await;
    let mut reads = Vec::new();
    for waiting in [0, 500] {
        daemon.fire_at_once(&task, waiting).await;
        let calls = counted(&world);
        daemon.fire(&task).await;
        // What the daemon asks of its own accord is not the wish's.
        reads.push(["get", "apply"].map(|call| calls.lock().unwrap().get(call).copied().unwrap_or(0)));
    }
    assert_eq!(reads[0], reads[1]);
    assert!(reads[0].iter().sum::<u32>() <= 3, "{reads:?}");
}
