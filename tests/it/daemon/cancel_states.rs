//! A cancel in every state that a run can be in: one end, and the slot is free.

use super::faulty::Fault;
use super::stage::Guest;
use super::*;
use crate::guest::hostile;

/// Where a run is when its cancel comes.
#[derive(Clone, Copy, Debug)]
enum State {
    Queued,
    WaitsForItsTurn,
    ClaimInFlight,
    Running,
    Ending,
    RetryPending,
    Parked,
    Lost,
    LostAgain,
    TakenUp,
}

const STATES: [State; 10] = [
    State::Queued,
    State::WaitsForItsTurn,
    State::ClaimInFlight,
    State::Running,
    State::Ending,
    State::RetryPending,
    State::Parked,
    State::Lost,
    State::LostAgain,
    State::TakenUp,
];

/// A run in some state.
struct Stand {
    /// The daemon that is asked to cancel it.
    daemon: TestDaemon,
    task: TaskId,
    run: RunId,
    /// A guest that executes: the run's own, or that of the one before it.
    guest: Option<Guest>,
}

/// A daemon with this name that executes nothing.
async fn idle(world: &World, name: &str) -> TestDaemon {
    world.start_as(name, |settings| settings.executes = false).await
}

async fn run_in(world: &World, state: State) -> Stand {
    let fields = match state {
        State::Queued => json!({"agent_id": "later"}),
        _ => {
            let retry = json!({"max_retries": 1, "initial_delay_seconds": 3600, "max_delay_seconds": 3600});
            json!({"overlap_policy": "queue_next", "on_unknown": "hold", "retry_policy": retry})
        }
    };
    let mut daemon = world.start().await;
    let task = daemon.task(fields).await;
    if let State::ClaimInFlight = state {
        // The claim is carried out, and its answer comes with the third try.
        let mut faults = vec![Fault::Before, Fault::After];
        *world.faulty.plan.lock().unwrap() = Box::new(move |call| if call == "claim" { faults.pop() } else { None });
    }
    let mut run = daemon.fire(&task).await.run_id;
    let mut guest = match state {
        State::Queued | State::ClaimInFlight => None,
        _ => Some(world.stage.guest().await),
    };
    match state {
        State::Queued | State::Running => {}
        State::WaitsForItsTurn => run = daemon.fire(&task).await.run_id,
        State::ClaimInFlight => drop(daemon.becomes(&run, Status::Running).await),
        State::Ending => guest.take().unwrap().complete("at the same moment"),
        State::RetryPending => {
            guest.take().unwrap().fail(ErrorKind::Trap);
            daemon.becomes(&run, Status::Queued).await;
        }
        State::Parked => {
            guest.take().unwrap().host.begin_effects().await.unwrap();
            daemon.crash();
            daemon = world.start().await;
            daemon.becomes(&run, Status::AwaitingApproval).await;
        }
        State::Lost => {
            daemon.crash();
            daemon = idle(world, "b").await;
        }
        State::LostAgain | State::TakenUp => {
            daemon.crash();
            daemon = world.start().await;
            guest = Some(world.stage.guest().await);
        }
    }
    if let State::LostAgain = state {
        guest = None;
        daemon.crash();
        // The second loss in a row is taken up only after a while.
        daemon = idle(world, "a").await;
        daemon.becomes(&run, Status::Queued).await;
    }
    Stand { daemon, task, run, guest }
}

#[tokio::test]
async fn a_cancel_in_any_state_gives_one_end() {
    for state in STATES {
        let world = World::new().await;
        let Stand { mut daemon, task, run, guest } = run_in(&world, state).await;
        let is_acknowledged = daemon.cancel_run(&run, "api").await.is_ok();
        // A second one is refused or changes nothing.
        let _ = daemon.cancel_run(&run, "again").await;
        let guest = if let State::ClaimInFlight = state { Some(world.stage.guest().await) } else { guest };
        match (state, guest) {
            (State::ClaimInFlight | State::Running | State::TakenUp, Some(guest)) => {
                guest.cancelled().await;
                guest.end(Ended::Cancelled { message: "as asked".to_owned() });
            }
            (State::WaitsForItsTurn, Some(guest)) => guest.complete("the one before"),
            (State::Lost, _) => {
                daemon.crash();
                daemon = world.start().await;
            }
            _ => {}
        }
        let ended = daemon.settled(&run).await;
        assert!(is_acknowledged || matches!(state, State::Ending), "{state:?}");
        assert_eq!(ended.status, if is_acknowledged { Status::Cancelled } else { Status::Completed }, "{state:?}");
        assert_eq!(ended.cancel_requested_by.as_deref(), is_acknowledged.then_some("api"), "{state:?}");
        let names = daemon.names(&run).await;
        let ends = names.iter().filter(|name| ["completed", "cancelled", "failed", "timeout", "skipped"].contains(&name.as_str())).count();
        assert_eq!((ends, names.last().map(String::as_str)), (1, Some(ended.status.as_str())), "{state:?}: {names:?}");
        assert!(names.iter().filter(|name| *name == "cancel_requested").count() <= 1, "{state:?}: {names:?}");
        assert!(daemon.cancel_run(&run, "late").await.is_err(), "{state:?}");
        if !matches!(state, State::Queued | State::LostAgain) {
            let next = daemon.fire(&task).await.run_id;
            assert_eq!(world.stage.guest().await.run_id(), next, "{state:?}: the slot is free");
        }
    }
}

#[tokio::test]
async fn a_guest_in_a_tight_loop_dies_when_the_grace_is_over() {
    let world = World::new().await;
    world.stage.add_component("spin", &hostile::spin());
    let daemon = world.start().await;
    for grace in [0.0, 0.1] {
        let id = format!("after-{}", if grace > 0.0 { "a-while" } else { "nothing" });
        let task = daemon.task(json!({"task_id": id, "agent_id": "spin", "cancel_grace_seconds": grace})).await;
        let run = daemon.fire(&task).await.run_id;
        until("progress", async || daemon.names(&run).await.contains(&"progress".to_owned())).await;
        daemon.cancel_run(&run, "api").await.unwrap();
        let ended = daemon.settled(&run).await;
        assert_eq!(ended.status, Status::Cancelled);
        assert!(ended.error.unwrap().contains("did not stop within"));
    }
}
