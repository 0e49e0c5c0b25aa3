//! A claim: what the core's patch comes to in a batch.

use super::super::{ClaimRequest, Claimed, Index, Put, Record, RecordId, StoreError};
use super::batch::Batch;
use crate::domain::lifecycle::{self, ClaimPatch};
use crate::domain::run::Run;
use crate::domain::time::Timestamp;

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
        Ok(Claimed { run, rev, events })
    }
}
