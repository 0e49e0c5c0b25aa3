//! The SQL stores: what they share, whatever the server.
//!
//! One table holds the records of all kinds and has an index for each thing that they are found by; the leases of leased runs, the
//! events and the counts have tables of their own. A `Batch` decides changes in order against what one statement read, and
//! the survivors are written set-wise, so that a batch is a handful of statements whatever its size.
//!
//! How it fails: a batch whose statements fail is rolled back whole and answered with the error.

mod batch;
mod claim;
mod lists;
mod rows;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use super::{CountScope, Kind, RecordId, StoreError};

/// A record's name as the tables spell it.
fn id_text(id: &RecordId) -> String {
    format!("{}/{}", id.kind.as_str(), id.key)
}

/// The names of records, as a JSON array.
fn names(ids: &[RecordId]) -> Result<String, StoreError> {
    let texts: Vec<String> = ids.iter().map(id_text).collect();
    serde_json::to_string(&texts).map_err(|error| StoreError::Invalid(error.to_string()))
}

/// The record that a table names.
fn id_of(text: &str) -> Result<RecordId, StoreError> {
    text.split_once('/')
        .and_then(|(kind, key)| Some(RecordId::new(Kind::parse(kind)?, key)))
        .ok_or_else(|| StoreError::corrupt(format!("there is a record named `{text}`, whose kind is unknown")))
}

/// A count's scope as the table spells it.
fn scope_text(scope: &CountScope) -> String {
    match scope {
        CountScope::All(kind) => kind.as_str().to_owned(),
        CountScope::RunsOfTask(task) => format!("task/{task}"),
        CountScope::RunsOfAgent(agent) => format!("agent/{agent}"),
    }
}
