//! Leases that must not be lost while a daemon is busy, its guests are wild, or its store answers badly; and one that is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::future::join_all;

use super::faulty::Fault;
use super::stage::Guest;
use super::*;
use crate::guest::hostile;

/// Runs that execute all at once in daemon `a`, in the test's hands.
async fn crowd(world: &World, size: usize, lease: Duration) -> (TestDaemon, Vec<Guest>) {
    let daemon = world.start_as("a", |settings| {
        settings.lease = lease;
        settings.max_running = size + 64;
    });
    let daemon = daemon.await;
    let task = daemon.task(json!({"overlap_policy": "allow_parallel"})).await;
    for begin in (0..size).step_by(200) {
        let wishes = (begin..size.min(begin + 200)).map(|_| daemon.run_now(&task, RunWish::default()));
        assert!(join_all(wishes).await.iter().all(Result::is_ok));
    }
    let mut guests = Vec::new();
    while guests.len() < size {
        guests.push(world.stage.guest().await);
    }
    (daemon, guests)
}

/// The calls that renew, counted, and what happens to each by its number.
fn on_renewals(world: &World, mut fault: impl FnMut(u32) -> Option<Fault> + Send + 'static) -> Arc<AtomicU32> {
    let calls = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&calls);
    *world.faulty.plan.lock().unwrap() =
        Box::new(move |call| (call == "renew").then(|| fault(count.fetch_add(1, Ordering::SeqCst))).flatten());
    calls
}

/// Returns when each of these runs was renewed so many times more.
async fn renewed(world: &World, guests: &[Guest], times: u32) {
    world.faulty.renewed.lock().unwrap().clear();
    until("the renewals", async || {
        let renewed = world.faulty.renewed.lock().unwrap();
        guests.iter().all(|guest| renewed.get(&guest.run_id()).is_some_and(|count| *count >= times))
    })
    .await;
}

/// None of them has lost its lease: each ends in its first attempt.
async fn all_end(daemon: &TestDaemon, guests: Vec<Guest>) {
    let lost = guests.iter().filter(|guest| !guest.signals.may_act()).count();
    assert_eq!(lost, 0, "guests were stopped");
    let runs: Vec<RunId> = guests.iter().map(Guest::run_id).collect();
    guests.into_iter().for_each(|guest| guest.complete("done"));
    for run in runs {
        let run = daemon.settled(&run).await;
        assert_eq!((run.status, run.attempt, run.recoveries), (Status::Completed, 1, 0));
    }
}

#[tokio::test]
async fn a_thousand_runs_keep_their_leases_whatever_else_goes_on() {
    let world = World::new().await;
    world.stage.add_component("spin", &hostile::spin());
    // A thousand, which one call renews: were there two, of which one is always the second, it would always fail.
    let (daemon, guests) = crowd(&world, 996, Duration::from_secs(4)).await;
    let wild = daemon.task(json!({"task_id": "wild", "agent_id": "spin", "overlap_policy": "allow_parallel"})).await;
    let mut spinning = Vec::new();
    for _ in 0..4 {
        let run = daemon.fire(&wild).await.run_id;
        daemon.becomes(&run, Status::Running).await;
        spinning.push(run);
    }
    // Three leases long: every thread of the daemon's is blocked, and of the calls only every second one succeeds.
    let blocked = daemon.block();
    let calls = on_renewals(&world, |number| (number % 2 == 0).then_some(Fault::Before));
    renewed(&world, &guests, 12).await;
    drop(blocked);
    assert!(calls.load(Ordering::SeqCst) >= 24);
    *world.faulty.plan.lock().unwrap() = Box::new(|_| None);
    for run in spinning {
        let run = daemon.run(&run).await.unwrap();
        assert_eq!((run.status, run.attempt), (Status::Running, 1));
        daemon.cancel_run(&run.run_id, "api").await.unwrap();
    }
    all_end(&daemon, guests).await;
}

#[tokio::test]
async fn an_answer_that_never_comes_keeps_no_other_from_coming() {
    let world = World::new().await;
    // More than one call holds, so that one of them is stuck while another is not.
    let (daemon, guests) = crowd(&world, 1200, Duration::from_secs(12)).await;
    let calls = on_renewals(&world, |number| (number < 3 || number % 7 == 0).then_some(Fault::Never));
    renewed(&world, &guests, 4).await;
    assert!(calls.load(Ordering::SeqCst) >= 8);
    all_end(&daemon, guests).await;
}

#[tokio::test]
async fn leases_are_asked_for_until_they_are_over() {
    let world = World::new().await;
    let (daemon, guests) = crowd(&world, 2, Duration::from_secs(8)).await;
    // From the next renewal on, calls fail for half of the time that the guests have.
    let calls = on_renewals(&world, |number| (number < 8).then_some(Fault::Before));
    until("the failures", async || calls.load(Ordering::SeqCst) >= 8).await;
    renewed(&world, &guests, 1).await;
    all_end(&daemon, guests).await;
}

#[tokio::test]
async fn a_guest_stops_before_its_lease_ends_when_the_store_stays_away() {
    let world = World::new().await;
    let (daemon, mut guests) = crowd(&world, 1, Duration::from_secs(8)).await;
    let calls = on_renewals(&world, |_| Some(Fault::Before));
    let guest = guests.remove(0);
    guest.stopped().await;
    assert_eq!((guest.signals.stopped(), guest.signals.holds_lease()), (Some(Stop::LeaseLost), false));
    assert!(calls.load(Ordering::SeqCst) > 2, "it was tried until then");
    // Nobody has taken it up yet, and the store would still take its word.
    let run = daemon.run(&guest.run_id()).await.unwrap();
    assert_eq!((run.status, run.attempt), (Status::Running, 1));
    *world.faulty.plan.lock().unwrap() = Box::new(|_| None);
    guest.end(Ended::Stopped(Stop::LeaseLost));
}

#[tokio::test]
async fn a_lease_that_another_daemon_has_is_lost_with_the_next_renewal() {
    let world = World::new().await;
    let (daemon, mut guests) = crowd(&world, 1, Duration::from_secs(20)).await;
    let lost = guests.remove(0);
    let other = world.start_as("b", |settings| settings.poll = Duration::from_millis(5)).await;
    world.clock.advance(Duration::from_secs(21));
    let taken = world.stage.guest().await;
    assert_eq!((taken.run_id(), taken.spec.context.attempt), (lost.run_id(), 2));
    lost.stopped().await;
    assert_eq!(lost.signals.stopped(), Some(Stop::LeaseLost));
    lost.end(Ended::Stopped(Stop::LeaseLost));
    taken.complete("done");
    assert_eq!(other.settled(&taken_run(&other).await).await.status, Status::Completed);
    drop(daemon);
}

/// The only run there is.
async fn taken_run(daemon: &TestDaemon) -> RunId {
    daemon.runs_of(&TaskId::parse("t").unwrap()).await.remove(0).run_id
}
