//! Full queues: who is refused, what becomes of occurrences, and when there is room again.

use futures::future::join_all;
use sandclock::daemon::Bounds;
use sandclock::domain::id::AgentId;
use sandclock::domain::idempotency::IdempotencyKey;
use sandclock::store::PageRequest;

use super::*;

fn at_most(runs: u64) -> Bounds {
    Bounds { max_queued_runs: Some(runs), ..Bounds::default() }
}

/// A daemon that executes nothing, so that what is queued stays so.
async fn idle(world: &World, bounds: Bounds) -> TestDaemon {
    world
        .start_as("a", |settings| {
            settings.bounds = bounds;
            settings.executes = false;
            settings.poll = Duration::from_millis(5);
        })
        .await
}

fn full<T: std::fmt::Debug>(result: Result<T, ManagerError>) -> String {
    match result {
        Err(ManagerError::Full { message, retry_after }) => {
            assert!(retry_after > Duration::ZERO);
            message
        }
        other => panic!("not refused for want of room: {other:?}"),
    }
}

async fn wish(daemon: &TestDaemon, task: &TaskId) -> Result<Run, ManagerError> {
    daemon.run_now(task, RunWish::default()).await
}

#[tokio::test]
async fn of_many_at_once_as_many_are_admitted_as_there_is_room_for() {
    let world = World::new().await;
    let daemon = idle(&world, at_most(7)).await;
    let task = daemon.task(json!({"overlap_policy": "allow_parallel"})).await;
    let wishes = (0..60).map(|_| {
        let (manager, task) = (Manager::clone(&daemon), task.clone());
        tokio::spawn(async move { manager.run_now(&task, RunWish::default()).await })
    });
    let answers: Vec<_> = join_all(wishes).await.into_iter().map(Result::unwrap).collect();
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (7, 53));
    for refusal in refused {
        let sentence = full(refusal);
        assert!(sentence.starts_with("7 runs wait already") && sentence.contains("queue.max_queued_runs"), "{sentence}");
    }
    assert_eq!(daemon.count(&task, Status::Queued).await, 7);
    // A daemon that comes to a full queue knows it from the start.
    let other = world
        .start_as("b", |settings| {
            settings.bounds = at_most(7);
            settings.executes = false;
        })
        .await;
    full(wish(&other, &task).await);
    let first = daemon.runs_of(&task).await.remove(0);
    daemon.cancel_run(&first.run_id, "test").await.unwrap();
    full(daemon.rerun(&first.run_id, RunWish::default()).await);
    until("room", async || wish(&other, &task).await.is_ok()).await;
    assert_eq!(daemon.count(&task, Status::Queued).await, 7);
}

#[tokio::test]
async fn an_agent_has_a_bound_of_its_own() {
    let world = World::new().await;
    let max_queued_of_agent = [(AgentId::parse("guest").unwrap(), 1)].into();
    let daemon = idle(&world, Bounds { max_queued_of_agent, ..at_most(3) }).await;
    let bounded = daemon.task(json!({"overlap_policy": "allow_parallel"})).await;
    let other = daemon.task(json!({"task_id": "other", "agent_id": "echo", "overlap_policy": "allow_parallel"})).await;
    wish(&daemon, &bounded).await.unwrap();
    let sentence = full(wish(&daemon, &bounded).await);
    assert!(sentence.starts_with("1 runs of agent guest wait already") && sentence.contains("agents.guest.max_queued_runs"), "{sentence}");
    wish(&daemon, &other).await.unwrap();
    wish(&daemon, &other).await.unwrap();
    full(wish(&daemon, &other).await);
}

