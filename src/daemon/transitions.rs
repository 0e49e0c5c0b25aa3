//! What the manager, the scheduler, the worker and recovery write when lifecycle has decided: the run, and the slot with it.
//!
//! Invariant: a run that ends leaves its task's slot, and whoever waited longest takes its turn, in the same change.

use std::sync::Arc;

use super::error::ManagerError;
use super::txn::{Stop, Txn};
use crate::domain::id::{RunId, TaskId};
use crate::domain::lifecycle::{self, Decision, Draft};
use crate::domain::run::{Run, Slot, SlotPart};
use crate::domain::task::Task;
use crate::store::{Index, Kind, RecordId};

/// What these functions answer.
pub type Step<T> = Result<T, Stop<ManagerError>>;

/// Reads a run.
///
/// # Errors
/// There is no such run, or it is not loaded yet.
pub fn run_of(txn: &mut Txn<'_>, run: &RunId) -> Step<Arc<Run>> {
    txn.get::<Run, _>(&RecordId::run(run))?.ok_or_else(|| ManagerError::not_found("Run", run).into())
}

/// Reads a task.
///
/// # Errors
/// There is no such task, or it is not loaded yet.
pub fn task_of(txn: &mut Txn<'_>, task: &TaskId) -> Step<Arc<Task>> {
    txn.get::<Task, _>(&RecordId::task(task))?.ok_or_else(|| ManagerError::not_found("Task", task).into())
}

/// Writes what was decided about a run, and passes its turn on when it has ended. Answers with the run.
///
/// # Errors
/// Something is not loaded yet or too large.
pub fn write(txn: &mut Txn<'_>, decision: Decision) -> Step<Arc<Run>> {
    let Decision { run, attempt, events, result } = decision;
    let run = Arc::new(run);
    for event in events {
        txn.event(&run.run_id, event);
    }
    if let Some(attempt) = attempt {
        txn.put(RecordId::attempt(&run.run_id, attempt.attempt_number), Arc::new(attempt))?;
    }
    if let Some(result) = result {
        let index = Index { run: Some(run.run_id.clone()), ..Index::default() };
        txn.put_raw(RecordId::new(Kind::Result, run.run_id.as_str()), index, result)?;
    }
    txn.put(RecordId::run(&run.run_id), Arc::clone(&run))?;
    if run.status.is_terminal() && run.slot != SlotPart::Free {
        pass_on(txn, &run)?;
    }
    Ok(run)
}

/// Takes an ended run out of its task's slot and gives the next ones their turn.
fn pass_on(txn: &mut Txn<'_>, ended: &Run) -> Step<()> {
    let id = RecordId::slot(&ended.task_id);
    let Some(before) = txn.get::<Slot, _>(&id)? else { return Ok(()) };
    let mut slot = Slot::clone(&before);
    if !lifecycle::leave_slot(&mut slot, ended) {
        return Ok(());
    }
    give_turns(txn, &ended.task_id, &mut slot)?;
    txn.put(id, Arc::new(slot))
}

fn give_turns(txn: &mut Txn<'_>, task: &TaskId, slot: &mut Slot) -> Step<()> {
    if slot.waiting.is_empty() {
        return Ok(());
    }
    // Runs of a task that is gone still end one after the other.
    let task = txn.get::<Task, _>(&RecordId::task(task))?;
    let capacity = task.map_or(Some(1), |task| task.capacity());
    give_turns_up_to(txn, slot, capacity.unwrap_or(usize::MAX))
}

/// Gives waiting runs their turn until `capacity` are live.
///
/// # Errors
/// Something is not loaded yet.
pub fn give_turns_up_to(txn: &mut Txn<'_>, slot: &mut Slot, capacity: usize) -> Step<()> {
    loop {
        let next = lifecycle::next_turns(slot, capacity);
        if next.is_empty() {
            return Ok(());
        }
        txn.need(&next.iter().map(RecordId::run).collect::<Vec<_>>())?;
        for run_id in next {
            match txn.get::<Run, _>(&RecordId::run(&run_id))? {
                Some(run) => {
                    if let Some(decision) = lifecycle::promote(slot, Run::clone(&run), txn.now()) {
                        txn.put(RecordId::run(&run_id), Arc::new(decision.run))?;
                    }
                }
                None => slot.waiting.retain(|waits| *waits != run_id),
            }
        }
    }
}

/// Makes a run of a task under its overlap policy.
///
/// # Errors
/// Something is not loaded yet.
pub fn admit(txn: &mut Txn<'_>, task: &Task, draft: Draft) -> Step<Arc<Run>> {
    let id = RecordId::slot(&task.task_id);
    let slot = match task.capacity() {
        Some(_) => txn.get::<Slot, _>(&id)?.unwrap_or_default(),
        None => Arc::default(),
    };
    let admission = lifecycle::admit(task, &slot, draft, txn.now());
    if let Some(slot) = admission.slot {
        txn.put(id, Arc::new(slot))?;
    }
    let run_id = admission.decision.run.run_id.clone();
    let run = write(txn, admission.decision)?;
    for previous in admission.cancel {
        let why = format!("run {run_id} of the task takes its place (cancel_previous)");
        cancel(txn, &previous, "overlap_policy", Some(&why))?;
    }
    // The turn may have come with the cancel of a run that nobody had started.
    Ok(txn.get::<Run, _>(&RecordId::run(&run_id))?.unwrap_or(run))
}

/// Asks for a run's end.
///
/// # Errors
/// There is no such run, it has ended, or something is not loaded yet.
pub fn cancel(txn: &mut Txn<'_>, run_id: &RunId, by: &str, why: Option<&str>) -> Step<Arc<Run>> {
    let run = run_of(txn, run_id)?;
    let leased = run.status.is_leased();
    let decision = lifecycle::request_cancel(Run::clone(&run), by, why, txn.now())?;
    if leased {
        txn.tell_cancel(run_id);
    }
    write(txn, decision)
}
