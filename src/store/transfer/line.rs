//! Records and events as lines of JSON: what a backup holds, and what is hashed.
//!
//! Invariant: what is read from a line is what was written, to the byte of its body.
//!
//! How it fails: a line that is not one is a sentence without its place, which the reader adds.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{EventRow, Held, Known, Named, Row, Whole};
use crate::domain::id::{AgentId, RunId, TaskId, WorkerId};
use crate::domain::run::Status;
use crate::domain::time::Timestamp;
use crate::store::{ChangeId, Index, RecordId, StoreError};

/// A body: text as it is, anything else as hexadecimal digits.
#[derive(Debug, Serialize, Deserialize)]
enum Body<'a> {
    #[serde(rename = "text", borrow)]
    Text(Cow<'a, str>),
    #[serde(rename = "hex", borrow)]
    Hex(Cow<'a, str>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaseLine {
    owner: WorkerId,
    until: i64,
    token: String,
}

/// A record. Times are microseconds since 1970, ids of changes and tokens are hexadecimal; what is not there is left out.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordLine<'a> {
    #[serde(borrow)]
    record: Cow<'a, str>,
    order: i64,
    rev: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    change: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    task: Option<TaskId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent: Option<AgentId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<RunId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    ready: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    cancel_requested: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due: Option<i64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    fence: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    heartbeat_at: Option<i64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    events: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<LeaseLine>,
    #[serde(borrow)]
    body: Body<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventLine<'a> {
    event: u64,
    #[serde(borrow)]
    of: Cow<'a, str>,
    order: i64,
    #[serde(borrow)]
    body: Body<'a>,
}

/// What a line holds.
pub enum Line {
    /// A record.
    Record(Box<Whole>),
    /// An event.
    Event(EventRow),
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl<'a> Body<'a> {
    fn of(bytes: &'a [u8]) -> Body<'a> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Body::Text(Cow::Borrowed(text)),
            Err(_) => Body::Hex(Cow::Owned(hex(bytes))),
        }
    }

    fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Body::Text(text) => Some(text.as_bytes().to_vec()),
            Body::Hex(digits) => unhex(digits),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| {
        let text = std::str::from_utf8(pair).ok().filter(|text| text.len() == 2)?;
        u8::from_str_radix(text, 16).ok()
    });
    pairs.collect()
}

fn id_of(digits: &str) -> Option<ChangeId> {
    u128::from_str_radix(digits, 16).ok().map(ChangeId)
}

/// The line of a record, with its end.
pub fn of_record(whole: &Whole) -> Vec<u8> {
    let Row { id, known, change, due, body } = &whole.row;
    let lease = whole.lease.as_ref();
    json(&RecordLine {
        record: Cow::Owned(id.text()),
        order: known.order,
        rev: known.rev,
        change: change.map(|change| format!("{:x}", change.0)),
        task: known.index.task.clone(),
        agent: known.index.agent.clone(),
        run: known.index.run.clone(),
        status: known.index.status,
        ready: known.index.ready,
        cancel_requested: known.index.cancel_requested,
        due: due.map(Timestamp::micros),
        fence: known.fence,
        heartbeat_at: known.heartbeat_at.map(Timestamp::micros),
        events: known.last_event,
        lease: lease.map(|held| LeaseLine { owner: held.owner.clone(), until: held.until.micros(), token: format!("{:x}", held.token.0) }),
        body: Body::of(body),
    })
}

/// The line of an event, with its end.
pub fn of_event(event: &EventRow) -> Vec<u8> {
    let EventRow { run: Named { order, id }, sequence, body } = event;
    json(&EventLine { event: *sequence, of: Cow::Owned(id.text()), order: *order, body: Body::of(body) })
}

