//! Runs that have ended.

use super::{Code, Situation, Why, kind_word, one_line};
use crate::domain::policy::{ErrorKind, OnUnknown};
use crate::domain::run::Status;

pub(super) fn why(known: &Situation<'_>) -> Why {
    let run = known.run;
    let at = run.finished_at.unwrap_or(known.now);
    let answer = match run.status {
        Status::Completed => known.answer(Code::Completed, format!("It completed at {at} in attempt {}", run.attempt)),
        Status::Cancelled => cancelled(known),
        Status::Skipped => {
            let reason = known.reason.filter(|reason| !reason.is_empty()).unwrap_or("another run of the task was live");
            known.answer(Code::Skipped, format!("It was skipped at {at}: {}", one_line(reason))).with("reason", reason)
        }
        _ => failed(known),
    };
    let attempt = (run.attempt > 0).then_some(run.attempt);
    answer.with("finished_at", at).with("attempt", attempt).with("error", &run.error).with("error_kind", run.error_kind)
}

fn cancelled(known: &Situation<'_>) -> Why {
    let run = known.run;
    let at = run.finished_at.unwrap_or(known.now);
    let why = known.reason.or(run.error.as_deref()).map(|why| format!(": {}", one_line(why))).unwrap_or_default();
    let sentence = match &run.cancel_requested_by {
        Some(by) => format!("It was cancelled at {at} by {by}{why}"),
        None => format!("Its agent gave up in attempt {} at {at} and called it cancelled{why}", run.attempt),
    };
    known.answer(Code::Cancelled, sentence).with("by", &run.cancel_requested_by).with("reason", known.reason)
}

fn failed(known: &Situation<'_>) -> Why {
    let run = known.run;
    let at = run.finished_at.unwrap_or(known.now);
    let error = run.error.as_deref().map(|error| format!(": {}", one_line(error))).unwrap_or_default();
    let (code, sentence) = match (run.status, run.error_kind) {
        (Status::Timeout, _) => (Code::Timeout, format!("Attempt {} met its time limit at {at}, and {}", run.attempt, no_more(known))),
        (_, Some(ErrorKind::Lost)) if run.recoveries > run.policy.max_recoveries && !is_unknown(known) => {
            (Code::WorkersLost, format!("It failed at {at} after {} lost workers in a row{error}", run.recoveries))
        }
        // A time limit ends an attempt with a status of its own; with this one it was a wait that nobody ended.
        (_, Some(ErrorKind::Timeout)) => (Code::WaitExpired, format!("It failed at {at}, for nobody resumed it in time{error}")),
        (_, Some(ErrorKind::Lost)) => (Code::OutcomeUnknown, format!("It failed at {at} in attempt {}{error}", run.attempt)),
        (_, kind) => {
            let kind = kind.map(|kind| format!(" ({})", kind_word(kind))).unwrap_or_default();
            (Code::Failed, format!("It failed at {at} in attempt {}{kind}, and {}{error}", run.attempt, no_more(known)))
        }
    };
    known.answer(code, sentence).with("failures", run.failures).with("max_retries", run.policy.retry.max_retries)
}

/// Whether the task's word on unknown outcomes ended it, whatever was lost before.
fn is_unknown(known: &Situation<'_>) -> bool {
    known.run.policy.on_unknown == OnUnknown::Fail && known.attempt.is_some_and(|attempt| attempt.effects_began)
}

/// Why no retry follows.
fn no_more(known: &Situation<'_>) -> String {
    let (run, retry) = (known.run, &known.run.policy.retry);
    let kind = run.error_kind.unwrap_or(ErrorKind::Host);
    match retry.max_retries {
        0 => "its policy has no retries".to_owned(),
        _ if !retry.retries(kind) => format!("its policy does not retry {}", kind_word(kind)),
        most => format!("all {most} of its retries are spent"),
    }
}
