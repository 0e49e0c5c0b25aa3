//! What the daemon makes of a store that fails before a commit, or loses the answer after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sandclock::store::StoreError;

use super::faulty::{Fault, Faulty};
use super::*;

async fn faulty() -> (World, Arc<Faulty>) {
    let world = World::new().await;
    let store = Arc::clone(&world.faulty);
    (world, store)
}

/// The first calls of these names meet these faults.
fn plan(store: &Faulty, mut faults: Vec<(&'static str, Fault)>) -> Arc<AtomicU32> {
    let met = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&met);
    *store.plan.lock().unwrap() = Box::new(move |call| {
        let (name, fault) = faults.first().copied().filter(|(name, _)| *name == call)?;
        assert_eq!(name, call);
        faults.remove(0);
        count.fetch_add(1, Ordering::SeqCst);
        Some(fault)
    });
    met
}

#[tokio::test]
async fn a_wish_whose_answer_is_lost_makes_one_run() {
    for faults in [
        vec![("apply", Fault::After)],
        vec![("apply", Fault::Before)],
        vec![("apply", Fault::After), ("get", Fault::Before)],
        vec![("apply", Fault::After), ("get", Fault::Before), ("get", Fault::Before)],
        vec![("apply", Fault::Before), ("get", Fault::Before), ("apply", Fault::After)],
    ] {
        let (world, store) = faulty().await;
        // It does not execute, so that every call in between is the commit's.
        let daemon = world.start_as("a", |settings| settings.executes = false).await;
        let task = daemon.task(json!({"agent_id": "echo"})).await;
        let count = u32::try_from(faults.len()).unwrap();
        // Loaded before the plan begins: the task and the slot.
        let met = plan(&store, faults);
        let run = daemon.fire(&task).await;
        assert_eq!((run.status, met.load(Ordering::SeqCst)), (Status::Queued, count));
        assert_eq!(daemon.runs_of(&task).await.len(), 1);
        assert_eq!(daemon.names(&run.run_id).await, ["queued"], "nothing was written twice");
    }
}

#[tokio::test]
async fn a_run_that_was_claimed_before_its_lost_answer_was_resolved_is_not_made_again() {
    let (world, store) = faulty().await;
    let wishing = world.start_as("a", |settings| settings.executes = false).await;
    let working = world.start_as("b", |settings| settings.poll = Duration::from_millis(1)).await;
    let task = wishing.task(json!({})).await;
    plan(&store, vec![("apply", Fault::After)]);
    let run = wishing.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    assert_eq!(guest.run_id(), run);
    guest.complete("done");
    let run = working.settled(&run).await;
    assert_eq!((run.status, run.attempt), (Status::Completed, 1));
    assert_eq!(working.names(&run.run_id).await, ["queued", "claimed", "started", "completed"]);
}

#[tokio::test]
async fn an_outcome_whose_answer_is_lost_is_kept_once() {
    for fault in [Fault::Before, Fault::After] {
        let (world, store) = faulty().await;
        let daemon = world.start().await;
        let task = daemon.task(json!({})).await;
        let run = daemon.fire(&task).await.run_id;
        let guest = world.stage.guest().await;
        let met = plan(&store, vec![("apply", fault)]);
        guest.complete("done");
        let run = daemon.settled(&run).await;
        assert_eq!((run.result_preview.as_deref(), met.load(Ordering::SeqCst)), (Some("done"), 1));
        assert_eq!(daemon.names(&run.run_id).await, ["queued", "claimed", "started", "completed"]);
    }
}

#[tokio::test]
async fn a_report_whose_answer_is_lost_is_told_once() {
    let (world, store) = faulty().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    let met = plan(&store, vec![("apply", Fault::After)]);
    guest.host.report("half".to_owned(), Some(0.5));
    until("the fault", async || met.load(Ordering::SeqCst) == 1).await;
    guest.complete("done");
    daemon.settled(&run).await;
    assert_eq!(daemon.names(&run).await, ["queued", "claimed", "started", "progress", "completed"]);
}

#[tokio::test]
async fn a_claim_whose_answer_is_lost_loses_no_run() {
    let (world, store) = faulty().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "echo"})).await;
    let met = plan(&store, vec![("claim", Fault::After)]);
    let run = daemon.run_to_end(&task).await;
    assert_eq!((run.status, run.attempt, met.load(Ordering::SeqCst)), (Status::Completed, 1, 1));
}

