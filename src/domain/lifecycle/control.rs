//! Commands from outside: cancel, resume, the next one's turn, the end of a wait.

use super::{Decision, Refused, drop_lease, end};
use crate::domain::event::{Event, EventName};
use crate::domain::park::Park;
use crate::domain::policy::ErrorKind;
use crate::domain::run::{Run, Slot, SlotPart, Status};
use crate::domain::spend::BudgetScope;
use crate::domain::time::Timestamp;

fn decision(run: Run, events: Vec<Event>) -> Decision {
    Decision { run, attempt: None, events, result: None }
}

/// Asks for a run's end. One that no worker has is cancelled at once; a leased one keeps the wish, which its worker carries out.
///
/// # Errors
/// The run has ended.
pub fn request_cancel(mut run: Run, by: &str, why: Option<&str>, now: Timestamp) -> Result<Decision, Refused> {
    if run.status.is_terminal() {
        return Err(Refused::Ended { run: run.run_id, status: run.status.as_str(), wish: "cancelled" });
    }
    if !run.status.is_leased() {
        return Ok(cancel(run, by, why, now));
    }
    if run.cancel_requested_at.is_some() {
        return Ok(decision(run, Vec::new()));
    }
    run.cancel_requested_at = Some(now);
    run.cancel_requested_by = Some(by.to_owned());
    let mut event = Event::of(&run, EventName::CancelRequested, now).with("by", by);
    if let Some(why) = why {
        event = event.with("reason", why);
    }
    Ok(decision(run, vec![event]))
}

/// Cancels a run that no worker has.
pub fn cancel(mut run: Run, by: &str, why: Option<&str>, now: Timestamp) -> Decision {
    run.cancel_requested_at = run.cancel_requested_at.or(Some(now));
    run.cancel_requested_by.get_or_insert_with(|| by.to_owned());
    let mut event = end(&mut run, Status::Cancelled, now).with("by", by);
    if let Some(why) = why {
        event = event.with("reason", why);
    }
    decision(run, vec![event])
}

/// Puts a parked run back into the queue. Whoever does that has seen to what parked it, so the losses in a row count from here.
///
/// # Errors
/// The run is not parked.
pub fn resume(run: Run, by: Option<&str>, now: Timestamp) -> Result<Decision, Refused> {
    if !run.status.is_waiting() {
        return Err(Refused::NotWaiting { run: run.run_id, status: run.status.as_str() });
    }
    Ok(unparked(run, "resumed", by, now))
}

/// Puts a run back into the queue that waits for this kind of budget, of which more was granted; none where it waits for something else.
pub fn granted(run: Run, scope: BudgetScope, by: Option<&str>, now: Timestamp) -> Option<Decision> {
    (run.status == Status::AwaitingBudget && scope_of(&run) == Some(scope)).then(|| unparked(run, "budget granted", by, now))
}

/// Whose budget a run waits for.
fn scope_of(run: &Run) -> Option<BudgetScope> {
    match run.parked.as_ref()?.park {
        Park::Budget(exhausted) => Some(exhausted.scope),
        Park::Approval { .. } => None,
    }
}

fn unparked(mut run: Run, why: &str, by: Option<&str>, now: Timestamp) -> Decision {
    run.status = Status::Queued;
    run.queued_at = now;
    run.parked = None;
    run.error = None;
    run.error_kind = None;
    run.recoveries = 0;
    let mut event = Event::of(&run, EventName::Queued, now).with("reason", why);
    if let Some(by) = by {
        event = event.with("by", by);
    }
    decision(run, vec![event])
}

/// Notes that the attempt that executes has left something to those that follow: whatever loses workers, it did not keep this one from its
/// work. None when that changes nothing.
pub fn checkpointed(run: &Run) -> Option<Run> {
    (run.status.is_leased() && run.recoveries > 0).then(|| Run { recoveries: 0, ..run.clone() })
}

/// Fails a parked run whose wait is over. One that waits for the end of a day goes on with the next.
pub fn expire_parked(mut run: Run, now: Timestamp) -> Option<Decision> {
    if !run.status.is_waiting() {
        return None;
    }
    if scope_of(&run) == Some(BudgetScope::Day) {
        return Some(unparked(run, "a new day", None, now));
    }
    run.error = Some(format!("the run waited in {} until its time was over", run.status.as_str()));
    run.error_kind = Some(ErrorKind::Timeout);
    let event = end(&mut run, Status::Failed, now);
    Some(decision(run, vec![event]))
}

/// Gives a waiting run its turn: it becomes ready, and a holder of the slot. None when it does not wait any more; it is taken out
/// of the slot's queue all the same.
pub fn promote(slot: &mut Slot, mut run: Run, now: Timestamp) -> Option<Decision> {
    slot.waiting.retain(|waits| *waits != run.run_id);
    if run.status != Status::Queued || run.slot != SlotPart::Waits {
        return None;
    }
    slot.holders.push(run.run_id.clone());
    run.slot = SlotPart::Holds;
    run.queued_at = run.queued_at.max(now);
    drop_lease(&mut run);
    Some(decision(run, Vec::new()))
}
