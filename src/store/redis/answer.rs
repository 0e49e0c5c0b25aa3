//! From what scripts answer to records.
//!
//! How it fails: an answer that is not what a script gives makes the store [`StoreError::Corrupt`].

use ::redis::Value;
use bytes::Bytes;

use super::super::batch::{Known, Row};
use super::super::{ChangeId, Index, Kind, Lease, Record, RecordId, StoreError};
use crate::domain::id::{AgentId, InvalidId, RunId, TaskId, WorkerId};
use crate::domain::run::Status;
use crate::domain::time::Timestamp;

/// The values of a list, read by place; an empty text stands for none.
pub struct Fields(Vec<Value>);

impl Fields {
    /// The values of a list.
    pub fn of(value: Value) -> Result<Fields, StoreError> {
        match value {
            Value::Array(values) => Ok(Fields(values)),
            other => Err(unexpected("a list", &other)),
        }
    }

    /// The values of a list; none where there is none.
    pub fn some(value: Value) -> Result<Option<Fields>, StoreError> {
        if value == Value::Nil { Ok(None) } else { Fields::of(value).map(Some) }
    }

    /// Takes out what is there.
    pub fn take(&mut self, at: usize) -> Value {
        self.0.get_mut(at).map(std::mem::take).unwrap_or_default()
    }

    /// Takes out a list.
    pub fn list(&mut self, at: usize) -> Result<Vec<Value>, StoreError> {
        Fields::of(self.take(at)).map(|fields| fields.0)
    }

    /// A text.
    pub fn text(&self, at: usize) -> Result<Option<&str>, StoreError> {
        let text = match self.0.get(at) {
            None | Some(Value::Nil) => "",
            Some(Value::BulkString(bytes)) => {
                std::str::from_utf8(bytes).map_err(|_| StoreError::corrupt(format!("value {at} of an answer is not text")))?
            }
            Some(Value::SimpleString(text)) => text,
            Some(other) => return Err(unexpected("a text", other)),
        };
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// A text that is there.
    pub fn some_text(&self, at: usize) -> Result<&str, StoreError> {
        self.text(at)?.ok_or_else(|| missing(at))
    }

    /// A number, as one or as a text.
    pub fn number(&self, at: usize) -> Result<Option<i64>, StoreError> {
        if let Some(Value::Int(number)) = self.0.get(at) {
            return Ok(Some(*number));
        }
        let parse = |text: &str| text.parse().map_err(|_| StoreError::corrupt(format!("value {at} of an answer is not a number")));
        self.text(at)?.map(parse).transpose()
    }

    /// A number that is there.
    pub fn some_number(&self, at: usize) -> Result<i64, StoreError> {
        self.number(at)?.ok_or_else(|| missing(at))
    }

    /// A number that is not negative; 0 where there is none.
    pub fn count(&self, at: usize) -> Result<u64, StoreError> {
        let number = self.number(at)?.unwrap_or(0);
        u64::try_from(number).map_err(|_| StoreError::corrupt(format!("value {at} of an answer is {number}, which is below 0")))
    }

    /// A time.
    pub fn time(&self, at: usize) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.number(at)?.map(Timestamp::from_micros))
    }

    /// A time that is there.
    pub fn some_time(&self, at: usize) -> Result<Timestamp, StoreError> {
        self.some_number(at).map(Timestamp::from_micros)
    }

    /// Takes out bytes that are there.
    pub fn bytes(&mut self, at: usize) -> Result<Vec<u8>, StoreError> {
        match self.take(at) {
            Value::BulkString(bytes) => Ok(bytes),
            Value::Nil => Err(missing(at)),
            other => Err(unexpected("bytes", &other)),
        }
    }

    fn id<T>(&self, at: usize, parse: impl Fn(&str) -> Result<T, InvalidId>) -> Result<Option<T>, StoreError> {
        self.text(at)?.map(parse).transpose().map_err(|error| StoreError::corrupt(error.to_string()))
    }
}

/// The values of a list.
pub fn list(value: Value) -> Result<Vec<Value>, StoreError> {
    Fields::of(value).map(|fields| fields.0)
}

/// What the head of a record begins with that is still as it was known: nothing of it was decided, and no event appended.
pub fn beginning(known: &Known) -> String {
    format!("{},{},", known.rev, known.last_event)
}

