//! What retention deletes, and what it leaves alone.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sandclock::clock::Clock as _;
use sandclock::daemon::{Bounds, Retention};
use sandclock::domain::run::Slot;
use sandclock::store::{Change, ChangeId, CountScope, Kind, PageRequest, Put, RecordId, Scope};

use super::faulty::Fault;
use super::*;

const DAY: Duration = Duration::from_secs(86_400);

/// Keeps everything for as long, and looks often.
fn keep(span: Duration) -> Bounds {
    let kept = Some(span);
    let retention = Retention {
        completed: kept,
        failed: kept,
        cancelled: kept,
        skipped: kept,
        sessions: kept,
        runs_per_task: None,
        plugins: Duration::from_secs(3600),
        pass: Duration::from_millis(5),
    };
    Bounds { retention, ..Bounds::default() }
}

/// Keeps so many ended runs of a task.
fn number(most: u64) -> Bounds {
    let retention = Retention { runs_per_task: Some(most), pass: Duration::from_millis(5), ..Retention::default() };
    Bounds { retention, ..Bounds::default() }
}

/// A daemon that retires what these bounds say.
async fn start(world: &World, bounds: Bounds) -> TestDaemon {
    world
        .start_as("a", |settings| {
            settings.bounds = bounds;
            settings.poll = Duration::from_millis(5);
            // The tests step the clock that leases are judged by.
            settings.lease = 100 * DAY;
        })
        .await
}

fn workspace(world: &World, run: &Run) -> PathBuf {
    world.root.path().join("workspace").join(&run.workspace_path)
}

fn logs(world: &World, run: &Run) -> PathBuf {
    world.root.path().join("workspace/.logs").join(run.run_id.as_str())
}

/// Puts a log where an attempt's would be.
fn write_log(world: &World, run: &Run) {
    std::fs::create_dir_all(logs(world, run)).unwrap();
    std::fs::write(logs(world, run).join("1.jsonl"), "{}\n").unwrap();
}

/// Wants nothing of a run to be left, on the disk or in the store.
async fn gone(world: &World, daemon: &TestDaemon, run: &Run) {
    let id = &run.run_id;
    until("the end of a run's files", async || !workspace(world, run).exists() && !logs(world, run).exists()).await;
    until("the end of the note", async || notes(daemon).await == 0).await;
    for refused in [daemon.run(id).await.map(|_| ()), daemon.attempts(id).await.map(|_| ()), daemon.result(id).await.map(|_| ())] {
        assert!(matches!(refused, Err(ManagerError::NotFound { .. })), "{refused:?}");
    }
    assert!(world.store.events(id, 0, 9).await.unwrap().is_empty());
    assert!(world.store.list(Scope::Attempts(id.clone()), PageRequest::first(9)).await.unwrap().records.is_empty());
    assert_eq!(daemon.raw(RecordId::new(Kind::Result, id.as_str())).await, None);
}

async fn notes(daemon: &TestDaemon) -> u64 {
    daemon.store.counts(CountScope::All(Kind::Removal)).await.unwrap().total
}

async fn exists(daemon: &TestDaemon, run: &RunId) -> bool {
    daemon.raw(RecordId::run(run)).await.is_some()
}