#[tokio::test]
async fn an_occurrence_without_room_is_in_a_skip_range_and_every_occurrence_is_accounted_for() {
    let world = World::new().await;
    let daemon = idle(&world, at_most(3)).await;
    let schedule = json!({"type": "interval", "seconds": 1000, "misfire_policy": "bounded", "max_catch_up": 5});
    let task = daemon.task(json!({"schedule": schedule, "overlap_policy": "allow_parallel"})).await;
    let occurrences = async || daemon.state(&task).await["totals"]["occurrences"].as_u64().unwrap();
    world.clock.advance(Duration::from_secs(8001));
    until("the occurrences", async || occurrences().await == 8).await;
    world.clock.advance(Duration::from_secs(1000));
    until("one more", async || occurrences().await == 9).await;
    let totals = daemon.state(&task).await["totals"].clone();
    assert_eq!((&totals["runs"], &totals["skipped"]), (&json!(3), &json!(6)));
    let ranges = daemon.skip_ranges(&task, PageRequest::first(9)).await.unwrap().items;
    let told: Vec<_> = ranges.iter().map(|range| (range["reason"].as_str().unwrap(), range["count"].as_u64().unwrap())).collect();
    assert_eq!(told, [("bound", 3), ("queue_full", 2), ("queue_full", 1)]);
    // The ranges lie around the runs without gap or overlap.
    let runs = daemon.runs_of(&task).await;
    let mut nominal: Vec<i64> = runs.iter().map(|run| run.due_at.unwrap().micros()).collect();
    for range in &ranges {
        let at = |key: &str| serde_json::from_value::<sandclock::domain::time::Timestamp>(range[key].clone()).unwrap().micros();
        let all: Vec<i64> = (at("first")..=at("last")).step_by(1_000_000_000).collect();
        assert_eq!(all.len() as u64, range["count"].as_u64().unwrap());
        nominal.extend(all);
    }
    nominal.sort_unstable();
    assert_eq!(nominal.len(), 9);
    assert!(nominal.windows(2).all(|pair| pair[1] - pair[0] == 1_000_000_000), "{nominal:?}");
    // The schedule goes on when there is room.
    for run in &runs {
        daemon.cancel_run(&run.run_id, "test").await.unwrap();
    }
    until("room", async || daemon.run_now(&task, RunWish::default()).await.is_ok()).await;
    world.clock.advance(Duration::from_secs(1000));
    until("a run again", async || daemon.state(&task).await["totals"]["runs"] == 4).await;
}

#[tokio::test]
async fn what_was_admitted_is_not_refused_later() {
    let world = World::new().await;
    let daemon = world.start_as("a", |settings| settings.bounds = at_most(1)).await;
    let steered = daemon.task(json!({"retry_policy": {"max_retries": 1, "initial_delay_seconds": 0, "jitter": 0}})).await;
    let later = daemon.task(json!({"task_id": "later", "agent_id": "later"})).await;
    let run = daemon.fire(&steered).await.run_id;
    let guest = world.stage.guest().await;
    until("room", async || wish(&daemon, &later).await.is_ok()).await;
    full(wish(&daemon, &later).await);
    // The queue is full, and the retry comes back into it all the same.
    guest.fail(ErrorKind::Trap);
    world.stage.guest().await.complete("done");
    assert_eq!(daemon.settled(&run).await.attempt, 2);
}

#[tokio::test]
async fn an_answer_is_repeated_though_the_queue_is_full() {
    let world = World::new().await;
    let daemon = idle(&world, Bounds { idempotency_keys: Some(2), ..at_most(2) }).await;
    let task = daemon.task(json!({"overlap_policy": "allow_parallel"})).await;
    let key = |text: &str| IdempotencyKey::parse("run", text, "p", None).unwrap();
    let once = async |text: &str| daemon.run_once(&task, RunWish::default(), key(text)).await;
    let first = once("a").await.unwrap();
    wish(&daemon, &task).await.unwrap();
    full(wish(&daemon, &task).await);
    full(once("b").await);
    let again = once("a").await.unwrap();
    assert_eq!((again.answer, again.replayed), (first.answer, true));
    // A refusal is no answer: with room, the same key makes the run. And keys are bounded themselves.
    for run in daemon.runs_of(&task).await {
        daemon.cancel_run(&run.run_id, "test").await.unwrap();
    }
    until("room", async || once("b").await.is_ok()).await;
    assert!(once("b").await.unwrap().replayed);
    let sentence = full(once("c").await);
    assert!(sentence.starts_with("2 idempotency keys are kept already") && sentence.contains("server.idempotency_keys"), "{sentence}");
    // A run that was made while the runs were counted counts twice until they are counted again.
    until("room without a key", async || wish(&daemon, &task).await.is_ok()).await;
    assert!(once("c").await.is_err());
}
