//! The whole daemon below its façade, against a store that the tests hold and agents that they steer.

mod approvals;
mod bucket;
mod budget;
mod cancel;
mod cancel_states;
mod charges;
mod checkpoints;
mod clocks;
mod defects;
mod effects;
mod events;
mod faults;
mod faulty;
mod fence;
mod fleet;
mod harness;
mod memory;
mod mend;
mod mirrors;
mod overlap;
mod queue;
mod renewals;
mod restart;
mod retention;
mod runs;
mod scenarios;
mod schedules;
mod stage;
mod tasks;
mod twice;
mod why;

use std::time::Duration;

use crate::servers::Server;
use harness::{TestDaemon, World, until};
use sandclock::daemon::{Manager, ManagerError, RunWish};
use sandclock::domain::id::{RunId, TaskId};
use sandclock::domain::policy::ErrorKind;
use sandclock::domain::run::{AttemptReason, AttemptStatus, Run, Status};
use sandclock::sandbox::{Ended, Stop};
use serde_json::{Value, json};

/// Runs tests of this module again, on that store.
fn hold_on(store: &str, tests: &[&str]) {
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    let again = again
        .args(tests)
        .args(["--skip", "_on_sqlite", "--skip", "_on_postgres", "--skip", "_on_redis", "--skip", "_on_mongodb", "--test-threads", "4"])
        .env(harness::STORE, store)
        .output()
        .unwrap();
    assert!(again.status.success(), "{}{}", String::from_utf8_lossy(&again.stdout), String::from_utf8_lossy(&again.stderr));
}

#[test]
fn all_of_them_hold_on_sqlite() {
    hold_on("sqlite", &["daemon::"]);
}

/// The modules that try what several daemons, a crash and a bad connection may do; a commit on a server takes longer than one here. What
/// is behind `--skip` wants that a key expires at the very moment at which it is asked for.
const HARDEST: [&str; 13] = [
    "daemon::approvals::",
    "daemon::checkpoints::",
    "daemon::clocks::",
    "daemon::defects::",
    "daemon::effects::",
    "daemon::fence::",
    "daemon::fleet::",
    "daemon::overlap::",
    "daemon::restart::",
    "daemon::runs::",
    "daemon::twice::",
    "--skip",
    "a_key_that_expires_while_it_is_asked_for",
];

#[test]
fn the_hardest_hold_on_postgres() {
    if crate::servers::url(Server::Postgres).is_some() {
        hold_on("postgres", &HARDEST);
    }
}

#[test]
fn the_hardest_hold_on_redis() {
    if crate::servers::url(Server::Redis).is_some() {
        hold_on("redis", &HARDEST);
    }
}

#[test]
fn the_hardest_hold_on_mongodb() {
    if crate::servers::url(Server::Mongodb).is_some() {
        hold_on("mongodb", &HARDEST);
    }
}
