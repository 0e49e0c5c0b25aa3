//! A wall clock that steps while a run executes: nothing about its lease follows it.

use sandclock::store::RecordId;

use super::*;

const STEPS: [i64; 2] = [600_000_000, -600_000_000];

async fn renewed(daemon: &TestDaemon, run: &RunId, times: u32) {
    for _ in 0..times {
        let before = daemon.run(run).await.unwrap().heartbeat_at;
        until("a renewal", async || daemon.run(run).await.unwrap().heartbeat_at > before).await;
    }
}

#[tokio::test]
async fn w_16_a_wall_clock_that_steps_ends_no_lease() {
    for step in STEPS {
        let world = World::new().await;
        let daemon = world
            .start_as("a", |settings| {
                settings.poll = Duration::from_millis(2);
                settings.lease = Duration::from_secs(2);
            })
            .await;
        let task = daemon.task(json!({})).await;
        let run = daemon.fire(&task).await.run_id;
        let guest = world.stage.guest().await;
        world.clock.step_wall(step);
        guest.host.report("after the step".to_owned(), None);
        until("progress", async || daemon.names(&run).await.contains(&"progress".to_owned())).await;
        renewed(&daemon, &run, 2).await;
        assert!(guest.signals.may_act() && world.stage.guest_now().is_none(), "the lease is kept");
        guest.complete("done");
        let ended = daemon.settled(&run).await;
        assert_eq!((ended.status, ended.attempt, ended.recoveries), (Status::Completed, 1, 0), "after a step of {step} us");
    }
}

#[tokio::test]
async fn w_16_a_wall_clock_that_steps_prolongs_no_lease() {
    for step in STEPS {
        let world = World::new().await;
        let daemon = world.start_as("a", |_| {}).await;
        let task = daemon.task(json!({})).await;
        let run = daemon.fire(&task).await.run_id;
        drop(world.stage.guest().await);
        daemon.crash();
        let daemon = world.start_as("b", |settings| settings.poll = Duration::from_millis(2)).await;
        world.clock.step_wall(step);
        let lease = async || daemon.raw(RecordId::run(&run)).await.unwrap().0;
        let before = lease().await;
        world.clock.advance(Duration::from_secs(29));
        assert_eq!((lease().await, world.stage.guest_now().is_none()), (before, true), "it is not over yet");
        world.clock.advance(Duration::from_secs(2));
        // A run that is taken up is due by the wall clock, which goes on from where it was set to.
        let guest = world.stage.guest().await;
        assert_eq!((guest.run_id(), guest.spec.context.attempt), (run.clone(), 2));
        guest.complete("done");
        assert_eq!(daemon.settled(&run).await.status, Status::Completed);
    }
}
