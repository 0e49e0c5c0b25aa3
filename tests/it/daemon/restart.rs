//! Stops, crashes and several daemons on one store.

use super::*;
use crate::guest::plain;

const PAST: &str = "2026-01-01T00:00:00Z";

#[tokio::test]
async fn w_10_a_graceful_stop_hands_back_without_burning_an_attempt() {
    let world = World::new().await;
    world.stage.add_component("sleeper", &plain::sleeper(3_600_000));
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "sleeper"})).await;
    let run = daemon.fire(&task).await.run_id;
    until("progress", async || daemon.names(&run).await.contains(&"progress".to_owned())).await;
    daemon.stop(Duration::ZERO).await;

    world.stage.echo("sleeper");
    let daemon = world.start().await;
    let ended = daemon.settled(&run).await;
    assert_eq!((ended.status, ended.failures, ended.recoveries), (Status::Completed, 0, 0));
    assert_eq!((ended.attempt, ended.max_attempts), (2, 2), "the interrupted attempt costs no retry");
    let tries = [(AttemptReason::Initial, AttemptStatus::Interrupted), (AttemptReason::Recovery, AttemptStatus::Completed)];
    assert_eq!(daemon.tries(&run).await, tries);
    let names = daemon.names(&run).await;
    assert_eq!(names[4..], ["recovered", "queued", "claimed", "started", "completed"]);
    assert_eq!(daemon.payloads(&run).await[4]["resumed"], false);
}

#[tokio::test]
async fn a_stop_waits_for_what_ends_within_the_grace() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    let manager = Manager::clone(&daemon);
    let stopping = tokio::spawn(daemon.stop(harness::PATIENCE));
    until("the stop", async || manager.ready().is_err()).await;
    guest.complete("in time");
    stopping.await.unwrap();
    let daemon = world.start().await;
    let run = daemon.run(&run).await.unwrap();
    assert_eq!((run.status, run.attempt), (Status::Completed, 1));
}

#[tokio::test]
async fn a_stop_leaves_no_run_behind_that_it_has_just_claimed() {
    for round in 0..10 {
        let world = World::new().await;
        let daemon = world.start().await;
        let task = daemon.task(json!({"overlap_policy": "allow_parallel"})).await;
        let mut runs = Vec::new();
        for _ in 0..round {
            runs.push(daemon.fire(&task).await.run_id);
        }
        let stage = std::sync::Arc::clone(&world.stage);
        let serving = tokio::spawn(async move {
            loop {
                let guest = stage.guest().await;
                tokio::spawn(async move {
                    guest.stopped().await;
                    guest.end(Ended::Stopped(Stop::ShuttingDown));
                });
            }
        });
        daemon.stop(Duration::ZERO).await;
        serving.abort();
        let daemon = world.start_as("b", |settings| settings.executes = false).await;
        for run in runs {
            let run = daemon.run(&run).await.unwrap();
            assert_eq!((run.status, run.recoveries), (Status::Queued, 0), "a run is left with a worker that is gone");
        }
    }
}

#[tokio::test]
async fn a_stop_claims_no_more_from_a_store_that_is_away() {
    for _ in 0..8 {
        let world = World::new().await;
        let daemon = world.start_polling().await;
        daemon.fire(&daemon.task(json!({"agent_id": "later"})).await).await;
        let claims = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let count = std::sync::Arc::clone(&claims);
        *world.faulty.plan.lock().unwrap() = Box::new(move |call| {
            (call == "claim").then(|| count.fetch_add(1, std::sync::atomic::Ordering::SeqCst)).map(|_| faulty::Fault::Before)
        });
        let claims = || claims.load(std::sync::atomic::Ordering::SeqCst);
        until("a claim", async || claims() > 0).await;
        let before = claims();
        daemon.stop(Duration::ZERO).await;
        // One may be on its way, one may be about to be repeated, and one asks whether the store is back.
        assert!(claims() <= before + 3, "{before} claims, and {} more", claims() - before);
    }
}

