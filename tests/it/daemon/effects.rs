//! Attempts that began to change something outside and ended without an outcome: the task says what follows.

use super::faulty::Fault;
use super::stage::Guest;
use super::*;
use sandclock::daemon::DaemonSettings;
use sandclock::domain::run::Attempt;
use sandclock::sandbox::EffectsRefused;
use sandclock::store::RecordId;

const LEASE: Duration = Duration::from_secs(30);

fn polling(settings: &mut DaemonSettings) {
    settings.poll = Duration::from_millis(5);
}

/// How an attempt ends without an outcome.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Crash,
    Lease,
    Drain,
}

/// A run whose first attempt is gone, and the daemon that has to do with it.
async fn lost(world: &World, on_unknown: &str, has_begun: bool, loss: Loss) -> (TestDaemon, TaskId, RunId) {
    let first = world.start_as("a", |settings| settings.lease = LEASE).await;
    let task = first.task(json!({"on_unknown": on_unknown, "retry_policy": {"max_retries": 0}})).await;
    let run = first.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    if has_begun {
        // Each request asks.
        guest.host.begin_effects().await.unwrap();
        guest.host.begin_effects().await.unwrap();
    }
    let second = match loss {
        Loss::Crash => {
            first.crash().await;
            world.start_polling().await
        }
        Loss::Lease => {
            let second = world.start_as("b", polling).await;
            world.clock.advance(LEASE + Duration::from_secs(1));
            until("the loss", async || second.attempts(&run).await.unwrap()[0].status == AttemptStatus::Interrupted).await;
            first.crash().await;
            second
        }
        Loss::Drain => {
            let stopping = tokio::spawn(first.stop(Duration::ZERO));
            guest.stopped().await;
            guest.end(Ended::Stopped(Stop::ShuttingDown));
            stopping.await.unwrap();
            world.start_polling().await
        }
    };
    (second, task, run)
}

async fn begun(daemon: &TestDaemon, run: &RunId) -> Vec<bool> {
    daemon.attempts(run).await.unwrap().iter().map(|attempt: &Attempt| attempt.effects_began).collect()
}

#[tokio::test]
async fn an_attempt_is_taken_up_again_unless_the_task_says_otherwise_of_what_it_began() {
    for loss in [Loss::Crash, Loss::Lease, Loss::Drain] {
        for (on_unknown, has_begun) in [("retry", true), ("retry", false), ("hold", false), ("fail", false)] {
            let world = World::new().await;
            let (daemon, _, run) = lost(&world, on_unknown, has_begun, loss).await;
            let guest = world.stage.guest().await;
            assert_eq!((guest.run_id(), guest.spec.context.attempt), (run.clone(), 2), "{loss:?} {on_unknown} {has_begun}");
            guest.complete("done");
            let ended = daemon.settled(&run).await;
            assert_eq!((ended.status, ended.failures), (Status::Completed, 0));
            assert_eq!(begun(&daemon, &run).await, [has_begun, false]);
        }
    }
}

#[tokio::test]
async fn what_is_unknown_is_held_until_somebody_resumes_it() {
    for loss in [Loss::Crash, Loss::Lease, Loss::Drain] {
        let world = World::new().await;
        let (daemon, task, run) = lost(&world, "hold", true, loss).await;
        let held = daemon.settled(&run).await;
        assert_eq!((held.status, held.lease_owner, held.error_kind), (Status::AwaitingApproval, None, Some(ErrorKind::Lost)), "{loss:?}");
        assert!(held.error.unwrap().contains("what came of that is unknown"));
        assert_eq!(daemon.names(&run).await.last().unwrap(), "awaiting_approval");
        assert_eq!(daemon.fire(&task).await.status, Status::Skipped, "it holds its slot");
        assert!(world.stage.guest_now().is_none());
        assert_eq!(daemon.resume_run(&run, None).await.unwrap().status, Status::Queued);
        let guest = world.stage.guest().await;
        assert_eq!((guest.run_id(), guest.spec.context.attempt), (run.clone(), 2));
        guest.complete("again");
        let ended = daemon.settled(&run).await;
        assert_eq!((ended.status, ended.error), (Status::Completed, None));
        let tries = [(AttemptReason::Initial, AttemptStatus::Interrupted), (AttemptReason::Recovery, AttemptStatus::Completed)];
        assert_eq!(daemon.tries(&run).await, tries);
        assert_eq!(begun(&daemon, &run).await, [true, false]);
    }
}

#[tokio::test]
async fn what_is_held_is_cancelled_or_expires() {
    for is_cancelled in [true, false] {
        let world = World::new().await;
        let (daemon, task, run) = lost(&world, "hold", true, Loss::Crash).await;
        daemon.becomes(&run, Status::AwaitingApproval).await;
        let status = if is_cancelled {
            daemon.cancel_run(&run, "api").await.unwrap();
            Status::Cancelled
        } else {
            world.clock.advance(Duration::from_secs(24 * 3600));
            Status::Failed
        };
        daemon.becomes(&run, status).await;
        let next = daemon.fire(&task).await;
        assert_eq!(next.status, Status::Queued, "the slot is free");
        world.stage.guest().await.complete("next");
        daemon.settled(&next.run_id).await;
        assert_eq!(daemon.run(&run).await.unwrap().attempt, 1);
    }
}

