//! Runs that a worker has, and runs that are parked.

use serde_json::json;

use super::{Code, Situation, Why, one_line};
use crate::domain::park::Park;
use crate::domain::policy::ErrorKind;
use crate::domain::run::Status;
use crate::domain::spend::{BudgetScope, Exhausted};

/// A worker has it under a lease.
pub(super) fn leased(known: &Situation<'_>) -> Why {
    let run = known.run;
    let worker = run.lease_owner.as_ref().map(|worker| format!(" {worker}")).unwrap_or_default();
    let started = run.started_at.unwrap_or(run.queued_at);
    let answer = match run.lease_expires_at.filter(|until| *until <= known.lease_now) {
        Some(until) => {
            let silent = run.heartbeat_at.unwrap_or(started);
            let sentence = format!(
                "Worker{worker} is silent since {silent} in attempt {}: its lease passed at {until}, and recovery takes the run up",
                run.attempt
            );
            known.answer(Code::LeaseOverdue, sentence).with("silent_since", silent)
        }
        None => executing(known, &worker),
    };
    let answer = answer
        .with("attempt", run.attempt)
        .with("started_at", started)
        .with("worker_id", &run.lease_owner)
        .with("lease_expires_at", run.lease_expires_at)
        .with("times_out_at", started + run.policy.timeout_seconds.duration());
    match run.cancel_requested_at {
        Some(asked) => {
            let until = asked + run.policy.cancel_grace_seconds.duration();
            answer.with("cancel", json!({"at": asked, "by": run.cancel_requested_by, "reason": known.reason, "grace_until": until}))
        }
        None => answer,
    }
}

fn executing(known: &Situation<'_>, worker: &str) -> Why {
    let run = known.run;
    let started = run.started_at.unwrap_or(run.queued_at);
    let lease = run.lease_expires_at.map(|until| format!(" under a lease until {until}")).unwrap_or_default();
    let waits = known.here.waits.as_deref().map(|what| format!("; {}", one_line(what))).unwrap_or_default();
    let runs = format!("Attempt {} runs since {started} on worker{worker}{lease}{waits}", run.attempt);
    let Some(asked) = run.cancel_requested_at else { return known.answer(Code::Running, runs) };
    let by = run.cancel_requested_by.as_deref().map(|by| format!(" by {by}")).unwrap_or_default();
    let until = asked + run.policy.cancel_grace_seconds.duration();
    let why = known.reason.map(|reason| format!(" ({})", one_line(reason))).unwrap_or_default();
    known.answer(Code::CancelRequested, format!("{runs}; its cancel was asked for{by} at {asked}{why}, and its grace ends at {until}"))
}

/// It waits for somebody.
pub(super) fn parked(known: &Situation<'_>) -> Why {
    let run = known.run;
    let until = known.due.map(|until| format!(" until {until}, when it fails,")).unwrap_or_default();
    let unknown = run.error_kind == Some(ErrorKind::Lost);
    let answer = if unknown {
        let sentence = format!(
            "It is held{until} because attempt {} ended without an outcome after it had begun to change something outside: resume it to let \
             it run again, or cancel it",
            run.attempt
        );
        known.answer(Code::OutcomeUnknown, sentence).with("attempt", run.attempt)
    } else if let Some(Park::Approval { key, question }) = run.parked.as_ref().map(|parked| &parked.park) {
        let question = one_line(question);
        let sentence = format!("It waits{until} for a person's answer to what attempt {} asked under `{key}`: {question}", run.attempt);
        known.answer(Code::Parked, sentence).with("approval", json!({"key": key, "question": question}))
    } else if let Some(Park::Budget(met)) = run.parked.as_ref().map(|parked| &parked.park) {
        over_budget(known, met)
    } else {
        let whom = if run.status == Status::AwaitingBudget { "for budget" } else { "for a person's approval" };
        let why = known.reason.map(|reason| format!(": {}", one_line(reason))).unwrap_or_default();
        known.answer(Code::Parked, format!("It waits {whom}{until} unless somebody resumes or cancels it{why}"))
    };
    let by = match run.parked.as_ref().map(|parked| &parked.park) {
        Some(Park::Approval { .. }) => "answer",
        Some(Park::Budget(_)) => "grant",
        None => "resume",
    };
    answer.with("until", known.due).with("released_by", by).with("reason", known.reason)
}

/// It waits for more of a budget.
fn over_budget(known: &Situation<'_>, met: &Exhausted) -> Why {
    let run = known.run;
    let whose = match met.scope {
        BudgetScope::Run => format!("--run {}", run.run_id),
        BudgetScope::Task => format!("--task {}", run.task_id),
        BudgetScope::Day => format!("--agent {}", run.agent_id),
    };
    let until = known.due.map(|until| match met.scope {
        BudgetScope::Day => format!("; it goes on by itself at {until}"),
        BudgetScope::Run | BudgetScope::Task => format!("; it fails at {until}"),
    });
    let option = met.meter.as_str().replace('_', "-");
    let sentence =
        format!("It waits because {met}: `sandclock budget grant {whose} --{option} MORE` lets it go on{}", until.unwrap_or_default());
    known.answer(Code::Parked, sentence).with("budget", met)
}