#[tokio::test]
async fn scenario_29_retention_takes_what_has_ended_and_leaves_what_is_live() {
    let world = World::new().await;
    let daemon = start(&world, keep(DAY)).await;
    let schedule = json!({"type": "interval", "seconds": 1000});
    let echo = daemon.task(json!({"task_id": "echo", "agent_id": "echo", "schedule": schedule})).await;
    let steered = daemon.task(json!({"overlap_policy": "queue_next", "query": "x"})).await;
    let other = daemon.task(json!({"task_id": "other"})).await;
    world.clock.advance(Duration::from_secs(1001));
    until("the occurrence's run", async || daemon.count(&echo, Status::Completed).await == 1).await;
    let long = "r".repeat(5000);
    let (live, waits) = (daemon.fire(&steered).await, daemon.fire(&steered).await);
    let executing = world.stage.guest().await;
    assert_eq!((executing.run_id(), waits.status), (live.run_id.clone(), Status::Queued));
    let mut ended = daemon.runs_of(&echo).await;
    for how in 0..3 {
        let run = daemon.fire(&other).await;
        let guest = world.stage.guest().await;
        match how {
            0 => guest.complete(&long),
            1 => guest.fail(ErrorKind::GuestPermanent),
            _ => {
                daemon.cancel_run(&run.run_id, "test").await.unwrap();
                guest.end(Ended::Cancelled { message: "yes".to_owned() });
            }
        }
        ended.push(daemon.settled(&run.run_id).await);
    }
    assert_eq!(
        ended.iter().map(|run| run.status).collect::<Vec<_>>(),
        [Status::Completed, Status::Completed, Status::Failed, Status::Cancelled]
    );
    for run in &ended {
        write_log(&world, run);
    }
    let totals = daemon.state(&echo).await["totals"].clone();
    assert_eq!(totals["runs"], 1);
    daemon.pause_task(&echo).await.unwrap();
    let kept_alive = daemon.names(&live.run_id).await;
    world.clock.advance(2 * DAY);
    for run in &ended {
        gone(&world, &daemon, run).await;
    }
    assert_eq!(daemon.state(&echo).await["totals"], totals, "totals are never lowered");
    assert_eq!(daemon.names(&live.run_id).await, kept_alive);
    assert!(workspace(&world, &live).is_dir());
    let slot: Slot = serde_json::from_str(&daemon.raw(RecordId::slot(&steered)).await.unwrap().1).unwrap();
    assert_eq!((slot.holders, slot.waiting.into_iter().collect::<Vec<_>>()), (vec![live.run_id.clone()], vec![waits.run_id.clone()]));
    executing.complete("done");
    assert_eq!(daemon.settled(&live.run_id).await.attempt, 1);
    assert_eq!(world.stage.guest().await.run_id(), waits.run_id, "whoever waited has its turn");
}

#[tokio::test]
async fn a_run_is_kept_for_as_long_as_its_status_says() {
    let world = World::new().await;
    let mut bounds = keep(2 * DAY);
    bounds.retention.failed = None;
    bounds.retention.skipped = Some(5 * DAY);
    let daemon = start(&world, bounds).await;
    let task = daemon.task(json!({})).await;
    let mut runs = Vec::new();
    for how in 0..3 {
        let run = daemon.fire(&task).await.run_id;
        let guest = world.stage.guest().await;
        runs.push(daemon.fire(&task).await.run_id);
        match how {
            0 => guest.complete("done"),
            1 => guest.fail(ErrorKind::GuestPermanent),
            _ => guest.end(Ended::TimedOut),
        }
        runs.push(daemon.settled(&run).await.run_id);
        // They end one after the other.
        world.clock.advance(DAY);
    }
    let [skipped, completed, later, failed, last, timeout] = <[RunId; 6]>::try_from(runs).unwrap();
    until("the completed run's end", async || !exists(&daemon, &completed).await).await;
    assert!(exists(&daemon, &skipped).await && exists(&daemon, &later).await);
    world.clock.advance(DAY * 7 / 2);
    until("the skipped runs' end", async || !exists(&daemon, &skipped).await && !exists(&daemon, &later).await).await;
    assert!(exists(&daemon, &last).await, "it was skipped later");
    world.clock.advance(1000 * DAY);
    until("the last skipped run's end", async || !exists(&daemon, &last).await).await;
    for run in [failed, timeout] {
        assert!(exists(&daemon, &run).await, "what failed is kept for ever, as a timeout is");
    }
}

