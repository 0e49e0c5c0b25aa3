//! A claim: what the core's patch comes to in a batch.

use bytes::Bytes;

use super::batch::{Batch, Known};
use super::request::Times;
use super::{ClaimRequest, Claimed, Index, Lease, Put, Record, RecordId, StoreError, put_aside};
use crate::domain::lifecycle::{self, ClaimPatch};
use crate::domain::run::Run;

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

/// A ready run as a database has it.
pub struct Ready<'a> {
    /// Its name.
    pub id: RecordId,
    /// What is known of it.
    pub known: Known,
    /// The digest of the wanted agent.
    pub digest: &'a str,
    /// Its body.
    pub body: &'a [u8],
}

impl Ready<'_> {
    /// Claims the run, and notes in the batch what its writing needs. One that cannot be read is put aside.
    pub(super) fn claim(self, request: &ClaimRequest, Times { now, steady }: Times, batch: &mut Batch) -> Option<Candidate> {
        let Ready { id, mut known, digest, body } = self;
        // A wish that names an agent twice finds its runs twice.
        if batch.known(&id).is_some() {
            return None;
        }
        let mut run = match decode(&id, body, &known) {
            Ok(run) => run,
            Err(error) => {
                let aside = put_aside(id.clone(), &known.index, Bytes::copy_from_slice(body), &error);
                batch.learn(id, known);
                batch.put(aside, None, now);
                return None;
            }
        };
        known.fence = known.fence.max(batch.fences_above());
        let patch = lifecycle::claim(&mut run, digest, &request.worker, known.fence + 1, now, steady..steady + request.lease);
        batch.learn(id, known);
        batch.want(&RecordId::attempt(&run.run_id, patch.attempt.attempt_number));
        Some(Candidate { run, patch })
    }
}

/// The run of a record that is not leased.
fn decode(id: &RecordId, body: &[u8], known: &Known) -> Result<Run, StoreError> {
    let lease = Lease { fence: known.fence, owner: None, until: None, heartbeat_at: known.heartbeat_at };
    let body = Bytes::copy_from_slice(body);
    Record { id: id.clone(), rev: known.rev, change: None, order: known.order, due: None, body, lease: Some(lease) }.decode_run()
}

impl Candidate {
    /// Takes the claim into the batch, which knows the run by now.
    ///
    /// # Errors
    /// A value cannot be written as JSON.
    pub(super) fn take(self, request: &ClaimRequest, Times { now, steady }: Times, batch: &mut Batch) -> Result<Claimed, StoreError> {
        let Candidate { run, patch } = self;
        let id = RecordId::run(&run.run_id);
        let before = batch.known(&id).map(|known| known.index.clone()).unwrap_or_default();
        let index = Index { status: Some(run.status), ready: false, due: None, ..before };
        batch.put(Put::of(id.clone(), index, &run)?, None, now);
        batch.lease(&id, steady..steady + request.lease);
        for event in &patch.events {
            batch.append(&run.run_id, event)?;
        }
        batch.put(Put::attempt(&patch.attempt)?, None, now);
        let (rev, events) = batch.known(&id).map(|known| (known.rev, known.last_event)).unwrap_or_default();
        Ok(Claimed { run, attempt: patch.attempt, rev, events })
    }
}
