//! Several daemons on one store: what they know of each other, and how soon one hears of what another did.

use super::harness::conflict;
use super::*;
use sandclock::daemon::DaemonSettings;
use sandclock::domain::id::AgentId;
use sandclock::store::{Change, ChangeId, Guard, Index, Outcome, Put, RecordId, Store};

/// Tells others, and is told.
fn hinting(settings: &mut DaemonSettings) {
    settings.hints = true;
}

/// A daemon that only answers.
async fn front(world: &World) -> TestDaemon {
    let answering = |settings: &mut DaemonSettings| (settings.hints, settings.executes, settings.dispatch_batch) = (true, false, 0);
    world.start_as("front", answering).await
}

#[tokio::test]
async fn a_run_that_one_daemon_takes_is_executed_by_another_without_a_poll() {
    let world = World::new().await;
    if !world.is_shared() {
        return;
    }
    let (front, _back) = (front(&world).await, world.start_as("back", hinting).await);
    let task = front.task(json!({"agent_id": "echo"})).await;
    // Both look once an hour, so that only hints bring it about: to the one that executes, and back to the one that waits for the end.
    assert_eq!(front.run_to_end(&task).await.status, Status::Completed);
}

#[tokio::test]
async fn a_cancel_and_a_new_schedule_reach_the_other_daemon_without_a_poll() {
    let world = World::new().await;
    if !world.is_shared() {
        return;
    }
    // Renewals, which would tell of the cancel too, come once in a quarter of an hour.
    let lease = |settings: &mut DaemonSettings| (settings.hints, settings.lease) = (true, Duration::from_secs(3600));
    let (front, _back) = (front(&world).await, world.start_as("back", lease).await);
    let task = front.task(json!({})).await;
    let run = front.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    front.cancel_run(&run, "api").await.unwrap();
    guest.cancelled().await;
    guest.end(Ended::Cancelled { message: String::new() });
    assert_eq!(front.settled(&run).await.status, Status::Cancelled);
    assert!(!conflict(front.cancel_run(&run, "api").await).is_empty());
}

#[tokio::test]
async fn without_hints_a_cancel_a_pause_and_a_new_task_reach_the_other_daemon_all_the_same() {
    let world = World::new().await;
    let looking = |settings: &mut DaemonSettings| {
        settings.poll = Duration::from_millis(50);
        settings.lease = Duration::from_secs(8);
    };
    let front = world.start_as("front", |settings| {
        looking(settings);
        settings.executes = false;
        // It dispatches nothing: whatever falls due is the other one's.
        settings.dispatch_batch = 0;
    });
    let (front, back) = (front.await, world.start_as("back", looking).await);
    let task = front.task(json!({})).await;
    let run = front.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    front.cancel_run(&run, "api").await.unwrap();
    guest.cancelled().await;
    guest.end(Ended::Cancelled { message: String::new() });
    assert_eq!(front.settled(&run).await.status, Status::Cancelled);

    let tick = front.task(json!({"task_id": "tick", "agent_id": "echo", "schedule": {"type": "interval", "seconds": 0.2}})).await;
    until("a run of the new task", async || back.count(&tick, Status::Completed).await > 0).await;
    front.pause_task(&tick).await.unwrap();
    let state = front.state(&tick).await;
    until("the end of what was dispatched before", async || {
        back.count(&tick, Status::Queued).await + back.count(&tick, Status::Running).await == 0
    })
    .await;
    // The other one looks ten times meanwhile.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(front.state(&tick).await["totals"], state["totals"], "an occurrence was dispatched after the pause");
}

#[tokio::test]
async fn a_pause_and_a_new_task_reach_the_other_daemon_without_a_poll() {
    let world = World::new().await;
    if !world.is_shared() {
        return;
    }
    let (front, back) = (front(&world).await, world.start_as("back", hinting).await);
    let tick = front.task(json!({"task_id": "tick", "agent_id": "echo", "schedule": {"type": "interval", "seconds": 0.2}})).await;
    until("two runs of the new task", async || back.count(&tick, Status::Completed).await > 1).await;
    front.pause_task(&tick).await.unwrap();
    let state = front.state(&tick).await;
    back.resume_task(&tick).await.unwrap();
    until("another run", async || front.state(&tick).await["totals"]["runs"].as_u64() > state["totals"]["runs"].as_u64()).await;
}

