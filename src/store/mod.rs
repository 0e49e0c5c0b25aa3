//! The store contract: the core decides, a store applies guarded changes.
//!
//! Invariants that every implementation keeps:
//! - A [`Change`] is applied whole or not at all; many may share one commit; each is judged after those before it.
//! - `rev` counts decisions about a record: 1 when it is first put, one more with each put and each claim. Renewals and
//!   appended events do not raise it.
//! - The store numbers a run's events 1, 2, 3 … in the commit of the change that carries them.
//! - A fence rises with every claim of a run and is never reset.
//! - Only the store's clock judges what is due and which leases hold.
//! - Deleting a run deletes its attempts, events, checkpoints and result in the same change.
//!
//! How it fails: an error means that nothing is known of what was asked for. [`StoreError::is_transient`] tells whether asking
//! again can help; a caller that must know whether a lost answer was a commit reads the records back and compares
//! [`Record::change`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;

use crate::domain::event::Event;
use crate::domain::id::{AgentId, RunId, TaskId, WorkerId};
use crate::domain::run::{Attempt, Run, SlotPart, Status};
use crate::domain::time::Timestamp;

pub mod memory;
#[cfg(feature = "sqlite")]
pub mod sql;

/// The largest body of a record, in bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// How long a parked run waits before it fails.
pub const PARKED_FOR: Duration = Duration::from_secs(24 * 3600);

/// What a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An agent; key: its id.
    Agent,
    /// A task; key: its id.
    Task,
    /// A task's schedule state; key: the task's id.
    Schedule,
    /// A run; key: its id.
    Run,
    /// An attempt; key: [`crate::domain::run::Attempt::key`].
    Attempt,
    /// A task's slot; key: the task's id.
    Slot,
    /// A run's whole result where it is longer than its preview; key: the run's id.
    Result,
    /// A range of occurrences that did not become runs; key: the task's id, `/`, and a text that sorts by time.
    SkipRange,
    /// A daemon; key: its id.
    Daemon,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 9] =
        [Kind::Agent, Kind::Task, Kind::Schedule, Kind::Run, Kind::Attempt, Kind::Slot, Kind::Result, Kind::SkipRange, Kind::Daemon];

    /// The kind as stores spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Agent => "agent",
            Kind::Task => "task",
            Kind::Schedule => "schedule",
            Kind::Run => "run",
            Kind::Attempt => "attempt",
            Kind::Slot => "slot",
            Kind::Result => "result",
            Kind::SkipRange => "skip_range",
            Kind::Daemon => "daemon",
        }
    }

    /// The kind of that spelling.
    pub fn parse(text: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Names a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// What it is of.
    pub kind: Kind,
    /// Its key among those.
    pub key: Arc<str>,
}

impl RecordId {
    /// Names a record.
    pub fn new(kind: Kind, key: &str) -> Self {
        RecordId { kind, key: Arc::from(key) }
    }

    /// Names a run's record.
    pub fn run(run: &RunId) -> Self {
        Self::new(Kind::Run, run.as_str())
    }

    /// Names a task's record.
    pub fn task(task: &TaskId) -> Self {
        Self::new(Kind::Task, task.as_str())
    }

    /// Names an attempt's record.
    pub fn attempt(run: &RunId, number: u32) -> Self {
        Self::new(Kind::Attempt, &Attempt::key(run, number))
    }

    /// Names the record of a task's schedule state.
    pub fn schedule(task: &TaskId) -> Self {
        Self::new(Kind::Schedule, task.as_str())
    }

    /// Names the record of a task's slot.
    pub fn slot(task: &TaskId) -> Self {
        Self::new(Kind::Slot, task.as_str())
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.kind.as_str(), self.key)
    }
}

/// Names a change, so that a lost answer can be told from a lost change. Unique for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChangeId(pub u128);

/// A time that a put gives: absolute, or from the store's present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// That instant.
    At(Timestamp),
    /// That long after the store's clock in the commit.
    In(Duration),
}

