//! From rows to records, the same for every SQL server.
//!
//! How it fails: a column that does not hold what was written there makes the store [`StoreError::Corrupt`].

use bytes::Bytes;
use serde::Deserialize;

use super::super::batch::Known;
use super::super::record::unreadable;
use super::super::{ChangeId, Counts, Index, Kind, Lease, NumberedEvent, Page, Record, RecordId, StoreError};
use crate::domain::id::{AgentId, InvalidId, RunId, TaskId, WorkerId};
use crate::domain::run::Status;
use crate::domain::time::Timestamp;

/// The columns that [`record`] reads, of `record AS r` with its `lease AS l`.
pub const RECORD: &str =
    "r.id, r.rev, r.change_id, r.ord, r.due, r.fence, coalesce(l.heartbeat_at, r.heartbeat_at), l.owner, l.until, r.body";

/// The place of the order among [`RECORD`]'s columns, from 1.
pub const ORDER: usize = 4;

/// What is known of `record AS r` with its `lease AS l`, as the JSON array that [`Found`] reads.
pub const KNOWN: &str = "json_array(r.ord, r.rev, r.task, r.agent, r.run, r.status, r.ready, r.cancel_requested, r.fence, \
    coalesce(l.heartbeat_at, r.heartbeat_at), l.until, \
    CASE r.kind WHEN 'run' THEN (SELECT max(e.seq) FROM event AS e WHERE e.run = r.ord) END)";

/// A record that a batch needs to know: its place in what was asked for, its name where it has no place, [`KNOWN`], and how long its
/// body is where bodies come along. All that a statement finds comes as one JSON array, since a row costs more than reading it.
#[derive(Debug, Deserialize)]
pub struct Found(pub Option<usize>, pub Option<String>, KnownRow, pub Option<usize>);

#[derive(Debug, Deserialize)]
#[rustfmt::skip]
struct KnownRow(
    i64, u64, Option<TaskId>, Option<AgentId>, Option<RunId>, Option<Status>, u8, u8, u64,
    Option<i64>, Option<i64>, Option<u64>,
);

impl Found {
    /// Reads all that a statement found.
    pub fn all(json: &str) -> Result<Vec<Found>, StoreError> {
        serde_json::from_str(json).map_err(|error| unreadable("records", &error))
    }

    /// What is known of the record.
    pub fn known(self) -> Known {
        let KnownRow(order, rev, task, agent, run, status, ready, cancel_requested, fence, heartbeat_at, until, last_event) = self.2;
        Known {
            order,
            rev,
            index: Index { task, agent, run, status, ready: ready != 0, due: None, cancel_requested: cancel_requested != 0 },
            fence,
            heartbeat_at: heartbeat_at.map(Timestamp::from_micros),
            until: until.map(Timestamp::from_micros),
            last_event: last_event.unwrap_or(0),
        }
    }
}

/// A row of any server, read by place.
pub trait Fields {
    /// A number; none where the column is null.
    fn number(&self, at: usize) -> Result<Option<i64>, StoreError>;
    /// A text; none where the column is null.
    fn text(&self, at: usize) -> Result<Option<&str>, StoreError>;
    /// Bytes; none where the column is null.
    fn bytes(&self, at: usize) -> Result<Option<Vec<u8>>, StoreError>;

    /// A number that is there.
    fn some_number(&self, at: usize) -> Result<i64, StoreError> {
        self.number(at)?.ok_or_else(|| missing(at))
    }

    /// A number that is there and not negative.
    fn count(&self, at: usize) -> Result<u64, StoreError> {
        let number = self.some_number(at)?;
        u64::try_from(number).map_err(|_| StoreError::corrupt(format!("column {at} holds {number}, which is below 0")))
    }

    /// A text that is there.
    fn some_text(&self, at: usize) -> Result<&str, StoreError> {
        self.text(at)?.ok_or_else(|| missing(at))
    }

    /// Bytes that are there.
    fn some_bytes(&self, at: usize) -> Result<Vec<u8>, StoreError> {
        self.bytes(at)?.ok_or_else(|| missing(at))
    }

    /// A time.
    fn time(&self, at: usize) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.number(at)?.map(Timestamp::from_micros))
    }
}

