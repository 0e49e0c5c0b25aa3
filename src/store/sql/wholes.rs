//! Records as they are, for every SQL server.

use bytes::Bytes;

use super::super::transfer::{EventRow, Held, Row, Span, Whole};
use super::super::{ChangeId, Kind, RecordId, StoreError};
use super::rows::{Fields, id, known};
use crate::domain::id::WorkerId;

/// Records of a kind behind place $1, at most $2, in order: what is known of each, and the rest of it.
pub fn records(kind: Kind) -> String {
    format!(
        "SELECT r.ord, r.rev, r.task, r.agent, r.run, r.status, CAST(r.ready AS bigint), CAST(r.cancel_requested AS bigint), r.fence, \
           coalesce(l.heartbeat_at, r.heartbeat_at), l.until, \
           CASE r.kind WHEN 'run' THEN (SELECT e.seq FROM event AS e WHERE e.run = r.ord ORDER BY e.seq DESC LIMIT 1) END, \
           r.id, r.change_id, r.due, r.body, l.owner, l.token \
         FROM record AS r LEFT JOIN lease AS l ON l.run = r.ord WHERE r.kind = '{}' AND r.ord > $1 ORDER BY r.ord LIMIT $2 + 0",
        kind.as_str()
    )
}

fn change_id(bytes: Option<Vec<u8>>, of: &RecordId) -> Result<Option<ChangeId>, StoreError> {
    let number = bytes.map(|bytes| <[u8; 16]>::try_from(bytes).map(u128::from_be_bytes));
    let number = number.transpose().map_err(|_| StoreError::corrupt(format!("{of} has a change id that is not one")))?;
    Ok(number.map(ChangeId))
}

/// The record of a row of [`records`].
pub fn whole(row: &impl Fields) -> Result<Whole, StoreError> {
    let known = known(row, 0)?;
    let name = RecordId::of_text(row.some_text(12)?)?;
    let (change, due) = (change_id(row.bytes(13)?, &name)?, row.time(14)?);
    let owner = id(row.text(16)?, WorkerId::parse)?;
    let token = change_id(row.bytes(17)?, &name)?;
    let lease = owner.zip(known.until).zip(token).map(|((owner, until), token)| Held { owner, until, token });
    Ok(Whole { row: Row { id: name, known, change, due, body: Bytes::from(row.some_bytes(15)?) }, lease })
}

/// The event of a row of its span's place, its number and its body.
pub fn event(row: &impl Fields, spans: &[Span]) -> Result<EventRow, StoreError> {
    let place = usize::try_from(row.some_number(0)?).ok();
    let span = place.and_then(|place| spans.get(place)).ok_or_else(|| StoreError::corrupt("an event belongs to no run"))?;
    Ok(EventRow { run: span.run.clone(), sequence: row.count(1)?, body: row.some_bytes(2)? })
}