/// What a store can find a record by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// The task it belongs to.
    pub task: Option<TaskId>,
    /// The agent it belongs to.
    pub agent: Option<AgentId>,
    /// The run it belongs to (attempts, results).
    pub run: Option<RunId>,
    /// The status of a run.
    pub status: Option<Status>,
    /// Whether a run may be claimed once it is due. A run that waits for its turn is not ready.
    pub ready: bool,
    /// When something is to be done about the record: a ready run started, a schedule dispatched, a parked run expired.
    pub due: Option<When>,
    /// Whether a run's cancel was asked for; renewals tell its worker.
    pub cancel_requested: bool,
}

impl Index {
    /// What a run is found by. `now` is the time of the decision that wrote it.
    pub fn of_run(run: &Run, now: Timestamp) -> Index {
        let ready = run.status == Status::Queued && run.slot != SlotPart::Waits;
        // Spans, not instants: the store's clock judges them, and this machine's may differ.
        let due = if ready {
            Some(When::In(run.queued_at.since(now)))
        } else if run.status.is_waiting() {
            Some(When::In(PARKED_FOR))
        } else {
            None
        };
        Index {
            task: Some(run.task_id.clone()),
            agent: Some(run.agent_id.clone()),
            run: None,
            status: Some(run.status),
            ready,
            due,
            cancel_requested: run.cancel_requested_at.is_some(),
        }
    }
}

/// A record to be written whole.
#[derive(Clone, Debug)]
pub struct Put {
    /// Its name.
    pub id: RecordId,
    /// What it is found by.
    pub index: Index,
    /// JSON, at most [`MAX_BODY_BYTES`].
    pub body: Bytes,
}

impl Put {
    /// Writes a value as the record of that name.
    ///
    /// # Errors
    /// The value is larger than a record may be.
    pub fn of<T: Serialize>(id: RecordId, index: Index, value: &T) -> Result<Put, StoreError> {
        let body = serde_json::to_vec(value).map_err(|error| StoreError::Invalid(format!("{id} cannot be written: {error}")))?;
        if body.len() > MAX_BODY_BYTES {
            return Err(too_large(&id, body.len()));
        }
        Ok(Put { id, index, body: Bytes::from(body) })
    }

    /// Writes a run. `now` is the time of the decision.
    ///
    /// # Errors
    /// The run is larger than a record may be.
    pub fn run(run: &Run, now: Timestamp) -> Result<Put, StoreError> {
        Put::of(RecordId::run(&run.run_id), Index::of_run(run, now), run)
    }

    /// Writes an attempt.
    ///
    /// # Errors
    /// The attempt is larger than a record may be.
    pub fn attempt(attempt: &Attempt) -> Result<Put, StoreError> {
        let id = RecordId::attempt(&attempt.run_id, attempt.attempt_number);
        Put::of(id, Index { run: Some(attempt.run_id.clone()), ..Index::default() }, attempt)
    }
}

fn too_large(id: &RecordId, bytes: usize) -> StoreError {
    StoreError::Invalid(format!("{id} has {bytes} bytes; a record has at most {MAX_BODY_BYTES}"))
}

/// What must hold for a change to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The record exists with this rev.
    Rev(RecordId, u64),
    /// There is no such record.
    Absent(RecordId),
    /// The fence is the run's, the run is leased, and its lease has not passed by the store's clock in this commit.
    Held(RunId, u64),
}

/// Guards, and what to write if they hold.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its name; every record that it puts keeps it.
    pub id: ChangeId,
    /// All must hold.
    pub guards: Vec<Guard>,
    /// Records to write. A put run whose status is not leased loses its lease (the fence stays).
    pub puts: Vec<Put>,
    /// Records to delete, with what hangs on them.
    pub deletes: Vec<RecordId>,
    /// Events to append, in order; each run must exist after the puts.
    pub events: Vec<(RunId, Event)>,
}

impl Change {
    /// Checks what no guard can make right.
    ///
    /// # Errors
    /// A body is larger than [`MAX_BODY_BYTES`].
    pub fn check(&self) -> Result<(), StoreError> {
        match self.puts.iter().find(|put| put.body.len() > MAX_BODY_BYTES) {
            Some(put) => Err(too_large(&put.id, put.body.len())),
            None => Ok(()),
        }
    }
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was applied.
    Applied,
    /// The first guard that did not hold. Nothing was written.
    Refused(Guard),
}

/// A run's lease as the store has it. Newer than what the body says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// The latest fence; 0 before the first claim.
    pub fence: u64,
    /// Who holds it; none when nobody does.
    pub owner: Option<WorkerId>,
    /// When it ends.
    pub until: Option<Timestamp>,
    /// When it was taken or last renewed.
    pub heartbeat_at: Option<Timestamp>,
}