#[tokio::test]
async fn w_22_a_task_keeps_the_latest_of_its_runs_and_those_that_are_live() {
    let world = World::new().await;
    let daemon = world.start_polling().await;
    let steered = daemon.task(json!({"overlap_policy": "allow_parallel"})).await;
    let few = daemon.task(json!({"task_id": "few", "agent_id": "echo"})).await;
    let kept = daemon.run_to_end(&few).await;
    let live = daemon.fire(&steered).await;
    let guest = world.stage.guest().await;
    let mut ended = Vec::new();
    for _ in 0..6 {
        let run = daemon.fire(&steered).await;
        world.stage.guest().await.complete("done");
        ended.push(daemon.settled(&run.run_id).await);
    }
    daemon.crash().await;
    drop(guest);
    let daemon = start(&world, number(2)).await;
    // What has just ended stays for a minute.
    assert_eq!(daemon.runs_of(&steered).await.len(), 7);
    world.clock.advance(Duration::from_secs(61));
    let ids = |runs: &[Run]| runs.iter().map(|run| run.run_id.clone()).collect::<Vec<_>>();
    until("the number", async || daemon.runs_of(&steered).await.len() == 3).await;
    let left = daemon.runs_of(&steered).await;
    assert_eq!(ids(&left), [vec![live.run_id.clone()], ids(&ended[4..])].concat());
    for run in &ended[..4] {
        gone(&world, &daemon, run).await;
    }
    assert!(workspace(&world, &ended[5]).is_dir());
    assert!(exists(&daemon, &kept.run_id).await);
}

#[tokio::test]
async fn a_run_whose_attempt_is_still_busy_here_stays() {
    let world = World::new().await;
    let daemon = start(&world, keep(DAY)).await;
    let task = daemon.task(json!({"overlap_policy": "allow_parallel"})).await;
    let (busy, idle) = (daemon.fire(&task).await.run_id, daemon.fire(&task).await.run_id);
    let guests = [world.stage.guest().await, world.stage.guest().await];
    // Others have ended both runs over the head of the worker, whose guests go on for the moment.
    let mut puts = Vec::new();
    for run in [&busy, &idle] {
        let run = daemon.run(run).await.unwrap();
        puts.push(Put::run(&Run { status: Status::Failed, finished_at: Some(world.clock.now()), ..run }, world.clock.now()).unwrap());
    }
    let change = Change { id: ChangeId(7), guards: vec![], puts, deletes: vec![], events: vec![] };
    world.store.apply(vec![change]).await.unwrap();
    let [first, second] = guests;
    let (kept, ended) = if first.run_id() == busy { (first, second) } else { (second, first) };
    ended.complete("too late");
    world.clock.advance(2 * DAY);
    until("the idle run's end", async || !exists(&daemon, &idle).await).await;
    let run = daemon.run(&busy).await.unwrap();
    assert!(workspace(&world, &run).is_dir());
    kept.complete("too late");
    gone(&world, &daemon, &run).await;
}

#[tokio::test]
async fn a_run_takes_along_what_was_set_aside_of_its_workspace() {
    let world = World::new().await;
    let daemon = start(&world, keep(DAY)).await;
    let task = daemon.task(json!({"retry_policy": {"max_retries": 1, "initial_delay_seconds": 0, "jitter": 0}})).await;
    let run = daemon.fire(&task).await.run_id;
    world.stage.guest().await.fail(ErrorKind::Trap);
    world.stage.guest().await.complete("done");
    let run = daemon.settled(&run).await;
    let beside = |name: &str| workspace(&world, &run).with_file_name(name);
    let (first, second) = (beside(&format!("{}@1", run.run_id)), beside(&format!("{}@x.y", run.run_id)));
    for aside in [&first, &second] {
        std::fs::create_dir_all(aside.join("deep/er")).unwrap();
        std::fs::write(aside.join("deep/file"), "x").unwrap();
    }
    let neighbour = beside("run_of_somebody_else@1");
    std::fs::create_dir(&neighbour).unwrap();
    world.clock.advance(2 * DAY);
    gone(&world, &daemon, &run).await;
    assert!(!first.exists() && !second.exists() && neighbour.exists());
}

