//! What may become of a run: who may write it, and into what.

use std::time::Duration;

use sandclock::domain::id::{RunId, WorkerId};
use sandclock::domain::policy::{ErrorKind, OnUnknown, OverlapPolicy};
use sandclock::domain::run::{Attempt, AttemptStatus, Run, SlotPart, Status};
use sandclock::domain::time::Timestamp;
use sandclock::store::{Change, ClaimRequest, Claimed, Guard, Kind, RecordId, Renewal, When};

use super::{Life, Model, Present, Try, Written};

/// An attempt that lived this long was not what loses workers.
const ALIVE_AFTER: Duration = Duration::from_secs(600);

type Judged = Result<(), String>;

impl Model {
    /// Judges what a change makes of a run; answers with its id if it got its turn.
    pub(super) fn judge_run(
        &mut self,
        by: &WorkerId,
        change: &Change,
        (run, due): &(Run, Option<When>),
        written: &Written,
        at: Present,
    ) -> Option<RunId> {
        let due = match due {
            Some(When::At(due)) => *due,
            Some(When::In(span)) => at.now + *span,
            None => at.now,
        };
        let Some(life) = self.runs.get(&run.run_id) else {
            self.admit(run, due, written, at);
            return None;
        };
        let before = life.run.clone();
        if let Err(fault) = self.judge_change(by, change, &before, run, written, at) {
            self.fault(fault);
        }
        let life = self.runs.get_mut(&run.run_id)?;
        life.run = run.clone();
        life.due = due;
        if !run.status.is_leased() {
            life.owner = None;
            life.until = None;
        }
        (before.slot == SlotPart::Waits && run.slot == SlotPart::Holds).then(|| run.run_id.clone())
    }

    fn judge_change(&mut self, by: &WorkerId, change: &Change, before: &Run, run: &Run, written: &Written, at: Present) -> Judged {
        let Some(life) = self.runs.get_mut(&run.run_id) else { return Ok(()) };
        let id = &run.run_id;
        if life.deleted {
            return Err(format!("{id} was deleted and came to be again"));
        }
        if before.status.is_terminal() {
            return Err(format!("{id} had ended as {} and was written as {}", before.status.as_str(), run.status.as_str()));
        }
        if run.attempt != before.attempt || run.lease_generation != life.fence() {
            return Err(format!("a change moved {id} to attempt {} and fence {}", run.attempt, run.lease_generation));
        }
        if before.cancel_requested_at.is_some() && run.cancel_requested_at.is_none() {
            return Err(format!("the cancel of {id} was forgotten"));
        }
        // Whoever resumes a run has seen to what parked it.
        if before.status.is_waiting() && run.status == Status::Queued {
            life.losses = 0;
        }
        match (before.status.is_leased(), run.status.is_leased()) {
            (false, true) => Err(format!("{id} was started without a claim")),
            (true, false) => self.judge_release(by, change, before, run, written, at),
            (true, true) if run.recoveries != before.recoveries => {
                life.losses = 0;
                if has_come_on(change, run) { Ok(()) } else { Err(format!("the lost workers of {id} were forgotten")) }
            }
            _ => Ok(()),
        }
    }

    fn admit(&mut self, run: &Run, due: Timestamp, written: &Written, at: Present) {
        let slot = written.slots.iter().find(|(task, _)| *task == run.task_id).map(|(_, slot)| slot);
        let place = slot.and_then(|slot| slot.waiting.iter().position(|waits| *waits == run.run_id)).map_or(0, |place| place + 1);
        let beside = written.runs.iter().any(|(other, _)| other.task_id == run.task_id && other.run_id != run.run_id);
        let had_one = beside || self.of_task(&run.task_id).any(|life| life.run.slot != SlotPart::Free);
        let skips = self.tasks.get(&run.task_id).is_some_and(|task| task.overlap_policy == OverlapPolicy::SkipIfRunning);
        if run.status == Status::Skipped && !had_one {
            self.fault(format!("{} was skipped although no run of its task was live", run.run_id));
        }
        if run.slot == SlotPart::Waits && skips && written.tasks.is_empty() && !run.status.is_terminal() {
            self.fault(format!("{} waits although its task skips", run.run_id));
        }
        let key = run.trigger_metadata.get("key");
        if key.is_some() && self.runs.values().any(|life| life.run.task_id == run.task_id && life.run.trigger_metadata.get("key") == key) {
            self.fault(format!("{} is the second run under the key {key:?}", run.run_id));
        }
        if run.status.is_leased() || run.attempt != 0 || run.lease_generation != 0 {
            self.fault(format!("{} came to be as {}", run.run_id, run.status.as_str()));
        }
        let life = Life {
            run: run.clone(),
            arrived: (self.changes, place),
            owner: None,
            until: None,
            claimed: at.steady,
            beat: at.steady,
            due,
            events: 0,
            ended: false,
            tries: Vec::new(),
            losses: 0,
            deleted: false,
        };
        self.runs.insert(run.run_id.clone(), life);
    }