/// A record as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub id: RecordId,
    /// How many decisions were made about it.
    pub rev: u64,
    /// The change that wrote it last; none when that was a claim.
    pub change: Option<ChangeId>,
    /// Its place among all records of its kind, in order of first being put. The order of pages.
    pub order: i64,
    /// When something is to be done about it.
    pub due: Option<Timestamp>,
    /// JSON.
    pub body: Bytes,
    /// The lease, for a run.
    pub lease: Option<Lease>,
}

impl Record {
    /// The body as the type that its kind stands for.
    ///
    /// # Errors
    /// The body is not such a value: the store was written by something else.
    pub fn decode<T: serde::de::DeserializeOwned>(&self) -> Result<T, StoreError> {
        serde_json::from_slice(&self.body).map_err(|error| StoreError::corrupt(format!("record {} cannot be read: {error}", self.id)))
    }

    /// The run that this record is, its lease fields as the store has them.
    ///
    /// # Errors
    /// The body is not a run.
    pub fn decode_run(&self) -> Result<Run, StoreError> {
        let mut run: Run = self.decode()?;
        if let Some(lease) = &self.lease {
            run.lease_generation = lease.fence;
            run.lease_owner.clone_from(&lease.owner);
            run.lease_expires_at = lease.until;
            run.heartbeat_at = lease.heartbeat_at.or(run.heartbeat_at);
        }
        Ok(run)
    }
}

/// A run's event with its number.
#[derive(Clone, Debug, PartialEq)]
pub struct NumberedEvent {
    /// 1 for the run's first.
    pub sequence: u64,
    /// The event.
    pub event: Event,
}

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
}

/// What is due, and when to ask again.
#[derive(Clone, Debug, Default)]
pub struct Due {
    /// The records, longest due first.
    pub records: Vec<Record>,
    /// When the next one that is not due yet will be; none when there is none.
    pub next: Option<Timestamp>,
    /// The store's present at the time of the answer.
    pub now: Timestamp,
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

/// Why a store could not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached or is too busy; asking again may help.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// There is no room for more.
    #[error("the store is full: {0}; free some space, it goes on by itself")]
    Full(String),
    /// What it holds is not what was written.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// The request itself cannot be met, whatever the store's state.
    #[error("the store refused: {0}")]
    Invalid(String),
}

impl StoreError {
    /// What the store holds is not what was written.
    pub fn corrupt(what: impl Into<String>) -> Self {
        StoreError::Corrupt(what.into())
    }

    /// Whether asking again can help.
    pub const fn is_transient(&self) -> bool {
        matches!(self, StoreError::Unavailable(_) | StoreError::Full(_))
    }
}

/// A store. See the module's invariants.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Applies changes in order; one outcome for each.
    async fn apply(&self, changes: Vec<Change>) -> Result<Vec<Outcome>, StoreError>;

    /// Leases ready and due runs of the wanted agents, longest due first, and applies `domain::lifecycle::claim` to each.
    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError>;

    /// Renews leases; one answer for each, in order. Goes ahead of every change that waits.
    async fn renew(&self, worker: &WorkerId, leases: &[(RunId, u64)], lease: Duration) -> Result<Vec<Renewal>, StoreError>;

    /// What is due by the store's clock, longest due first.
    async fn due(&self, what: DueKind, limit: usize) -> Result<Due, StoreError>;

    /// Reads records by name; one answer for each, in order.
    async fn get(&self, ids: &[RecordId]) -> Result<Vec<Option<Record>>, StoreError>;

    /// Reads a page of a list.
    async fn list(&self, scope: Scope, page: PageRequest) -> Result<Page, StoreError>;

    /// Counts, kept as changes are applied.
    async fn counts(&self, scope: CountScope) -> Result<Counts, StoreError>;

    /// A run's events with numbers above `after`, in order.
    async fn events(&self, run: &RunId, after: u64, limit: usize) -> Result<Vec<NumberedEvent>, StoreError>;

    /// The store's clock.
    async fn now(&self) -> Result<Timestamp, StoreError>;

    /// Writes out what can be, and lets go of files and connections.
    async fn close(&self);
}