/// A number as databases take it: theirs are signed, and ours stay far below the end of theirs.
pub fn number(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// A page of at most `limit` records, of rows of which one more than that was asked for.
pub fn page(rows: &[impl Fields], limit: usize) -> Result<Page, StoreError> {
    let records = rows.iter().take(limit).map(|row| record(row, 0)).collect::<Result<Vec<_>, _>>()?;
    let next = records.last().filter(|_| rows.len() > limit).map(|record| record.order);
    Ok(Page { records, next })
}

/// Counts, of rows with a status and its number; what has no status counts in all.
pub fn counts(rows: &[impl Fields]) -> Result<Counts, StoreError> {
    let mut counts = Counts::default();
    for row in rows {
        let n = row.count(1)?;
        counts.total += n;
        if let Some(status) = Status::parse(row.some_text(0)?) {
            counts.by_status.insert(status, n);
        }
    }
    Ok(counts)
}

fn missing(at: usize) -> StoreError {
    StoreError::corrupt(format!("column {at} is null"))
}

/// What a column names, if anything.
pub fn id<T>(text: Option<&str>, parse: impl Fn(&str) -> Result<T, InvalidId>) -> Result<Option<T>, StoreError> {
    text.map(parse).transpose().map_err(|error| StoreError::corrupt(error.to_string()))
}

/// What is known of a record, of twelve columns in the order of [`Known`]'s fields, the first of which is at `at`.
pub fn known(row: &impl Fields, at: usize) -> Result<Known, StoreError> {
    let status = row.text(at + 5)?;
    if let Some(unknown) = status.filter(|status| Status::parse(status).is_none()) {
        return Err(StoreError::corrupt(format!("a record has the status `{unknown}`, which is unknown")));
    }
    let is_set = |at: usize| Ok::<_, StoreError>(row.some_number(at)? != 0);
    let index = Index {
        task: id(row.text(at + 2)?, TaskId::parse)?,
        agent: id(row.text(at + 3)?, AgentId::parse)?,
        run: id(row.text(at + 4)?, RunId::parse)?,
        status: status.and_then(Status::parse),
        ready: is_set(at + 6)?,
        due: None,
        cancel_requested: is_set(at + 7)?,
    };
    let last_event = if row.number(at + 11)?.is_some() { row.count(at + 11)? } else { 0 };
    Ok(Known {
        order: row.some_number(at)?,
        rev: row.count(at + 1)?,
        index,
        fence: row.count(at + 8)?,
        heartbeat_at: row.time(at + 9)?,
        until: row.time(at + 10)?,
        last_event,
    })
}

/// The record of [`RECORD`]'s columns, the first of which is at `at`.
pub fn record(row: &impl Fields, at: usize) -> Result<Record, StoreError> {
    let id_read = RecordId::of_text(row.some_text(at)?)?;
    let change = row.bytes(at + 2)?.map(|bytes| <[u8; 16]>::try_from(bytes).map(u128::from_be_bytes));
    let change = change.transpose().map_err(|_| StoreError::corrupt(format!("{id_read} has a change id that is not one")))?;
    let lease = match id_read.kind {
        Kind::Run => Some(Lease {
            fence: row.count(at + 5)?,
            owner: id(row.text(at + 7)?, WorkerId::parse)?,
            until: row.time(at + 8)?,
            heartbeat_at: row.time(at + 6)?,
        }),
        _ => None,
    };
    Ok(Record {
        id: id_read,
        rev: row.count(at + 1)?,
        change: change.map(ChangeId),
        order: row.some_number(at + 3)?,
        due: row.time(at + 4)?,
        body: Bytes::from(row.some_bytes(at + 9)?),
        lease,
    })
}

/// The records of rows that start with their place in what was asked for; one answer for each of `count` places.
pub fn placed(rows: &[impl Fields], count: usize) -> Result<Vec<Option<Record>>, StoreError> {
    let mut found = vec![None; count];
    for row in rows {
        let place = usize::try_from(row.some_number(0)?).unwrap_or(usize::MAX);
        if let Some(slot) = found.get_mut(place) {
            *slot = Some(record(row, 1)?);
        }
    }
    Ok(found)
}

/// The event of a row of its number and its body.
pub fn event(row: &impl Fields) -> Result<NumberedEvent, StoreError> {
    let sequence = row.count(0)?;
    let event = serde_json::from_slice(&row.some_bytes(1)?).map_err(|error| unreadable(&format!("event {sequence} of a run"), &error))?;
    Ok(NumberedEvent { sequence, event })
}