/// A value as a line, with its end.
pub fn json(line: &impl Serialize) -> Vec<u8> {
    // Texts and numbers cannot fail to be JSON.
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// What a line holds; none when it is not one.
pub fn read(line: &[u8]) -> Option<Line> {
    if line.starts_with(b"{\"event\"") {
        let line: EventLine = serde_json::from_slice(line).ok()?;
        let id = RecordId::of_text(&line.of).ok()?;
        return Some(Line::Event(EventRow { run: Named { order: line.order, id }, sequence: line.event, body: line.body.bytes()? }));
    }
    let line: RecordLine = serde_json::from_slice(line).ok()?;
    let whole = |line: RecordLine| -> Result<Option<Whole>, StoreError> {
        let Some(body) = line.body.bytes() else { return Ok(None) };
        let index = Index {
            task: line.task,
            agent: line.agent,
            run: line.run,
            status: line.status,
            ready: line.ready,
            due: None,
            cancel_requested: line.cancel_requested,
        };
        let until = line.lease.as_ref().map(|lease| Timestamp::from_micros(lease.until));
        let known = Known {
            order: line.order,
            rev: line.rev,
            index,
            fence: line.fence,
            heartbeat_at: line.heartbeat_at.map(Timestamp::from_micros),
            until,
            last_event: line.events,
        };
        let lease = line
            .lease
            .and_then(|lease| Some(Held { owner: lease.owner, until: Timestamp::from_micros(lease.until), token: id_of(&lease.token)? }));
        let row = Row {
            id: RecordId::of_text(&line.record)?,
            known,
            change: line.change.as_deref().and_then(id_of),
            due: line.due.map(Timestamp::from_micros),
            body: Bytes::from(body),
        };
        Ok(Some(Whole { row, lease }))
    };
    whole(line).ok().flatten().map(|whole| Line::Record(Box::new(whole)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Kind;

    fn some(body: &'static [u8]) -> Whole {
        let index = Index {
            task: Some(TaskId::parse("t").unwrap()),
            agent: Some(AgentId::parse("a").unwrap()),
            run: Some(RunId::parse("run_1").unwrap()),
            status: Some(Status::Running),
            ready: true,
            due: None,
            cancel_requested: true,
        };
        let at = Timestamp::from_micros(1_800_000_000_000_001);
        let known = Known { order: i64::MAX, rev: u64::MAX >> 1, index, fence: 9, heartbeat_at: Some(at), until: Some(at), last_event: 7 };
        let row =
            Row { id: RecordId::new(Kind::Run, "a/b"), known, change: Some(ChangeId(u128::MAX)), due: Some(at), body: Bytes::from(body) };
        let lease = Held { owner: WorkerId::parse("one.1").unwrap(), until: at, token: ChangeId(1) };
        Whole { row, lease: Some(lease) }
    }

    #[test]
    fn what_is_read_from_a_line_is_what_was_written() {
        for body in [&b"{\"a\": [1.50]}"[..], b"", b"\"\n\r\0 \xe2\x80\xa8", b"\xff\x00 no text"] {
            let whole = some(body);
            let Some(Line::Record(read)) = read(&of_record(&whole)) else { panic!("{body:?}") };
            assert_eq!(*read, whole);
            let event = EventRow { run: Named { order: 3, id: whole.row.id }, sequence: 4, body: body.to_vec() };
            let written = of_event(&event);
            assert_eq!(written.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
            let Some(Line::Event(read)) = super::read(&written) else { panic!("{body:?}") };
            assert_eq!(read, event);
        }
        let mut bare = some(b"{}");
        bare.lease = None;
        bare.row.known = Known { order: 1, rev: 1, index: Index::default(), fence: 0, heartbeat_at: None, until: None, last_event: 0 };
        (bare.row.change, bare.row.due) = (None, None);
        assert_eq!(of_record(&bare), b"{\"record\":\"run/a/b\",\"order\":1,\"rev\":1,\"body\":{\"text\":\"{}\"}}\n");
        let Some(Line::Record(read)) = read(&of_record(&bare)) else { panic!() };
        assert_eq!(*read, bare);
        for wrong in ["{}", "", "[]", "{\"record\":\"who/x\",\"order\":1,\"rev\":1,\"body\":{\"text\":\"\"}}"] {
            assert!(super::read(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }
}
