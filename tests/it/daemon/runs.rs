//! What a run goes through, from the wish to the result.

use super::harness::conflict;
use super::*;
use crate::guest::plain;

#[tokio::test]
async fn a_manual_run_from_the_wish_to_the_result() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "echo", "query": "Check system health.", "metadata": {"team": "ops"}})).await;
    let run = daemon.run_to_end(&task).await;
    assert_eq!((run.status, run.attempt, run.max_attempts, run.lease_generation), (Status::Completed, 1, 1, 1));
    assert_eq!(run.result_preview.as_deref(), Some("did: Check system health."));
    assert_eq!(run.workspace_path, format!("background/echo/t/{}", run.run_id));
    assert_eq!(run.metadata["team"], "ops");
    assert!(run.lease_owner.is_none() && run.lease_expires_at.is_none() && run.error.is_none());
    assert!(run.queued_at <= run.claimed_at.unwrap() && run.started_at.unwrap() <= run.finished_at.unwrap());
    assert_eq!(daemon.names(&run.run_id).await, ["queued", "claimed", "started", "completed"]);
    let attempt = daemon.attempts(&run.run_id).await.unwrap().remove(0);
    assert_eq!((attempt.attempt_number, attempt.reason, attempt.status), (1, AttemptReason::Initial, AttemptStatus::Completed));
    assert_eq!((attempt.lease_generation, attempt.digest), (1, Some("d".repeat(64))));
    assert!(attempt.worker_id.as_str().starts_with("worker_a.") && attempt.usage.is_some() && attempt.finished_at.is_some());
    let status = daemon.status().await.unwrap();
    assert_eq!((&status["runs"], &status["active_runs"], &status["status_counts"]["completed"]), (&json!(1), &json!(0), &json!(1)));
    assert_eq!(daemon.task_status(&task).await.unwrap()["latest_run"]["run_id"], json!(run.run_id));
}

#[tokio::test]
async fn a_retry_then_a_success() {
    let world = World::new().await;
    world.stage.add_component("flaky", &plain::flaky(3));
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "flaky", "retry_policy": {"max_retries": 2, "initial_delay_seconds": 0.01}})).await;
    let run = daemon.run_to_end(&task).await;
    assert_eq!((run.status, run.result_preview.as_deref(), run.failures), (Status::Completed, Some("at last"), 2));
    let again = ["claimed", "started", "retrying", "queued"];
    let names = [&["queued"][..], &again, &again, &["claimed", "started", "completed"]].concat();
    assert_eq!(daemon.names(&run.run_id).await, names);
    let tries = daemon.tries(&run.run_id).await;
    let failed = AttemptStatus::Failed;
    assert_eq!(tries, [(AttemptReason::Initial, failed), (AttemptReason::Retry, failed), (AttemptReason::Retry, AttemptStatus::Completed)]);
    let attempt = daemon.attempts(&run.run_id).await.unwrap().remove(0);
    assert!(attempt.retry_delay_seconds.is_some() && attempt.error.unwrap().contains("not yet"));
}

#[tokio::test]
async fn retries_are_exhausted() {
    let world = World::new().await;
    world.stage.add_component("never", &plain::retryable(None));
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "never", "retry_policy": {"max_retries": 1, "initial_delay_seconds": 0}})).await;
    let run = daemon.run_to_end(&task).await;
    assert_eq!((run.status, run.attempt, run.error_kind), (Status::Failed, 2, Some(ErrorKind::GuestRetryable)));
    let last = daemon.payloads(&run.run_id).await.pop().unwrap();
    assert_eq!((&last["status"], &last["error_kind"]), (&json!("failed"), &json!("guest_retryable")));
    assert!(last["error"].as_str().unwrap().contains("try again later"));
}

#[tokio::test]
async fn what_is_permanent_is_not_retried() {
    let world = World::new().await;
    world.stage.add_component("permanent", &plain::permanent());
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "permanent", "retry_policy": {"max_retries": 5}})).await;
    let run = daemon.run_to_end(&task).await;
    assert_eq!((run.status, run.attempt), (Status::Failed, 1));
}

