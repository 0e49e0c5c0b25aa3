//! How an attempt ends, and what becomes of its run.

use std::time::Duration;

use super::{Decision, Refused, drop_lease, end};
use crate::domain::budget::Day;
use crate::domain::event::{Event, EventName};
use crate::domain::park::{Park, Parked};
use crate::domain::policy::{ErrorKind, OnUnknown};
use crate::domain::run::{Attempt, AttemptStatus, Run, Status, Usage};
use crate::domain::spend::{BudgetScope, Exhausted};
use crate::domain::text;
use crate::domain::time::{Seconds, Timestamp};

/// The characters of a result that the run itself shows.
const PREVIEW_CHARACTERS: usize = 1000;
/// The bytes of an error that a record keeps.
const ERROR_BYTES: usize = 4096;
/// The attempt that lived this long was not what loses workers.
const ALIVE_AFTER: Duration = Duration::from_secs(600);
/// The least delay after the second loss in a row; it doubles with each further one.
const LOSS_DELAY: Duration = Duration::from_secs(5);

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The agent answered.
    Completed(String),
    /// It failed.
    Failed {
        /// How.
        kind: ErrorKind,
        /// In a sentence.
        message: String,
        /// The least delay before another attempt that the agent asked for.
        after: Option<Duration>,
    },
    /// It met its time limit.
    TimedOut,
    /// It stopped because it was asked to, or was stopped after the grace.
    Cancelled(String),
    /// It cannot go on before somebody did something.
    Parked {
        /// What.
        park: Park,
        /// How long that may take before the run fails.
        wait: Duration,
    },
}

fn bounded(text: String) -> String {
    text::bounded(text, ERROR_BYTES, "…")
}

fn close(attempt: &mut Attempt, status: AttemptStatus, usage: Option<Usage>, run: &Run, now: Timestamp) {
    attempt.status = status;
    attempt.finished_at = Some(now);
    attempt.usage = usage;
    if status != AttemptStatus::Completed {
        attempt.error.clone_from(&run.error);
        attempt.error_kind = run.error_kind;
    }
}

/// Puts a run back into the queue, to start no earlier than `at`.
fn requeue(run: &mut Run, at: Timestamp, now: Timestamp) -> Event {
    run.status = Status::Queued;
    run.queued_at = at;
    drop_lease(run);
    Event::of(run, EventName::Queued, now)
}

/// Takes the outcome of the attempt that runs under `fence`. `chance`, from 0 to 1, is the jitter of a retry.
///
/// # Errors
/// The fence is not the run's any more.
pub fn finish(
    mut run: Run,
    mut attempt: Attempt,
    fence: u64,
    outcome: Outcome,
    usage: Usage,
    chance: f64,
    now: Timestamp,
) -> Result<Decision, Refused> {
    if !run.status.is_leased() || run.lease_generation != fence || attempt.lease_generation != fence {
        return Err(Refused::LeaseLost(run.run_id));
    }
    run.heartbeat_at = run.heartbeat_at.max(Some(now));
    run.recoveries = 0;
    run.usage = run.usage.plus(usage.spend());
    let mut decided = Decision { run: run.clone(), attempt: None, events: Vec::new(), result: None };
    // A cancel that was acknowledged is kept, whatever the agent answers after it.
    if run.cancel_requested_at.is_some() || matches!(outcome, Outcome::Cancelled(_)) {
        run.error = match outcome {
            Outcome::Cancelled(message) if !message.is_empty() => Some(bounded(message)),
            _ => None,
        };
        run.error_kind = None;
        close(&mut attempt, AttemptStatus::Cancelled, Some(usage), &run, now);
        let mut event = end(&mut run, Status::Cancelled, now);
        if let Some(by) = &run.cancel_requested_by {
            event = event.with("by", by.clone());
        }
        decided.events.push(event);
    } else {
        match outcome {
            Outcome::Completed(result) => {
                run.error = None;
                run.error_kind = None;
                let preview: String = result.chars().take(PREVIEW_CHARACTERS).collect();
                decided.result = (preview.len() < result.len()).then_some(result);
                run.result_preview = Some(preview);
                close(&mut attempt, AttemptStatus::Completed, Some(usage), &run, now);
                decided.events.push(end(&mut run, Status::Completed, now));
            }
            Outcome::Failed { kind, message, after } => {
                run.error = Some(bounded(message));
                run.error_kind = Some(kind);
                fail(&mut run, &mut attempt, usage, after, chance, now, &mut decided.events);
            }
            Outcome::TimedOut => {
                run.error = Some(format!("the attempt exceeded its time limit of {}", run.policy.timeout_seconds));
                run.error_kind = Some(ErrorKind::Timeout);
                fail(&mut run, &mut attempt, usage, None, chance, now, &mut decided.events);
            }
            Outcome::Parked { park, wait } => {
                let until = match &park {
                    // It goes on by itself with the day that comes.
                    Park::Budget(Exhausted { scope: BudgetScope::Day, .. }) => Day::end_of(now),
                    _ => now + wait,
                };
                decided.events.push(park_run(&mut run, &mut attempt, usage, park, until, now));
            }
            Outcome::Cancelled(_) => {}
        }
    }
    decided.run = run;
    decided.attempt = Some(attempt);
    Ok(decided)
}

