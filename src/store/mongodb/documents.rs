//! The documents, and records to and from them.
//!
//! How it fails: a document that does not hold what was written there makes the store [`StoreError::Corrupt`].

use std::collections::HashMap;

use ::mongodb::bson::Binary;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::batch::{Known, Row};
use super::super::{ChangeId, Index, Kind, Lease, Record, RecordId, StoreError};
use crate::domain::id::{AgentId, InvalidId, RunId, TaskId, WorkerId};
use crate::domain::run::Status;
use crate::domain::time::Timestamp;

/// A record. What partial indexes look for is left out where it is not so.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordDoc {
    /// Its name.
    #[serde(rename = "_id")]
    pub id: String,
    /// Its place among all records.
    pub ord: i64,
    /// Its kind.
    pub kind: String,
    /// How many decisions were made about it.
    pub rev: i64,
    /// The change that wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Binary>,
    /// The task it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The agent it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The run it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The status of a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// There for a run that is not terminal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub live: bool,
    /// There for a run that may be claimed once it is due.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ready: bool,
    /// When something is to be done about it, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<i64>,
    /// What waits for its due time together; there where something does and is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<String>,
    /// Whether a run's cancel was asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
    /// A run's latest fence.
    pub fence: i64,
    /// When its lease was last taken or renewed, as of its last put.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_at: Option<i64>,
    /// The number of its last event.
    pub last_event: i64,
    /// JSON; none where it was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Binary>,
}

/// The lease of a leased run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseDoc {
    /// The name of the run's record.
    #[serde(rename = "_id")]
    pub id: String,
    /// The place of the run's record.
    pub ord: i64,
    /// The fence it is held under.
    pub fence: i64,
    /// What it is held as: the run and the fence.
    pub hold: String,
    /// Who holds it.
    pub owner: String,
    /// The owner's daemon.
    pub daemon: String,
    /// When it ends, in microseconds.
    pub until: i64,
    /// When it was taken or last renewed, in microseconds.
    pub heartbeat_at: i64,
    /// The wish that it was given to.
    pub token: Binary,
}

/// An event's name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventId {
    /// The key of its run.
    pub run: String,
    /// Its number.
    pub seq: i64,
}

/// An event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventDoc {
    /// Its name.
    #[serde(rename = "_id")]
    pub id: EventId,
    /// JSON.
    pub body: Binary,
}

/// A part of a scope's counts.
#[derive(Clone, Debug, Deserialize)]
pub struct CountDoc {
    /// The scope and the part.
    #[serde(rename = "_id")]
    pub id: String,
    /// By status.
    #[serde(default)]
    pub n: HashMap<String, i64>,
}

/// What a pipeline finds: one of these.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Found {
    /// The server's present, in microseconds.
    pub now: Option<i64>,
    /// A record.
    pub record: Option<RecordDoc>,
    /// A lease.
    pub lease: Option<LeaseDoc>,
}

/// What a transaction begins with: all at once.
#[derive(Clone, Debug, Deserialize)]
pub struct Lists {
    /// The server's present, in microseconds.
    pub now: i64,
    /// Records that were asked for by name.
    #[serde(default)]
    pub records: Vec<RecordDoc>,
    /// Records that hang on runs.
    #[serde(default)]
    pub hanging: Vec<RecordDoc>,
    /// Leases.
    #[serde(default)]
    pub leases: Vec<LeaseDoc>,
    /// Ready runs, in lists of some agents each.
    #[serde(default)]
    pub ready: HashMap<String, Vec<RecordDoc>>,
    /// Counts.
    #[serde(default)]
    pub counts: Vec<CountDoc>,
}

/// A renewed lease.
#[derive(Clone, Debug, Deserialize)]
pub struct RenewedDoc {
    /// The name of the run's record.
    #[serde(rename = "_id")]
    pub id: String,
    /// The fence it is held under.
    pub fence: i64,
    /// When it ends.
    pub until: i64,
    /// The server's present.
    pub now: i64,
    /// The cancels that were asked for: of the run, if it is there.
    #[serde(default)]
    pub cancel: Vec<bool>,
}

/// What waits for a due time together: records of a kind, runs of a status.
pub fn wait_of(kind: Kind, status: Option<Status>) -> String {
    status.map_or_else(|| kind.as_str().to_owned(), |status| format!("{}/{}", kind.as_str(), status.as_str()))
}

/// Databases' numbers are signed; ours stay far below the end of theirs.
pub fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn count(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::corrupt(format!("a number is {number}, which is below 0")))
}