#[tokio::test]
async fn what_is_unknown_fails_where_the_task_says_so() {
    for loss in [Loss::Crash, Loss::Lease, Loss::Drain] {
        let world = World::new().await;
        let (daemon, task, run) = lost(&world, "fail", true, loss).await;
        let ended = daemon.settled(&run).await;
        assert_eq!((ended.status, ended.attempt, ended.error_kind), (Status::Failed, 1, Some(ErrorKind::Lost)), "{loss:?}");
        assert!(ended.error.unwrap().contains("what came of that is unknown"));
        assert_eq!(daemon.fire(&task).await.status, Status::Queued, "the slot is free");
    }
}

#[tokio::test]
async fn somebody_who_resumes_decides_anew_about_losses_in_a_row() {
    let world = World::new().await;
    let mut daemon = world.start_polling().await;
    let task = daemon.task(json!({"on_unknown": "hold", "max_recoveries": 0})).await;
    let run = daemon.fire(&task).await.run_id;
    for attempt in 1..=3 {
        let guest = world.stage.guest().await;
        assert_eq!(guest.spec.context.attempt, attempt);
        guest.host.begin_effects().await.unwrap();
        daemon.crash().await;
        daemon = world.start_polling().await;
        assert_eq!(daemon.settled(&run).await.status, Status::AwaitingApproval);
        daemon.resume_run(&run, None).await.unwrap();
    }
    world.stage.guest().await.complete("at last");
    assert_eq!(daemon.settled(&run).await.status, Status::Completed);
}

#[tokio::test]
async fn effects_are_kept_once_and_the_outcome_needs_no_second_look() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    let calls = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&calls);
    *world.faulty.plan.lock().unwrap() = Box::new(move |call| {
        if ["apply", "get"].contains(&call) {
            seen.lock().unwrap().push(call);
        }
        None
    });
    let (one, other) = tokio::join!(guest.host.begin_effects(), guest.host.begin_effects());
    assert!(one.is_ok() && other.is_ok());
    guest.host.begin_effects().await.unwrap();
    assert_eq!(*calls.lock().unwrap(), ["apply"]);
    assert_eq!(begun(&daemon, &run).await, [true]);
    calls.lock().unwrap().clear();
    guest.complete("done");
    until("the outcome", async || calls.lock().unwrap().contains(&"apply")).await;
    daemon.settled(&run).await;
    let outcome: Vec<&str> = calls.lock().unwrap().iter().copied().filter(|call| *call == "apply").collect();
    assert_eq!(outcome, ["apply"], "the outcome was decided on the attempt as it is");
    assert_eq!(daemon.raw(RecordId::attempt(&run, 1)).await.unwrap().0, 3, "claimed, begun, ended");
    assert_eq!(begun(&daemon, &run).await, [true]);
    let run = daemon.run(&run).await.unwrap();
    let lines: Vec<Value> = world.file(&run, "events.jsonl").unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, daemon.payloads(&run.run_id).await);
}

#[tokio::test]
async fn an_effect_whose_keeping_is_in_doubt_begins_when_it_is_found_kept() {
    for fault in [Fault::Before, Fault::After] {
        let world = World::new().await;
        let daemon = world.start().await;
        let task = daemon.task(json!({})).await;
        let run = daemon.fire(&task).await.run_id;
        let guest = world.stage.guest().await;
        let mut faults = vec![fault];
        *world.faulty.plan.lock().unwrap() = Box::new(move |call| if call == "apply" { faults.pop() } else { None });
        guest.host.begin_effects().await.unwrap();
        assert_eq!(begun(&daemon, &run).await, [true]);
        guest.complete("done");
        assert_eq!(daemon.settled(&run).await.status, Status::Completed);
        assert_eq!(daemon.raw(RecordId::attempt(&run, 1)).await.unwrap().0, 3);
    }
}

#[tokio::test]
async fn no_effect_begins_that_the_store_cannot_keep() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    *world.faulty.plan.lock().unwrap() = Box::new(|call| (call == "apply").then_some(Fault::Before));
    let refused = guest.host.begin_effects().await.unwrap_err();
    assert!(matches!(&refused, EffectsRefused::NotKept(why) if why.contains("the connection broke")), "{refused}");
    *world.faulty.plan.lock().unwrap() = Box::new(|_| None);
    assert_eq!(begun(&daemon, &run).await, [false]);
    guest.host.begin_effects().await.unwrap();
    assert_eq!(begun(&daemon, &run).await, [true], "it may be asked again");
}

#[tokio::test]
async fn no_effect_begins_under_a_lease_that_is_lost() {
    let world = World::new().await;
    let first = world.start_as("a", |settings| settings.lease = LEASE).await;
    let task = first.task(json!({})).await;
    let run = first.fire(&task).await.run_id;
    let (before, after): (Guest, Guest);
    before = world.stage.guest().await;
    let second = world.start_as("b", polling).await;
    world.clock.advance(LEASE + Duration::from_secs(1));
    after = world.stage.guest().await;
    // By its own clock the first daemon still has the lease.
    assert!(before.signals.may_act());
    assert_eq!(before.host.begin_effects().await, Err(EffectsRefused::LeaseLost));
    assert_eq!(begun(&second, &run).await, [false, false]);
    after.host.begin_effects().await.unwrap();
    assert_eq!(begun(&second, &run).await, [false, true]);
    after.signals.trap_now(Stop::LeaseLost);
    assert_eq!(after.host.begin_effects().await, Err(EffectsRefused::LeaseLost), "also when they have begun before");
}
