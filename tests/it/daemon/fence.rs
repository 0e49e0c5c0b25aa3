//! What an attempt may still do when its lease is over: nothing that anybody sees.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;

use super::stage::Guest;
use super::*;
use rustix::fs::{Mode, OFlags, openat};
use sandclock::daemon::DaemonSettings;

const LEASE: Duration = Duration::from_secs(30);

pub(super) fn polling(settings: &mut DaemonSettings) {
    settings.poll = Duration::from_millis(5);
}

/// A file that a guest has open for appending.
fn open_log(guest: &Guest) -> std::fs::File {
    let folder = guest.spec.folder.as_ref().expect("the folder is given open");
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND;
    std::fs::File::from(openat(folder, "log", flags, Mode::from_raw_mode(0o644)).unwrap())
}

fn inode(guest: &Guest) -> u64 {
    std::fs::metadata(&guest.spec.workspace).unwrap().ino()
}

/// A run that daemon `a` executes and daemon `b` takes over when the lease has passed by the store's clock. Daemon `a` does not know it
/// as long as it does not renew.
async fn taken_over(world: &World) -> (TestDaemon, TestDaemon, Run, [Guest; 2], std::fs::File) {
    let first = world.start_as("a", |settings| settings.lease = LEASE).await;
    let task = first.task(json!({})).await;
    let run = first.fire(&task).await;
    let lost = world.stage.guest().await;
    let mut log = open_log(&lost);
    log.write_all(b"by the first\n").unwrap();
    let second = world.start_as("b", polling).await;
    world.clock.advance(LEASE + Duration::from_secs(1));
    let guest = world.stage.guest().await;
    assert_eq!((guest.run_id(), guest.spec.context.attempt), (run.run_id.clone(), 2));
    (first, second, run, [lost, guest], log)
}

#[tokio::test]
async fn a_run_that_is_taken_over_from_another_daemon_gets_a_workspace_of_its_own() {
    let world = World::new().await;
    let (first, second, run, [lost, guest], mut log) = taken_over(&world).await;
    assert_eq!(world.file(&run, "log").as_deref(), Some("by the first\n"), "what was there is there");
    assert_eq!(guest.spec.found.map(|found| found.files), Some(1), "and its quota starts with that");
    // The first guest goes on, and its daemon does not know yet.
    log.write_all(b"from the grave\n").unwrap();
    lost.complete("stale");
    open_log(&guest).write_all(b"by the second\n").unwrap();
    guest.complete("fresh");
    let ended = second.settled(&run.run_id).await;
    assert_eq!((ended.result_preview.as_deref(), ended.lease_generation), (Some("fresh"), 2));
    first.stop(Duration::ZERO).await;
    assert_eq!(world.file(&run, "log").as_deref(), Some("by the first\nby the second\n"));
    assert_eq!(world.file(&run, "output.md").as_deref(), Some("fresh"));
    let mirror: Value = serde_json::from_str(&world.file(&run, "run.json").unwrap()).unwrap();
    assert_eq!((&mirror["result_preview"], &mirror["lease_generation"]), (&json!("fresh"), &json!(2)));
    let listed = second.workspace(&run.run_id, None, 100).await.unwrap();
    let names: Vec<&str> = listed.entries.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(names, ["events.jsonl", "log", "output.md", "run.json"], "what was set aside is no part of it");
}

#[tokio::test]
async fn what_comes_after_the_lease_leaves_no_mirror() {
    let world = World::new().await;
    let daemon = world.start_as("a", |settings| settings.lease = Duration::from_secs(3)).await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await;
    let guest = world.stage.guest().await;
    *world.faulty.plan.lock().unwrap() = Box::new(|call| (call == "renew").then_some(super::faulty::Fault::Before));
    guest.stopped().await;
    // The store agrees; nobody else has the run yet.
    world.clock.advance(LEASE);
    let calls = world.faulty.at_gate.load(std::sync::atomic::Ordering::SeqCst);
    guest.complete("too late");
    until("the refusal", async || world.faulty.at_gate.load(std::sync::atomic::Ordering::SeqCst) > calls).await;
    until("the end of the attempt", async || daemon.status().await.unwrap()["executing_here"] == 0).await;
    assert_eq!(daemon.run(&run.run_id).await.unwrap().status, Status::Running);
    assert_eq!((world.file(&run, "run.json"), world.file(&run, "output.md")), (None, None));
}

