//! Runs in the queue: their time, their turn, and what a worker needs to take them up.

use super::{AgentHere, Code, Situation, Why};
use crate::domain::run::{AttemptStatus, Run, SlotPart};
use crate::domain::time::Timestamp;

pub(super) fn why(known: &Situation<'_>) -> Why {
    if known.run.slot == SlotPart::Waits {
        return turn(known);
    }
    let due = known.due.unwrap_or(known.run.queued_at);
    if due > known.now { later(known, due) } else { ready(known, due) }
}

/// It waits behind live runs of its task.
fn turn(known: &Situation<'_>) -> Why {
    let at = known.slot.and_then(|slot| slot.waiting.iter().position(|waits| *waits == known.run.run_id));
    let place = at.map(|at| at + 1);
    let it = place.map_or_else(|| "It".to_owned(), |place| format!("It is {} in line and", ordinal(place)));
    let answer = match known.ahead {
        None => known.answer(Code::WaitsForTurn, format!("{it} waits for its turn among its task's runs")),
        Some(ahead) => behind(known, &it, ahead).with("waits_for", &ahead.run_id).with("waits_for_status", ahead.status),
    };
    answer.with("position", place).with("overlap_policy", known.task.map(|task| task.overlap_policy))
}

fn behind(known: &Situation<'_>, it: &str, ahead: &Run) -> Why {
    let (run, attempt) = (&ahead.run_id, ahead.attempt);
    if let Some(asked) = ahead.cancel_requested_at.filter(|_| ahead.status.is_leased()) {
        let sentence = format!("{it} waits until attempt {attempt} of run {run} has ended, whose cancel was asked for at {asked}");
        return known.answer(Code::WaitsForCancel, sentence).with("since", asked).with("waits_for_attempt", attempt);
    }
    let mend = if ahead.status.is_waiting() { " until somebody resumes or cancels it" } else { "" };
    known.answer(Code::WaitsForTurn, format!("{it} waits for run {run}, which is {}{mend}", ahead.status.as_str()))
}

/// Its time has not come.
fn later(known: &Situation<'_>, due: Timestamp) -> Why {
    let run = known.run;
    let lost = known.attempt.is_some_and(|attempt| attempt.status == AttemptStatus::Interrupted) && run.recoveries > 0;
    if let Some(failure) = known.last_failure().filter(|_| !lost && run.failures > 0) {
        let sentence = format!("It waits for retry {} of {} at {due}, because {failure}", run.failures, run.policy.retry.max_retries);
        return known.answer(Code::Retry, sentence).with("due_at", due).with_retry(known);
    }
    if lost {
        let worker = known.attempt.map(|attempt| format!(" {}", attempt.worker_id)).unwrap_or_default();
        let (losses, most) = (run.recoveries, run.policy.max_recoveries);
        let sentence = format!(
            "Its worker{worker} was lost in attempt {}, the {} loss in a row of at most {most}, and it backs off until {due}",
            run.attempt,
            ordinal(usize::try_from(losses).unwrap_or(usize::MAX))
        );
        let answer = known.answer(Code::BacksOff, sentence).with("until", due).with("due_at", due);
        return answer.with("recoveries", losses).with("max_recoveries", most).with("attempt", run.attempt);
    }
    known.answer(Code::DueLater, format!("It is due at {due}")).with("due_at", due)
}

/// A worker could take it up: what keeps this daemon's from it?
fn ready(known: &Situation<'_>, since: Timestamp) -> Why {
    let (here, agent) = (known.here, &known.run.agent_id);
    let but = |code, why: String| known.answer(code, format!("It is ready since {since}, but {why}"));
    let answer = if here.is_stopping {
        but(Code::Stopping, "this daemon is stopping and takes nothing up any more".to_owned())
    } else if !here.executes {
        but(Code::NoWorker, "this daemon executes no runs; start one that does on the same store".to_owned())
    } else if let Some(outage) = here.outage {
        but(Code::StoreOut, outage.to_owned())
    } else {
        match &here.agent {
            AgentHere::Unknown => {
                let mend = format!("put {agent}.wasm into its plugins folder, or name the agent in its configuration");
                but(Code::AgentUnknown, format!("this daemon has no agent {agent}: {mend}"))
            }
            AgentHere::NotServing(reason) => {
                let sentence = format!("agent {agent} cannot start here: {}", super::one_line(reason));
                but(Code::AgentNotServing, sentence).with("reason", reason)
            }
            AgentHere::Paused(reason) => {
                but(Code::AgentPaused, format!("agent {agent} does not start: {}", super::one_line(reason))).with("reason", reason)
            }
            AgentHere::Quarantined(reason) => {
                but(Code::AgentQuarantined, format!("agent {agent} does not start: {}", super::one_line(reason))).with("reason", reason)
            }
            AgentHere::Serves { max_running: Some(most), running } if *running >= u64::from(*most) => {
                let sentence = format!("agent {agent} is at its limit: {running} of at most {most} of its runs are executing");
                but(Code::AgentAtLimit, sentence).with("running", running).with("max_running", most)
            }
            AgentHere::Serves { .. } if here.executing >= here.max_running => {
                let sentence = format!("all {} places of this daemon are taken", here.max_running);
                but(Code::NoPlace, sentence).with("running", here.executing).with("max_running", here.max_running)
            }
            AgentHere::Serves { .. } => {
                known.answer(Code::Ready, format!("It is ready since {since}, and this daemon's worker takes it up next"))
            }
        }
    };
    let losses = Some(known.run.recoveries).filter(|losses| *losses > 0);
    answer.with("since", since).with("recoveries", losses).with_retry(known)
}

/// A place in a line: 1st, 2nd, 3rd, 11th.
fn ordinal(place: usize) -> String {
    let ending = match (place % 10, place % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{place}{ending}")
}

#[cfg(test)]
mod tests {
    use super::ordinal;

    #[test]
    fn places_are_told_as_people_say_them() {
        let told: Vec<String> = [1, 2, 3, 4, 11, 12, 13, 21, 102, 111, 1003].map(ordinal).to_vec();
        assert_eq!(told, ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th", "1003rd"]);
    }
}