#[tokio::test]
async fn an_attempt_that_exceeds_its_time_is_retried_and_ends_as_timeout() {
    let world = World::new().await;
    world.stage.add_component("sleeper", &plain::sleeper(3_600_000));
    let daemon = world.start().await;
    let task = daemon
        .task(json!({"agent_id": "sleeper", "timeout_seconds": 0.1, "retry_policy": {"max_retries": 1, "initial_delay_seconds": 0}}))
        .await;
    let run = daemon.run_to_end(&task).await;
    assert_eq!((run.status, run.error_kind), (Status::Timeout, Some(ErrorKind::Timeout)));
    let timeout = AttemptStatus::Timeout;
    assert_eq!(daemon.tries(&run.run_id).await, [(AttemptReason::Initial, timeout), (AttemptReason::Retry, timeout)]);
    assert!(run.error.unwrap().contains("0.1 s"));
}

#[tokio::test]
async fn a_long_result_is_whole_where_it_is_asked_for() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await;
    let answer = "ä".repeat(500_000);
    world.stage.guest().await.complete(&answer);
    let run = daemon.settled(&run.run_id).await;
    assert_eq!(run.result_preview.as_deref(), Some("ä".repeat(1000).as_str()));
    assert_eq!(daemon.result(&run.run_id).await.unwrap().as_deref(), Some(answer.as_str()));
    assert_eq!(world.file(&run, "output.md"), Some(answer));
}

#[tokio::test]
async fn an_answer_that_outgrows_a_record_harms_only_its_own_attempt() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"overlap_policy": "allow_parallel"})).await;
    let mut runs = Vec::new();
    for _ in 0..8 {
        runs.push(daemon.fire(&task).await.run_id);
    }
    // Each of these characters takes six bytes of JSON.
    let answer = "\u{1}".repeat(900_000);
    for _ in 0..8 {
        let guest = world.stage.guest().await;
        let bad = guest.run_id() == runs[3];
        guest.complete(if bad { &answer } else { "good" });
    }
    for (at, run) in runs.iter().enumerate() {
        let run = daemon.settled(run).await;
        if at == 3 {
            assert_eq!((run.status, run.error_kind), (Status::Failed, Some(ErrorKind::Output)), "{:?}", run.error);
        } else {
            assert_eq!(run.status, Status::Completed);
        }
    }
}

#[tokio::test]
async fn the_session_reaches_the_guest_in_each_mode() {
    let world = World::new().await;
    world.stage.add_component("context", &plain::context());
    let daemon = world.start().await;
    for (id, policy, session) in [
        ("by-task", json!({"mode": "task"}), Some("background:context:by-task")),
        ("by-run", json!({"mode": "run"}), None),
        ("fixed", json!({"mode": "fixed", "session_id": "my session"}), Some("my session")),
    ] {
        let task = daemon.task(json!({"task_id": id, "agent_id": "context", "session_policy": policy})).await;
        let run = daemon.run_to_end(&task).await;
        let expected = session.map_or_else(|| format!("background:{}", run.run_id), str::to_owned);
        assert_eq!(run.session_id, expected);
        let told: Vec<String> = run.result_preview.unwrap().lines().map(str::to_owned).collect();
        assert_eq!(told[..6], [run.run_id.to_string(), id.into(), "context".into(), expected, "1".into(), "manual".into()]);
    }
}

#[tokio::test]
async fn a_wait_that_runs_out_answers_with_the_run_as_it_is() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await;
    let guest = world.stage.guest().await;
    let waited = daemon.wait_for_run(&run.run_id, Duration::from_millis(20)).await.unwrap();
    assert_eq!(waited.status, Status::Running);
    let waiting = tokio::spawn({
        let (manager, id) = (Manager::clone(&daemon), run.run_id.clone());
        async move { manager.wait_for_run(&id, harness::PATIENCE).await }
    });
    guest.complete("done");
    assert_eq!(waiting.await.unwrap().unwrap().status, Status::Completed);
    let unknown = daemon.wait_for_run(&RunId::parse("run_x").unwrap(), Duration::ZERO).await.unwrap_err();
    assert_eq!(unknown.to_string(), "Run not found: run_x");
}

