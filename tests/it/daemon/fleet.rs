//! Several daemons on one store: what they know of each other, and how soon one hears of what another did.

use super::harness::conflict;
use super::*;
use sandclock::daemon::DaemonSettings;

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
