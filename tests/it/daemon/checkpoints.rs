//! What attempts leave to those that follow: whose it is, how much, and under which lease.

use sandclock::daemon::{Bounds, Retention};
use sandclock::domain::checkpoint::{CheckpointQuota, LARGEST_CHECKPOINT};
use sandclock::sandbox::checkpoints::{CheckpointRefused, Checkpoints};
use sandclock::store::{CountScope, Kind, RecordId};

use super::fence::polling;
use super::stage::Guest;
use super::*;
use crate::guest::plain;

const QUOTA: CheckpointQuota = CheckpointQuota { names: 1_000, bytes: 16 * 1024 * 1024 };
const LEASE: Duration = Duration::from_secs(30);

fn left(guest: &Guest) -> &dyn Checkpoints {
    guest.host.checkpoints().unwrap()
}

async fn save(guest: &Guest, name: &str, value: &[u8]) -> Result<(), CheckpointRefused> {
    left(guest).save(name, value.to_vec(), QUOTA).await
}

async fn load(guest: &Guest, name: &str) -> Option<Vec<u8>> {
    left(guest).load(name).await.unwrap()
}

async fn kept(daemon: &TestDaemon) -> u64 {
    daemon.store.counts(CountScope::All(Kind::Checkpoint)).await.unwrap().total
}

#[tokio::test]
async fn a_guest_goes_on_where_its_last_attempt_was() {
    let world = World::new().await;
    world.stage.add_component("counts", &plain::checkpoints(3));
    let daemon = world.start().await;
    let retry = json!({"max_retries": 5, "initial_delay_seconds": 0, "retry_on": ["guest_retryable"]});
    let task = daemon.task(json!({"agent_id": "counts", "retry_policy": retry})).await;
    let run = daemon.run_to_end(&task).await;
    assert_eq!((run.status, run.attempt, run.result_preview.as_deref()), (Status::Completed, 3, Some("3")));
}

#[tokio::test]
async fn what_one_attempt_leaves_the_next_one_finds_and_no_other_run_does() {
    let world = World::new().await;
    let daemon = world.start().await;
    let retry = json!({"max_retries": 5, "initial_delay_seconds": 0, "retry_on": ["guest_retryable"]});
    let task = daemon.task(json!({"agent_id": "guest", "overlap_policy": "allow_parallel", "retry_policy": retry})).await;
    let run = daemon.fire(&task).await.run_id;
    let first = world.stage.guest().await;
    assert_eq!((load(&first, "a").await, left(&first).names().await.unwrap()), (None, Vec::new()));
    left(&first).remove("a").await.unwrap();
    assert_eq!(kept(&daemon).await, 0, "who keeps nothing leaves nothing");
    let largest = vec![0xff; LARGEST_CHECKPOINT];
    save(&first, "a", b"one").await.unwrap();
    save(&first, "b", &largest).await.unwrap();
    save(&first, "a", b"two").await.unwrap();
    save(&first, "é/\u{202e}", b"").await.unwrap();
    assert_eq!(load(&first, "a").await.as_deref(), Some(&b"two"[..]), "an attempt finds what it has left");
    first.fail(ErrorKind::GuestRetryable);
    let other_run = daemon.fire(&task).await.run_id;
    let (second, other) = {
        let (one, two) = (world.stage.guest().await, world.stage.guest().await);
        if one.run_id() == run { (one, two) } else { (two, one) }
    };
    assert_eq!((second.run_id(), other.run_id()), (run.clone(), other_run.clone()));
    let shown = daemon.checkpoint(&run, "b").await.unwrap();
    assert_eq!(
        (&shown["bytes"], shown["value_base64"].as_str().unwrap().len()),
        (&json!(LARGEST_CHECKPOINT), LARGEST_CHECKPOINT.div_ceil(3) * 4)
    );
    assert!(daemon.checkpoint(&other_run, "b").await.is_err(), "another run's");
    assert_eq!(load(&second, "b").await, Some(largest));
    assert_eq!(left(&second).names().await.unwrap(), ["a", "b", "é/\u{202e}"]);
    left(&second).remove("b").await.unwrap();
    assert_eq!(load(&second, "b").await, None);
    assert_eq!(left(&second).names().await.unwrap(), ["a", "é/\u{202e}"]);
    for name in ["a", &format!("{run}"), &format!("{run}/a"), "../a"] {
        assert_eq!(load(&other, name).await, None, "another run's {name}");
    }
    second.complete("done");
    assert_eq!(daemon.settled(&run).await.status, Status::Completed);
    assert_eq!(kept(&daemon).await, 3, "the names and two values stay with the run");
}

