//! What rows bind, in the order of their statement's columns.

use super::super::super::batch::{EventRow, Row};
use super::super::rows::number;
use super::SqliteQuery;
use crate::domain::run::Status;
use crate::domain::time::Timestamp;

/// Binds a row behind the rows before it.
pub type Bind<T> = fn(SqliteQuery<'static>, T) -> SqliteQuery<'static>;

/// A row of [`super::statements::PUT_SETTLED`].
pub fn settled(query: SqliteQuery<'static>, row: Row) -> SqliteQuery<'static> {
    let live = row.live();
    let Row { known, change, due, body, .. } = row;
    query
        .bind(known.order)
        .bind(number(known.rev))
        .bind(known.index.status.map(Status::as_str))
        .bind(live)
        .bind(known.index.ready)
        .bind(due.map(Timestamp::micros))
        .bind(known.index.cancel_requested)
        .bind(number(known.fence))
        .bind(known.heartbeat_at.map(Timestamp::micros))
        .bind(change.map(|change| change.0.to_be_bytes().to_vec()))
        .bind(Vec::from(body))
}

/// A row of [`super::statements::PUT_RECORDS`].
pub fn record(query: SqliteQuery<'static>, row: Row) -> SqliteQuery<'static> {
    let (text, kind) = (row.id.text(), row.id.kind.as_str());
    let (task, agent, run) = (row.known.index.task.clone(), row.known.index.agent.clone(), row.known.index.run.clone());
    settled(query, row)
        .bind(text)
        .bind(kind)
        .bind(task.map(|task| task.as_str().to_owned()))
        .bind(agent.map(|agent| agent.as_str().to_owned()))
        .bind(run.map(|run| run.as_str().to_owned()))
}

/// A row of [`super::statements::APPEND_EVENTS`].
pub fn event(query: SqliteQuery<'static>, row: EventRow) -> SqliteQuery<'static> {
    query.bind(row.run.order).bind(number(row.sequence)).bind(row.body)
}