#[tokio::test]
async fn what_was_set_aside_goes_with_the_run() {
    let world = World::new().await;
    let (_first, second, run, [lost, guest], _log) = taken_over(&world).await;
    lost.complete("stale");
    guest.complete("fresh");
    second.settled(&run.run_id).await;
    let aside = world.root.path().join("workspace").join(format!("{}@aside", run.workspace_path));
    assert!(aside.join("fence-1/log").exists());
    second.delete_task(&run.task_id, true).await.unwrap();
    until("the removal", async || !aside.exists()).await;
}

#[tokio::test]
async fn a_restarted_daemon_goes_on_in_the_same_directory() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    daemon.fire(&task).await;
    let lost = world.stage.guest().await;
    let before = inode(&lost);
    daemon.crash().await;
    let daemon = world.start().await;
    let guest = world.stage.guest().await;
    assert_eq!((guest.spec.context.attempt, inode(&guest)), (2, before));
    assert_eq!(guest.spec.found, None, "what is in it is counted");
    drop(daemon);
}

#[tokio::test]
async fn a_run_that_was_handed_back_goes_on_in_the_same_directory() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    daemon.fire(&task).await;
    let guest = world.stage.guest().await;
    let before = inode(&guest);
    let stopping = tokio::spawn(daemon.stop(Duration::ZERO));
    guest.stopped().await;
    guest.end(Ended::Stopped(Stop::ShuttingDown));
    stopping.await.unwrap();
    let _second = world.start_as("b", polling).await;
    let guest = world.stage.guest().await;
    assert_eq!((guest.spec.context.attempt, inode(&guest)), (2, before), "its guest had ended");
}

#[tokio::test]
async fn the_daemon_that_lost_a_run_may_take_it_up_again() {
    let world = World::new().await;
    let (first, second, run, [lost, guest], mut log) = taken_over(&world).await;
    let before = inode(&guest);
    // Nobody can know that the second one is dead.
    second.crash().await;
    first.crash().await;
    let back = world.start_as("a", polling).await;
    world.clock.advance(LEASE + Duration::from_secs(1));
    back.becomes(&run.run_id, Status::Queued).await;
    world.clock.advance(Duration::from_secs(6));
    let third = world.stage.guest().await;
    assert_eq!(third.spec.context.attempt, 3);
    assert_ne!(inode(&third), before);
    log.write_all(b"from the grave\n").unwrap();
    open_log(&guest).write_all(b"from another grave\n").unwrap();
    assert_eq!(world.file(&run, "log").as_deref(), Some("by the first\n"));
    lost.complete("stale");
    third.complete("fresh");
    assert_eq!(back.settled(&run.run_id).await.lease_generation, 3);
}

#[tokio::test]
async fn a_workspace_that_cannot_be_copied_fails_the_attempt_and_the_next_one_goes_on() {
    let world = World::new().await;
    world.stage.room(10);
    let first = world.start_as("a", |settings| settings.lease = LEASE).await;
    let task = first.task(json!({"retry_policy": {"max_retries": 1, "initial_delay_seconds": 60}})).await;
    let run = first.fire(&task).await;
    let lost = world.stage.guest().await;
    open_log(&lost).write_all(b"more than ten bytes").unwrap();
    let second = world.start_as("b", polling).await;
    world.clock.advance(LEASE + Duration::from_secs(1));
    until("the failure", async || second.run(&run.run_id).await.unwrap().failures == 1).await;
    let attempts = second.attempts(&run.run_id).await.unwrap();
    let told = attempts[1].error.clone().unwrap();
    assert!(told.contains("holds more than 10 bytes") && attempts[1].error_kind == Some(ErrorKind::Host), "{told}");
    world.stage.room(1000);
    world.clock.advance(Duration::from_secs(120));
    let guest = world.stage.guest().await;
    assert_eq!((guest.spec.context.attempt, world.file(&run, "log").as_deref()), (3, Some("more than ten bytes")));
    guest.complete("done");
    assert_eq!(second.settled(&run.run_id).await.status, Status::Completed);
}
