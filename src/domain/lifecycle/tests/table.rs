//! The decisions one by one.

use super::*;

fn running(more: Value) -> World {
    let mut world = World::new(task(more));
    let id = world.admit(Trigger::Manual);
    world.claim(&id);
    world
}

fn only(world: &World) -> &Life {
    world.lives.values().next().unwrap()
}

fn end_with(world: &mut World, outcome: Outcome) {
    let (run, attempt) = (only(world).run.clone(), only(world).attempts.last().unwrap().clone());
    let fence = run.lease_generation;
    world.write(finish(run, attempt, fence, outcome, Usage::default(), 0.0, world.now).unwrap());
    world.check();
}

fn failed(kind: ErrorKind) -> Outcome {
    Outcome::Failed { kind, message: "no".to_owned(), after: None }
}

fn lost(world: &mut World) {
    let (run, attempt) = (only(world).run.clone(), only(world).attempts.last().unwrap().clone());
    world.write(lose(run, attempt, world.now).unwrap());
    world.check();
}

fn names(world: &World) -> Vec<&'static str> {
    let strip = |name: &'static str| name.strip_prefix("background_run_").unwrap_or(name);
    only(world).events.iter().map(|event| strip(event.event.as_str())).collect()
}

#[test]
fn a_run_that_succeeds() {
    let mut world = running(json!({}));
    end_with(&mut world, Outcome::Completed("done".to_owned()));
    let life = only(&world);
    assert_eq!(names(&world), ["queued", "claimed", "started", "completed"]);
    assert_eq!((life.run.status, life.run.result_preview.as_deref(), &life.result), (Status::Completed, Some("done"), &None));
    assert_eq!((life.run.attempt, life.run.max_attempts, life.attempts[0].reason), (1, 1, AttemptReason::Initial));
}

#[test]
fn a_long_result_is_kept_beside_its_first_thousand_characters() {
    let mut world = running(json!({}));
    let result = "é".repeat(1001);
    end_with(&mut world, Outcome::Completed(result.clone()));
    let life = only(&world);
    assert_eq!(life.run.result_preview.as_deref(), Some("é".repeat(1000).as_str()));
    assert_eq!(life.result.as_deref(), Some(result.as_str()));
}

#[test]
fn what_is_retried_depends_on_the_kind_and_the_policy() {
    for (retry_on, kind, retried) in [
        (json!(["exception"]), ErrorKind::Trap, true),
        (json!(["exception"]), ErrorKind::GuestRetryable, true),
        (json!(["exception"]), ErrorKind::GuestPermanent, false),
        (json!(["exception"]), ErrorKind::Memory, false),
        (json!(["exception"]), ErrorKind::Timeout, false),
        (json!(["timeout"]), ErrorKind::Timeout, true),
        (json!(["timeout"]), ErrorKind::Trap, false),
        (json!(["memory", "guest_permanent"]), ErrorKind::GuestPermanent, true),
        (json!([]), ErrorKind::Trap, false),
    ] {
        let mut world = running(json!({"retry_policy": {"max_retries": 1, "retry_on": retry_on}}));
        end_with(&mut world, if kind == ErrorKind::Timeout { Outcome::TimedOut } else { failed(kind) });
        let ended = if kind == ErrorKind::Timeout { Status::Timeout } else { Status::Failed };
        assert_eq!(only(&world).run.status, if retried { Status::Queued } else { ended }, "{kind:?} with {retry_on}");
    }
}

#[test]
fn retries_end_and_the_last_failure_names_the_status() {
    let mut world = running(json!({"retry_policy": {"max_retries": 1, "initial_delay_seconds": 10, "jitter": 0}}));
    end_with(&mut world, failed(ErrorKind::Trap));
    assert_eq!(only(&world).run.queued_at, START + Duration::from_secs(10));
    assert_eq!(only(&world).attempts[0].retry_delay_seconds, Some(Seconds::whole(10)));
    assert!(world.ready().is_empty(), "not before its time");
    world.now = START + Duration::from_secs(10);
    let id = world.ready().remove(0);
    world.claim(&id);
    assert_eq!(only(&world).attempts[1].reason, AttemptReason::Retry);
    end_with(&mut world, Outcome::TimedOut);
    assert_eq!(names(&world), ["queued", "claimed", "started", "retrying", "queued", "claimed", "started", "timeout"]);
    assert_eq!(only(&world).run.error_kind, Some(ErrorKind::Timeout));
}

#[test]
fn an_agents_wish_for_a_delay_is_kept_up_to_the_greatest() {
    for (after, delay) in [(5, 30), (200, 200), (100_000, 300)] {
        let mut world = running(json!({"retry_policy": {"max_retries": 1, "jitter": 0}}));
        let kind = ErrorKind::GuestRetryable;
        end_with(&mut world, Outcome::Failed { kind, message: String::new(), after: Some(Duration::from_secs(after)) });
        assert_eq!(only(&world).run.queued_at, START + Duration::from_secs(delay), "after {after}");
    }
}

#[test]
fn w_25_exponential_delays_double_up_to_the_greatest() {
    let policy = task(json!({"retry_policy": {"backoff": "exponential", "initial_delay_seconds": 10, "jitter": 0}})).retry_policy;
    let delays: Vec<u64> = [1, 2, 3, 5, 6, 1000, u32::MAX].into_iter().map(|n| policy.delay(n, 1.0).as_secs()).collect();
    assert_eq!(delays, [10, 20, 40, 160, 300, 300, 300]);
}

