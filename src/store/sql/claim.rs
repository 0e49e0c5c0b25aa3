//! A claim: what the core's patch comes to in a batch.

use super::super::{ClaimRequest, Claimed, Index, Put, Record, RecordId, StoreError};
use super::batch::Batch;
use crate::domain::lifecycle::{self, ClaimPatch};
use crate::domain::run::Run;
use crate::domain::time::Timestamp;

/// A claim that was made before, of the record it left and of how many events the run had; the attempt comes of its own record.
pub struct Earlier {
    run: Run,
    rev: u64,
    events: u64,
}

impl Earlier {
    /// The claim that a leased record tells of.
    ///
    /// # Errors
    /// The record is not a run.
    pub fn new(record: &Record, events: u64) -> Result<Self, StoreError> {
        Ok(Earlier { run: record.decode_run()?, rev: record.rev, events })
    }

    /// The name of its attempt.
    pub fn attempt_id(&self) -> RecordId {
        RecordId::attempt(&self.run.run_id, self.run.attempt)
    }

    /// The claim with its attempt.
    ///
    /// # Errors
    /// The record is not an attempt, or there is none.
    pub fn with(self, attempt: Option<&Record>) -> Result<Claimed, StoreError> {
        let Earlier { run, rev, events } = self;
        let attempt = attempt.ok_or_else(|| StoreError::corrupt(format!("run {} has no attempt record", run.run_id)))?.decode()?;
        Ok(Claimed { run, attempt, rev, events })
    }
}

/// A run that is being claimed: what `domain::lifecycle::claim` made of it.
pub struct Candidate {
    run: Run,
    patch: ClaimPatch,
}

impl Candidate {
    /// Claims the run that a ready record holds, and notes in the batch what its writing needs.
    ///
    /// # Errors
    /// The record is not a run.
    pub fn new(record: &Record, request: &ClaimRequest, digest: &str, now: Timestamp, batch: &mut Batch) -> Result<Self, StoreError> {
        let mut run = record.decode_run()?;
        let fence = run.lease_generation + 1;
        let patch = lifecycle::claim(&mut run, digest, &request.worker, fence, now, now + request.lease);
        batch.want(&record.id);
        batch.want(&RecordId::attempt(&run.run_id, patch.attempt.attempt_number));
        Ok(Candidate { run, patch })
    }

    /// Takes the claim into the batch, which knows the run by now.
    ///
    /// # Errors
    /// A value cannot be written as JSON.
    pub fn take(self, request: &ClaimRequest, now: Timestamp, batch: &mut Batch) -> Result<Claimed, StoreError> {
        let Candidate { run, patch } = self;
        let id = RecordId::run(&run.run_id);
        let before = batch.known(&id).map(|known| known.index.clone()).unwrap_or_default();
        let index = Index { status: Some(run.status), ready: false, due: None, ..before };
        batch.put(Put::of(id.clone(), index, &run)?, None, now);
        batch.lease(&id, now + request.lease, now);
        for event in &patch.events {
            batch.append(&run.run_id, event)?;
        }
        batch.put(Put::attempt(&patch.attempt)?, None, now);
        let (rev, events) = batch.known(&id).map(|known| (known.rev, known.last_event)).unwrap_or_default();
        Ok(Claimed { run, attempt: patch.attempt, rev, events })
    }
}