fn fail(run: &mut Run, attempt: &mut Attempt, usage: Usage, after: Option<Duration>, chance: f64, now: Timestamp, events: &mut Vec<Event>) {
    let kind = run.error_kind.unwrap_or(ErrorKind::Host);
    let (attempt_status, run_status) = match kind {
        ErrorKind::Timeout => (AttemptStatus::Timeout, Status::Timeout),
        _ => (AttemptStatus::Failed, Status::Failed),
    };
    close(attempt, attempt_status, Some(usage), run, now);
    run.failures = run.failures.saturating_add(1);
    if !run.policy.retry.retries(kind) || run.failures > run.policy.retry.max_retries {
        events.push(end(run, run_status, now));
        return;
    }
    let most = run.policy.retry.max_delay_seconds.duration();
    let delay = run.policy.retry.delay(run.failures, chance).max(after.unwrap_or_default().min(most));
    attempt.retry_delay_seconds = Some(Seconds::from_duration(delay));
    run.status = Status::Retrying;
    events.push(
        Event::of(run, EventName::Retrying, now)
            .with("error", run.error.clone())
            .with("error_kind", serde_json::to_value(kind).unwrap_or_default())
            .with("retry_delay_seconds", serde_json::to_value(Seconds::from_duration(delay)).unwrap_or_default()),
    );
    events.push(requeue(run, now + delay, now));
}

/// Parks a run. The attempt has done what it could and is none of those that the retry policy counts.
fn park_run(run: &mut Run, attempt: &mut Attempt, usage: Usage, park: Park, until: Timestamp, now: Timestamp) -> Event {
    run.error = None;
    run.error_kind = None;
    run.max_attempts = run.max_attempts.saturating_add(1);
    close(attempt, AttemptStatus::Completed, Some(usage), run, now);
    run.status = park.status();
    drop_lease(run);
    let name = EventName::of_settled(run.status).unwrap_or(EventName::AwaitingApproval);
    let event = Event::of(run, name, now).with("until", serde_json::to_value(until).unwrap_or_default());
    let event = match &park {
        Park::Approval { key, question } => event.with("key", key.as_str()).with("question", question.as_str()),
        Park::Budget(exhausted) => {
            event.with("reason", exhausted.to_string()).with("budget", serde_json::to_value(exhausted).unwrap_or_default())
        }
    };
    run.parked = Some(Parked { park, since: now, until });
    event
}

/// Notes that the attempt that runs under `fence` begins to change something outside.
///
/// # Errors
/// The fence is not the attempt's, or it has ended.
pub fn begin_effects(mut attempt: Attempt, fence: u64) -> Result<Attempt, Refused> {
    if attempt.status != AttemptStatus::Running || attempt.lease_generation != fence {
        return Err(Refused::LeaseLost(attempt.run_id));
    }
    attempt.effects_began = true;
    Ok(attempt)
}

