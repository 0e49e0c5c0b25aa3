//! The real daemon in a world that a seed decides: virtual time, machines that fail, a store that is far away, guests that misbehave,
//! clients that want something all the while; and an oracle that watches.
//!
//! `SANDCLOCK_SIM_SEEDS` says how many seeds are tried, `SANDCLOCK_SIM_FIRST` with which to begin, and `SANDCLOCK_SIM_SEED` replays
//! one and prints its trace.

mod chance;
mod chaos;
mod clock;
mod gate;
mod guests;
mod oracle;
mod plan;
mod sabotage;
mod script;
mod server;
mod trace;
mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sandclock::clock::Clock;
use sandclock::store::Store;
use sandclock::store::memory::MemoryStore;
use tokio::time::{Instant, sleep};

use chance::Chance;
use clock::SimClock;
use oracle::Oracle;
use plan::Plan;
use script::Client;
use server::Weather;
use trace::{Reader, Trace};
use world::{Sabotage, World};

/// How many seeds each part of the ordinary run tries.
const SEEDS: u64 = 500;
/// How many parts it has, which run beside each other.
const PARTS: u64 = 4;
/// How long everything may take to settle when the trouble is over.
const SETTLED: Duration = Duration::from_secs(7200);

/// Nothing is broken.
const SOUND: Sabotage = Sabotage { store: |store| store, line: |store| store, unruly: false };

/// What came of a seed.
struct Outcome {
    faults: Vec<String>,
    oracle: Arc<Oracle>,
}

/// Lives through a seed's world.
async fn live(seed: u64, sabotage: Sabotage, reader: Reader) -> Outcome {
    let mut chance = Chance::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5eed);
    let began = Instant::now();
    let oracle = Arc::new(Oracle::new(Trace::new(began, reader)));
    let plan = Plan::of(&mut chance);
    oracle.trace.note(|| format!("seed {seed}: {plan:?}"));
    let clock = SimClock::new(began, 0);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::<SimClock>::clone(&clock)));
    let world = Arc::new(World::new(plan, &mut chance, Arc::clone(&oracle), Arc::clone(&store), clock, sabotage));
    let whole = async {
        trouble(&world, chance).await;
    };
    tokio::select! {
        biased;
        () = oracle.failed.cancelled() => {}
        () = whole => {}
    }
    if oracle.faults().is_empty() {
        oracle.judge_end(&store).await;
    }
    Outcome { faults: oracle.faults(), oracle }
}

/// The trouble, and the peace after it.
async fn trouble(world: &Arc<World>, mut chance: Chance) {
    for machine in &world.machines {
        world.start(machine).await;
    }
    let until = Instant::now() + world.plan.trouble;
    let mut actors = tokio::task::JoinSet::new();
    for machine in &world.machines {
        actors.spawn(chaos::machine(Arc::clone(world), Arc::clone(machine), chance.fork(), until));
    }
    actors.spawn(chaos::store(Arc::clone(world), chance.fork(), until));
    let clients: Vec<_> = (0..world.plan.tasks).map(|index| tokio::spawn(Client::new(world, chance.fork(), index).play(until))).collect();
    let mut rested = Vec::new();
    for client in clients {
        rested.push(client.await.unwrap());
    }
    while let Some(ended) = actors.join_next().await {
        ended.unwrap();
    }
    world.oracle.trace.note(|| "the trouble is over".to_owned());
    world.server.turn(Weather::default());
    world.server.go_away(Duration::ZERO);
    world.server.clock.mend();
    world.machines.iter().for_each(|machine| machine.clock.mend());
    world.stage.calm.store(true, Ordering::Relaxed);
    settle(world, rested).await;
}

async fn settle(world: &World, mut clients: Vec<Client>) {
    let since = Instant::now();
    let patience = |what: String| {
        if since.elapsed() > SETTLED {
            world.oracle.fault(what);
        }
    };
    let overdue = || world.oracle.model().overdue(world.server.clock.now());
    while let Some(overdue) = overdue() {
        patience(overdue);
        sleep(Duration::from_secs(1)).await;
    }
    for client in &mut clients {
        client.rest().await;
    }
    let unsettled = || world.oracle.model().unsettled();
    loop {
        let left = unsettled();
        if left.is_empty() {
            break;
        }
        patience(format!("not everything settles: {left:?}"));
        sleep(Duration::from_secs(1)).await;
        for client in &mut clients {
            if world.oracle.model().is_parked() {
                client.release().await;
            }
        }
    }
    world.oracle.trace.note(|| "everything has settled".to_owned());
    for machine in &world.machines {
        let is_up = machine.is_up();
        let stopped = machine.stop(Duration::ZERO).await;
        if is_up {
            world.oracle.stopped(machine.name(), stopped.as_ref());
        }
    }
    if world.oracle.guests() > 0 {
        world.oracle.fault("a guest executes and every daemon has stopped");
    }
}

/// Runs a seed in virtual time.
fn run(seed: u64, sabotage: Sabotage, reader: Reader) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(live(seed, sabotage, reader))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not `{text}`")))
}

/// Tries the seeds of a part.
fn seeds_of(part: u64) {
    if let Some(seed) = number("SANDCLOCK_SIM_SEED") {
        if seed % PARTS == part {
            let outcome = run(seed, SOUND, Reader::Now);
            assert!(outcome.faults.is_empty(), "seed {seed}: {:#?}", outcome.faults);
        }
        return;
    }
    let first = number("SANDCLOCK_SIM_FIRST").unwrap_or(0);
    let seeds = number("SANDCLOCK_SIM_SEEDS").unwrap_or(SEEDS * PARTS);
    for seed in (first..first + seeds).filter(|seed| seed % PARTS == part) {
        let outcome = run(seed, SOUND, if std::env::var("SIM_ALL").is_ok() { Reader::Now } else { Reader::Nobody });
        if std::env::var("SIM_SURVEY").is_ok() {
            for fault in outcome.faults.iter().take(2) {
                println!("SURVEY {seed}: {fault}");
            }
            continue;
        }
        if !outcome.faults.is_empty() {
            run(seed, SOUND, Reader::Now);
            panic!("seed {seed}: {:#?}\nSANDCLOCK_SIM_SEED={seed} cargo test --test it simulation::seeds replays it", outcome.faults);
        }
    }
}

mod seeds {
    use super::seeds_of;

    #[test]
    fn part_one() {
        seeds_of(0);
    }

    #[test]
    fn part_two() {
        seeds_of(1);
    }

    #[test]
    fn part_three() {
        seeds_of(2);
    }

    #[test]
    fn part_four() {
        seeds_of(3);
    }
}

#[test]
fn a_seed_is_the_same_every_time() {
    let mut told = 0;
    for seed in [1, 2, 3, 5, 8, 13, 21, 34] {
        let (first, second) = (run(seed, SOUND, Reader::Later), run(seed, SOUND, Reader::Later));
        let (lines, again) = (first.oracle.trace.lines(), second.oracle.trace.lines());
        let differs = lines.iter().zip(&again).find(|(one, other)| one != other);
        assert!(differs.is_none(), "seed {seed} does not replay: {differs:#?}");
        assert_eq!(first.oracle.trace.hash(), second.oracle.trace.hash());
        told += lines.len();
    }
    assert!(told > 1000, "these seeds are about nothing");
}
