//! Why a run is where it is, asked of real daemons about real runs.

use super::*;
use bytes::Bytes;
use sandclock::domain::run::Attempt;
use sandclock::domain::why::{Code, Why};
use sandclock::store::{Change, ChangeId, Guard, Index, Put, RecordId};

/// The answer, which is about the run as it is.
async fn why(daemon: &TestDaemon, run: &RunId) -> Why {
    let why = daemon.why(run).await.unwrap();
    let now = daemon.run(run).await.unwrap();
    assert_eq!((&why.run_id, why.status), (run, now.status), "{why:?}");
    why
}

fn member<'a>(why: &'a Why, name: &str) -> &'a str {
    why.members.get(name).and_then(Value::as_str).unwrap_or_else(|| panic!("no {name} in {why:?}"))
}

#[tokio::test]
async fn a_run_without_an_agent_says_so_whether_its_task_is_paused_or_disabled() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "later", "schedule": {"type": "interval", "seconds": 100}})).await;
    let run = daemon.fire(&task).await.run_id;
    let first = why(&daemon, &run).await;
    assert_eq!((first.code, member(&first, "agent_id")), (Code::AgentUnknown, "later"));
    assert!(first.sentence.contains("this daemon has no agent later"), "{}", first.sentence);
    daemon.pause_task(&task).await.unwrap();
    daemon.update_task(&task, json!({"enabled": false})).await.unwrap();
    assert_eq!(why(&daemon, &run).await.sentence, first.sentence, "neither keeps a queued run from its worker");
    world.stage.echo("later");
    daemon.settled(&run).await;
    let last = why(&daemon, &run).await;
    assert_eq!((last.code, last.members.get("attempt")), (Code::Completed, Some(&json!(1))));
    assert!(matches!(daemon.why(&RunId::parse("run_x").unwrap()).await, Err(ManagerError::NotFound { .. })));
}

#[tokio::test]
async fn a_daemon_that_executes_nothing_or_stops_says_so() {
    let world = World::new().await;
    let daemon = world.start_as("a", |settings| settings.executes = false).await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await.run_id;
    assert_eq!(why(&daemon, &run).await.code, Code::NoWorker);
    daemon.stop(Duration::ZERO).await;

    let daemon = world.start_as("a", |settings| settings.max_running = 1).await;
    let guest = world.stage.guest().await;
    let waits = daemon.task(json!({"task_id": "u"})).await;
    let waits = daemon.fire(&waits).await.run_id;
    let (manager, asking) = (Manager::clone(&daemon), waits.clone());
    let stopping = tokio::spawn(daemon.stop(harness::PATIENCE));
    until("the stop", async || manager.ready().is_err()).await;
    assert_eq!(manager.why(&asking).await.unwrap().code, Code::Stopping);
    assert_eq!(manager.why(&run).await.unwrap().code, Code::Running, "an attempt that ends in the grace goes on");
    guest.complete("done");
    stopping.await.unwrap();
}

#[tokio::test]
async fn limits_of_the_agent_and_of_the_daemon_are_told_with_their_numbers() {
    let world = World::new().await;
    world.stage.limit("guest", 2);
    let daemon = world.start_as("a", |settings| settings.max_running = 3).await;
    let task = daemon.task(json!({"overlap_policy": "allow_parallel"})).await;
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(daemon.fire(&task).await.run_id);
    }
    let guests = [world.stage.guest().await, world.stage.guest().await];
    let limited = why(&daemon, &runs[2]).await;
    assert_eq!((limited.code, &limited.members["running"], &limited.members["max_running"]), (Code::AgentAtLimit, &json!(2), &json!(2)));
    world.stage.limit("guest", 9);
    let third = world.stage.guest().await;
    let last = daemon.fire(&task).await.run_id;
    let full = why(&daemon, &last).await;
    assert_eq!((full.code, &full.members["max_running"]), (Code::NoPlace, &json!(3)));
    assert!(full.sentence.contains("all 3 places of this daemon are taken"), "{}", full.sentence);
    for guest in guests.into_iter().chain([third]) {
        guest.complete("done");
    }
    world.stage.guest().await.complete("done");
    daemon.settled(&last).await;
}

