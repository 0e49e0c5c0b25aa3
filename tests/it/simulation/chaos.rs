//! What goes wrong: daemons are killed, stopped and frozen, clocks are set, and the store is away.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::chance::Chance;
use super::plan::Blow;
use super::server::Weather;
use super::world::{Machine, World};

/// A step of a wall clock in microseconds.
fn step(chance: &mut Chance) -> i64 {
    let most = chance.of(&[200_000, 5_000_000, 5_000_000, 90_000_000, 600_000_000]);
    chance.within(0, 2 * most) as i64 - most as i64
}

/// A part of a lease, or some of them, in milliseconds.
fn span(chance: &mut Chance, world: &World, most_percent: u64) -> Duration {
    let lease = world.plan.lease.as_millis() as u64;
    chance.millis(1, lease * most_percent / 100)
}

/// Deals blows to one daemon until the trouble is over; it is up again then, unless it has vanished.
pub async fn machine(world: Arc<World>, machine: Arc<Machine>, mut chance: Chance, until: Instant) {
    let note = |what: String| world.oracle.trace.note(|| format!("{} {what}", machine.name()));
    loop {
        sleep(chance.millis(100, 8_000)).await;
        if Instant::now() >= until || world.plan.blows.is_empty() {
            return;
        }
        match chance.of(&world.plan.blows) {
            Blow::Kill => {
                note("is killed".to_owned());
                machine.kill();
                sleep(span(&mut chance, &world, 200)).await;
                world.start(&machine).await;
            }
            Blow::Freeze => {
                let span = span(&mut chance, &world, 250);
                note(format!("is frozen for {span:?}"));
                machine.freeze(span).await;
                note("goes on".to_owned());
            }
            Blow::Stop => {
                let grace = chance.millis(0, 4000);
                note(format!("is stopped within {grace:?}"));
                let stopped = machine.stop(grace).await;
                if world.plan.is_near() {
                    world.oracle.stopped(machine.name(), stopped.as_ref());
                }
                sleep(chance.millis(0, 2000)).await;
                world.start(&machine).await;
            }
            Blow::Step => {
                let step = step(&mut chance);
                note(format!("sets its clock by {step} us"));
                machine.clock.step(step);
            }
            Blow::Vanish if world.up().len() > 1 => {
                note("is gone for good".to_owned());
                machine.kill();
                return;
            }
            Blow::Vanish => {}
        }
    }
}

/// Takes the store away now and then, and sets its clock.
pub async fn store(world: Arc<World>, mut chance: Chance, until: Instant) {
    let steps = world.plan.blows.contains(&Blow::Step);
    loop {
        sleep(chance.millis(500, 8_000)).await;
        if Instant::now() >= until {
            return;
        }
        let span = span(&mut chance, &world, 200);
        match chance.below(3) {
            0 if world.plan.outages => {
                world.oracle.trace.note(|| format!("the store is away for {span:?}"));
                world.server.go_away(span);
                sleep(span).await;
            }
            1 if world.plan.outages => {
                world.oracle.trace.note(|| format!("the store loses much for {span:?}"));
                world.server.turn(Weather { before: 25, after: 25, ..world.plan.weather });
                sleep(span).await;
                world.server.turn(world.plan.weather);
            }
            2 if steps && world.plan.daemons > 1 => {
                let step = step(&mut chance);
                world.oracle.trace.note(|| format!("the store's clock is set by {step} us"));
                world.server.clock.step(step);
            }
            _ => {}
        }
    }
}
