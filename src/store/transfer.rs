//! Moving a store's records as they are: into another store, into a file, and back.
//!
//! Invariants:
//! - A record keeps its place, rev, change, due time, fence, lease and the token of its claim; its events keep their numbers.
//! - A target is empty at first, and says that it is being filled from before the first record until all has been read back and found
//!   the same, so that no daemon opens what is half there.
//! - What is held in memory at once is a page, however much there is.
//!
//! How it fails: with [`TransferError`], one sentence; the target is left as it is, marked, and the same again with leave to empty it
//! starts anew. A record whose body cannot be read is moved as it is; a gap in a run's events is refused.

mod digest;
mod file;
mod fill;
mod line;
mod walk;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use super::batch::{EventRow, Known, Named, Row};
use super::batch::{Writes, counted_in};
use super::{ChangeId, Kind, Record, RecordId, Store, StoreError};
use crate::domain::id::WorkerId;
use crate::domain::time::Timestamp;
pub use digest::{Digest, Tally};
pub use file::{BackupFile, Header, Verified, write_backup};
pub use fill::{Filled, Filling, Resting, Wish, fill, look, next_epoch};
pub use walk::{Pages, Walk};

/// A lease as its store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Who holds it.
    pub owner: WorkerId,
    /// When it ends.
    pub until: Timestamp,
    /// The wish that it was given to.
    pub token: ChangeId,
}

/// A record as it is, with all that its store keeps of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// The record.
    pub row: Row,
    /// The lease of a leased run; when it was last renewed is in the record.
    pub lease: Option<Held>,
}

/// Some events of a run: those with numbers above `after`, `count` of them.
#[derive(Clone, Debug)]
pub struct Span {
    /// The run.
    pub run: Named,
    /// The number that they begin behind.
    pub after: u64,
    /// How many.
    pub count: u64,
}

/// Some records, and events of runs among them or before them.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The records.
    pub records: Vec<Whole>,
    /// The events, those of one run behind each other.
    pub events: Vec<EventRow>,
}

/// A store's records as they were at one moment, if its server has such a view; or else while nobody changes them.
#[async_trait]
pub trait Picture: Send {
    /// Records of a kind with places above `after`, at most `limit`, in order.
    async fn records(&mut self, kind: Kind, after: i64, limit: usize) -> Result<Vec<Whole>, StoreError>;

    /// The events of these spans, in their order.
    async fn events(&mut self, spans: &[Span]) -> Result<Vec<EventRow>, StoreError>;

    /// What a server says that all fences to come must lie above; 0 where it says nothing.
    async fn fences_above(&mut self) -> Result<u64, StoreError> {
        Ok(0)
    }
}

/// A store whose records can be moved as they are.
#[async_trait]
pub trait Transfer: Store {
    /// Its records as they are.
    async fn picture(self: Arc<Self>) -> Result<Box<dyn Picture>, StoreError>;

    /// Writes records that are not there yet, and events, as they are: all of the page or nothing. Orders to come lie above theirs.
    ///
    /// # Errors
    /// A name is taken, or the store cannot take it; when an answer is lost nothing is known.
    async fn import(&self, page: &Page) -> Result<(), StoreError>;

    /// Takes everything out of the store.
    async fn clear(&self) -> Result<(), StoreError>;
}

/// What a store says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreRow {
    /// All fences that it gives lie above this one: its epoch, times 2³².
    pub fences_above: u64,
    /// What fills it, as long as it is not whole.
    pub filling: Option<Filling>,
}

impl StoreRow {
    /// The name of its record.
    pub fn id() -> RecordId {
        RecordId::new(Kind::Store, "store")
    }

    /// What the store says of itself; none when it says nothing.
    ///
    /// # Errors
    /// It cannot be asked, or what it says cannot be read.
    pub async fn of(store: &dyn Store) -> Result<Option<(Record, StoreRow)>, StoreError> {
        let found = store.get(&[StoreRow::id()]).await?.into_iter().next().flatten();
        found.map(|record| record.decode().map(|row| (record, row))).transpose()
    }
}

impl StoreRow {
    /// What all fences lie above, of a store that is whole.
    fn check(self) -> Result<u64, StoreError> {
        match self.filling {
            None => Ok(self.fences_above),
            Some(filling) => Err(StoreError::Invalid(format!(
                "the store is not whole: {filling} was begun and has not come to its end; wait for it, or start it again with --anew"
            ))),
        }
    }
}

/// Takes in what a store says of itself, before anything is asked of it.
///
/// # Errors
/// It is being filled, or was and that was broken off.
pub async fn enter(store: &dyn Store) -> Result<(), StoreError> {
    if let Some((_, row)) = StoreRow::of(store).await? {
        store.begin_fences_above(row.check()?);
    }
    Ok(())
}

/// Why nothing was moved, or not all.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The target has records.
    #[error("the target is not empty: it has {0}; name an empty store, or empty this one first")]
    NotEmpty(String),
    /// The target is half filled.
    #[error("the target is half filled: {0} was begun and has not come to its end; give --anew to empty it and begin anew")]
    HalfFilled(Filling),
    /// Somebody is writing to what is read.
    #[error("{0}")]
    InUse(String),
    /// The file cannot be written or read.
    #[error("the file {path} {what}")]
    File {
        /// The file.
        path: String,
        /// What about it, and the mend.
        what: String,
    },
    /// What was read back differs.
    #[error(
        "what was read back from the target differs in its {0}: it stays marked as half filled; see what else writes there, and start again with --anew"
    )]
    Differs(String),
}

impl Page {
    /// How many bytes its bodies have.
    pub fn bytes(&self) -> usize {
        let records = self.records.iter().map(|whole| whole.row.body.len());
        records.chain(self.events.iter().map(|event| event.body.len())).sum()
    }

    /// What a store has to write for it but for leases.
    pub(super) fn writes(&self) -> Writes {
        let mut counts = HashMap::new();
        for Row { id, known, .. } in self.records.iter().map(|whole| &whole.row) {
            for scope in counted_in(id.kind, &known.index) {
                *counts.entry((scope, known.index.status)).or_default() += 1;
            }
        }
        let mut records: Vec<Row> = self.records.iter().map(|whole| whole.row.clone()).collect();
        records.sort_by_key(|row| row.known.order);
        Writes {
            last_order: records.last().map_or(0, |row| row.known.order),
            records,
            events: self.events.clone(),
            counts: counts.into_iter().map(|((scope, status), by)| (scope, status, by)).collect(),
            ..Writes::default()
        }
    }

    /// Its leases, each with its run.
    pub(super) fn leases(&self) -> impl Iterator<Item = (&Row, &Held)> {
        self.records.iter().filter_map(|whole| Some((&whole.row, whole.lease.as_ref()?)))
    }
}