#[tokio::test]
async fn a_store_that_is_full_is_told_without_what_it_says_of_itself() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "later", "overlap_policy": "allow_parallel"})).await;
    let run = daemon.fire(&task).await.run_id;
    *world.faulty.plan.lock().unwrap() = Box::new(|call| ["apply", "claim", "renew"].contains(&call).then_some(faulty::Fault::Full));
    assert!(daemon.run_now(&task, RunWish::default()).await.is_err());
    world.stage.echo("later");
    let out = why(&daemon, &run).await;
    assert_eq!(out.code, Code::StoreOut);
    assert!(out.sentence.contains("but the store is full; free some space") && !out.sentence.contains("test wants"), "{}", out.sentence);
    *world.faulty.plan.lock().unwrap() = Box::new(|_| None);
    daemon.settled(&run).await;
}

#[tokio::test]
async fn a_line_is_told_with_whom_it_waits_for() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"overlap_policy": "queue_next"})).await;
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(daemon.fire(&task).await.run_id);
    }
    let guest = world.stage.guest().await;
    let waits = why(&daemon, &runs[2]).await;
    assert_eq!(waits.sentence, format!("It is 2nd in line and waits for run {}, which is running", runs[0]));
    assert_eq!((member(&waits, "waits_for"), &waits.members["position"]), (runs[0].as_str(), &json!(2)));
    guest.complete("done");
    let guest = world.stage.guest().await;
    assert_eq!(why(&daemon, &runs[2]).await.sentence, format!("It is 1st in line and waits for run {}, which is running", runs[1]));
    guest.complete("done");
    world.stage.guest().await.complete("done");
    daemon.settled(&runs[2]).await;
}

#[tokio::test]
async fn a_run_that_takes_another_s_place_waits_for_its_end_and_the_other_says_who_asked() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"overlap_policy": "cancel_previous"})).await;
    let first = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    let second = daemon.fire(&task).await.run_id;
    let waits = why(&daemon, &second).await;
    let asked = daemon.run(&first).await.unwrap().cancel_requested_at.unwrap();
    assert_eq!((waits.code, member(&waits, "since")), (Code::WaitsForCancel, asked.to_string().as_str()));
    let going = why(&daemon, &first).await;
    assert_eq!((going.code, &going.members["cancel"]["by"]), (Code::CancelRequested, &json!("overlap_policy")));
    assert!(going.sentence.contains(&format!("run {second} of the task takes its place")), "{}", going.sentence);
    guest.end(Ended::Cancelled { message: String::new() });
    daemon.settled(&first).await;
    let gone = why(&daemon, &first).await;
    assert_eq!((gone.code, member(&gone, "by")), (Code::Cancelled, "overlap_policy"));
    assert!(member(&gone, "reason").contains("takes its place"), "{gone:?}");
    let guest = world.stage.guest().await;
    daemon.cancel_run(&second, "api").await.unwrap();
    guest.end(Ended::Cancelled { message: "as you wish".to_owned() });
    daemon.settled(&second).await;
    let last = why(&daemon, &second).await;
    assert!(last.sentence.ends_with("by api: as you wish"), "{}", last.sentence);
}

#[tokio::test]
async fn a_retry_tells_its_number_its_time_and_the_failure() {
    let world = World::new().await;
    let daemon = world.start().await;
    let policy = json!({"retry_policy": {"max_retries": 3, "initial_delay_seconds": 3600, "jitter": 0}});
    let task = daemon.task(policy).await;
    let run = daemon.fire(&task).await.run_id;
    world.stage.guest().await.fail(ErrorKind::Trap);
    let queued = daemon.becomes(&run, Status::Queued).await;
    until("the retry", async || why(&daemon, &run).await.code == Code::Retry).await;
    let retry = why(&daemon, &run).await;
    assert_eq!((member(&retry, "error"), member(&retry, "error_kind")), ("it went wrong", "trap"));
    assert_eq!(retry.members["retry"], json!({"number": 1, "of": 3, "after_attempt": 1}));
    let due = member(&retry, "due_at");
    assert_eq!(retry.sentence, format!("It waits for retry 1 of 3 at {due}, because attempt 1 failed (trap): it went wrong"));
    assert!(queued.triggered_at.to_string().as_str() < due);
    daemon.cancel_run(&run, "api").await.unwrap();
    assert!(why(&daemon, &run).await.sentence.contains("It was cancelled at"));
}