#[tokio::test]
async fn files_whose_removal_a_crash_cut_short_are_removed_at_the_next_start() {
    let world = World::new().await;
    for by_hand in [false, true] {
        let daemon = world.start_polling().await;
        let task = daemon.task(json!({"task_id": format!("t{by_hand}"), "agent_id": "echo"})).await;
        let runs = [daemon.run_to_end(&task).await, daemon.run_to_end(&task).await];
        runs.iter().for_each(|run| write_log(&world, run));
        daemon.stop(Duration::ZERO).await;
        world.clock.advance(2 * DAY);
        // The change that deletes the runs is committed, and nothing comes back before the daemon dies.
        let cut = cut_off_at_a_deletion(&world);
        let daemon = start(&world, if by_hand { Bounds::default() } else { keep(DAY) }).await;
        if by_hand {
            let (deleting, task) = (Manager::clone(&daemon), task.clone());
            tokio::spawn(async move { deleting.delete_task(&task, true).await });
        }
        until("the note", async || world.store.counts(CountScope::All(Kind::Removal)).await.unwrap().total == 1).await;
        assert!(cut.load(Ordering::SeqCst));
        daemon.crash().await;
        *world.faulty.plan.lock().unwrap() = Box::new(|_| None);
        for run in &runs {
            assert!(world.store.get(&[RecordId::run(&run.run_id)]).await.unwrap()[0].is_none());
            assert!(workspace(&world, run).is_dir() && logs(&world, run).is_dir(), "the crash came before the files");
        }
        let daemon = start(&world, Bounds { retention: Retention { pass: DAY, ..Retention::default() }, ..Bounds::default() }).await;
        for run in &runs {
            gone(&world, &daemon, run).await;
        }
        daemon.stop(Duration::ZERO).await;
    }
}

/// Nothing is heard of the store from the first change on that deletes a run.
fn cut_off_at_a_deletion(world: &World) -> Arc<AtomicBool> {
    let cut = Arc::new(AtomicBool::new(false));
    let is_cut = Arc::clone(&cut);
    *world.faulty.plan.lock().unwrap() = Box::new(move |call| match call {
        _ if is_cut.load(Ordering::SeqCst) => Some(Fault::Before),
        "delete" => {
            is_cut.store(true, Ordering::SeqCst);
            Some(Fault::After)
        }
        _ => None,
    });
    cut
}

#[tokio::test]
async fn whatever_calls_fail_retention_takes_all_that_it_should_and_no_more() {
    for seed in 1..=3u64 {
        let world = World::new().await;
        let daemon = world.start_polling().await;
        let task = daemon.task(json!({"agent_id": "echo"})).await;
        let mut runs = Vec::new();
        for _ in 0..20 {
            runs.push(daemon.run_to_end(&task).await);
        }
        daemon.stop(Duration::ZERO).await;
        world.clock.advance(2 * DAY);
        let daemon = start(&world, Bounds::default()).await;
        let kept = daemon.run_to_end(&task).await;
        daemon.stop(Duration::ZERO).await;
        let (mut state, mut calls) = (seed, 0);
        *world.faulty.plan.lock().unwrap() = Box::new(move |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            calls += 1;
            match state % 4 {
                // The start itself is not what is tried.
                _ if calls < 5 => None,
                0 => Some(Fault::Before),
                1 => Some(Fault::After),
                _ => None,
            }
        });
        let daemon = start(&world, keep(DAY)).await;
        until("the runs' end", async || runs.iter().all(|run| !workspace(&world, run).exists())).await;
        *world.faulty.plan.lock().unwrap() = Box::new(|_| None);
        for run in &runs {
            gone(&world, &daemon, run).await;
        }
        assert!(exists(&daemon, &kept.run_id).await && workspace(&world, &kept).is_dir(), "seed {seed}");
    }
}

