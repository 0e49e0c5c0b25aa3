//! Asking twice under one key when things break, and lists that are read while others change them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use sandclock::clock::Clock as _;
use sandclock::daemon::{Answered, Bounds, Retention};
use sandclock::domain::id::AgentId;
use sandclock::domain::idempotency::IdempotencyKey;
use sandclock::domain::task::Task;
use sandclock::store::{Change, ChangeId, CountScope, Index, Kind, PageRequest, Put, RecordId};

use super::faulty::Fault;
use super::*;

fn key(text: &str) -> IdempotencyKey {
    IdempotencyKey::parse("run", text, "p", None).unwrap()
}

async fn once(daemon: &Manager, task: &TaskId, text: &str) -> Answered<Run> {
    daemon.run_once(task, RunWish::default(), key(text)).await.unwrap()
}

#[tokio::test]
async fn scenario_27_a_crash_between_the_commit_and_its_answer_makes_no_second_run() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "later"})).await;
    let (cut, first) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let is_cut = Arc::clone(&cut);
    *world.faulty.plan.lock().unwrap() = Box::new(move |call| match call {
        _ if is_cut.load(Ordering::SeqCst) => Some(Fault::Before),
        "apply" if first.swap(false, Ordering::SeqCst) => {
            is_cut.store(true, Ordering::SeqCst);
            Some(Fault::After)
        }
        _ => None,
    });
    let (asking, id) = (Manager::clone(&daemon), task.clone());
    let asked = tokio::spawn(async move { asking.run_once(&id, RunWish::default(), key("k")).await });
    until("the commit", async || world.store.counts(CountScope::All(Kind::Run)).await.unwrap().total == 1).await;
    assert!(cut.load(Ordering::SeqCst));
    daemon.crash().await;
    *world.faulty.plan.lock().unwrap() = Box::new(|_| None);
    assert!(asked.await.unwrap().is_err(), "whoever asked was not told");
    let daemon = world.start().await;
    let again = once(&daemon, &task, "k").await;
    assert!(again.replayed);
    assert_eq!(daemon.runs_of(&task).await, [again.answer]);
}

#[tokio::test]
async fn scenario_27_whoever_made_the_run_is_told_so_though_the_answer_was_lost() {
    for faults in [vec![Fault::After], vec![Fault::Before], vec![Fault::Before, Fault::After]] {
        let world = World::new().await;
        let daemon = world.start_as("a", |settings| settings.executes = false).await;
        let task = daemon.task(json!({})).await;
        let mut left = faults.clone();
        *world.faulty.plan.lock().unwrap() = Box::new(move |call| (call == "apply").then(|| left.pop()).flatten());
        let first = once(&daemon, &task, "k").await;
        assert!(!first.replayed, "{}", faults.len());
        let again = once(&daemon, &task, "k").await;
        assert_eq!((again.answer.run_id, again.replayed), (first.answer.run_id, true));
        assert_eq!(daemon.runs_of(&task).await.len(), 1);
    }
}

#[tokio::test]
async fn scenario_27_a_task_that_is_changed_before_its_lost_answer_was_resolved_is_still_the_first() {
    let world = World::new().await;
    let daemon = world.start_as("a", |settings| settings.executes = false).await;
    let body = json!({"task_id": "t", "query": "x", "schedule": {"type": "manual"}});
    let (lost, changed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (is_lost, is_changed) = (Arc::clone(&lost), Arc::clone(&changed));
    *world.faulty.plan.lock().unwrap() = Box::new(move |call| match call {
        "apply" if !is_lost.swap(true, Ordering::SeqCst) => Some(Fault::After),
        // Reading back tells nothing until somebody else has changed the task.
        "get" if is_lost.load(Ordering::SeqCst) && !is_changed.load(Ordering::SeqCst) => Some(Fault::Before),
        _ => None,
    });
    let (manager, asked) = (Manager::clone(&daemon), body.clone());
    let asking = tokio::spawn(async move { manager.register_task_once(asked, false, key("k")).await });
    until("the commit", async || world.store.counts(CountScope::All(Kind::Task)).await.unwrap().total == 1).await;
    let task = Task::parse(body.clone(), &AgentId::parse("guest").unwrap(), None, world.clock.now()).unwrap();
    let index = Index { agent: Some(task.agent_id.clone()), ..Index::default() };
    let puts = vec![Put::of(RecordId::task(&task.task_id), index, &task).unwrap()];
    let change = Change { id: ChangeId(7), guards: vec![], puts, deletes: vec![], events: vec![] };
    world.store.apply(vec![change]).await.unwrap();
    changed.store(true, Ordering::SeqCst);
    let first = asking.await.unwrap().unwrap();
    assert!(!first.replayed, "whoever registered the task is told so");
    let again = daemon.register_task_once(body, false, key("k")).await.unwrap();
    assert_eq!((again.answer, again.replayed), (first.answer, true));
}

#[tokio::test]
async fn scenario_27_two_daemons_that_are_asked_at_once_make_one_run() {
    let world = World::new().await;
    let daemons = [world.start_as("a", |_| {}).await, world.start_as("b", |_| {}).await];
    let task = daemons[0].task(json!({"agent_id": "echo", "overlap_policy": "allow_parallel"})).await;
    for round in 0..20 {
        let asked = (0..10).map(|at| {
            let (manager, task) = (Manager::clone(&daemons[at % 2]), task.clone());
            tokio::spawn(async move { once(&manager, &task, &format!("k{round}")).await })
        });
        let answers: Vec<Answered<Run>> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers.iter().filter(|answered| !answered.replayed).count(), 1);
        assert!(answers.iter().all(|answered| answered.answer == answers[0].answer));
        assert_eq!(daemons[0].runs_of(&task).await.len(), round + 1);
    }
}