#[test]
fn a_cancel_of_a_leased_run_wins_over_whatever_its_attempt_says() {
    for outcome in [Outcome::Completed("too late".to_owned()), failed(ErrorKind::Trap), Outcome::TimedOut] {
        let mut world = running(json!({"retry_policy": {"max_retries": 5}}));
        world.write(request_cancel(only(&world).run.clone(), "api", None, world.now).unwrap());
        world.write(request_cancel(only(&world).run.clone(), "api", None, world.now).unwrap());
        end_with(&mut world, outcome);
        assert_eq!(names(&world), ["queued", "claimed", "started", "cancel_requested", "cancelled"]);
        assert_eq!(only(&world).run.result_preview, None);
        assert_eq!(only(&world).attempts[0].status, AttemptStatus::Cancelled);
    }
}

#[test]
fn a_cancel_survives_the_loss_of_the_worker_also_of_the_last_one() {
    for max_recoveries in [0, 3] {
        let mut world = running(json!({"max_recoveries": max_recoveries}));
        world.write(request_cancel(only(&world).run.clone(), "api", None, world.now).unwrap());
        lost(&mut world);
        assert_eq!(only(&world).run.status, Status::Cancelled, "max_recoveries = {max_recoveries}");
    }
}

#[test]
fn w_31_a_finished_run_refuses_a_cancel_and_a_resume() {
    let mut world = running(json!({}));
    end_with(&mut world, Outcome::Completed(String::new()));
    let run = only(&world).run.clone();
    let refused = request_cancel(run.clone(), "api", None, world.now).unwrap_err();
    assert_eq!(refused.to_string(), format!("Run {} is completed; it cannot be cancelled any more", run.run_id));
    let refused = resume(run, None, world.now).unwrap_err();
    assert!(refused.to_string().contains("only a run in awaiting_approval or awaiting_budget can be resumed"), "{refused}");
    assert!(lose(only(&world).run.clone(), only(&world).attempts[0].clone(), world.now).is_none());
    assert!(expire_parked(only(&world).run.clone(), world.now).is_none());
}

#[test]
fn w_13_losses_in_a_row_back_off_and_end() {
    let mut world = running(json!({"max_recoveries": 3}));
    for delay in [0, 5, 10] {
        lost(&mut world);
        assert_eq!(only(&world).run.queued_at, world.now + Duration::from_secs(delay));
        world.now = world.now + Duration::from_secs(delay);
        let id = world.ready().remove(0);
        world.claim(&id);
        assert_eq!(only(&world).attempts.last().unwrap().reason, AttemptReason::LeaseExpired);
    }
    lost(&mut world);
    let run = &only(&world).run;
    assert_eq!((run.status, run.failures, run.error_kind), (Status::Failed, 0, Some(ErrorKind::Lost)));
    assert!(run.error.as_deref().unwrap().contains("max_recoveries = 3"), "{:?}", run.error);
}

#[test]
fn ten_minutes_alive_forgive_earlier_losses() {
    let mut world = running(json!({"max_recoveries": 1}));
    for _ in 0..5 {
        let life = world.lives.values_mut().next().unwrap();
        life.run.heartbeat_at = Some(life.attempts.last().unwrap().started_at + Duration::from_secs(600));
        lost(&mut world);
        let id = world.ready().remove(0);
        world.claim(&id);
    }
}

#[test]
fn an_unknown_outcome_is_what_the_task_says() {
    for (word, status) in [("retry", Status::Queued), ("hold", Status::AwaitingApproval), ("fail", Status::Failed)] {
        let mut world = running(json!({"on_unknown": word}));
        world.lives.values_mut().next().unwrap().attempts[0].effects_began = true;
        lost(&mut world);
        assert_eq!(only(&world).run.status, status);
        assert_eq!(world.slot.holders.len(), usize::from(!status.is_terminal()), "a parked run keeps its place");
    }
}

#[test]
fn of_ten_rapid_cancel_previous_runs_the_last_one_runs() {
    let mut world = running(json!({"overlap_policy": "cancel_previous"}));
    let runs: Vec<RunId> = (0..10).map(|_| world.admit(Trigger::Manual)).collect();
    world.check();
    assert!(world.ready().is_empty(), "none starts before the old attempt has ended");
    end_with(&mut world, Outcome::Cancelled(String::new()));
    assert_eq!(world.ready(), [runs[9].clone()]);
    assert_eq!(world.of(|run| run.status == Status::Cancelled).len(), 10);
}

#[test]
fn what_waits_says_for_whom() {
    let mut world = running(json!({"overlap_policy": "queue_next"}));
    let (first, second, third) = (world.admitted[0].clone(), world.admit(Trigger::Manual), world.admit(Trigger::Manual));
    let waits_for = |id: &RunId| world.lives[id].events[0].details["waits_for"].clone();
    assert_eq!((waits_for(&second), waits_for(&third)), (json!(first), json!(second)));
}

#[test]
fn the_queue_is_bounded_and_what_is_beyond_it_is_skipped() {
    let mut world = running(json!({"overlap_policy": "queue_next", "max_queued": 2}));
    let runs: Vec<RunId> = (0..3).map(|_| world.admit(Trigger::Interval)).collect();
    world.check();
    let skipped = &world.lives[&runs[2]];
    assert_eq!(skipped.run.status, Status::Skipped);
    assert_eq!(skipped.events.iter().map(|event| event.event).collect::<Vec<_>>(), [EventName::TaskScheduled, EventName::Skipped]);
    assert!(skipped.events[1].details["reason"].as_str().unwrap().contains("max_queued"));
}

#[test]
fn a_long_error_is_cut_at_a_character() {
    let mut world = running(json!({}));
    end_with(&mut world, Outcome::Failed { kind: ErrorKind::Trap, message: "é".repeat(10_000), after: None });
    let error = only(&world).run.error.clone().unwrap();
    assert!(error.len() <= 4096 && error.ends_with('…'), "{}", error.len());
}