/// A record's head as common.lua says, but for its order.
pub fn head(row: &Row) -> String {
    let Known { index, .. } = &row.known;
    let bit = |is: bool| if is { "1" } else { "" };
    let change = row.change.map(|change| format!("{:x}", change.0)).unwrap_or_default();
    let task = index.task.as_ref().map_or("", |task| task.as_str());
    let agent = index.agent.as_ref().map_or("", |agent| agent.as_str());
    let run = index.run.as_ref().map_or("", |run| run.as_str());
    let status = index.status.map_or("", Status::as_str);
    let (live, ready, cancel) = (bit(row.live()), bit(index.ready), bit(index.cancel_requested));
    let due = row.due.map(|due| due.micros().to_string()).unwrap_or_default();
    let beginning = beginning(&row.known);
    format!("{beginning}{change},{task},{agent},{run},{status},{live},{ready},{cancel},{due}")
}

/// A head that was read.
struct Head {
    rev: u64,
    events: u64,
    change: Option<ChangeId>,
    index: Index,
    due: Option<Timestamp>,
}

impl Head {
    fn of(text: &str) -> Result<Head, StoreError> {
        let damaged = || StoreError::corrupt("a record has a head that is not one");
        let parts: Vec<&str> = text.split(',').collect();
        let [rev, events, change, task, agent, run, status, _, ready, cancel, due] = parts[..] else { return Err(damaged()) };
        fn some<T, E>(text: &str, parse: impl Fn(&str) -> Result<T, E>) -> Result<Option<T>, StoreError> {
            let parsed = Some(text).filter(|text| !text.is_empty()).map(parse).transpose();
            parsed.map_err(|_| StoreError::corrupt("a record has a head that is not one"))
        }
        Ok(Head {
            rev: rev.parse().map_err(|_| damaged())?,
            events: events.parse().map_err(|_| damaged())?,
            change: some(change, |text| u128::from_str_radix(text, 16).map(ChangeId))?,
            index: Index {
                task: some(task, TaskId::parse)?,
                agent: some(agent, AgentId::parse)?,
                run: some(run, RunId::parse)?,
                status: some(status, |text| Status::parse(text).ok_or(()))?,
                ready: ready == "1",
                due: None,
                cancel_requested: cancel == "1",
            },
            due: some(due, str::parse)?.map(Timestamp::from_micros),
        })
    }
}

/// What is known of a record, of the fields that `known` in common.lua gives; none when there is no record.
pub fn known(value: Value) -> Result<Option<Known>, StoreError> {
    Fields::some(value)?.map(|fields| known_of(&fields)).transpose()
}

/// The same with its body.
pub fn known_with_body(value: Value) -> Result<Option<(Known, Vec<u8>)>, StoreError> {
    Fields::some(value)?.map(|mut fields| Ok((known_of(&fields)?, fields.bytes(5)?))).transpose()
}

fn known_of(fields: &Fields) -> Result<Known, StoreError> {
    let Head { rev, events, index, .. } = Head::of(fields.some_text(1)?)?;
    Ok(Known {
        order: fields.some_number(0)?,
        rev,
        index,
        fence: fields.count(2)?,
        until: fields.time(3)?,
        heartbeat_at: fields.time(4)?,
        last_event: events,
    })
}

/// A record, of the fields that `record` in common.lua gives; none when there is none.
pub fn record(value: Value) -> Result<Option<Record>, StoreError> {
    let Some(mut fields) = Fields::some(value)? else { return Ok(None) };
    let id = RecordId::of_text(fields.some_text(7)?)?;
    let Head { rev, change, due, .. } = Head::of(fields.some_text(1)?)?;
    let lease = match id.kind {
        Kind::Run => Some(Lease {
            fence: fields.count(2)?,
            until: fields.time(3)?,
            heartbeat_at: fields.time(4)?,
            owner: fields.id(6, WorkerId::parse)?,
        }),
        _ => None,
    };
    let order = fields.some_number(0)?;
    Ok(Some(Record { id, rev, change, order, due, body: Bytes::from(fields.bytes(5)?), lease }))
}

/// The records of a list; what has gone meanwhile is left out.
pub fn records(values: Vec<Value>) -> Result<Vec<Record>, StoreError> {
    values.into_iter().filter_map(|value| record(value).transpose()).collect()
}

fn missing(at: usize) -> StoreError {
    StoreError::corrupt(format!("value {at} of an answer is missing"))
}

fn unexpected(wanted: &str, value: &Value) -> StoreError {
    let found = match value {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::BulkString(_) | Value::SimpleString(_) => "a text",
        Value::Array(_) => "a list",
        _ => "something else",
    };
    StoreError::corrupt(format!("an answer has {found} in place of {wanted}"))
}