#[tokio::test]
async fn lost_workers_are_told_until_the_run_is_given_up() {
    let world = World::new().await;
    let mut daemon = world.start().await;
    let task = daemon.task(json!({"max_recoveries": 2})).await;
    let run = daemon.fire(&task).await.run_id;
    for loss in 1..=3 {
        drop(world.stage.guest().await);
        let running = why(&daemon, &run).await;
        assert_eq!((running.code, &running.members["attempt"]), (Code::Running, &json!(loss)));
        assert!(running.sentence.contains("under a lease until"), "{}", running.sentence);
        daemon.crash();
        daemon = world.start_as("a", |settings| settings.executes = false).await;
        let after = why(&daemon, &run).await;
        match loss {
            1 => assert_eq!((after.code, &after.members["recoveries"]), (Code::NoWorker, &json!(1)), "the first is ready at once"),
            2 => assert_eq!((after.code, &after.members["max_recoveries"]), (Code::BacksOff, &json!(2)), "{after:?}"),
            _ => assert_eq!((after.code, member(&after, "error_kind")), (Code::WorkersLost, "lost"), "{after:?}"),
        }
        daemon.stop(Duration::ZERO).await;
        world.clock.advance(Duration::from_secs(10));
        daemon = world.start().await;
    }
    assert_eq!(daemon.settled(&run).await.status, Status::Failed);
}

#[tokio::test]
async fn a_silent_worker_is_told_until_recovery_takes_the_run_up() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await.run_id;
    drop(world.stage.guest().await);
    daemon.crash();
    let daemon = world.start_as("b", |settings| settings.executes = false).await;
    world.clock.step_wall(3_600_000_000);
    assert_eq!(why(&daemon, &run).await.code, Code::Running, "the lease holds, whatever the wall clock says");
    world.clock.advance(Duration::from_secs(31));
    let silent = why(&daemon, &run).await;
    assert_eq!((silent.code, member(&silent, "worker_id")), (Code::LeaseOverdue, "worker_a.1"));
    assert!(silent.sentence.contains("is silent since") && silent.sentence.contains("recovery takes the run up"), "{}", silent.sentence);
}

/// Notes that a run's attempt may have changed something outside.
async fn began_effects(world: &World, run: &RunId) {
    let id = RecordId::attempt(run, 1);
    let record = world.store.get(std::slice::from_ref(&id)).await.unwrap().pop().unwrap().unwrap();
    let attempt = Attempt { effects_began: true, ..record.decode().unwrap() };
    let index = Index { run: Some(run.clone()), ..Index::default() };
    let body = Bytes::from(serde_json::to_vec(&attempt).unwrap());
    let puts = vec![Put { id: id.clone(), index, body }];
    let change = Change { id: ChangeId(7), guards: vec![Guard::Rev(id, record.rev)], puts, deletes: Vec::new(), events: Vec::new() };
    world.store.apply(vec![change]).await.unwrap();
}

#[tokio::test]
async fn a_run_whose_outcome_is_unknown_is_held_and_says_so() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"on_unknown": "hold"})).await;
    let run = daemon.fire(&task).await.run_id;
    drop(world.stage.guest().await);
    began_effects(&world, &run).await;
    daemon.crash();
    let daemon = world.start().await;
    let held = why(&daemon, &run).await;
    assert_eq!((held.code, held.status, member(&held, "released_by")), (Code::OutcomeUnknown, Status::AwaitingApproval, "resume"));
    assert!(
        held.sentence.contains("attempt 1 ended without an outcome after it had begun to change something outside"),
        "{}",
        held.sentence
    );
    let until: sandclock::domain::time::Timestamp = serde_json::from_value(held.members["until"].clone()).unwrap();
    let left = until.since(held.as_of);
    assert!(left <= sandclock::store::PARKED_FOR && left > sandclock::store::PARKED_FOR / 2, "{held:?}");
}

#[tokio::test]
async fn each_end_tells_its_reason() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    let live = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    let skipped = daemon.fire(&task).await.run_id;
    let told = why(&daemon, &skipped).await;
    assert_eq!((told.code, member(&told, "reason")), (Code::Skipped, format!("run {live} of the task is live").as_str()));
    guest.fail(ErrorKind::GuestPermanent);
    daemon.settled(&live).await;
    let told = why(&daemon, &live).await;
    assert_eq!((told.code, member(&told, "error_kind")), (Code::Failed, "guest_permanent"));
    assert!(told.sentence.ends_with("(guest_permanent), and its policy has no retries: it went wrong"), "{}", told.sentence);

    let timed = daemon.fire(&task).await.run_id;
    world.stage.guest().await.end(Ended::TimedOut);
    daemon.settled(&timed).await;
    assert_eq!(why(&daemon, &timed).await.code, Code::Timeout);

    let later = daemon.task(json!({"task_id": "u", "agent_id": "later"})).await;
    let run = daemon.fire(&later).await.run_id;
    daemon.delete_task(&later, false).await.unwrap();
    assert!(why(&daemon, &run).await.sentence.ends_with("by delete_task: its task was deleted"));
}
