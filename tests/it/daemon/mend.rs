//! Runs once more, many runs at once, and mirrors written again.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use super::faulty::Fault;
use super::harness::conflict;
use super::*;
use sandclock::daemon::manager::{BulkCursor, BulkDone, BulkVerb};
use sandclock::domain::filter::RunFilter;
use sandclock::domain::id::AgentId;
use sandclock::store::PageRequest;

fn cancel() -> BulkVerb {
    BulkVerb::Cancel { by: "api".to_owned() }
}

fn of_task(task: &TaskId, status: &[Status]) -> RunFilter {
    RunFilter { task: Some(task.clone()), status: status.to_vec(), ..RunFilter::default() }
}

async fn all(daemon: &TestDaemon, verb: &BulkVerb, filter: &RunFilter, limit: usize) -> BulkDone {
    let mut together = BulkDone::default();
    let mut from = None;
    loop {
        let part = daemon.bulk(verb, filter, limit, from).await.unwrap();
        assert!(part.done.len() + part.refused.len() <= limit);
        together.done.extend(part.done);
        together.refused.extend(part.refused);
        match part.next {
            // As a client has it: by its text.
            Some(next) => from = BulkCursor::parse(&next.to_string()),
            None => return together,
        }
    }
}

#[tokio::test]
async fn a_rerun_asks_the_same_again_and_names_whom_it_repeats() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "echo"})).await;
    let metadata = json!({"ticket": 7}).as_object().unwrap().clone();
    let first = daemon.run_now(&task, RunWish { query: Some("This once.".into()), metadata: metadata.clone(), by: None }).await.unwrap();
    daemon.settled(&first.run_id).await;
    daemon.update_task(&task, json!({"query": "Something else."})).await.unwrap();

    let second = daemon.rerun(&first.run_id, RunWish::default()).await.unwrap();
    assert_eq!((second.task_id.clone(), second.query_snapshot.as_str()), (task.clone(), "This once."));
    assert_eq!(json!(second.trigger_metadata), json!({"ticket": 7, "rerun_of": first.run_id}));
    assert_eq!(daemon.settled(&second.run_id).await.result_preview.as_deref(), Some("did: This once."));

    let wish = RunWish { query: Some("That.".into()), metadata: json!({"ticket": 8}).as_object().unwrap().clone(), by: None };
    let third = daemon.rerun(&second.run_id, wish).await.unwrap();
    assert_eq!(third.query_snapshot, "That.");
    assert_eq!(json!(third.trigger_metadata), json!({"ticket": 8, "rerun_of": second.run_id}));
    daemon.settled(&third.run_id).await;
    let fourth = daemon.rerun(&third.run_id, RunWish::default()).await.unwrap();
    assert_eq!(json!(fourth.trigger_metadata), json!({"ticket": 8, "rerun_of": third.run_id}), "the last one is named, not the first");
    assert_eq!(daemon.run(&first.run_id).await.unwrap().trigger_metadata, metadata, "the run that is repeated stays as it was");
}