fn parsed<T>(text: Option<&str>, parse: impl Fn(&str) -> Result<T, InvalidId>) -> Result<Option<T>, StoreError> {
    text.map(parse).transpose().map_err(|error| StoreError::corrupt(error.to_string()))
}

impl RecordDoc {
    /// The document of a record to write.
    pub fn of(row: Row) -> RecordDoc {
        let live = row.live();
        let Row { id, known, change, due, body } = row;
        let Known { order, rev, index, fence, heartbeat_at, last_event, .. } = known;
        let waits = due.is_some() && !index.ready;
        RecordDoc {
            id: id.text(),
            ord: order,
            kind: id.kind.as_str().to_owned(),
            rev: number(rev),
            change: change.map(|change| super::bytes(change.0.to_be_bytes().to_vec())),
            task: index.task.map(|task| task.as_str().to_owned()),
            agent: index.agent.map(|agent| agent.as_str().to_owned()),
            run: index.run.map(|run| run.as_str().to_owned()),
            status: index.status.map(|status| status.as_str().to_owned()),
            live,
            ready: index.ready,
            due: due.map(Timestamp::micros),
            wait: waits.then(|| wait_of(id.kind, index.status)),
            cancel: index.cancel_requested,
            fence: number(fence),
            heartbeat_at: heartbeat_at.map(Timestamp::micros),
            last_event: number(last_event),
            body: Some(super::bytes(Vec::from(body))),
        }
    }

    /// Its name.
    pub fn record_id(&self) -> Result<RecordId, StoreError> {
        RecordId::of_text(&self.id)
    }

    /// Whether it is a run that is leased.
    pub fn is_leased(&self) -> bool {
        self.status.as_deref().and_then(Status::parse).is_some_and(Status::is_leased)
    }

    /// The lease, if it is this run's and not one from before or after what was read.
    fn own<'a>(&self, lease: Option<&'a LeaseDoc>) -> Option<&'a LeaseDoc> {
        lease.filter(|lease| lease.fence == self.fence && self.is_leased())
    }

    /// What is known of it, with its lease.
    pub fn known(&self, lease: Option<&LeaseDoc>) -> Result<Known, StoreError> {
        let lease = self.own(lease);
        let index = Index {
            task: parsed(self.task.as_deref(), TaskId::parse)?,
            agent: parsed(self.agent.as_deref(), AgentId::parse)?,
            run: parsed(self.run.as_deref(), RunId::parse)?,
            status: self.status.as_deref().and_then(Status::parse),
            ready: self.ready,
            due: None,
            cancel_requested: self.cancel,
        };
        Ok(Known {
            order: self.ord,
            rev: count(self.rev)?,
            index,
            fence: count(self.fence)?,
            heartbeat_at: lease.map(|lease| lease.heartbeat_at).or(self.heartbeat_at).map(Timestamp::from_micros),
            until: lease.map(|lease| Timestamp::from_micros(lease.until)),
            last_event: count(self.last_event)?,
        })
    }

    /// The number of its last event.
    pub fn last_event(&self) -> Result<u64, StoreError> {
        count(self.last_event)
    }

    /// The record, with its lease.
    pub fn record(self, lease: Option<&LeaseDoc>) -> Result<Record, StoreError> {
        let lease = self.own(lease);
        let id = self.record_id()?;
        let change = self.change.as_ref().map(|change| <[u8; 16]>::try_from(change.bytes.as_slice()).map(u128::from_be_bytes));
        let change = change.transpose().map_err(|_| StoreError::corrupt(format!("{id} has a change id that is not one")))?;
        let heartbeat_at = lease.map(|lease| lease.heartbeat_at).or(self.heartbeat_at).map(Timestamp::from_micros);
        let lease = match id.kind {
            Kind::Run => Some(Lease {
                fence: count(self.fence)?,
                owner: parsed(lease.map(|lease| lease.owner.as_str()), WorkerId::parse)?,
                until: lease.map(|lease| Timestamp::from_micros(lease.until)),
                heartbeat_at,
            }),
            _ => None,
        };
        let body = self.body.ok_or_else(|| StoreError::corrupt(format!("{id} has no body")))?;
        Ok(Record {
            id,
            rev: count(self.rev)?,
            change: change.map(ChangeId),
            order: self.ord,
            due: self.due.map(Timestamp::from_micros),
            body: Bytes::from(body.bytes),
            lease,
        })
    }
}