#[tokio::test]
async fn a_wish_may_bring_its_own_query_and_metadata() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "echo"})).await;
    let ask =
        |query: &str, metadata: Value| RunWish { query: Some(query.to_owned()), metadata: metadata.as_object().unwrap().clone(), by: None };
    let run = daemon.run_now(&task, ask("Another.", json!({"why": "because"}))).await.unwrap();
    let run = daemon.settled(&run.run_id).await;
    assert_eq!((run.query_snapshot.as_str(), &run.trigger_metadata["why"]), ("Another.", &json!("because")));
    let blank = daemon.run_now(&task, ask(" ", json!({}))).await.unwrap();
    assert_eq!(blank.query_snapshot, "Do it.");
    daemon.settled(&blank.run_id).await;
    for wish in [ask(&"x".repeat(300_000), json!({})), ask("x", json!({"a": "x".repeat(2_000_000)}))] {
        assert!(matches!(daemon.run_now(&task, wish).await, Err(ManagerError::Invalid(_))));
    }
    assert_eq!(daemon.runs_of(&task).await.len(), 2);
}

#[tokio::test]
async fn a_run_of_an_agent_that_is_not_there_waits_and_disturbs_nobody() {
    let world = World::new().await;
    let daemon = world.start().await;
    let missing = daemon.task(json!({"task_id": "missing", "agent_id": "later"})).await;
    let task = daemon.task(json!({"agent_id": "echo"})).await;
    let waits = daemon.fire(&missing).await;
    for _ in 0..3 {
        assert_eq!(daemon.run_to_end(&task).await.status, Status::Completed);
    }
    assert_eq!(daemon.names(&waits.run_id).await, ["queued"]);
    world.stage.echo("later");
    assert_eq!(daemon.settled(&waits.run_id).await.status, Status::Completed);
}

#[tokio::test]
async fn w_17_many_run_at_once_and_never_more_than_allowed() {
    let world = World::new().await;
    world.stage.limit("guest", 3);
    let daemon = world.start_as("a", |settings| settings.max_running = 5).await;
    let task = daemon.task(json!({"overlap_policy": "allow_parallel"})).await;
    for _ in 0..10 {
        daemon.fire(&task).await;
    }
    let mut at_once = Vec::new();
    for _ in 0..3 {
        at_once.push(world.stage.guest().await);
    }
    for done in 0..10 {
        assert_eq!(daemon.count(&task, Status::Running).await, 3.min(10 - done));
        assert!(world.stage.guest_now().is_none(), "one more than allowed");
        let run = at_once[0].run_id();
        at_once.remove(0).complete("done");
        daemon.settled(&run).await;
        if done < 7 {
            at_once.push(world.stage.guest().await);
        }
    }
}

#[tokio::test]
async fn an_attempt_that_panics_gives_its_lease_up() {
    let world = World::new().await;
    let daemon = world.start_polling().await;
    let task = daemon.task(json!({"agent_id": "panics"})).await;
    let run = daemon.fire(&task).await;
    daemon.becomes(&run.run_id, Status::Running).await;
    until("the end of the attempt", async || daemon.status().await.unwrap()["executing_here"] == 0).await;
    world.clock.advance(Duration::from_secs(31));
    let run = daemon.settled(&run.run_id).await;
    assert_eq!((run.status, run.attempt, run.result_preview.as_deref()), (Status::Completed, 2, Some("recovered")));
}

#[tokio::test]
async fn a_disabled_task_does_not_run() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "echo", "enabled": false})).await;
    let refused = conflict(daemon.run_now(&task, RunWish::default()).await);
    assert_eq!(refused, "Task t is disabled; enable it to run it");
    daemon.update_task(&task, json!({"enabled": true})).await.unwrap();
    assert_eq!(daemon.run_to_end(&task).await.status, Status::Completed);
}