    /// A leased run is let go of by its worker under its lease, or taken from one that is lost.
    fn judge_release(&mut self, by: &WorkerId, change: &Change, before: &Run, run: &Run, written: &Written, at: Present) -> Judged {
        let id = &run.run_id;
        let Some(life) = self.runs.get_mut(id) else { return Ok(()) };
        let (fence, owner) = (life.fence(), life.owner.clone());
        let held = life.holds(fence, at.steady);
        let mine = held && owner.as_ref() == Some(by);
        let dead = !held || owner.as_ref().is_some_and(|owner| owner.daemon() == by.daemon() && owner != by);
        if !mine && !dead {
            return Err(format!("{by} wrote the end of an attempt of {id}, which {owner:?} holds"));
        }
        let is_of = |attempt: &&Attempt| attempt.run_id == *id && attempt.attempt_number == run.attempt;
        let Some(attempt) = written.attempts.iter().find(is_of) else {
            return Err(format!("{id} left its worker and its attempt goes on"));
        };
        let is_interrupted = attempt.status == AttemptStatus::Interrupted;
        if !mine {
            let alive = life.beat.since(life.claimed) >= ALIVE_AFTER;
            life.losses = if alive { 1 } else { life.losses + 1 };
            judge_loss(run, before, attempt, life.losses)?;
        } else if !change.guards.contains(&Guard::Held(id.clone(), fence)) {
            return Err(format!("the outcome of {id} does not carry its fence"));
        } else if is_interrupted {
            let has_come_on = has_come_on(change, run);
            life.losses = if has_come_on { 0 } else { life.losses };
            let is_counted = run.recoveries == before.recoveries || has_come_on;
            if run.failures != before.failures || run.max_attempts != before.max_attempts + 1 || !is_counted {
                return Err(format!("{id} was handed back and an attempt was burned"));
            }
        } else {
            life.losses = 0;
            let answer = life.tries.last().and_then(|last| last.answer.clone());
            // What it asked was answered while it ended: it was parked and goes on, in one change.
            let is_freed = run.status == Status::Queued && run.max_attempts == before.max_attempts + 1 && run.failures == before.failures;
            if !is_freed || attempt.status != AttemptStatus::Completed {
                judge_outcome(run, attempt.status, answer)?;
            }
        }
        let most = run.policy.retry.max_retries;
        if run.failures > most + 1 || (run.failures > most && run.status == Status::Queued) {
            return Err(format!("{id} is tried again after {} failures", run.failures));
        }
        let (asked, ended) = (run.cancel_requested_at.is_some(), run.status == Status::Cancelled);
        if asked && !ended || ended && !asked && attempt.status != AttemptStatus::Cancelled {
            return Err(format!("{id} is {} and its cancel was asked for: {asked}", run.status.as_str()));
        }
        Ok(())
    }

    pub(super) fn renewed(&mut self, worker: &WorkerId, (run, fence): &(RunId, u64), answer: &Renewal, at: Present) {
        let Some(life) = self.runs.get_mut(run) else { return };
        let held = life.holds(*fence, at.steady) && life.owner.as_ref() == Some(worker);
        let asked = life.run.cancel_requested_at.is_some();
        match answer {
            Renewal::Held(until) | Renewal::CancelRequested(until) if held => {
                life.until = Some(*until);
                life.beat = at.steady;
                if asked != matches!(answer, Renewal::CancelRequested(_)) {
                    self.fault(format!("{worker} was told {answer:?} of {run}, whose cancel was asked for: {asked}"));
                }
            }
            Renewal::Lost if !held => {}
            _ => self.fault(format!("{worker} was told {answer:?} of {run} under fence {fence}; it holds it: {held}")),
        }
    }

