//! The whole daemon below its façade, against a store that the tests hold and agents that they steer.

mod cancel;
mod cancel_states;
mod clocks;
mod defects;
mod effects;
mod events;
mod faults;
mod faulty;
mod fence;
mod harness;
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

/// Runs the tests of this module again, on that store.
fn all_of_it_holds_on(store: &str) {
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    let again = again.args(["daemon::", "--skip", "all_of_it_holds_on"]).env(harness::STORE, store).output().unwrap();
    assert!(again.status.success(), "{}{}", String::from_utf8_lossy(&again.stdout), String::from_utf8_lossy(&again.stderr));
}

#[test]
fn all_of_it_holds_on_sqlite() {
    all_of_it_holds_on("sqlite");
}

#[test]
fn all_of_it_holds_on_postgres() {
    if crate::servers::url(Server::Postgres).is_some() {
        all_of_it_holds_on("postgres");
    }
}

#[test]
fn all_of_it_holds_on_redis() {
    if crate::servers::url(Server::Redis).is_some() {
        all_of_it_holds_on("redis");
    }
}

#[test]
fn all_of_it_holds_on_mongodb() {
    if crate::servers::url(Server::Mongodb).is_some() {
        all_of_it_holds_on("mongodb");
    }
}
