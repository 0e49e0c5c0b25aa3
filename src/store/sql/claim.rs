//! A claim: what the core's patch comes to in a batch.

use bytes::Bytes;

use super::super::request::Times;
use super::super::{ClaimRequest, Claimed, Index, Lease, Put, Record, RecordId, StoreError, put_aside};
use super::batch::{Batch, Known};
use super::id_of;
use super::rows::Found;
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

/// Claims the runs that were found, whose bodies come one behind the other, and notes in the batch what their writing needs. One that
/// cannot be read is put aside.
///
/// # Errors
/// What was found is not what was asked for.
pub(super) fn candidates(
    found: Vec<Found>,
    mut bodies: &[u8],
    request: &ClaimRequest,
    Times { now, steady }: Times,
    batch: &mut Batch,
) -> Result<Vec<Candidate>, StoreError> {
    let mut candidates = Vec::with_capacity(found.len());
    for found in found {
        let (body, rest) =
            bodies.split_at_checked(found.3.unwrap_or(0)).ok_or_else(|| StoreError::corrupt("a run's body is shorter than its length"))?;
        bodies = rest;
        let id = id_of(found.1.as_deref().unwrap_or_default())?;
        let digest = found.0.and_then(|place| request.agents.get(place)).map(|wanted| wanted.digest.as_str()).unwrap_or_default();
        // A wish that names an agent twice finds its runs twice.
        if batch.known(&id).is_none() {
            let known = found.known();
            let mut run = match decode(&id, body, &known) {
                Ok(run) => run,
                Err(error) => {
                    let aside = put_aside(id.clone(), &known.index, Bytes::copy_from_slice(body), &error);
                    batch.learn(id, known);
                    batch.put(aside, None, now);
                    continue;
                }
            };
            let patch = lifecycle::claim(&mut run, digest, &request.worker, known.fence + 1, now, steady..steady + request.lease);
            batch.learn(id, known);
            batch.want(&RecordId::attempt(&run.run_id, patch.attempt.attempt_number));
            candidates.push(Candidate { run, patch });
        }
    }
    Ok(candidates)
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