#[tokio::test]
async fn skip_ranges_and_keys_go_by_their_age() {
    let world = World::new().await;
    let daemon = start(&world, keep(2 * DAY)).await;
    let schedule = json!({"type": "interval", "seconds": 3600, "misfire_policy": "run_once"});
    let task = daemon.task(json!({"agent_id": "echo", "schedule": schedule})).await;
    world.clock.advance(Duration::from_secs(5 * 3600 + 1));
    let ranges = async || daemon.skip_ranges(&task, PageRequest::first(9)).await.unwrap().total;
    until("a skip range", async || ranges().await == 1).await;
    daemon.pause_task(&task).await.unwrap();
    let totals = daemon.state(&task).await["totals"].clone();
    assert_eq!(totals["skipped"], 4);
    let keys = async || daemon.store.counts(CountScope::All(Kind::Idempotency)).await.unwrap().total;
    let key = || sandclock::domain::idempotency::IdempotencyKey::parse("run", "k", "p", None).unwrap();
    let first = daemon.run_once(&task, RunWish::default(), key()).await.unwrap();
    daemon.settled(&first.answer.run_id).await;
    world.clock.advance(DAY - Duration::from_secs(60));
    let again = daemon.run_once(&task, RunWish::default(), key()).await.unwrap();
    assert_eq!((again.answer, again.replayed, keys().await), (first.answer.clone(), true, 1));
    world.clock.advance(Duration::from_secs(61));
    until("the key's end", async || keys().await == 0).await;
    let anew = daemon.run_once(&task, RunWish::default(), key()).await.unwrap();
    assert!(!anew.replayed && anew.answer.run_id != first.answer.run_id);
    assert_eq!(ranges().await, 1);
    world.clock.advance(DAY);
    until("the range's end", async || ranges().await == 0).await;
    assert_eq!(daemon.state(&task).await["totals"], totals);
}

#[tokio::test]
async fn an_answer_outlives_the_run_that_it_tells_of() {
    let world = World::new().await;
    let mut bounds = keep(Duration::from_secs(1));
    bounds.idempotency = 2 * DAY;
    let daemon = start(&world, bounds).await;
    let task = daemon.task(json!({"agent_id": "echo"})).await;
    let key = || sandclock::domain::idempotency::IdempotencyKey::parse("run", "k", "p", None).unwrap();
    let first = daemon.run_once(&task, RunWish::default(), key()).await.unwrap();
    daemon.settled(&first.answer.run_id).await;
    world.clock.advance(DAY);
    until("the run's end", async || !exists(&daemon, &first.answer.run_id).await).await;
    let again = daemon.run_once(&task, RunWish::default(), key()).await.unwrap();
    assert_eq!((again.answer, again.replayed), (first.answer, true));
    assert_eq!(daemon.runs_of(&task).await.len(), 0, "no other run is made");
}

#[tokio::test]
async fn scenario_29_runs_go_on_while_many_are_pruned() {
    let world = World::new().await;
    let daemon = world.start_polling().await;
    let task = daemon.task(json!({"agent_id": "echo", "overlap_policy": "allow_parallel"})).await;
    let template = daemon.run_to_end(&task).await;
    daemon.stop(Duration::ZERO).await;
    const OLD: usize = 3000;
    for chunk in (0..OLD).collect::<Vec<_>>().chunks(250) {
        let old = |number: &usize| Run { run_id: RunId::parse(&format!("run_{number:032x}")).unwrap(), attempt: 0, ..template.clone() };
        let puts = chunk.iter().map(|number| Put::run(&old(number), world.clock.now()).unwrap()).collect();
        let change = Change { id: ChangeId(chunk[0] as u128 + 1), guards: vec![], puts, deletes: vec![], events: vec![] };
        world.store.apply(vec![change]).await.unwrap();
    }
    world.clock.advance(2 * DAY);
    // Retention gets through one change for each run that is made: the gate tells that runs are not kept waiting until it is done.
    let daemon = start(&world, keep(DAY)).await;
    let mut made = 0;
    let mut left = u64::MAX;
    while left > 10 {
        daemon.run_to_end(&task).await;
        made += 1;
        left = daemon.count(&task, Status::Completed).await.saturating_sub(made);
    }
    assert!(made >= 3, "only {made} runs were made while {OLD} were deleted");
    let kept = daemon.runs_of(&task).await;
    assert_eq!(kept.len() as u64, made, "those that were made meanwhile are all there");
    assert_eq!(daemon.store.counts(CountScope::RunsOfTask(task.clone())).await.unwrap().total, made);
}
