//! What a seed is about. Each seed has some kinds of trouble and lacks others, so that none hides another.

use std::time::Duration;

use sandclock::daemon::{Bounds, Retention};

use super::chance::Chance;
use super::server::Weather;

/// What may happen to a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// kill -9, and started again after a while.
    Kill,
    /// SIGSTOP, and SIGCONT after a while.
    Freeze,
    /// SIGTERM, and started again.
    Stop,
    /// Its wall clock is set.
    Step,
    /// kill -9, and never seen again.
    Vanish,
}

const BLOWS: [Blow; 5] = [Blow::Kill, Blow::Freeze, Blow::Stop, Blow::Step, Blow::Vanish];

#[derive(Clone, Debug)]
pub struct Plan {
    pub daemons: usize,
    pub tasks: usize,
    /// How long clients want something and things go wrong.
    pub trouble: Duration,
    pub lease: Duration,
    pub poll: Duration,
    pub max_running: usize,
    pub heartbeat_events: Duration,
    pub weather: Weather,
    /// Whether the store is away now and then.
    pub outages: bool,
    pub blows: Vec<Blow>,
    /// What the daemons keep and how much may wait.
    pub bounds: Bounds,
    /// The longest that a guest wants to work, in milliseconds.
    pub longest: u64,
    /// The longest wait between two wishes about a task, in milliseconds.
    pub pace: u64,
}

fn bounds(chance: &mut Chance) -> Bounds {
    let mut kept = || chance.percent(40).then(|| chance.millis(0, 10_000));
    let retention = Retention {
        completed: kept(),
        failed: kept(),
        cancelled: kept(),
        skipped: kept(),
        sessions: None,
        runs_per_task: chance.percent(30).then(|| chance.within(1, 8)),
        plugins: Duration::from_secs(3600),
        pass: Duration::from_secs(1),
    };
    let retention = if chance.percent(30) { retention } else { Retention::default() };
    Bounds { retention, max_queued_runs: chance.percent(15).then(|| chance.within(1, 12)), ..Bounds::default() }
}

impl Plan {
    /// Whether the store always answers at once.
    pub fn is_near(&self) -> bool {
        let Weather { slow, before, after, .. } = self.weather;
        slow + before + after == 0 && !self.outages
    }

    pub fn of(chance: &mut Chance) -> Plan {
        let daemons = chance.of(&[1, 1, 2, 2, 3]);
        let mut blows: Vec<Blow> = BLOWS.into_iter().filter(|_| chance.percent(45)).collect();
        // Somebody has to be left.
        blows.retain(|blow| *blow != Blow::Vanish || daemons > 1);
        let bounds = bounds(chance);
        let retires = bounds.retention.pass < Duration::from_secs(60);
        // What is deleted has been there for a minute by the store's clock, and nobody is that slow.
        blows.retain(|blow| *blow != Blow::Step || !retires);
        let (trouble, pace) =
            if retires { (chance.millis(80_000, 150_000), 8000) } else { (chance.millis(8_000, 30_000), chance.of(&[500, 3000, 8000])) };
        let kinds = [Weather::default(), Weather { delayed: 30, ..Weather::default() }];
        let bad = Weather { delayed: 30, slow: chance.below(6), before: chance.below(8), after: chance.below(8) };
        Plan {
            daemons,
            tasks: chance.within(1, 4) as usize,
            trouble,
            lease: Duration::from_secs(chance.of(&[3, 4, 6, 10, 20])),
            poll: chance.millis(500, 3000),
            max_running: chance.of(&[1, 2, 4, 16]),
            heartbeat_events: chance.of(&[Duration::from_secs(3), Duration::from_secs(60)]),
            weather: chance.of(&[kinds[0], kinds[1], bad, bad]),
            outages: chance.percent(40),
            blows,
            bounds,
            longest: chance.of(&[200, 3000, 15_000]),
            pace,
        }
    }
}
