//! Three daemons on one store behind a server, and what may befall them and it: nothing that was acknowledged is lost, nothing happens
//! twice, and what the API tells in the end is one story.
//!
//! `SANDCLOCK_TEST_FAULTS` says how many faults there are, `SANDCLOCK_TEST_SEED` whom and when they meet.

mod clients;
mod faults;
mod losses;
mod servers;

use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::daemon::{Daemon, Home, Starting, id};
use super::oracle;
use super::workload::{self, Dice, FED, setting};
use crate::servers::own::{OwnServer, ReplicaSet, Stop};
use crate::servers::proxy::Proxy;
use clients::{Client, Doors, Roaming};
use faults::Fault;
use servers::{FEW, Servers};

/// How many runs of the agent `marker` execute at once, over all daemons.
const AT_ONCE: usize = 3;

/// How many daemons there are.
const DAEMONS: usize = 3;

/// Three daemons, the way of each to the server, and their clients.
struct Fleet {
    servers: Servers,
    ways: Vec<Proxy>,
    homes: Vec<Home>,
    daemons: Vec<Option<Daemon>>,
    doors: Doors,
    roaming: Roaming,
    /// Who asks for those that follow.
    client: Client,
    /// Runs that execute until they are let go.
    sentries: Vec<Value>,
    dice: Dice,
    /// The workspaces of all of them.
    workspaces: tempfile::TempDir,
}

impl Fleet {
    /// Starts three daemons on a server, all at once, and their clients.
    async fn new(servers: Servers) -> Fleet {
        Fleet::with(servers, "").await
    }

    /// The same, with more sections in their configuration.
    async fn with(servers: Servers, more: &str) -> Fleet {
        let mut dice = Dice::new();
        let workspaces = tempfile::tempdir().unwrap();
        let (mut ways, mut homes, mut starting) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..DAEMONS {
            let (way, url) = servers.way().await;
            let home = workload::home_with(&format!(
                "[store]\nurl = \"{url}\"\n[paths]\nworkspace = \"{}\"\n[agents.marker]\nmax_running = {AT_ONCE}\n{more}",
                workspaces.path().display(),
            ));
            starting.push(home.spawn(&[]));
            ways.extend(way);
            homes.push(home);
        }
        let mut daemons = Vec::new();
        for starting in starting {
            daemons.push(Some(Starting::ready(starting).await));
        }
        let doors: Doors = watch::Sender::new(daemons.iter().flatten().map(|daemon| daemon.url.clone()).collect());
        let roaming = Roaming::start(&doors, &mut dice);
        let client = Client::new(&doors, &mut dice);
        Fleet { servers, ways, homes, daemons, doors, roaming, client, sentries: Vec::new(), dice, workspaces }
    }

    fn daemon(&self, whom: usize) -> &Daemon {
        self.daemons[whom].as_ref().expect("a daemon that lives")
    }

    fn one_of_them(&mut self) -> usize {
        usize::try_from(self.dice.roll(DAEMONS as u64)).unwrap()
    }

    async fn kill(&mut self, whom: usize) {
        self.daemons[whom].take().expect("a daemon that lives").kill().await;
    }

    async fn start(&mut self, whom: usize) {
        let daemon = self.homes[whom].spawn(&[]).ready().await;
        self.doors.send_modify(|doors| doors[whom].clone_from(&daemon.url));
        self.daemons[whom] = Some(daemon);
    }

    fn workspace(&self, run: &Value) -> PathBuf {
        self.workspaces.path().join(run["workspace_path"].as_str().unwrap())
    }

    /// Lets so many of these faults happen as the environment says, else each of them once, in an order of chance; something executes
    /// throughout each.
    async fn befall_all(&mut self, faults: &[Fault]) {
        let mut left = setting("SANDCLOCK_TEST_FAULTS").unwrap_or(faults.len() as u64);
        while left > 0 {
            let mut some = faults.to_vec();
            while left > 0 && !some.is_empty() {
                let fault = some.swap_remove(usize::try_from(self.dice.roll(some.len() as u64)).unwrap());
                self.post_sentries().await;
                self.befall(fault).await;
                self.release();
                left -= 1;
            }
        }
    }

    /// As many runs that execute until they are released as there are daemons.
    async fn post_sentries(&mut self) {
        for _ in 0..DAEMONS {
            let run = self.client.run("sentry").await;
            self.roaming.clients.note(&run);
            self.sentries.push(run);
        }
    }

    /// Lets them end. A run that is just being taken up elsewhere may not see it, and is told again.
    fn release(&self) {
        for run in &self.sentries {
            // Its workspace may be on its way from one place to the next.
            let _ = std::fs::write(self.workspace(run).join("go"), "");
        }
    }

