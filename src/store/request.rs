//! What a store is asked, and what it answers.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{ChangeId, Kind, Record};
use crate::clock::Clock;
use crate::domain::id::{AgentId, RunId, TaskId, WorkerId};
use crate::domain::run::{Attempt, Run, Status};
use crate::domain::time::Timestamp;

/// An agent whose runs a worker can execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimAgent {
    /// The agent.
    pub agent: AgentId,
    /// The plugin digest that attempts started now would run, recorded with them.
    pub digest: String,
    /// How many of its runs may be leased at once, over all daemons; none for any number.
    pub max_running: Option<u32>,
}

/// A worker's wish for runs that it starts at once.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// Unique for each wish; the same token again returns the same runs, so that a lost answer loses nothing.
    pub token: ChangeId,
    /// Who asks.
    pub worker: WorkerId,
    /// The agents that it has.
    pub agents: Vec<ClaimAgent>,
    /// How many runs at most.
    pub limit: usize,
    /// How long the lease lasts.
    pub lease: Duration,
}

/// A claimed run: status running, its attempt's record made, the claimed and started events appended.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    /// The run under its new fence.
    pub run: Run,
    /// The attempt that started.
    pub attempt: Attempt,
    /// Its rev.
    pub rev: u64,
    /// How many events it has now.
    pub events: u64,
}

/// What became of one lease in a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It is held until then.
    Held(Timestamp),
    /// It is held until then, and a cancel was asked for.
    CancelRequested(Timestamp),
    /// It is gone: the fence is not the run's any more, or the lease has passed.
    Lost,
}

/// What may have to be done about records by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DueKind {
    /// Ready runs. Only [`Due::next`] is told: a claim finds those that are due.
    Ready,
    /// Leased runs whose lease has passed.
    ExpiredLeases,
    /// Leased runs of workers whose daemon is `daemon` and that are not `current`.
    OlderIncarnations {
        /// The daemon's lasting id: the part of a [`WorkerId`] before the dot.
        daemon: String,
        /// The incarnation that asks.
        current: WorkerId,
    },
    /// Schedules whose next occurrence is due.
    Schedules,
    /// Parked runs whose wait has expired.
    Expiries,
    /// Runs that ended with this status, for at least so long.
    Ended {
        /// The status, a terminal one.
        status: Status,
        /// How long ago they ended at least.
        for_at_least: Duration,
    },
    /// Records of this kind whose due time has passed for at least so long: skip ranges by their age, idempotency keys by their end.
    Aged {
        /// The kind; not that of runs.
        kind: Kind,
        /// How long ago they were due at least.
        for_at_least: Duration,
    },
}

impl DueKind {
    /// How long ago a record must have been due to be answered with.
    pub fn for_at_least(&self) -> Duration {
        match self {
            DueKind::Ended { for_at_least, .. } | DueKind::Aged { for_at_least, .. } => *for_at_least,
            _ => Duration::ZERO,
        }
    }
}

/// What is due, and when to ask again.
#[derive(Clone, Debug, Default)]
pub struct Due {
    /// The records, longest due first.
    pub records: Vec<Record>,
    /// When the next one that is not due yet will be; none when there is none.
    pub next: Option<Timestamp>,
    /// The store's present at the time of the answer, by the clock that judged: for expired leases the one that does not step.
    pub now: Timestamp,
}

/// The present of a store without a server of its own.
#[derive(Clone, Copy)]
pub(super) struct Times {
    /// By this, what waits for a time is due.
    pub(super) now: Timestamp,
    /// By this, leases hold.
    pub(super) steady: Timestamp,
}

impl Times {
    /// What the clock says.
    pub(super) fn of_clock(clock: &dyn Clock) -> Times {
        Times { now: clock.now(), steady: clock.steady() }
    }

    /// The present that judges records of that kind.
    pub(super) fn of(self, what: &DueKind) -> Timestamp {
        match what {
            DueKind::ExpiredLeases => self.steady,
            // A clock that is set ahead must not age what is kept.
            DueKind::Ended { .. } | DueKind::Aged { .. } => self.now.min(self.steady),
            _ => self.now,
        }
    }
}

/// The closed set of what can be listed; each has its index on every store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All records of a kind.
    All(Kind),
    /// Tasks of an agent.
    TasksOfAgent(AgentId),
    /// Runs.
    Runs {
        /// Of this task only.
        task: Option<TaskId>,
        /// With this status only.
        status: Option<Status>,
    },
    /// Runs of an agent that are not terminal.
    LiveRunsOfAgent(AgentId),
    /// Runs of a task that are not terminal.
    LiveRunsOfTask(TaskId),
    /// A run's attempts.
    Attempts(RunId),
    /// A task's skip ranges.
    SkipRanges(TaskId),
    /// An agent's buckets of key-values.
    BucketsOfAgent(AgentId),
}

/// Which page of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Start behind the record with this order (before it when `newest_first`).
    pub after: Option<i64>,
    /// How many at most.
    pub limit: usize,
    /// Whether the newest come first.
    pub newest_first: bool,
}

impl PageRequest {
    /// The first page, oldest first.
    pub const fn first(limit: usize) -> Self {
        PageRequest { after: None, limit, newest_first: false }
    }
}

/// A page of records.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The records in order.
    pub records: Vec<Record>,
    /// Where the next page starts; none when this is the last.
    pub next: Option<i64>,
}

/// What can be counted without looking at the records.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CountScope {
    /// Records of a kind; those of runs by status too.
    All(Kind),
    /// A task's runs by status.
    RunsOfTask(TaskId),
    /// An agent's runs by status.
    RunsOfAgent(AgentId),
}

impl CountScope {
    /// The scope as databases spell it.
    pub(super) fn text(&self) -> String {
        match self {
            CountScope::All(kind) => kind.as_str().to_owned(),
            CountScope::RunsOfTask(task) => format!("task/{task}"),
            CountScope::RunsOfAgent(agent) => format!("agent/{agent}"),
        }
    }
}

/// How many records there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub total: u64,
    /// Runs by status; statuses that no run has are left out.
    pub by_status: BTreeMap<Status, u64>,
}

impl Counts {
    /// How many have this status.
    pub fn of(&self, status: Status) -> u64 {
        self.by_status.get(&status).copied().unwrap_or(0)
    }

    /// How many are not terminal.
    pub fn active(&self) -> u64 {
        self.by_status.iter().filter(|(status, _)| !status.is_terminal()).map(|(_, count)| count).sum()
    }
}