/// Gives a run back whose attempt could not be finished here, such as at a graceful stop. No attempt is spent; what it used is, where the guest
/// had begun.
///
/// # Errors
/// The fence is not the run's any more.
pub fn hand_back(
    mut run: Run,
    mut attempt: Attempt,
    fence: u64,
    why: &str,
    usage: Option<Usage>,
    now: Timestamp,
) -> Result<Decision, Refused> {
    if !run.status.is_leased() || run.lease_generation != fence {
        return Err(Refused::LeaseLost(run.run_id));
    }
    run.error = None;
    run.error_kind = None;
    run.max_attempts = run.max_attempts.saturating_add(1);
    run.usage = run.usage.plus(usage.as_ref().map(Usage::spend).unwrap_or_default());
    close(&mut attempt, AttemptStatus::Interrupted, usage, &run, now);
    attempt.error = Some(why.to_owned());
    let events = after_loss(&mut run, &attempt, why, now, now);
    Ok(Decision { run, attempt: Some(attempt), events, result: None })
}

/// Takes a run from a worker that is lost. `attempt` is the one that it was making.
pub fn lose(mut run: Run, mut attempt: Attempt, now: Timestamp) -> Option<Decision> {
    if !run.status.is_leased() || attempt.lease_generation != run.lease_generation {
        return None;
    }
    // Both by the clock of leases, so that a step of the wall clock is no life.
    let alive = run.heartbeat_at.zip(run.claimed_at).map_or(Duration::ZERO, |(beat, claimed)| beat.since(claimed));
    run.recoveries = if alive >= ALIVE_AFTER { 1 } else { run.recoveries.saturating_add(1) };
    run.max_attempts = run.max_attempts.saturating_add(1);
    run.error = Some("the worker was lost: its lease ended without a word from it".to_owned());
    run.error_kind = Some(ErrorKind::Lost);
    close(&mut attempt, AttemptStatus::Interrupted, None, &run, now);
    let delay = match run.recoveries {
        0 | 1 => Duration::ZERO,
        more => LOSS_DELAY.saturating_mul(1u32.checked_shl(more.saturating_sub(2)).unwrap_or(u32::MAX)).min(Duration::from_secs(300)),
    };
    let mut events = Vec::new();
    // A cancel that was acknowledged is kept, also where the run would have failed; and what is unknown is decided by who was to decide it.
    let is_decided = run.cancel_requested_at.is_some() || is_unknown(&run, &attempt);
    if !is_decided && run.recoveries > run.policy.max_recoveries {
        run.error = Some(format!(
            "{} workers in a row were lost while they executed it; it is not tried again (max_recoveries = {})",
            run.recoveries, run.policy.max_recoveries
        ));
        events.push(end(&mut run, Status::Failed, now));
    } else {
        run.error = None;
        run.error_kind = None;
        events = after_loss(&mut run, &attempt, "lease expired", now + delay, now);
    }
    Some(Decision { run, attempt: Some(attempt), events, result: None })
}

/// Whether the task has a word on what the interrupted attempt may have done.
fn is_unknown(run: &Run, attempt: &Attempt) -> bool {
    attempt.effects_began && run.policy.on_unknown != OnUnknown::Retry
}

/// What follows an interrupted attempt: the cancel that was asked for, the task's word on unknown outcomes, or the queue again.
fn after_loss(run: &mut Run, attempt: &Attempt, why: &str, at: Timestamp, now: Timestamp) -> Vec<Event> {
    if run.cancel_requested_at.is_some() {
        return vec![end(run, Status::Cancelled, now)];
    }
    if is_unknown(run, attempt) {
        let message = format!(
            "the attempt ended without an outcome ({why}) after it began to change something outside: what came of that is unknown"
        );
        run.error = Some(message.clone());
        run.error_kind = Some(ErrorKind::Lost);
        if run.policy.on_unknown == OnUnknown::Fail {
            return vec![end(run, Status::Failed, now)];
        }
        run.status = Status::AwaitingApproval;
        drop_lease(run);
        return vec![Event::of(run, EventName::AwaitingApproval, now).with("reason", message)];
    }
    run.status = Status::Retrying;
    let recovered = Event::of(run, EventName::Recovered, now).with("resumed", false).with("reason", why);
    vec![recovered, requeue(run, at, now)]
}