#[tokio::test]
async fn w_11_a_renewal_that_fails_loses_no_lease() {
    let (world, store) = faulty().await;
    let daemon = world.start_as("a", |settings| settings.lease = Duration::from_secs(6)).await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    let met = plan(&store, vec![("renew", Fault::Before), ("renew", Fault::After)]);
    until("both faults", async || met.load(Ordering::SeqCst) == 2).await;
    until("a heartbeat", async || daemon.names(&run).await.contains(&"heartbeat".to_owned())).await;
    assert!(guest.signals.may_act());
    guest.complete("done");
    assert_eq!(daemon.settled(&run).await.attempt, 1);
}

#[tokio::test]
async fn a_refusal_rests_on_what_was_committed() {
    let (world, store) = faulty().await;
    let daemon = world.start_polling().await;
    let (task, other) = (
        daemon.task(json!({"overlap_policy": "allow_parallel"})).await,
        daemon.task(json!({"task_id": "other", "agent_id": "later"})).await,
    );
    let run = daemon.fire(&task).await;
    let guest = world.stage.guest().await;
    let closed = store.gate.write().await;
    let before = store.at_gate.load(Ordering::SeqCst);
    let manager = Manager::clone(&daemon);
    let fired = tokio::spawn(async move { manager.run_now(&other, RunWish::default()).await });
    until("a change at the gate", async || store.at_gate.load(Ordering::SeqCst) > before).await;
    // The outcome and the cancel come into one batch behind it, in this order; in the other order the answer is the same.
    guest.complete("done");
    until("the outcome", async || world.file(&run, "output.md").is_some()).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (manager, id) = (Manager::clone(&daemon), run.run_id.clone());
    let cancel = tokio::spawn(async move { manager.cancel_run(&id, "api").await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.clock.advance(Duration::from_secs(31));
    drop(closed);
    fired.await.unwrap().unwrap();
    cancel.await.unwrap().expect("the run has not ended: the outcome came under a lease that had passed");
    assert_eq!(daemon.settled(&run.run_id).await.status, Status::Cancelled);
}

#[tokio::test]
async fn a_retry_that_falls_due_between_two_looks_is_seen() {
    let (world, store) = faulty().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"retry_policy": {"max_retries": 1, "initial_delay_seconds": 3600, "max_delay_seconds": 3600}})).await;
    let run = daemon.fire(&task).await.run_id;
    let calls = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&calls);
    *store.plan.lock().unwrap() = Box::new(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        None
    });
    world.stage.guest().await.fail(ErrorKind::Trap);
    daemon.becomes(&run, Status::Queued).await;
    until("a worker at rest", async || {
        let before = calls.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(100)).await;
        calls.load(Ordering::SeqCst) == before
    })
    .await;
    let (clock, mut claimed, mut advanced) = (Arc::clone(&world.clock), false, false);
    *store.plan.lock().unwrap() = Box::new(move |call| {
        claimed |= call == "claim";
        // The worker has looked for runs, and asks when to look again: by then the time has come.
        if call == "due" && claimed && !std::mem::replace(&mut advanced, true) {
            clock.advance(Duration::from_secs(4000));
        }
        None
    });
    // A new agent wakes the worker once.
    world.stage.echo("nudge");
    world.stage.guest().await.complete("done");
    assert_eq!(daemon.settled(&run).await.attempt, 2);
}