#[tokio::test]
async fn scenario_27_a_key_that_expires_while_it_is_asked_for_makes_one_run_a_life() {
    let world = World::new().await;
    let retention = Retention { pass: Duration::from_millis(1), ..Retention::default() };
    let bounds = Bounds { idempotency: Duration::from_secs(10), retention, ..Bounds::default() };
    let daemon = world.start_as("a", |settings| settings.bounds = bounds).await;
    let task = daemon.task(json!({"agent_id": "later", "overlap_policy": "allow_parallel"})).await;
    let mut firsts: BTreeMap<RunId, u32> = BTreeMap::new();
    // Retention has a task of its own, which a busy machine may let wait for many rounds.
    for round in 0..10_000 {
        if round >= 60 && firsts.len() > 2 {
            break;
        }
        let asked = (0..8).map(|_| {
            let (manager, task) = (Manager::clone(&daemon), task.clone());
            tokio::spawn(async move { once(&manager, &task, "k").await })
        });
        if round % 3 == 0 {
            world.clock.advance(Duration::from_secs(6));
        }
        for answered in join_all(asked).await.into_iter().map(Result::unwrap) {
            *firsts.entry(answered.answer.run_id).or_default() += u32::from(!answered.replayed);
        }
    }
    assert!(firsts.len() > 2, "the key has expired now and then");
    assert!(firsts.values().all(|firsts| *firsts == 1), "each run was made by one request: {firsts:?}");
    assert_eq!(daemon.runs_of(&task).await.len(), firsts.len());
}

#[tokio::test]
async fn scenario_28_pages_miss_and_repeat_nothing_while_runs_come_and_go() {
    let world = World::new().await;
    let retention = Retention { cancelled: Some(Duration::from_secs(1)), pass: Duration::from_millis(1), ..Retention::default() };
    let daemon = world.start_as("a", |settings| settings.bounds.retention = retention).await;
    let task = daemon.task(json!({"agent_id": "later", "overlap_policy": "allow_parallel"})).await;
    let mut there = Vec::new();
    for newest_first in [false, true] {
        for _ in 0..30 {
            there.push(daemon.fire(&task).await.run_id);
        }
        let (mut seen, mut page) = (Vec::new(), PageRequest { newest_first, ..PageRequest::first(4) });
        loop {
            let part = daemon.runs(Some(task.clone()), None, page).await.unwrap();
            seen.extend(part.items.into_iter().map(|run| run.run_id));
            let Some(next) = part.next else { break };
            // The run that the cursor stands on goes, one behind it too, and another comes.
            let behind = there.iter().find(|run| !seen.contains(run));
            for gone in seen.last().into_iter().chain(behind).cloned().collect::<Vec<_>>() {
                daemon.cancel_run(&gone, "test").await.unwrap();
                world.clock.advance(Duration::from_secs(61));
                until("the run's end", async || daemon.run(&gone).await.is_err()).await;
                there.retain(|run| *run != gone);
            }
            daemon.fire(&task).await;
            page.after = Some(next);
        }
        for run in &there {
            assert_eq!(seen.iter().filter(|seen| *seen == run).count(), 1, "each that was there throughout comes once");
        }
        let all = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all, "none comes twice");
    }
}
