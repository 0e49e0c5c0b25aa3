//! Every change of a run's status is decided here, by pure functions, for the API, the command line, the scheduler, the worker and
//! the stores alike.
//!
//! Invariants: a terminal run is never changed; a run gets exactly one terminal event and it is the last of its decision; an
//! attempt's outcome is taken only under that attempt's fence.
//!
//! How it fails: [`Refused`] says why in a sentence, and nothing has changed.

mod admit;
mod again;
mod control;
mod finish;

pub use admit::{Admission, Draft, admit};
pub use again::{RERUN_OF, again};
pub use control::{cancel, checkpointed, expire_parked, granted, promote, request_cancel, resume};
pub use finish::{Outcome, begin_effects, finish, hand_back, lose};

use std::ops::Range;

use super::event::{Event, EventName};
use super::id::{AttemptId, WorkerId};
use super::run::{Attempt, AttemptReason, AttemptStatus, Run, Slot, SlotPart, Status};
use super::time::Timestamp;

/// What a decision about one run comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The run afterwards.
    pub run: Run,
    /// Its latest attempt afterwards, when that changed.
    pub attempt: Option<Attempt>,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// The whole result, when it is longer than its preview.
    pub result: Option<String>,
}

/// Why a command does not apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The run has ended.
    #[error("Run {run} is {status}; it cannot be {wish} any more")]
    Ended {
        /// The run.
        run: super::id::RunId,
        /// Its status.
        status: &'static str,
        /// What was wanted.
        wish: &'static str,
    },
    /// Only a parked run can be resumed.
    #[error("Run {run} is {status}; only a run in awaiting_approval or awaiting_budget can be resumed")]
    NotWaiting {
        /// The run.
        run: super::id::RunId,
        /// Its status.
        status: &'static str,
    },
    /// Only a run that has ended can be run again.
    #[error("Run {run} is {status}; only a run that has ended can be run again: wait for its end or cancel it first")]
    NotEnded {
        /// The run.
        run: super::id::RunId,
        /// Its status.
        status: &'static str,
    },
    /// Its trigger metadata keeps something else under a name of sandclock's.
    #[error("Run {run} has a `{name}` of its own in its trigger metadata, which a run that repeats it needs; give it other metadata")]
    Taken {
        /// The run.
        run: super::id::RunId,
        /// The name.
        name: &'static str,
    },
    /// The fence is not the run's any more.
    #[error("the lease of run {0} is lost: another worker has it, or it has ended")]
    LeaseLost(super::id::RunId),
}

/// What a claim writes beside the run itself.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimPatch {
    /// The new attempt.
    pub attempt: Attempt,
    /// The claimed event and the started event.
    pub events: [Event; 2],
}

/// Claims a ready run and starts its next attempt: queued → claimed → running under a new fence. Stores apply exactly this. `lease` is
/// from when until when the run is held, by the clock that leases are judged by.
pub fn claim(run: &mut Run, digest: &str, worker: &WorkerId, fence: u64, now: Timestamp, lease: Range<Timestamp>) -> ClaimPatch {
    run.lease_owner = Some(worker.clone());
    run.lease_generation = fence;
    run.lease_expires_at = Some(lease.end);
    run.heartbeat_at = Some(lease.start);
    run.claimed_at = Some(lease.start);
    let reason = match (run.attempt, run.recoveries, run.error_kind) {
        (0, ..) => AttemptReason::Initial,
        (_, 1.., _) => AttemptReason::LeaseExpired,
        (_, 0, Some(_)) => AttemptReason::Retry,
        (_, 0, None) => AttemptReason::Recovery,
    };
    run.attempt = run.attempt.saturating_add(1);
    run.started_at = Some(now);
    run.status = Status::Running;
    let attempt = Attempt {
        attempt_id: AttemptId::of_claim(&run.run_id, fence, now),
        run_id: run.run_id.clone(),
        attempt_number: run.attempt,
        reason,
        status: AttemptStatus::Running,
        worker_id: worker.clone(),
        lease_token: (),
        started_at: now,
        finished_at: None,
        error: None,
        retry_delay_seconds: None,
        error_kind: None,
        lease_generation: fence,
        digest: Some(digest.to_owned()),
        effects_began: false,
        usage: None,
        http: None,
    };
    ClaimPatch { attempt, events: claim_events(run, digest, now) }
}

/// What a claim tells of the run that it has just started.
fn claim_events(run: &Run, digest: &str, now: Timestamp) -> [Event; 2] {
    let claimed = Event { status: Status::Claimed, attempt: run.attempt.saturating_sub(1), ..Event::of(run, EventName::Claimed, now) };
    [claimed, Event::of(run, EventName::Started, now).with("digest", digest)]
}

/// The whole history of a run whose first attempt has just been claimed, which the run itself tells; none for a later attempt.
pub fn history_at_first_claim(run: &Run, digest: &str) -> Option<Vec<Event>> {
    let claimed_at = run.started_at.filter(|_| run.attempt == 1 && run.status == Status::Running)?;
    let mut fresh = run.clone();
    fresh.status = Status::Queued;
    fresh.attempt = 0;
    fresh.lease_generation = 0;
    (fresh.lease_owner, fresh.lease_expires_at, fresh.heartbeat_at) = (None, None, None);
    let mut events = admit::first_events(&fresh);
    events.extend(claim_events(run, digest, claimed_at));
    Some(events)
}

/// Takes a settled run's lease away.
fn drop_lease(run: &mut Run) {
    run.lease_owner = None;
    run.lease_expires_at = None;
}

/// Ends a run: terminal status, time, event.
fn end(run: &mut Run, status: Status, now: Timestamp) -> Event {
    run.status = status;
    run.parked = None;
    run.finished_at = Some(now);
    drop_lease(run);
    let name = EventName::of_settled(status).unwrap_or(EventName::Failed);
    let mut event = Event::of(run, name, now);
    if let Some(error) = &run.error {
        event = event.with("error", error.clone());
    }
    if let Some(kind) = run.error_kind {
        event = event.with("error_kind", serde_json::to_value(kind).unwrap_or_default());
    }
    event
}

/// Takes a run that has ended out of its task's slot. Answers whether the slot changed; the runs that may start now are those of
/// [`next_turns`].
pub fn leave_slot(slot: &mut Slot, run: &Run) -> bool {
    if run.slot == SlotPart::Free {
        return false;
    }
    let before = slot.holders.len() + slot.waiting.len();
    slot.holders.retain(|held| *held != run.run_id);
    slot.waiting.retain(|waits| *waits != run.run_id);
    before != slot.holders.len() + slot.waiting.len()
}

/// The waiting runs whose turn it is when at most `capacity` may be live, in order. Each is to be given to [`promote`].
pub fn next_turns(slot: &Slot, capacity: usize) -> Vec<super::id::RunId> {
    slot.waiting.iter().take(capacity.saturating_sub(slot.holders.len())).cloned().collect()
}

#[cfg(test)]
mod tests;