#[tokio::test]
async fn a_rerun_that_cannot_be_is_refused_with_the_mend() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    let running = conflict(daemon.rerun(&run, RunWish::default()).await);
    assert!(running.contains("is running; only a run that has ended") && running.contains("cancel it"), "{running}");
    // The one that was live when it was asked for has ended by now: the policy of the task decides.
    let skipped = daemon.fire(&task).await;
    assert_eq!(daemon.rerun(&skipped.run_id, RunWish::default()).await.unwrap().status, Status::Skipped);
    guest.complete("done");
    daemon.settled(&run).await;
    daemon.update_task(&task, json!({"enabled": false})).await.unwrap();
    assert!(conflict(daemon.rerun(&run, RunWish::default()).await).contains("enable it"));
    daemon.delete_task(&task, false).await.unwrap();
    match daemon.rerun(&run, RunWish::default()).await {
        Err(ManagerError::NotFound { what: "Task", id }) => assert!(id.contains("register it again"), "{id}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(daemon.rerun(&RunId::parse("run_x").unwrap(), RunWish::default()).await, Err(ManagerError::NotFound { .. })));
    let taken = RunWish { query: None, metadata: json!({"rerun_of": "x"}).as_object().unwrap().clone(), by: None };
    for refused in [daemon.rerun(&run, taken.clone()).await, daemon.run_now(&task, taken).await] {
        assert!(matches!(&refused, Err(ManagerError::Invalid(faults)) if faults.to_string().contains("rerun_of")), "{refused:?}");
    }
}

#[tokio::test]
async fn many_are_run_again_once_each_however_many_fit_afterwards() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    let live = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    // Each rerun is skipped as well, and so fits the filter as its original does.
    let skipped: HashSet<RunId> = daemon.fire_at_once(&task, 250).await.into_iter().map(|run| run.run_id).collect();
    let filter = of_task(&task, &[Status::Skipped]);
    let preview = daemon.preview(&BulkVerb::Rerun { by: None }, &filter).await.unwrap();
    assert_eq!((preview.matched, preview.is_complete, preview.sample.len()), (250, true, 10));
    assert_eq!(daemon.count(&task, Status::Skipped).await, 250, "a preview does nothing");

    for (round, limit) in [(1, 1000), (2, 70)] {
        let outcome = all(&daemon, &BulkVerb::Rerun { by: None }, &filter, limit).await;
        assert_eq!((outcome.done.len(), outcome.refused.len()), (250 * round, 0), "limit {limit}");
        let repeated: HashSet<RunId> = outcome.done.iter().map(|(of, _)| of.clone()).collect();
        assert_eq!(repeated.len(), outcome.done.len(), "none twice");
        assert!(round > 1 || repeated == skipped);
        for (of, run) in &outcome.done {
            assert_eq!((run.status, &run.trigger_metadata["rerun_of"]), (Status::Skipped, &json!(of)));
        }
    }
    let some = daemon.bulk(&BulkVerb::Rerun { by: None }, &filter, 5, None).await.unwrap();
    assert_eq!((some.done.len(), some.next.is_some()), (5, true));
    guest.complete("done");
    daemon.settled(&live).await;
}

#[tokio::test]
async fn many_share_commits() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "later", "overlap_policy": "allow_parallel"})).await;
    daemon.fire_at_once(&task, 100).await;
    let closed = world.faulty.gate.write().await;
    let before = world.faulty.at_gate.load(Ordering::SeqCst);
    let (manager, filter) = (Manager::clone(&daemon), of_task(&task, &[]));
    let cancelling = tokio::spawn(async move { manager.bulk(&cancel(), &filter, 1000, None).await.unwrap() });
    // While the first commit waits, the others gather behind it.
    until("a commit", async || world.faulty.at_gate.load(Ordering::SeqCst) > before).await;
    drop(closed);
    assert_eq!(cancelling.await.unwrap().done.len(), 100);
    let commits = world.faulty.at_gate.load(Ordering::SeqCst) - before;
    assert!(commits < 100, "each of 100 runs had a commit of its own");
}

#[tokio::test]
async fn many_are_cancelled_queued_and_running_alike() {
    let world = World::new().await;
    world.stage.limit("guest", 2);
    let daemon = world.start().await;
    let task = daemon.task(json!({"overlap_policy": "allow_parallel"})).await;
    let other = daemon.task(json!({"task_id": "other", "agent_id": "later"})).await;
    let other = daemon.fire(&other).await.run_id;
    daemon.fire_at_once(&task, 150).await;
    let guests = [world.stage.guest().await, world.stage.guest().await];
    let preview = daemon.preview(&cancel(), &of_task(&task, &[])).await.unwrap();
    assert_eq!((preview.matched, preview.is_complete), (150, true));
    assert_eq!(daemon.preview(&cancel(), &of_task(&task, &[Status::Running])).await.unwrap().matched, 2);
    let outcome = all(&daemon, &cancel(), &of_task(&task, &[]), 40).await;
    assert_eq!((outcome.done.len(), outcome.refused.len()), (150, 0));
    assert_eq!(daemon.count(&task, Status::Cancelled).await, 148);
    assert_eq!(daemon.preview(&cancel(), &of_task(&task, &[])).await.unwrap().matched, 0, "those that were asked already are not meant");
    for guest in guests {
        guest.cancelled().await;
        guest.end(Ended::Cancelled { message: String::new() });
    }
    until("their end", async || daemon.count(&task, Status::Cancelled).await == 150).await;
    let everything = all(&daemon, &cancel(), &RunFilter::default(), 1000).await;
    assert_eq!(everything.done.iter().map(|(id, _)| id).collect::<Vec<_>>(), [&other]);
}

