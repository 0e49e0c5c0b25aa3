//! The four overlap policies.

use super::*;

#[tokio::test]
async fn skip_if_running_records_a_thousand_skips_beside_one_run() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"overlap_policy": "skip_if_running"})).await;
    let live = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    for chunk in [1, 499, 500] {
        let skipped = daemon.fire_at_once(&task, chunk).await;
        assert!(skipped.iter().all(|run| run.status == Status::Skipped && run.finished_at.is_some()));
        let payloads = daemon.payloads(&skipped[0].run_id).await;
        assert_eq!((payloads.len(), &payloads[0]["reason"]), (1, &json!(format!("run {live} of the task is live"))));
    }
    assert_eq!(daemon.count(&task, Status::Skipped).await, 1000);
    assert_eq!(daemon.count(&task, Status::Queued).await, 0);
    guest.complete("done");
    daemon.settled(&live).await;
    assert_eq!(daemon.fire(&task).await.status, Status::Queued);
}

#[tokio::test]
async fn w_09_of_many_at_once_one_is_admitted() {
    let world = World::new().await;
    let daemon = world.start().await;
    for round in 0..10 {
        let task = daemon.task(json!({"task_id": format!("t{round}"), "agent_id": "later"})).await;
        let runs = daemon.fire_at_once(&task, 40).await;
        assert_eq!(runs.iter().filter(|run| run.status == Status::Queued).count(), 1);
        assert_eq!(daemon.count(&task, Status::Skipped).await, 39);
    }
}

#[tokio::test]
async fn w_23_of_ten_rapid_cancel_previous_fires_the_last_one_runs() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"overlap_policy": "cancel_previous"})).await;
    let first = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    let mut runs = Vec::new();
    for _ in 0..10 {
        runs.push(daemon.fire(&task).await.run_id);
    }
    guest.cancelled().await;
    assert!(world.stage.guest_now().is_none(), "none starts before the old attempt has ended");
    let waits = daemon.payloads(&runs[9]).await;
    assert!(waits[0]["waits_for"].is_string(), "{waits:?}");
    guest.end(Ended::Cancelled { message: String::new() });
    let last = world.stage.guest().await;
    assert_eq!(last.run_id(), runs[9]);
    last.complete("done");
    assert_eq!(daemon.settled(&runs[9]).await.status, Status::Completed);
    for run in [&first].into_iter().chain(&runs[..9]) {
        let run = daemon.run(run).await.unwrap();
        assert_eq!((run.status, run.cancel_requested_by.as_deref()), (Status::Cancelled, Some("overlap_policy")));
    }
    assert!(runs[..9].iter().all(|run| run != &first));
}

#[tokio::test]
async fn cancel_previous_overtakes_a_run_that_nobody_has_started() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"overlap_policy": "cancel_previous", "agent_id": "later"})).await;
    let runs = daemon.fire_at_once(&task, 20).await;
    assert_eq!(daemon.count(&task, Status::Cancelled).await, 19);
    assert_eq!(daemon.count(&task, Status::Queued).await, 1);
    world.stage.echo("later");
    let mut completed = 0;
    for run in runs {
        completed += u32::from(daemon.settled(&run.run_id).await.status == Status::Completed);
    }
    assert_eq!(completed, 1);
}

#[tokio::test]
async fn w_27_queue_next_keeps_its_order_also_when_one_is_retried() {
    let world = World::new().await;
    let daemon = world.start().await;
    let policy = json!({"overlap_policy": "queue_next", "retry_policy": {"max_retries": 1, "initial_delay_seconds": 0.05}});
    let task = daemon.task(policy).await;
    let mut runs = Vec::new();
    for _ in 0..4 {
        runs.push(daemon.fire(&task).await.run_id);
    }
    let mut order = Vec::new();
    for at in 0..5 {
        let guest = world.stage.guest().await;
        assert_eq!(daemon.count(&task, Status::Running).await, 1);
        order.push(guest.run_id());
        if at == 1 { guest.fail(ErrorKind::Trap) } else { guest.complete("done") }
    }
    assert_eq!(order, [&runs[0], &runs[1], &runs[1], &runs[2], &runs[3]].map(RunId::clone));
    daemon.settled(&runs[3]).await;
}

#[tokio::test]
async fn what_is_beyond_max_queued_is_skipped() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"overlap_policy": "queue_next", "max_queued": 3})).await;
    let runs = daemon.fire_at_once(&task, 10).await;
    assert_eq!(daemon.count(&task, Status::Skipped).await, 6);
    for _ in 0..4 {
        world.stage.guest().await.complete("done");
    }
    for run in runs {
        daemon.settled(&run.run_id).await;
    }
    assert_eq!(daemon.count(&task, Status::Completed).await, 4);
}

#[tokio::test]
async fn allow_parallel_keeps_to_max_parallel() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"overlap_policy": "allow_parallel", "max_parallel": 3, "max_queued": 6})).await;
    daemon.fire_at_once(&task, 10).await;
    assert_eq!(daemon.count(&task, Status::Skipped).await, 1);
    let mut guests = Vec::new();
    for _ in 0..3 {
        guests.push(world.stage.guest().await);
    }
    for left in (0..9u64).rev() {
        assert_eq!(daemon.count(&task, Status::Running).await, 3.min(left + 1));
        assert!(world.stage.guest_now().is_none());
        let guest = guests.remove(0);
        let run = guest.run_id();
        if left % 2 == 0 {
            guest.fail(ErrorKind::GuestPermanent)
        } else {
            guest.complete("done")
        }
        daemon.settled(&run).await;
        if left >= 3 {
            guests.push(world.stage.guest().await);
        }
    }
}

#[tokio::test]
async fn a_wider_policy_gives_turns_to_those_who_wait() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"overlap_policy": "queue_next"})).await;
    let runs = daemon.fire_at_once(&task, 5).await;
    let first = world.stage.guest().await;
    daemon.update_task(&task, json!({"overlap_policy": "allow_parallel", "max_parallel": 3})).await.unwrap();
    let (second, third) = (world.stage.guest().await, world.stage.guest().await);
    assert!(world.stage.guest_now().is_none());
    daemon.update_task(&task, json!({"max_parallel": null})).await.unwrap();
    for guest in [first, second, third, world.stage.guest().await, world.stage.guest().await] {
        guest.complete("done");
    }
    for run in runs {
        assert_eq!(daemon.settled(&run.run_id).await.status, Status::Completed);
    }
}