    pub(super) fn claimed(&mut self, request: &ClaimRequest, claimed: &Claimed, at: Present) {
        let run = &claimed.run;
        self.latest = self.latest.max(at.now);
        let Some(life) = self.runs.get(&run.run_id) else {
            return self.fault(format!("{} was claimed and is not there", run.run_id));
        };
        // The same token again.
        if life.fence() == run.lease_generation && life.owner.as_ref() == Some(&request.worker) && life.run.status.is_leased() {
            return;
        }
        let (fence, tries, due, slot, status) = (life.fence(), life.tries.len(), life.due, life.run.slot, life.run.status);
        if status != Status::Queued || slot == SlotPart::Waits || due > at.now {
            self.fault(format!("{} was claimed as {} {slot:?}, due {due}, at {}", run.run_id, status.as_str(), at.now));
        }
        if run.lease_generation <= fence || run.attempt as usize != tries + 1 || claimed.attempt.attempt_number != run.attempt {
            let what = format!("fence {} and attempt {}", run.lease_generation, run.attempt);
            self.fault(format!("{} was claimed under {what} after fence {fence} and {tries} attempts", run.run_id));
        }
        self.judge_beside(&run.run_id, run.slot);
        let until = run.lease_expires_at;
        if until != Some(at.steady + request.lease) {
            self.fault(format!("{} was leased until {until:?}", run.run_id));
        }
        let Some(life) = self.runs.get_mut(&run.run_id) else { return };
        life.tries.push(Try { fence: run.lease_generation, status: AttemptStatus::Running, effects: false, answer: None });
        life.owner = Some(request.worker.clone());
        (life.until, life.claimed, life.beat) = (until, at.steady, at.steady);
        life.run = run.clone();
        life.events += 2;
        for id in [RecordId::run(&run.run_id), RecordId::attempt(&run.run_id, run.attempt)] {
            *self.revs.entry(id).or_default() += 1;
        }
        let limit = request.agents.iter().find(|wanted| wanted.agent == run.agent_id).and_then(|wanted| wanted.max_running);
        let leased =
            self.runs.values().filter(|life| life.live() && life.run.agent_id == run.agent_id && life.run.status.is_leased()).count();
        if limit.is_some_and(|limit| leased > limit as usize) {
            self.fault(format!("{leased} runs of agent {} execute; {limit:?} may", run.agent_id));
        }
    }
}

/// Whether a change ends a row of lost workers, for an attempt leaves something with it.
fn has_come_on(change: &Change, run: &Run) -> bool {
    run.recoveries == 0 && change.puts.iter().any(|put| put.id.kind == Kind::Checkpoint && put.id.key.starts_with(run.run_id.as_str()))
}

/// A run's status is what its attempt came to, and its result is what the guest of that attempt answered.
fn judge_outcome(run: &Run, attempt: AttemptStatus, answer: Option<String>) -> Judged {
    let id = &run.run_id;
    let fits = match run.status {
        Status::Completed => attempt == AttemptStatus::Completed,
        Status::Failed | Status::Queued => matches!(attempt, AttemptStatus::Failed | AttemptStatus::Timeout),
        Status::Timeout => attempt == AttemptStatus::Timeout,
        Status::AwaitingApproval | Status::AwaitingBudget => attempt == AttemptStatus::Completed && run.parked.is_some(),
        Status::Cancelled => true,
        _ => false,
    };
    if !fits {
        return Err(format!("{id} is {} and its attempt {attempt:?}", run.status.as_str()));
    }
    let answer = answer.map(|answer| answer.chars().take(1000).collect::<String>());
    if run.status == Status::Completed && (answer.is_none() || run.result_preview != answer) {
        return Err(format!("the result of {id} is {:?}; its guest answered {answer:?}", run.result_preview));
    }
    Ok(())
}

/// A run whose worker was lost goes on, is cancelled if that was asked for, or ends when it has lost too many.
fn judge_loss(run: &Run, before: &Run, attempt: &Attempt, losses: u32) -> Judged {
    let id = &run.run_id;
    if attempt.status != AttemptStatus::Interrupted || run.failures != before.failures {
        return Err(format!("{id} lost its worker and that was taken for a failure of its own"));
    }
    // What may have been done outside is what the task says.
    let unknown = if attempt.effects_began { run.policy.on_unknown } else { OnUnknown::Retry };
    let spent = losses > run.policy.max_recoveries;
    let fits = match run.status {
        Status::Cancelled => run.cancel_requested_at.is_some(),
        Status::Failed => (spent || unknown == OnUnknown::Fail) && run.error_kind == Some(ErrorKind::Lost),
        Status::AwaitingApproval => unknown == OnUnknown::Hold,
        _ => !spent && unknown == OnUnknown::Retry,
    };
    if fits && run.recoveries == losses {
        return Ok(());
    }
    Err(format!("{id} has lost {losses} workers in a row ({} by its record) and is {}", run.recoveries, run.status.as_str()))
}
