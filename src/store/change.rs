//! What a store applies: guarded changes.

use super::record::too_large;
use super::{MAX_BODY_BYTES, Put, RecordId, StoreError};
use crate::domain::event::Event;
use crate::domain::id::RunId;

/// Names a change, so that a lost answer can be told from a lost change. Unique for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangeId(pub u128);

/// What must hold for a change to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The record exists with this rev.
    Rev(RecordId, u64),
    /// There is no such record.
    Absent(RecordId),
    /// The fence is the run's, the run is leased, and its lease has not passed by the store's clock in this commit.
    Held(RunId, u64),
}

/// Guards, and what to write if they hold.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its name; every record that it puts keeps it.
    pub id: ChangeId,
    /// All must hold.
    pub guards: Vec<Guard>,
    /// Records to write. A put run whose status is not leased loses its lease (the fence stays).
    pub puts: Vec<Put>,
    /// Records to delete, with what hangs on them.
    pub deletes: Vec<RecordId>,
    /// Events to append, in order; each run must exist after the puts.
    pub events: Vec<(RunId, Event)>,
}

impl Change {
    /// Checks what no guard can make right.
    ///
    /// # Errors
    /// A body is larger than [`MAX_BODY_BYTES`].
    pub fn check(&self) -> Result<(), StoreError> {
        match self.puts.iter().find(|put| put.body.len() > MAX_BODY_BYTES) {
            Some(put) => Err(too_large(&put.id, put.body.len())),
            None => Ok(()),
        }
    }
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was applied.
    Applied,
    /// The first guard that did not hold. Nothing was written.
    Refused(Guard),
}
