//! What was answered to a request that came with a key, kept in the same change as what it asked for.
//!
//! Invariant: while the answer is kept, the same request under the same key changes nothing and has the same answer, and another
//! request under it is refused. The store's clock decides when it is kept no longer.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::admission::{Admission, Place};
use super::error::ManagerError;
use super::transitions::Step;
use super::txn::{Entity, Txn};
use crate::domain::idempotency::IdempotencyKey;
use crate::domain::time::{Seconds, Timestamp};
use crate::store::{Index, Kind, RecordId, StoreError, When};

/// An answer, and whether it was given before.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered<T> {
    /// The answer as it was first given.
    pub answer: T,
    /// Whether an earlier request with the same key had it.
    pub replayed: bool,
}

/// The answer under a key.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    request: String,
    /// Tells whoever made it from those who find it.
    made_by: String,
    kept_seconds: Seconds,
    answer: Value,
}

impl Entity for Kept {
    const KIND: Kind = Kind::Idempotency;

    fn index(&self, _now: Timestamp) -> Index {
        Index { due: Some(When::In(self.kept_seconds.duration())), ..Index::default() }
    }
}

/// One request under a key. It is decided anew after a lost commit and is still the same request.
#[derive(Clone)]
pub(super) struct Once {
    key: IdempotencyKey,
    made_by: String,
    kept_for: Duration,
    admission: Arc<Admission>,
}

impl Once {
    /// A request whose answer is kept for so long. `made_by` is no other request's.
    pub(super) fn new(key: IdempotencyKey, made_by: String, kept_for: Duration, admission: Arc<Admission>) -> Self {
        Once { key, made_by, kept_for, admission }
    }

    /// Takes room for the key unless it is taken.
    ///
    /// # Errors
    /// Too many keys are kept.
    pub(super) fn take_place(&self, place: &mut Option<Place>) -> Result<(), ManagerError> {
        if place.is_none() {
            *place = Some(self.admission.key()?);
        }
        Ok(())
    }

    /// The record of its answer.
    pub(super) fn id(&self) -> RecordId {
        RecordId::new(Kind::Idempotency, self.key.name())
    }

    /// The answer that was given before, if any.
    ///
    /// # Errors
    /// The key is another request's, or its record is not loaded yet.
    pub(super) fn answered<T: DeserializeOwned>(&self, txn: &mut Txn<'_>) -> Step<Option<Answered<T>>> {
        let id = self.id();
        let Some(kept) = txn.get::<Kept, _>(&id)? else { return Ok(None) };
        if kept.request != self.key.request() {
            let sentence =
                "The Idempotency-Key was given with another request; repeat that one as it was, or use a key of its own for this one";
            return Err(ManagerError::Conflict(sentence.to_owned()).into());
        }
        let unreadable = |error: serde_json::Error| StoreError::corrupt(format!("record {id} cannot be read: {error}"));
        let answer = T::deserialize(&kept.answer).map_err(unreadable)?;
        Ok(Some(Answered { answer, replayed: kept.made_by != self.made_by }))
    }

    /// Keeps an answer in the decision's change.
    ///
    /// # Errors
    /// It is too large.
    pub(super) fn keep<T: Serialize>(&self, txn: &mut Txn<'_>, answer: &T) -> Step<()> {
        let answer = serde_json::to_value(answer).map_err(|error| StoreError::Invalid(format!("an answer cannot be kept: {error}")))?;
        let kept = Kept {
            request: self.key.request().to_owned(),
            made_by: self.made_by.clone(),
            kept_seconds: Seconds::from_duration(self.kept_for),
            answer,
        };
        txn.put(self.id(), Arc::new(kept))
    }
}