#[tokio::test]
async fn each_daemon_shows_all_of_them_and_which_is_silent() {
    let world = World::new().await;
    let announced = |settings: &mut DaemonSettings| settings.announce = Some(Duration::from_millis(20));
    let one = world.start_as("one", announced).await;
    let other = world.start_as("other", announced).await;
    let states = async || {
        let daemons = one.daemons().await.unwrap();
        daemons
            .iter()
            .map(|daemon| format!("{} {}", daemon["daemon_id"].as_str().unwrap(), daemon["state"].as_str().unwrap()))
            .collect::<Vec<_>>()
    };
    until("both", async || states().await == ["worker_one alive", "worker_other alive"]).await;
    let shown = one.daemons().await.unwrap().remove(1);
    assert_eq!((&shown["max_running"], &shown["executes"], &shown["running"]), (&json!(64), &json!(true), &json!(0)));
    let agents: Vec<&str> = shown["agents"].as_array().unwrap().iter().map(|agent| agent["agent_id"].as_str().unwrap()).collect();
    assert!(agents.contains(&"echo"), "{shown}");
    other.crash().await;
    until("its silence", async || states().await == ["worker_one alive", "worker_other silent"]).await;
    let back = world.start_as("other", announced).await;
    until("its return", async || states().await == ["worker_one alive", "worker_other alive"]).await;
    back.stop(Duration::ZERO).await;
    until("its end", async || states().await == ["worker_one alive"]).await;
}

/// Adds a field to the body of a record, as a release may that knows more.
async fn add_a_field(store: &dyn Store, id: RecordId, index: Index) {
    let record = store.get(std::slice::from_ref(&id)).await.unwrap().pop().flatten().unwrap_or_else(|| panic!("there is no {id}"));
    let mut body: Value = serde_json::from_slice(&record.body).unwrap();
    body["of_a_later_release"] = json!({"deep": [1]});
    let put = Put { id: id.clone(), index, body: serde_json::to_vec(&body).unwrap().into() };
    let change = Change {
        id: ChangeId(7 << 64),
        guards: vec![Guard::Rev(id, record.rev)],
        puts: vec![put],
        deletes: Vec::new(),
        events: Vec::new(),
    };
    assert_eq!(store.apply(vec![change]).await.unwrap(), [Outcome::Applied]);
}

#[tokio::test]
async fn what_a_later_release_adds_to_records_is_no_hindrance() {
    let world = World::new().await;
    let daemon = world.start_polling().await;
    let task = daemon.task(json!({"overlap_policy": "queue_next"})).await;
    let (first, second) = (daemon.fire(&task).await.run_id, daemon.fire(&task).await.run_id);
    let guest = world.stage.guest().await;
    let of_task = || Index { task: Some(task.clone()), ..Index::default() };
    let waiting = daemon.run(&second).await.unwrap();
    add_a_field(&*world.store, RecordId::run(&second), Index::of_run(&waiting, waiting.queued_at)).await;
    add_a_field(&*world.store, RecordId::slot(&task), Index::default()).await;
    add_a_field(&*world.store, RecordId::schedule(&task), of_task()).await;
    let agent = AgentId::parse("guest").unwrap();
    add_a_field(&*world.store, RecordId::task(&task), Index { agent: Some(agent), ..Index::default() }).await;
    let of_run = Index { run: Some(first.clone()), ..Index::default() };
    add_a_field(&*world.store, RecordId::attempt(&first, 1), of_run).await;
    guest.complete("one");
    assert_eq!(daemon.settled(&first).await.status, Status::Completed);
    world.stage.guest().await.complete("two");
    assert_eq!(daemon.settled(&second).await.status, Status::Completed);
    assert_eq!(daemon.tries(&first).await, [(AttemptReason::Initial, AttemptStatus::Completed)]);
    daemon.update_task(&task, json!({"query": "Do it again."})).await.unwrap();
    let third = daemon.fire(&task).await.run_id;
    world.stage.guest().await.complete("three");
    assert_eq!(daemon.settled(&third).await.query_snapshot, "Do it again.");
    daemon.delete_task(&task, true).await.unwrap();
}