#[tokio::test]
async fn a_filter_picks_by_agent_time_and_kind_of_error() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    let echo = daemon.task(json!({"task_id": "e", "agent_id": "echo"})).await;
    let mut failed = Vec::new();
    let mut times = Vec::new();
    for kind in [ErrorKind::Trap, ErrorKind::GuestPermanent, ErrorKind::Trap] {
        times.push(daemon.fire(&task).await.triggered_at);
        world.stage.guest().await.fail(kind);
        let ended = daemon.runs_of(&task).await.pop().unwrap().run_id;
        failed.push(daemon.settled(&ended).await.run_id);
        world.clock.advance(Duration::from_secs(3600));
    }
    daemon.run_to_end(&echo).await;
    let matched = async |filter: RunFilter| daemon.preview(&BulkVerb::Rerun { by: None }, &filter).await.unwrap().sample;
    let ids = |runs: Vec<Run>| runs.into_iter().map(|run| run.run_id).collect::<Vec<_>>();
    let any = RunFilter::default;
    assert_eq!(ids(matched(RunFilter { error_kind: Some(ErrorKind::Trap), ..any() }).await), [failed[0].clone(), failed[2].clone()]);
    assert_eq!(ids(matched(RunFilter { since: Some(times[1]), until: Some(times[2]), ..any() }).await), [failed[1].clone()]);
    assert_eq!(matched(RunFilter { agent: Some(AgentId::parse("guest").unwrap()), ..any() }).await.len(), 3);
    assert_eq!(matched(RunFilter { status: vec![Status::Completed], ..any() }).await.len(), 1);
    assert_eq!(matched(any()).await.len(), 4);
}

#[tokio::test]
async fn those_that_are_refused_are_told_and_the_others_go_on() {
    let world = World::new().await;
    let daemon = world.start().await;
    let mut runs = Vec::new();
    for name in ["t1", "t2", "t3"] {
        let task = daemon.task(json!({"task_id": name, "agent_id": "echo"})).await;
        runs.push(daemon.run_to_end(&task).await.run_id);
        match name {
            "t1" => daemon.delete_task(&task, false).await.unwrap(),
            "t2" => drop(daemon.update_task(&task, json!({"enabled": false})).await.unwrap()),
            _ => {}
        }
    }
    let outcome = all(&daemon, &BulkVerb::Rerun { by: None }, &RunFilter::default(), 1000).await;
    let refused: Vec<(&RunId, String)> = outcome.refused.iter().map(|(id, error)| (id, error.to_string())).collect();
    assert_eq!(refused.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [&runs[0], &runs[1]]);
    assert!(refused[0].1.contains("not found") && refused[1].1.contains("disabled"), "{refused:?}");
    assert_eq!(outcome.done.iter().map(|(id, _)| id).collect::<Vec<_>>(), [&runs[2]]);
}

#[tokio::test]
async fn a_store_that_goes_away_stops_it_and_it_tells_what_is_done() {
    let world = World::new().await;
    let daemon = world.start_as("a", |settings| settings.executes = false).await;
    let task = daemon.task(json!({"overlap_policy": "allow_parallel"})).await;
    daemon.fire_at_once(&task, 320).await;
    let mut commits = 0;
    *world.faulty.plan.lock().unwrap() = Box::new(move |call| {
        commits += u32::from(call == "apply");
        // However many of the first page the first commit takes, runs are left behind the page that meets the fault.
        (call == "apply" && commits > 1).then_some(Fault::Before)
    });
    let outcome = daemon.bulk(&cancel(), &of_task(&task, &[]), 1000, None).await.unwrap();
    *world.faulty.plan.lock().unwrap() = Box::new(|_| None);
    let (done, refused) = (outcome.done.len(), outcome.refused.len());
    assert!(done > 0 && refused > 0 && outcome.next.is_some(), "{done} done, {refused} refused, next {:?}", outcome.next);
    let cancelled = daemon.count(&task, Status::Cancelled).await;
    assert_eq!(cancelled, outcome.done.len() as u64, "what is told as done is done, and nothing else");
    let rest = all(&daemon, &cancel(), &of_task(&task, &[]), 1000).await;
    assert_eq!(rest.done.len() as u64, 320 - cancelled);
}

