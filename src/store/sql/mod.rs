//! The SQL stores: what they share, whatever the server.
//!
//! One table holds the records of all kinds and has an index for each thing that they are found by; the leases of leased runs, the
//! events and the counts have tables of their own. A batch of changes is decided in order against what one statement read, and
//! the survivors are written set-wise, so that a batch is a handful of statements whatever its size.
//!
//! How it fails: a batch whose statements fail is rolled back whole and answered with the error.

mod due;
mod lists;
#[cfg(feature = "postgres")]
pub mod postgres;
mod rows;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod wholes;

#[cfg(feature = "sqlite")]
use super::{RecordId, StoreError};

/// The names of records, as a JSON array.
#[cfg(feature = "sqlite")]
fn names<'a>(ids: impl IntoIterator<Item = &'a RecordId>) -> Result<String, StoreError> {
    json(ids.into_iter().map(RecordId::text))
}

/// A list as a JSON array.
#[cfg(feature = "sqlite")]
fn json<T: serde::Serialize>(values: impl IntoIterator<Item = T>) -> Result<String, StoreError> {
    let values: Vec<T> = values.into_iter().collect();
    serde_json::to_string(&values).map_err(|error| StoreError::Invalid(format!("a value cannot be written as JSON: {error}")))
}
