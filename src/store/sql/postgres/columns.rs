//! What a batch writes, as the arrays that [`super::statements::WRITE`] takes.

use std::collections::HashMap;

use super::super::super::ChangeId;
use super::super::super::batch::{Named, Row, Writes};
use super::super::super::transfer::{Held, Page};
use super::super::rows::number;
use super::PgQuery;
use super::statements;
use crate::domain::id::WorkerId;
use crate::domain::run::Status;
use crate::domain::time::Timestamp;

/// Whose leases a batch takes.
pub struct Holder<'a> {
    /// Who.
    pub worker: &'a WorkerId,
    /// Under which wish.
    pub token: ChangeId,
    /// From when on.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

/// The columns of records that new ones and others have.
fn records(query: PgQuery, rows: &[&Row]) -> PgQuery {
    fn all<'a, T>(rows: &[&'a Row], of: impl Fn(&'a Row) -> T) -> Vec<T> {
        rows.iter().map(|row| of(row)).collect()
    }
    query
        .bind(all(rows, |row| row.known.order))
        .bind(all(rows, |row| number(row.known.rev)))
        .bind(all(rows, |row| row.known.index.status.map(Status::as_str)))
        .bind(all(rows, |row| i16::from(row.live())))
        .bind(all(rows, |row| i16::from(row.known.index.ready)))
        .bind(all(rows, |row| row.due.map(Timestamp::micros)))
        .bind(all(rows, |row| i16::from(row.known.index.cancel_requested)))
        .bind(all(rows, |row| number(row.known.fence)))
        .bind(all(rows, |row| row.known.heartbeat_at.map(Timestamp::micros)))
        .bind(all(rows, |row| row.change.map(|change| change.0.to_be_bytes().to_vec())))
        .bind(all(rows, |row| &*row.body))
        .bind(all(rows, |row| row.known.index.task.as_ref().map(|task| task.as_str())))
        .bind(all(rows, |row| row.known.index.agent.as_ref().map(|agent| agent.as_str())))
        .bind(all(rows, |row| row.known.index.run.as_ref().map(|run| run.as_str())))
}

/// The statement that writes records and events all of which are new.
pub fn write_new(writes: &Writes) -> PgQuery {
    let before = writes.records.first().map_or(0, |row| row.known.order.saturating_sub(1));
    write(writes, before, None)
}

/// The statement that writes the leases of a page.
pub fn leases(page: &Page) -> PgQuery {
    let all: Vec<(&Row, &Held)> = page.leases().collect();
    sqlx::query(statements::PUT_LEASES)
        .bind(all.iter().map(|(row, _)| row.known.order).collect::<Vec<_>>())
        .bind(all.iter().map(|(row, _)| number(row.known.fence)).collect::<Vec<_>>())
        .bind(all.iter().map(|(_, held)| held.owner.as_str()).collect::<Vec<_>>())
        .bind(all.iter().map(|(_, held)| held.owner.daemon()).collect::<Vec<_>>())
        .bind(all.iter().map(|(_, held)| held.token.0.to_be_bytes().to_vec()).collect::<Vec<_>>())
        .bind(all.iter().map(|(_, held)| held.until.micros()).collect::<Vec<_>>())
        .bind(all.iter().map(|(row, held)| row.known.heartbeat_at.unwrap_or(held.until).micros()).collect::<Vec<_>>())
}

/// The statement that writes a batch; orders above `block` and up to the last that was given are new.
pub fn write(writes: &Writes, block: i64, holder: Option<&Holder<'_>>) -> PgQuery {
    let rows = || writes.records.iter().chain(&writes.settled);
    let is_new = |row: &&Row| row.known.order > block && row.known.order <= writes.last_order;
    let (new, changed): (Vec<&Row>, Vec<&Row>) = rows().partition(is_new);
    let query = records(sqlx::query(statements::WRITE), &new)
        .bind(new.iter().map(|row| row.id.text()).collect::<Vec<_>>())
        .bind(new.iter().map(|row| row.id.kind.as_str()).collect::<Vec<_>>());
    let fences: HashMap<i64, i64> =
        if writes.leased.is_empty() { HashMap::new() } else { rows().map(|row| (row.known.order, number(row.known.fence))).collect() };
    let fence = |run: &Named| fences.get(&run.order).copied().unwrap_or(0);
    records(query, &changed)
        .bind(writes.events.iter().map(|event| event.run.order).collect::<Vec<_>>())
        .bind(writes.events.iter().map(|event| number(event.sequence)).collect::<Vec<_>>())
        .bind(writes.events.iter().map(|event| event.body.as_slice()).collect::<Vec<_>>())
        .bind(writes.unleased.iter().map(|run| run.order).collect::<Vec<_>>())
        .bind(writes.counts.iter().map(|(scope, ..)| scope.text()).collect::<Vec<_>>())
        .bind(writes.counts.iter().map(|(_, status, _)| status.map_or("", Status::as_str)).collect::<Vec<_>>())
        .bind(writes.counts.iter().map(|(.., by)| *by).collect::<Vec<_>>())
        .bind(writes.leased.iter().map(|run| run.order).collect::<Vec<_>>())
        .bind(writes.leased.iter().map(fence).collect::<Vec<_>>())
        .bind(holder.map(|holder| holder.worker.as_str().to_owned()))
        .bind(holder.map(|holder| holder.worker.daemon().to_owned()))
        .bind(holder.map(|holder| holder.token.0.to_be_bytes().to_vec()))
        .bind(holder.map(|holder| holder.until.micros()))
        .bind(holder.map(|holder| holder.from.micros()))
}
