//! What a run's attempts leave to those that follow, as records: the names with their lengths, and each value on its own.
//!
//! Invariants: every change stands or falls with the attempt's lease in the commit that makes it; the names are those of the values, in
//! every commit. Keeping the same value again is the same, so a commit whose answer was lost is simply made again.
//!
//! How it fails: a store that is away is asked again until it is back, for the attempt's own limits end the wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::committer::{CommitError, Committer};
use super::live::LiveRun;
use super::patience::{self, Patience};
use super::txn::{Entity, Stop, Txn};
use crate::domain::checkpoint::{CheckpointLimit, CheckpointNames, CheckpointQuota};
use crate::domain::id::RunId;
use crate::domain::lifecycle;
use crate::domain::run::Run;
use crate::domain::time::Timestamp;
use crate::sandbox::checkpoints::{CheckpointRefused, Checkpoints};
use crate::store::{Index, Kind, Record, RecordId, Store, StoreError};

/// The record of a run's names.
pub(super) fn names_id(run: &RunId) -> RecordId {
    RecordId::new(Kind::Checkpoint, run.as_str())
}

/// The record of a value.
pub(super) fn value_id(run: &RunId, name: &str) -> RecordId {
    RecordId::new(Kind::Checkpoint, &format!("{run}/{}", blake3::hash(name.as_bytes()).to_hex()))
}

impl Entity for CheckpointNames {
    const KIND: Kind = Kind::Checkpoint;

    fn index(&self, _now: Timestamp) -> Index {
        Index { run: Some(self.run_id.clone()), ..Index::default() }
    }
}

/// A value.
#[derive(Serialize, Deserialize)]
pub(super) struct Kept {
    run_id: RunId,
    /// Its name, so that whoever reads the record knows what it is.
    name: String,
    /// In base64, for a record is JSON.
    value: String,
}

impl Entity for Kept {
    const KIND: Kind = Kind::Checkpoint;

    fn index(&self, _now: Timestamp) -> Index {
        Index { run: Some(self.run_id.clone()), ..Index::default() }
    }
}

impl Kept {
    /// The value's bytes.
    ///
    /// # Errors
    /// The record holds no base64.
    pub(super) fn bytes(&self) -> Result<Vec<u8>, StoreError> {
        STANDARD.decode(&self.value).map_err(|error| StoreError::corrupt(format!("the checkpoint `{}` is not base64: {error}", self.name)))
    }
}

/// The checkpoints of a run as one attempt sees and changes them.
pub(super) struct AttemptCheckpoints {
    store: Arc<dyn Store>,
    committer: Committer,
    live: LiveRun,
    run: Arc<Run>,
    /// Whether anything can have been kept: not by a first attempt before it has kept something.
    any: AtomicBool,
    /// Whether workers were lost in a row, and this attempt has kept nothing yet.
    is_after_loss: AtomicBool,
}

impl AttemptCheckpoints {
    /// Of an attempt of this run.
    pub(super) fn new(store: Arc<dyn Store>, committer: Committer, run: Arc<Run>, live: LiveRun) -> Self {
        let (any, is_after_loss) = (AtomicBool::new(run.attempt > 1), AtomicBool::new(run.recoveries > 0));
        AttemptCheckpoints { store, committer, live, run, any, is_after_loss }
    }

    async fn record(&self, id: RecordId) -> Result<Option<Record>, CheckpointRefused> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(None);
        }
        let found = patience::read(&*self.store, &[id]).await;
        found.map(|mut records| records.pop().flatten()).map_err(|error| refused(&error))
    }

    /// Commits a change under the attempt's fence.
    async fn change(
        &self,
        reads: Vec<RecordId>,
        decide: impl Fn(&mut Txn<'_>) -> Result<(), Stop<CheckpointLimit>> + Clone + Send + 'static,
    ) -> Result<(), CheckpointRefused> {
        let mut patience = Patience::new();
        loop {
            if !self.live.signals.may_act() {
                return Err(CheckpointRefused::LeaseLost);
            }
            let (run, fence, decide) = (self.run.run_id.clone(), self.live.fence, decide.clone());
            let made = self.committer.commit(reads.clone(), Vec::new(), move |txn: &mut Txn<'_>| {
                txn.held(&run, fence);
                decide(txn)
            });
            match made.await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_loss() => return Err(CheckpointRefused::LeaseLost),
                Err(CommitError::Refused(limit)) => return Err(CheckpointRefused::Limit(limit.to_string())),
                Err(CommitError::Store(error)) if !error.is_transient() => return Err(refused(&error)),
                Err(_) => patience.wait().await,
            }
        }
    }
}