#[tokio::test]
async fn mirrors_are_written_again_from_the_store() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "echo"})).await;
    let run = daemon.run_to_end(&task).await;
    let names = ["run.json", "events.jsonl", "output.md"];
    let before = names.map(|name| world.file(&run, name).unwrap());
    let folder = world.root.path().join("workspace").join(&run.workspace_path);
    std::fs::remove_dir_all(&folder).unwrap();
    let (_, files) = daemon.mirror_run(&run.run_id).await.unwrap();
    assert_eq!(files, names);
    assert_eq!(names.map(|name| world.file(&run, name).unwrap())[1..], before[1..]);
    std::fs::write(folder.join("output.md"), "the guest's own").unwrap();
    std::fs::write(folder.join("events.jsonl"), "broken").unwrap();
    daemon.mirror_run(&run.run_id).await.unwrap();
    assert_eq!(world.file(&run, "output.md").unwrap(), "the guest's own");
    assert_eq!(world.file(&run, "events.jsonl").unwrap(), before[1]);

    let live = daemon.task(json!({"task_id": "live"})).await;
    let live = daemon.fire(&live).await.run_id;
    let guest = world.stage.guest().await;
    assert!(conflict(daemon.mirror_run(&live).await).contains("when it has ended"));
    guest.complete("done");
    daemon.settled(&live).await;
    let bare = json!({"task_id": "bare", "agent_id": "echo", "workspace_policy": {"write_run_json": false, "write_events_jsonl": false}});
    let bare = daemon.task(bare).await;
    let bare = daemon.run_to_end(&bare).await.run_id;
    assert!(conflict(daemon.mirror_run(&bare).await).contains("without mirrors"));
}

#[tokio::test]
async fn the_totals_hold_after_overlap_skips_misses_and_a_pause() {
    let world = World::new().await;
    // The lease outlives the jumps of the clock.
    let hasty = |settings: &mut sandclock::daemon::DaemonSettings| {
        (settings.poll, settings.lease) = (Duration::from_millis(5), Duration::from_secs(100_000));
    };
    let daemon = world.start_as("a", hasty).await;
    let task = daemon.task(json!({"schedule": {"type": "interval", "seconds": 100}})).await;
    let total = async |name: &str| daemon.state(&task).await["totals"][name].as_u64().unwrap();
    world.clock.advance(Duration::from_secs(100));
    let guest = world.stage.guest().await;
    // One by one they meet the run that is live.
    for skipped in 1..=3 {
        world.clock.advance(Duration::from_secs(100));
        until("a skip", async || daemon.count(&task, Status::Skipped).await == skipped).await;
    }
    assert_eq!((total("occurrences").await, total("runs").await, total("skipped").await), (4, 4, 0), "a skipped run is a run");
    guest.complete("done");
    until("its end", async || daemon.count(&task, Status::Completed).await == 1).await;
    // Ten at once: the last one runs, nine are missed.
    world.clock.advance(Duration::from_secs(1000));
    world.stage.guest().await.complete("done");
    until("the misses", async || total("skipped").await == 9).await;
    daemon.pause_task(&task).await.unwrap();
    world.clock.advance(Duration::from_secs(500));
    daemon.resume_task(&task).await.unwrap();
    let (occurrences, runs, skipped) = (total("occurrences").await, total("runs").await, total("skipped").await);
    assert_eq!((occurrences, runs, skipped), (19, 5, 14));
    let ranges = daemon.skip_ranges(&task, PageRequest::first(100)).await.unwrap().items;
    let told: Vec<(&str, u64)> = ranges.iter().map(|range| (range["reason"].as_str().unwrap(), range["count"].as_u64().unwrap())).collect();
    assert_eq!(told, [("missed", 9), ("paused", 5)]);
    let of_schedule = daemon.runs_of(&task).await.into_iter().filter(|run| run.occurrence_id.is_some()).count() as u64;
    assert_eq!(of_schedule, runs);
}