#[tokio::test]
async fn what_is_queued_at_a_stop_runs_after_the_start() {
    let world = World::new().await;
    let daemon = world.start_as("a", |settings| settings.executes = false).await;
    let task = daemon.task(json!({"agent_id": "echo"})).await;
    let run = daemon.fire(&task).await.run_id;
    daemon.stop(Duration::ZERO).await;
    let daemon = world.start().await;
    assert_eq!(daemon.settled(&run).await.status, Status::Completed);
}

#[tokio::test]
async fn a_crash_is_recovered_by_the_next_incarnation_at_once() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await.run_id;
    let lost = world.stage.guest().await;
    daemon.crash().await;
    let daemon = world.start().await;
    let guest = world.stage.guest().await;
    assert_eq!((guest.run_id(), guest.spec.context.attempt), (run.clone(), 2));
    lost.complete("from the grave");
    guest.complete("alive");
    let ended = daemon.settled(&run).await;
    assert_eq!((ended.status, ended.result_preview.as_deref(), ended.lease_generation), (Status::Completed, Some("alive"), 2));
    let tries = [(AttemptReason::Initial, AttemptStatus::Interrupted), (AttemptReason::LeaseExpired, AttemptStatus::Completed)];
    assert_eq!(daemon.tries(&run).await, tries);
    let names = daemon.names(&run).await;
    assert_eq!(names, ["queued", "claimed", "started", "recovered", "queued", "claimed", "started", "completed"]);
    assert_eq!(daemon.payloads(&run).await[3]["reason"], "lease expired");
}

#[tokio::test]
async fn w_13_a_run_that_kills_its_daemon_every_time_ends() {
    let world = World::new().await;
    let mut daemon = world.start_polling().await;
    let task = daemon.task(json!({"max_recoveries": 3})).await;
    let run = daemon.fire(&task).await.run_id;
    let other = daemon.task(json!({"task_id": "other", "agent_id": "echo"})).await;
    for attempt in 1..=4 {
        let guest = world.stage.guest().await;
        assert_eq!(guest.spec.context.attempt, attempt);
        daemon.crash().await;
        daemon = world.start_polling().await;
        assert_eq!(daemon.run_to_end(&other).await.status, Status::Completed, "others are not disturbed");
        world.clock.advance(Duration::from_secs(11));
    }
    let ended = daemon.settled(&run).await;
    assert_eq!((ended.status, ended.attempt, ended.error_kind), (Status::Failed, 4, Some(ErrorKind::Lost)));
    assert!(ended.error.unwrap().contains("max_recoveries = 3"));
    assert_eq!(daemon.fire(&task).await.status, Status::Queued, "the slot is free");
}

#[tokio::test]
async fn a_cancel_survives_the_crash_of_the_daemon() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"overlap_policy": "queue_next"})).await;
    let run = daemon.fire(&task).await.run_id;
    let next = daemon.fire(&task).await.run_id;
    drop(world.stage.guest().await);
    daemon.cancel_run(&run, "api").await.unwrap();
    daemon.crash().await;
    let daemon = world.start().await;
    assert_eq!(daemon.settled(&run).await.status, Status::Cancelled);
    let guest = world.stage.guest().await;
    assert_eq!(guest.run_id(), next, "the next one has its turn");
    guest.complete("done");
    daemon.settled(&next).await;
}