/// Why nothing can be read or kept by an attempt, by what the store says.
pub(super) fn refused(error: &StoreError) -> CheckpointRefused {
    match error {
        StoreError::TakenOver(_) => CheckpointRefused::LeaseLost,
        other => CheckpointRefused::Unkept(other.to_string()),
    }
}

/// Ends the row of lost workers: one of them has come on.
fn note_progress(txn: &mut Txn<'_>, run: &RunId) -> Result<(), Stop<CheckpointLimit>> {
    let id = RecordId::run(run);
    let come_on = txn.get::<Run, _>(&id)?.and_then(|run| lifecycle::checkpointed(&run));
    come_on.map_or(Ok(()), |run| txn.put(id, Arc::new(run)))
}

#[async_trait]
impl Checkpoints for AttemptCheckpoints {
    async fn load(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointRefused> {
        let Some(record) = self.record(value_id(&self.run.run_id, name)).await? else { return Ok(None) };
        let bytes = record.decode::<Kept>().and_then(|kept| kept.bytes());
        bytes.map(Some).map_err(|error| refused(&error))
    }

    async fn save(&self, name: &str, value: Vec<u8>, quota: CheckpointQuota) -> Result<(), CheckpointRefused> {
        let (run, fence) = (self.run.run_id.clone(), self.live.fence);
        let (names, at) = (names_id(&run), value_id(&run, name));
        let mut reads = vec![names.clone(), at.clone()];
        let is_after_loss = self.is_after_loss.load(Ordering::Acquire);
        reads.extend(is_after_loss.then(|| RecordId::run(&run)));
        let bytes = value.len() as u64;
        let kept = Arc::new(Kept { run_id: run.clone(), name: name.to_owned(), value: STANDARD.encode(value) });
        // From now on there may be something, even if the answer is lost.
        self.any.store(true, Ordering::Release);
        let made = self.change(reads, move |txn| {
            let before = txn.get::<CheckpointNames, _>(&names)?;
            txn.get::<Kept, _>(&at)?;
            let held = before.as_deref().cloned().unwrap_or_else(|| CheckpointNames::none(run.clone()));
            let after = held.with(&kept.name, bytes, quota).map_err(Stop::Refused)?;
            if before.as_deref() != Some(&after) {
                txn.put(names.clone(), Arc::new(after))?;
            }
            if is_after_loss {
                note_progress(txn, &run)?;
            }
            txn.put(at.clone(), Arc::clone(&kept))
        });
        made.await?;
        self.is_after_loss.store(false, Ordering::Release);
        tracing::debug!(fence, name, bytes, "a checkpoint is kept");
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<(), CheckpointRefused> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(());
        }
        let run = &self.run.run_id;
        let (names, at, name) = (names_id(run), value_id(run, name), name.to_owned());
        self.change(vec![names.clone(), at.clone()], move |txn| {
            let Some(before) = txn.get::<CheckpointNames, _>(&names)? else { return Ok(()) };
            let mut after = CheckpointNames::clone(&before);
            if after.names.remove(&name).is_none() {
                return Ok(());
            }
            txn.get::<Kept, _>(&at)?;
            txn.delete(at.clone());
            txn.put(names.clone(), Arc::new(after))
        })
        .await
    }

    async fn names(&self) -> Result<Vec<String>, CheckpointRefused> {
        let Some(record) = self.record(names_id(&self.run.run_id)).await? else { return Ok(Vec::new()) };
        let names: CheckpointNames = record.decode().map_err(|error| refused(&error))?;
        Ok(names.names.into_keys().collect())
    }
}
