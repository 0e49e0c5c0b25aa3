//! What a store keeps: records with what they are found by, and events.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::{ChangeId, StoreError};
use crate::domain::event::Event;
use crate::domain::id::{AgentId, RunId, TaskId, WorkerId};
use crate::domain::run::{Attempt, Run, SlotPart, Status};
use crate::domain::text::printable;
use crate::domain::time::Timestamp;

/// The largest body of a record, in bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// What is kept of a message about a record that cannot be read, in characters.
const ERROR_CHARS: usize = 400;

/// Few bodies are larger.
const USUAL_BODY_BYTES: usize = 2048;

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
    /// What was answered under an idempotency key; key: the hash of scope and key. Its due time is its end.
    Idempotency,
    /// The files of a deleted run that are still to be removed; key: the run's id.
    Removal,
    /// A daemon; key: its id.
    Daemon,
    /// Which manifest in the bucket says what a run's workspace holds; key: the run's id.
    Workspace,
    /// What the store says of itself; key: `store`. See [`super::transfer`].
    Store,
    /// A component that was pushed; key: its digest. Its bytes are in its parts.
    Plugin,
    /// Some of the bytes of a component that was pushed; key: its digest, `/`, and the part's number in five digits.
    PluginPart,
    /// Which digests an agent was given, when and by whom, and which of them serves; key: the agent's id.
    Deployment,
    /// A value that guests keep from run to run; its key begins with whose it is.
    KeyValue,
    /// What a run's attempts keep for those that follow: the names under the run's id, each value under the id, `/`, and its name's hash.
    Checkpoint,
    /// What a run's attempts asked a person, and the answers; key: the run's id.
    Approval,
    /// What was spent, and what was granted beyond the limits; its key begins with whose it is.
    Account,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 20] = [
        Kind::Agent,
        Kind::Task,
        Kind::Schedule,
        Kind::Run,
        Kind::Attempt,
        Kind::Slot,
        Kind::Result,
        Kind::SkipRange,
        Kind::Idempotency,
        Kind::Removal,
        Kind::Daemon,
        Kind::Workspace,
        Kind::Store,
        Kind::Plugin,
        Kind::PluginPart,
        Kind::Deployment,
        Kind::KeyValue,
        Kind::Checkpoint,
        Kind::Approval,
        Kind::Account,
    ];

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
            Kind::Idempotency => "idempotency",
            Kind::Removal => "removal",
            Kind::Daemon => "daemon",
            Kind::Workspace => "workspace",
            Kind::Store => "store",
            Kind::Plugin => "plugin",
            Kind::PluginPart => "plugin_part",
            Kind::Deployment => "deployment",
            Kind::KeyValue => "key_value",
            Kind::Checkpoint => "checkpoint",
            Kind::Approval => "approval",
            Kind::Account => "account",
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

    /// The name as databases spell it.
    pub(super) fn text(&self) -> String {
        format!("{}/{}", self.kind.as_str(), self.key)
    }

    /// The record that a database names so.
    pub(super) fn of_text(text: &str) -> Result<RecordId, StoreError> {
        text.split_once('/')
            .and_then(|(kind, key)| Some(RecordId::new(Kind::parse(kind)?, key)))
            .ok_or_else(|| StoreError::corrupt(format!("there is a record named `{text}`, whose kind is unknown")))
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
    /// The run it belongs to (attempts, results, workspaces).
    pub run: Option<RunId>,
    /// The status of a run.
    pub status: Option<Status>,
    /// Whether a run may be claimed once it is due. A run that waits for its turn is not ready.
    pub ready: bool,
    /// When something is to be done about the record: a ready run started, a schedule dispatched, a parked run expired, a key's
    /// answer forgotten. Of what is kept for a while, an ended run or a skip range, it is since when.
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
            Some(When::In(run.parked.as_ref().map_or(PARKED_FOR, |parked| parked.until.since(now))))
        } else if run.status.is_terminal() {
            Some(When::In(Duration::ZERO))
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
        // A buffer that grows with the text would be copied several times and kept larger than what it holds.
        let mut body = Vec::with_capacity(USUAL_BODY_BYTES);
        serde_json::to_writer(&mut body, value).map_err(|error| StoreError::Invalid(format!("{id} cannot be written: {error}")))?;
        if body.len() > MAX_BODY_BYTES {
            return Err(too_large(&id, body.len()));
        }
        Ok(Put { id, index, body: Bytes::copy_from_slice(&body) })
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

/// Takes a run that cannot be read out of those that can be claimed, so that it holds up no others. All else of it stays as it is.
pub(super) fn put_aside(id: RecordId, index: &Index, body: Bytes, error: &StoreError) -> Put {
    tracing::error!(%id, %error, "a run cannot be read and is put aside: it is not claimed any more, and all else goes on; restore its record from a copy of the store");
    Put { id, index: Index { ready: false, due: None, ..index.clone() }, body }
}

/// What is stored cannot be read. The reader's message repeats what is stored.
pub(super) fn unreadable(what: &str, error: &serde_json::Error) -> StoreError {
    StoreError::corrupt(format!("{what} cannot be read: {}", printable(&error.to_string(), ERROR_CHARS)))
}

pub(super) fn too_large(id: &RecordId, bytes: usize) -> StoreError {
    StoreError::Invalid(format!("{id} has {bytes} bytes; a record has at most {MAX_BODY_BYTES}"))
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
    /// When something is to be done about it, or since when it is kept; see [`Index::due`].
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
        serde_json::from_slice(&self.body).map_err(|error| unreadable(&format!("record {}", self.id), &error))
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