#[tokio::test]
async fn w_15_an_attempt_that_lost_its_lease_cannot_end_its_run() {
    let world = World::new().await;
    let daemon = world.start_as("a", |settings| {
        settings.poll = Duration::from_millis(5);
        settings.lease = Duration::from_secs(8);
    });
    let daemon = daemon.await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await.run_id;
    let first = world.stage.guest().await;
    world.clock.advance(Duration::from_secs(9));
    let second = world.stage.guest().await;
    assert_eq!((second.run_id(), second.spec.context.attempt), (run.clone(), 2));
    first.complete("stale");
    second.host.report("still here".to_owned(), None);
    until("progress", async || daemon.names(&run).await.contains(&"progress".to_owned())).await;
    assert_eq!(daemon.run(&run).await.unwrap().status, Status::Running, "the stale answer changed nothing");
    second.complete("fresh");
    let ended = daemon.settled(&run).await;
    assert_eq!(ended.result_preview.as_deref(), Some("fresh"));
    let names = daemon.names(&run).await;
    assert_eq!(names.iter().filter(|name| *name == "completed").count(), 1);
}

#[tokio::test]
async fn w_05_two_daemons_dispatch_an_occurrence_once() {
    let world = World::new().await;
    let polling = |settings: &mut sandclock::daemon::DaemonSettings| settings.poll = Duration::from_millis(2);
    let idle = world.start_as("c", |settings| settings.executes = false).await;
    let (first, second) = (world.start_as("a", polling).await, world.start_as("b", polling).await);
    let mut tasks = Vec::new();
    for at in 0..100 {
        let body = json!({"task_id": format!("t{at}"), "agent_id": "echo", "overlap_policy": "allow_parallel",
            "schedule": {"type": "once", "run_at": PAST}});
        tasks.push(idle.task(body).await);
    }
    for task in &tasks {
        until("the run", async || idle.count(task, Status::Completed).await > 0).await;
        let runs = idle.runs_of(task).await;
        assert_eq!((runs.len(), runs[0].attempt), (1, 1));
        assert_eq!(idle.state(task).await["totals"]["runs"], 1);
    }
    drop((first, second));
}

#[tokio::test]
async fn w_09_two_daemons_never_run_a_run_twice() {
    let world = World::new().await;
    let polling = |settings: &mut sandclock::daemon::DaemonSettings| settings.poll = Duration::from_millis(2);
    let (first, second) = (world.start_as("a", polling).await, world.start_as("b", polling).await);
    let parallel = first.task(json!({"agent_id": "echo", "overlap_policy": "allow_parallel"})).await;
    let queued = first.task(json!({"task_id": "queued", "agent_id": "echo", "overlap_policy": "queue_next"})).await;
    let mut runs = Vec::new();
    for at in 0..100 {
        let daemon = if at % 2 == 0 { &first } else { &second };
        runs.push(daemon.fire(&parallel).await.run_id);
        runs.push(daemon.fire(&queued).await.run_id);
    }
    let mut workers = std::collections::BTreeSet::new();
    for run in &runs {
        let run = second.settled(run).await;
        assert_eq!((run.status, run.attempt, run.lease_generation), (Status::Completed, 1, 1));
        // A run that lives long enough on a busy machine tells so.
        let names = first.names(&run.run_id).await.into_iter().filter(|name| name != "heartbeat");
        assert_eq!(names.collect::<Vec<_>>(), ["queued", "claimed", "started", "completed"]);
        workers.insert(first.attempts(&run.run_id).await.unwrap()[0].worker_id.to_string());
    }
    let mut order: Vec<_> = first.runs_of(&queued).await;
    order.sort_by_key(|run| run.started_at);
    assert!(order.windows(2).all(|pair| pair[0].finished_at <= pair[1].started_at), "two runs of a queue overlap");
}

#[tokio::test]
async fn a_cancel_reaches_a_guest_of_another_daemon() {
    let world = World::new().await;
    let daemon = world.start_as("a", |settings| settings.lease = Duration::from_secs(4)).await;
    let other = world.start_as("b", |settings| settings.executes = false).await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    assert_eq!(other.cancel_run(&run, "api").await.unwrap().status, Status::Running);
    guest.cancelled().await;
    guest.end(Ended::Cancelled { message: String::new() });
    assert_eq!(daemon.settled(&run).await.status, Status::Cancelled);
}
