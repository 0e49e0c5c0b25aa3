//! One daemon's home through many lives, each of which ends in its own way while clients keep it busy.

use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use serde_json::Value;

use super::daemon::{Daemon, Home, Starting, patiently};
use super::oracle;
use super::vitals::Vitals;
use super::workload::{self, Clients, Dice, LEASE};

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Kill,
    /// Killed while it is stopped.
    Frozen,
    /// It sleeps for longer than its lease, wakes, and is killed later.
    Paused,
    /// SIGTERM.
    Stop,
    /// SIGTERM, and SIGTERM again.
    StopTwice,
    /// SIGTERM, and a kill before it has ended, or after.
    StopAndKill,
}

impl End {
    /// Every kind comes up within twenty lives, the slow one less often.
    fn of(life: u32) -> End {
        match (life % 20, life % 60) {
            (_, 7) => End::Paused,
            (3, _) => End::Stop,
            (11, _) => End::StopAndKill,
            (15, _) => End::StopTwice,
            (17, _) => End::Frozen,
            _ => End::Kill,
        }
    }
}

/// A home, those who use it, and what was seen so far.
pub struct Chaos {
    pub home: Home,
    pub clients: Clients,
    dice: Dice,
    lives: u32,
    pub kills: u64,
    pub pauses: u32,
    pub stops: u32,
    /// A run that executed when its daemon was killed, and is to execute again.
    sentry: Option<Value>,
    /// From the start of a process to the next attempt of the run that executed when the one before was killed.
    pub restarts: Vec<Duration>,
    pub vitals: Vec<Vitals>,
    /// The store's bytes a run after orderly stops.
    pub store: Vec<u64>,
}

impl Chaos {
    pub fn new() -> Chaos {
        Chaos {
            home: workload::home(),
            clients: Clients::default(),
            dice: Dice::new(),
            lives: 0,
            kills: 0,
            pauses: 0,
            stops: 0,
            sentry: None,
            restarts: Vec::new(),
            vitals: Vec::new(),
            store: Vec::new(),
        }
    }

    /// One life of the daemon; at most `most` runs are asked for in it, and a few more.
    pub async fn life(&mut self, most: u64) {
        self.lives += 1;
        let end = End::of(self.lives);
        println!("life {}: {end:?}", self.lives);
        let began = SystemTime::now();
        let starting = self.home.spawn(&[]);
        if end == End::Kill && self.dice.roll(6) == 0 {
            return self.dies_young(starting).await;
        }
        let daemon = starting.ready().await;
        self.takes_up(began).await;
        self.catches_up(&daemon).await;
        let sentry = self.posts(&daemon).await;
        self.clients.feed(&daemon);
        self.clients.doom(&daemon);
        self.clients.more(1 + usize::try_from(self.dice.roll(most)).unwrap()).await;
        if self.lives.is_multiple_of(5) {
            workload::replace_plugin(&self.home, self.lives);
        }
        tokio::time::sleep(Duration::from_micros(self.dice.roll(40_000))).await;
        self.vitals.push(Vitals::of(&daemon).await);
        self.ends(daemon, end, sentry).await;
        self.clients.done().await;
    }

    /// A signal while it starts: it may be at its files, at its plugins or at what it takes back.
    async fn dies_young(&mut self, starting: Starting) {
        self.release();
        tokio::time::sleep(Duration::from_millis(self.dice.roll(400))).await;
        if self.dice.roll(3) == 0 {
            starting.send(Signal::TERM);
            let status = starting.end().await;
            // Before it listens for signals nothing has begun.
            let is_orderly = status.code() == Some(0) || std::os::unix::process::ExitStatusExt::signal(&status) == Some(15);
            assert!(is_orderly, "{status}");
            self.stops += 1;
        } else {
            starting.kill().await;
            self.kills += 1;
        }
    }

    /// Waits until the run that executed at the last kill does so again.
    async fn takes_up(&mut self, began: SystemTime) {
        let Some(run) = self.sentry.clone() else { return };
        self.marked(&run, 2).await;
        let marked = self.home.workspace(&run).join("marks").metadata().unwrap().modified().unwrap();
        self.restarts.push(marked.duration_since(began).unwrap_or_default());
        self.release();
    }

    /// Lets those who wait in line for one another come to their turn before the line is full.
    async fn catches_up(&self, daemon: &Daemon) {
        let path = "/background/tasks/serial/status";
        if daemon.get(path).await["active_runs"].as_u64() > Some(300) {
            daemon.until(path, |status| status["active_runs"].as_u64() < Some(50)).await;
        }
    }

    /// Asks for a run that executes until it is released.
    async fn posts(&mut self, daemon: &Daemon) -> Value {
        let run = daemon.fire("sentry").await;
        self.clients.note(&run);
        self.marked(&run, 1).await;
        run
    }

    /// Waits until an attempt of a run has marked its start.
    async fn marked(&self, run: &Value, attempt: u64) {
        patiently("a mark", async {
            while !oracle::marks(&self.home.workspace(run)).contains(&('s', attempt)) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }

    /// Lets the run end that was to execute again.
    pub fn release(&mut self) {
        if let Some(run) = self.sentry.take() {
            self.home.put_into_workspace(&run, "go");
        }
    }

    async fn ends(&mut self, daemon: Daemon, end: End, sentry: Value) {
        match end {
            End::Kill => {
                daemon.kill().await;
                self.sentry = Some(sentry);
                self.kills += 1;
                return;
            }
            End::Frozen => {
                daemon.send(Signal::STOP);
                tokio::time::sleep(Duration::from_millis(self.dice.roll(100))).await;
                daemon.kill().await;
                self.kills += 1;
            }
            End::Paused => {
                self.sleeps(&daemon, &sentry).await;
                daemon.kill().await;
                self.kills += 1;
            }
            End::Stop => {
                let runs = daemon.get("/background/status").await["runs"].as_u64().unwrap();
                daemon.stop().await;
                self.store.push(self.home.path(".sandclock/sandclock.db").metadata().unwrap().len() / runs);
                self.stops += 1;
            }
            End::StopTwice => {
                daemon.terminate();
                tokio::time::sleep(Duration::from_millis(self.dice.roll(100))).await;
                daemon.stop().await;
                self.stops += 1;
            }
            End::StopAndKill => {
                daemon.terminate();
                tokio::time::sleep(Duration::from_millis(self.dice.roll(250))).await;
                daemon.send(Signal::KILL);
                let status = daemon.end().await;
                self.kills += u64::from(status.code().is_none());
                assert!(status.code().is_none_or(|code| code == 0), "{status}");
            }
        }
        self.home.put_into_workspace(&sentry, "go");
    }

    /// Stops the process for longer than its lease. When it wakes it has lost its runs, knows it, and takes them up once.
    async fn sleeps(&mut self, daemon: &Daemon, sentry: &Value) {
        daemon.send(Signal::STOP);
        tokio::time::sleep(LEASE + Duration::from_millis(500)).await;
        daemon.send(Signal::CONT);
        self.marked(sentry, 2).await;
        assert_eq!(oracle::marks(&self.home.workspace(sentry)), [('s', 1), ('s', 2)]);
        let attempts = daemon.attempts(sentry).await;
        assert_eq!((attempts.len(), &attempts[0]["status"]), (2, &"interrupted".into()), "{attempts:#?}");
        assert_eq!(attempts[1]["lease_generation"], 2, "{attempts:#?}");
        self.pauses += 1;
    }
}