#[tokio::test]
async fn limits_hold_over_attempts_and_name_themselves() {
    let world = World::new().await;
    let daemon = world.start().await;
    let retry = json!({"max_retries": 5, "initial_delay_seconds": 0, "retry_on": ["guest_retryable"]});
    let task = daemon.task(json!({"agent_id": "guest", "retry_policy": retry})).await;
    daemon.fire(&task).await;
    let first = world.stage.guest().await;
    let small = CheckpointQuota { names: 2, bytes: 10 };
    left(&first).save("a", b"1234".to_vec(), small).await.unwrap();
    first.fail(ErrorKind::GuestRetryable);
    let second = world.stage.guest().await;
    left(&second).save("b", b"1234".to_vec(), small).await.unwrap();
    let refused = |refused: Result<(), CheckpointRefused>| match refused {
        Err(CheckpointRefused::Limit(why)) => why,
        other => panic!("{other:?}"),
    };
    let names = refused(left(&second).save("c", Vec::new(), small).await);
    assert!(names.contains("limit `checkpoints` of 2"), "{names}");
    let bytes = refused(left(&second).save("b", b"12345".to_vec(), small).await);
    assert!(bytes.contains("11 bytes") && bytes.contains("`checkpoint_bytes` is 10"), "{bytes}");
    assert_eq!(load(&second, "b").await.as_deref(), Some(&b"1234"[..]), "what was refused changed nothing");
    left(&second).remove("a").await.unwrap();
    left(&second).save("c", b"1234".to_vec(), small).await.unwrap();
}

#[tokio::test]
async fn a_lost_lease_keeps_nothing_and_ends_the_attempt() {
    let world = World::new().await;
    let first = world.start_as("a", |settings| settings.lease = LEASE).await;
    let task = first.task(json!({"agent_id": "guest"})).await;
    let run = first.fire(&task).await.run_id;
    let old = world.stage.guest().await;
    save(&old, "a", b"before").await.unwrap();
    let second = world.start_as("b", polling).await;
    world.clock.advance(LEASE + Duration::from_secs(1));
    let new = world.stage.guest().await;
    assert_eq!(new.run_id(), run);
    assert_eq!(load(&new, "a").await.as_deref(), Some(&b"before"[..]));
    save(&new, "a", b"after").await.unwrap();
    assert_eq!(save(&old, "a", b"too late").await, Err(CheckpointRefused::LeaseLost));
    assert_eq!(left(&old).remove("a").await, Err(CheckpointRefused::LeaseLost));
    assert_eq!(load(&new, "a").await.as_deref(), Some(&b"after"[..]));
    new.complete("done");
    assert_eq!(second.settled(&run).await.status, Status::Completed);
}

#[tokio::test]
async fn a_run_that_leaves_something_each_time_outlives_any_number_of_lost_workers() {
    let world = World::new().await;
    let mut daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "guest", "max_recoveries": 1})).await;
    let run = daemon.fire(&task).await.run_id;
    for round in 0..4_u8 {
        let guest = world.stage.guest().await;
        save(&guest, "round", &[round]).await.unwrap();
        assert_eq!(daemon.run(&run).await.unwrap().recoveries, 0, "a checkpoint ends the row of losses");
        daemon.crash().await;
        daemon = world.start().await;
    }
    let guest = world.stage.guest().await;
    assert_eq!(load(&guest, "round").await, Some(vec![3]));
    // The same without a checkpoint: one loss more than `max_recoveries` after the last one.
    daemon.crash().await;
    daemon = world.start().await;
    let after = daemon.settled(&run).await;
    assert_eq!((after.status, after.error_kind), (Status::Failed, Some(ErrorKind::Lost)), "{:?}", after.error);
}

#[tokio::test]
async fn checkpoints_go_with_their_run() {
    let world = World::new().await;
    let retention = Retention { completed: Some(Duration::from_secs(60)), pass: Duration::from_millis(5), ..Retention::default() };
    let daemon = world
        .start_as("a", |settings| {
            settings.bounds = Bounds { retention, ..Bounds::default() };
            settings.poll = Duration::from_millis(5);
        })
        .await;
    let task = daemon.task(json!({"agent_id": "guest"})).await;
    let run = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    save(&guest, "a", b"x").await.unwrap();
    guest.complete("done");
    daemon.settled(&run).await;
    assert!(daemon.raw(RecordId::new(Kind::Checkpoint, run.as_str())).await.is_some());
    world.clock.advance(Duration::from_secs(120));
    until("the run is gone", async || daemon.run(&run).await.is_err()).await;
    assert_eq!(kept(&daemon).await, 0);
}
