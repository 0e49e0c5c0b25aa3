//! The store contract: the core decides, a store applies guarded changes.
//!
//! Invariants that every implementation keeps:
//! - A [`Change`] is applied whole or not at all; many may share one commit; each is judged after those before it.
//! - `rev` counts decisions about a record, from its first change's [`ChangeId::first_rev`]: one more with each put and each claim.
//!   A record that a claim makes starts at 1. Renewals and appended events do not raise it.
//! - The store numbers a run's events 1, 2, 3 … in the commit of the change that carries them.
//! - A fence rises with every claim of a run and is never reset.
//! - Only the store's clock judges what is due and which leases hold. A store without a server of its own judges leases by
//!   [`crate::clock::Clock::steady`], so that a step of the wall clock neither ends nor prolongs one, and how old something is by
//!   the earlier of the two, so that no step makes it older.
//! - Every put of an ended run, of a skip range and of an idempotency key has a due time; [`DueKind::Ended`] and [`DueKind::Aged`]
//!   find them by it along an index, however many are not due yet.
//! - Deleting a run deletes its attempts, events, checkpoints and result in the same change.
//!
//! How it fails: an error means that nothing is known of what was asked for. [`StoreError::is_transient`] tells whether asking
//! again can help; a caller that must know whether a lost answer was a commit reads the records back and compares
//! [`Record::change`].

// What the stores share is more than some of them need; built with all, each part has somebody who uses it.
#![cfg_attr(not(all(feature = "sqlite", feature = "postgres", feature = "redis", feature = "mongodb")), allow(dead_code))]

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::domain::id::{RunId, WorkerId};
use crate::domain::time::Timestamp;

mod batch;
mod change;
mod claim;
mod hint;
pub mod memory;
#[cfg(feature = "mongodb")]
pub mod mongodb;
mod record;
#[cfg(feature = "redis")]
pub mod redis;
pub mod report;
mod request;
#[cfg(any(feature = "postgres", feature = "redis", feature = "mongodb"))]
mod server;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub mod sql;

pub use change::{Change, ChangeId, Guard, Outcome};
pub use hint::Hint;
pub use record::{Index, Kind, Lease, MAX_BODY_BYTES, NumberedEvent, PARKED_FOR, Put, Record, RecordId, When};
pub use request::{ClaimAgent, ClaimRequest, Claimed, CountScope, Counts, Due, DueKind, Page, PageRequest, Renewal, Scope};
#[cfg(any(feature = "postgres", feature = "redis", feature = "mongodb"))]
pub use server::ServerClock;

use record::put_aside;

/// Why a store could not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached or is too busy; asking again may help.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// There is no room for more.
    #[error("the store is full: {0}; free some space, it goes on by itself")]
    Full(String),
    /// What it holds is not what was written.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// Another daemon has made the store its own. Nothing that this one asks for is written any more.
    #[error("the store was taken over by another daemon while this one was away: {0}; nothing is written any more, stop one of the two")]
    TakenOver(String),
    /// The request itself cannot be met, whatever the store's state.
    #[error("the store refused: {0}")]
    Invalid(String),
}

impl StoreError {
    /// What the store holds is not what was written.
    pub fn corrupt(what: impl Into<String>) -> Self {
        StoreError::Corrupt(what.into())
    }

    /// Whether it concerns the store as a whole, whatever was asked of it.
    pub const fn is_outage(&self) -> bool {
        matches!(self, StoreError::Unavailable(_) | StoreError::Full(_) | StoreError::TakenOver(_))
    }

    /// Whether asking again can help.
    pub const fn is_transient(&self) -> bool {
        matches!(self, StoreError::Unavailable(_) | StoreError::Full(_))
    }
}

/// A store. See the module's invariants.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Applies changes in order; one outcome for each.
    async fn apply(&self, changes: Vec<Change>) -> Result<Vec<Outcome>, StoreError>;

    /// Leases ready and due runs of the wanted agents, longest due first, and applies `domain::lifecycle::claim` to each. A run that
    /// cannot be read is taken out of those that are ready, so that it holds up no others.
    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError>;

    /// Renews leases; one answer for each, in order. Goes ahead of every change that waits.
    async fn renew(&self, worker: &WorkerId, leases: &[(RunId, u64)], lease: Duration) -> Result<Vec<Renewal>, StoreError>;

    /// What is due by the store's clock, longest due first.
    async fn due(&self, what: DueKind, limit: usize) -> Result<Due, StoreError>;

    /// Reads records by name; one answer for each, in order.
    async fn get(&self, ids: &[RecordId]) -> Result<Vec<Option<Record>>, StoreError>;

    /// Reads a page of a list.
    async fn list(&self, scope: Scope, page: PageRequest) -> Result<Page, StoreError>;

    /// Counts, kept as changes are applied.
    async fn counts(&self, scope: CountScope) -> Result<Counts, StoreError>;

    /// A run's events with numbers above `after`, in order.
    async fn events(&self, run: &RunId, after: u64, limit: usize) -> Result<Vec<NumberedEvent>, StoreError>;

    /// The store's clock, by which decisions are made. It is asked for with each batch: a store behind a network reckons it from what its
    /// server told last.
    async fn now(&self) -> Result<Timestamp, StoreError>;

    /// Tells the other daemons of the store. A store that one daemon has to itself has nobody to tell.
    async fn tell(&self, _hint: &Hint) -> Result<(), StoreError> {
        Ok(())
    }

    /// What daemons tell from now on, this one's own hints among it. It ends when hints may have been lost.
    async fn hints(&self) -> Result<BoxStream<'static, Hint>, StoreError> {
        Ok(Box::pin(futures::stream::pending()))
    }

    /// Writes out what can be, and lets go of files and connections.
    async fn close(&self);
}
