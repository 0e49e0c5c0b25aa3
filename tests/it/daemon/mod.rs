//! The whole daemon below its façade, against a store that the tests hold and agents that they steer.

mod cancel;
mod events;
mod faults;
mod harness;
mod mirrors;
mod overlap;
mod restart;
mod runs;
mod schedules;
mod stage;
mod tasks;

use std::time::Duration;

use harness::{TestDaemon, World, until};
use sandclock::daemon::{Manager, ManagerError, RunWish};
use sandclock::domain::id::{RunId, TaskId};
use sandclock::domain::policy::ErrorKind;
use sandclock::domain::run::{AttemptReason, AttemptStatus, Run, Status};
use sandclock::sandbox::{Ended, Stop};
use serde_json::{Value, json};