    /// All runs, when all have ended and nothing is asked for any more.
    async fn settle(&mut self) -> Vec<Value> {
        self.roaming.end().await;
        let daemon = self.daemon(0);
        daemon.post("/background/tasks/tick/pause", json!({})).await;
        let ending = async {
            while daemon.get("/background/status").await["active_runs"] != 0 {
                self.release();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(100), ending).await;
        assert!(ended.is_ok(), "runs do not end: {:#}", daemon.get("/background/runs?status=running,queued,claimed").await);
        oracle::all_runs(daemon, None).await
    }

    /// Checks that what was acknowledged is there, once, and that every run's story is one. Tells it in numbers.
    async fn check(&mut self) {
        let runs = self.settle().await;
        let acknowledged = self.roaming.clients.acknowledged();
        let kept: std::collections::HashSet<&str> = runs.iter().map(id).collect();
        let lost: Vec<&String> = acknowledged.iter().filter(|run| !kept.contains(run.as_str())).collect();
        assert!(lost.is_empty(), "acknowledged runs are lost: {lost:?}");
        let of_clients = runs.iter().filter(|run| run["task_id"] != "tick").count();
        let asked = usize::try_from(self.roaming.asked.load(std::sync::atomic::Ordering::Relaxed)).unwrap() + self.sentries.len();
        assert_eq!((of_clients, acknowledged.len()), (asked, asked), "what was asked for under one key is one run");

        let (this, all) = (&*self, &runs);
        let checked: Vec<Vec<Value>> =
            futures::stream::iter(0..all.len()).map(|at| this.check_run(at, &all[at])).buffered(8).collect().await;
        let attempts = || checked.iter().flatten();
        let lost = attempts().filter(|attempt| attempt["status"] == "interrupted").count();
        let of_marker: Vec<&Value> =
            runs.iter().zip(&checked).filter(|(run, _)| run["agent_id"] == "marker").flat_map(|(_, attempts)| attempts).collect();
        oracle::check_limit(&of_marker, AT_ONCE);
        let serial: Vec<&Value> =
            runs.iter().zip(&checked).filter(|(run, _)| run["task_id"] == "serial").flat_map(|(_, all)| all).collect();
        oracle::check_limit(&serial, 1);
        for (task, end) in FED {
            let other = runs.iter().find(|run| run["task_id"] == task && run["status"] != end);
            assert!(other.is_none(), "{other:#?}");
        }
        let cancelled = self.roaming.clients.cancelled();
        for run in &runs {
            assert!(run["status"] == "cancelled" || !cancelled.iter().any(|of| of == id(run)), "an acknowledged cancel is lost: {run}");
        }
        for daemon in self.daemons.iter().flatten() {
            oracle::check_counts(daemon, &runs).await;
            oracle::check_occurrences(daemon, "tick").await;
        }
        println!(
            "runs {}, acknowledged {}, cancelled {}, attempts {}, lost {lost}, violations 0",
            runs.len(),
            acknowledged.len(),
            cancelled.len(),
            attempts().count(),
        );
    }

    async fn check_run(&self, at: usize, run: &Value) -> Vec<Value> {
        let attempts = oracle::check(self.daemon(at % DAEMONS), run).await;
        if ["marker", "flaky", "sentry"].contains(&run["agent_id"].as_str().unwrap()) {
            oracle::check_marks(&self.workspace(run), run, &attempts);
        }
        attempts
    }

    async fn stop(mut self) {
        for daemon in std::mem::take(&mut self.daemons).into_iter().flatten() {
            daemon.stop().await;
        }
    }
}

impl Drop for Fleet {
    /// What the daemons have logged tells why a test has failed.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (whom, daemon) in self.daemons.iter().enumerate() {
                let log = daemon.as_ref().map(Daemon::log).unwrap_or_default();
                println!("daemon {whom}:\n{}", log[log.len().saturating_sub(60)..].join("\n"));
            }
        }
    }
}

/// Three daemons on these servers, which meet these faults.
async fn hold_through(servers: Option<Servers>, faults: &[Fault]) {
    let Some(servers) = servers else { return };
    let mut fleet = Fleet::new(servers).await;
    fleet.befall_all(faults).await;
    fleet.check().await;
    fleet.stop().await;
}

const OF_DAEMONS: [Fault; 4] = [Fault::Kill, Fault::Kill, Fault::KillForLong, Fault::Freeze];

#[tokio::test(flavor = "multi_thread")]
async fn daemons_on_postgres_are_killed_and_frozen() {
    hold_through(OwnServer::postgres(&[]).await.map(Servers::one), &OF_DAEMONS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_on_redis_are_killed_and_frozen() {
    hold_through(OwnServer::redis(&[]).await.map(Servers::one), &OF_DAEMONS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_on_mongodb_are_killed_and_frozen() {
    hold_through(OwnServer::mongod(&[]).await.map(Servers::one), &OF_DAEMONS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_stops_and_is_cut_off_and_has_no_connections_left() {
    let few = format!("max_connections={FEW}");
    let server = OwnServer::postgres(&["-c", &few, "-c", "superuser_reserved_connections=0"]).await;
    let faults = [Fault::Restart(Some(Stop::Fast)), Fault::Restart(Some(Stop::Immediate)), Fault::Cut, Fault::Silence, Fault::Full];
    hold_through(server.map(Servers::one), &faults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_is_killed_and_cut_off_and_has_no_connections_left() {
    let server = OwnServer::redis(&["--appendfsync", "always", "--maxclients", &FEW.to_string()]).await;
    hold_through(server.map(Servers::one), &[Fault::Restart(None), Fault::Restart(None), Fault::Cut, Fault::Silence, Fault::Full]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mongod_is_killed_and_cut_off_and_has_no_connections_left() {
    let server = OwnServer::mongod(&["--maxConns", &FEW.to_string()]).await;
    hold_through(server.map(Servers::one), &[Fault::Restart(None), Fault::Restart(None), Fault::Cut, Fault::Silence, Fault::Full]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_of_a_replica_set_steps_down_and_is_killed() {
    hold_through(ReplicaSet::new(3).await.map(Servers::Set), &[Fault::StepDown, Fault::Restart(None)]).await;
}