#[tokio::test]
async fn a_due_task_is_dispatched_when_the_store_is_back() {
    let (world, store) = faulty().await;
    let daemon = world.start_polling().await;
    let faults = vec![("apply", Fault::Before); 6];
    let met = plan(&store, Vec::new());
    let task = daemon.task(json!({"agent_id": "echo", "schedule": {"type": "interval", "seconds": 1000}})).await;
    drop(met);
    let met = plan(&store, faults);
    world.clock.advance(Duration::from_secs(1001));
    until("the run", async || daemon.count(&task, Status::Completed).await == 1).await;
    assert_eq!(met.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn whatever_calls_fail_every_run_ends_once() {
    for seed in 1..=4u64 {
        let (world, store) = faulty().await;
        let daemon = world.start_polling().await;
        let task = daemon.task(json!({"agent_id": "echo", "overlap_policy": "queue_next"})).await;
        let mut state = seed;
        *store.plan.lock().unwrap() = Box::new(move |_| {
            // xorshift: any sequence will do, as long as the seed gives it again.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match state % 40 {
                0 => Some(Fault::Before),
                1 => Some(Fault::After),
                _ => None,
            }
        });
        let mut wishes = Vec::new();
        for _ in 0..60 {
            wishes.push(daemon.run_now(&task, RunWish::default()).await);
        }
        *store.plan.lock().unwrap() = Box::new(|_| None);
        let made: Vec<RunId> = daemon.runs_of(&task).await.into_iter().map(|run| run.run_id).collect();
        for run in wishes.into_iter().flatten() {
            assert!(made.contains(&run.run_id), "an acknowledged run is lost (seed {seed})");
        }
        for run in made {
            let run = daemon.settled(&run).await;
            assert_eq!(run.status, Status::Completed, "seed {seed}");
            let names = daemon.names(&run.run_id).await;
            assert_eq!(names.iter().filter(|name| *name == "completed").count(), 1, "seed {seed}: {names:?}");
            assert_eq!((names.iter().filter(|name| *name == "queued").count(), run.attempt), (1, 1), "seed {seed}: {names:?}");
        }
    }
}

/// Everything that writes meets a full store, until the flag is taken back.
fn fill(store: &Faulty) -> Arc<std::sync::atomic::AtomicBool> {
    let full = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let is_full = Arc::clone(&full);
    *store.plan.lock().unwrap() =
        Box::new(move |call| (["apply", "claim", "renew"].contains(&call) && is_full.load(Ordering::SeqCst)).then_some(Fault::Full));
    full
}

#[tokio::test]
async fn what_an_agent_tells_a_full_store_is_kept_in_its_order() {
    let (world, store) = faulty().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    let full = fill(&store);
    let before = store.at_gate.load(Ordering::SeqCst);
    guest.host.report("first".to_owned(), None);
    // The committer gives a full store up after three tries.
    until("more tries than one commit makes", async || store.at_gate.load(Ordering::SeqCst) >= before + 4).await;
    guest.host.report("second".to_owned(), None);
    full.store(false, Ordering::SeqCst);
    until("both reports", async || daemon.names(&run).await.len() == 5).await;
    guest.complete("done");
    daemon.settled(&run).await;
    assert_eq!(daemon.names(&run).await, ["queued", "claimed", "started", "progress", "progress", "completed"]);
    let messages: Vec<Value> = daemon.payloads(&run).await[3..5].iter().map(|payload| payload["message"].clone()).collect();
    assert_eq!(messages, ["first", "second"]);
}

#[tokio::test]
async fn a_full_store_is_told_and_nothing_new_is_begun_until_it_has_room() {
    let (world, store) = faulty().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "echo", "overlap_policy": "allow_parallel"})).await;
    let full = fill(&store);
    let before = store.at_gate.load(Ordering::SeqCst);
    let taken = daemon.run_now(&task, RunWish::default()).await;
    assert!(matches!(taken, Err(ManagerError::Store(StoreError::Full(_)))), "{taken:?}");
    assert_eq!(store.at_gate.load(Ordering::SeqCst), before + 3, "nobody is kept waiting for room that somebody has to make");
    let reason = daemon.ready().unwrap_err();
    assert!(reason.contains("full") && !reason.contains("as the test wants"), "{reason}");
    let before = store.at_gate.load(Ordering::SeqCst);
    for _ in 0..100 {
        assert!(daemon.run_now(&task, RunWish::default()).await.is_err());
    }
    assert_eq!(store.at_gate.load(Ordering::SeqCst), before, "a store that is known to be full is not asked for each wish");
    full.store(false, Ordering::SeqCst);
    until("readiness", async || daemon.ready().is_ok()).await;
    assert_eq!(daemon.run_to_end(&task).await.status, Status::Completed);
}

#[tokio::test]
async fn a_store_that_is_away_is_told_and_asked_all_the_same() {
    let (world, store) = faulty().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "echo"})).await;
    let met = plan(&store, vec![("apply", Fault::Before)]);
    let run = daemon.fire(&task).await;
    assert_eq!(met.load(Ordering::SeqCst), 1);
    assert_eq!(daemon.settled(&run.run_id).await.status, Status::Completed);
    until("readiness", async || daemon.ready().is_ok()).await;
}
