//! Why a run is where it is: one sentence for people, and what it says in members for programs.
//!
//! Invariants: every run has an answer; a time that the sentence names is a member too, in the same words, so that whoever shows the
//! sentence can put it on the reader's clock; texts of guests are held to one bounded line and stand at the sentence's end. A member is
//! there when it applies.
//!
//! It decides nothing: whether a run may start is the claim's word, and this says what the claim waits for.

mod ended;
mod live;
mod queued;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::run::{Attempt, Run, Slot, Status};
use super::task::Task;
use super::text;
use super::time::Timestamp;
use super::{id::RunId, policy::ErrorKind};

/// The longest text of somebody else's that a sentence takes, in bytes.
const OTHERS_TEXT: usize = 400;

/// What kind of answer it is. A closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Its time has not come.
    DueLater,
    /// A retry's time has not come.
    Retry,
    /// It backs off after workers that were lost.
    BacksOff,
    /// It waits for its turn among its task's runs.
    WaitsForTurn,
    /// It takes the place of a run that was asked to end and has not ended.
    WaitsForCancel,
    /// This daemon stops.
    Stopping,
    /// This daemon executes no runs.
    NoWorker,
    /// The store takes nothing at the moment.
    StoreOut,
    /// This daemon has no such agent.
    AgentUnknown,
    /// The agent's plugin does not serve.
    AgentNotServing,
    /// Somebody paused the agent.
    AgentPaused,
    /// The agent's digest crashed too often in a row.
    AgentQuarantined,
    /// As many of the agent's runs execute as may.
    AgentAtLimit,
    /// As many runs execute here as may.
    NoPlace,
    /// Nothing holds it up.
    Ready,
    /// An attempt executes.
    Running,
    /// An attempt executes whose cancel was asked for.
    CancelRequested,
    /// The worker is silent and its lease has passed.
    LeaseOverdue,
    /// It waits for a person or for budget.
    Parked,
    /// It is held because nobody knows what an attempt did outside.
    OutcomeUnknown,
    /// It succeeded.
    Completed,
    /// Its last attempt failed.
    Failed,
    /// Its last attempt met its time limit.
    Timeout,
    /// Too many workers were lost in a row.
    WorkersLost,
    /// Nobody ended its wait in time.
    WaitExpired,
    /// It was cancelled.
    Cancelled,
    /// The overlap policy did not let it run.
    Skipped,
}

/// What the daemon that answers could do with the run's agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentHere {
    /// It knows no agent of that id.
    Unknown,
    /// It knows the agent and cannot start it, for this reason.
    NotServing(String),
    /// The agent is paused: when, by whom and why.
    Paused(String),
    /// The agent's digest is in quarantine: since when and why.
    Quarantined(String),
    /// It can start attempts.
    Serves {
        /// How many runs of the agent may be leased at once.
        max_running: Option<u32>,
        /// How many are.
        running: u64,
    },
}

/// The daemon that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Here {
    /// Whether it claims nothing more because it stops.
    pub is_stopping: bool,
    /// Whether it executes runs at all.
    pub executes: bool,
    /// Why its store takes nothing at the moment.
    pub outage: Option<&'static str>,
    /// How many runs it executes at once.
    pub max_running: usize,
    /// How many it executes now.
    pub executing: usize,
    /// The run's agent.
    pub agent: AgentHere,
    /// What the attempt waits for that executes here, in a sentence.
    pub waits: Option<String>,
}

/// All that is known of a run.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The run, its lease as the store has it.
    pub run: &'a Run,
    /// When the store lets a ready run start, or ends a parked run's wait.
    pub due: Option<Timestamp>,
    /// Its latest attempt.
    pub attempt: Option<&'a Attempt>,
    /// Its task, if there still is one.
    pub task: Option<&'a Task>,
    /// Its task's slot.
    pub slot: Option<&'a Slot>,
    /// The live run that it waits for.
    pub ahead: Option<&'a Run>,
    /// The reason that its cancel, its skipping or its wait was given in its history.
    pub reason: Option<&'a str>,
    /// The daemon that answers.
    pub here: &'a Here,
    /// The store's present.
    pub now: Timestamp,
    /// The present of the clock by which the store judges leases; it does not step.
    pub lease_now: Timestamp,
}

/// Why a run is where it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Why {
    /// The run.
    pub run_id: RunId,
    /// Its status.
    pub status: Status,
    /// What kind of answer it is.
    pub code: Code,
    /// The answer in one sentence.
    pub sentence: String,
    /// When it was so, by the store's clock.
    pub as_of: Timestamp,
    /// What the sentence says, for programs.
    #[serde(flatten)]
    pub members: Map<String, Value>,
}

/// Says why a run is where it is.
pub fn why(known: &Situation<'_>) -> Why {
    match known.run.status {
        Status::Queued => queued::why(known),
        Status::Claimed | Status::Running | Status::Retrying => live::leased(known),
        Status::AwaitingApproval | Status::AwaitingBudget => live::parked(known),
        Status::Completed | Status::Failed | Status::Cancelled | Status::Timeout | Status::Skipped => ended::why(known),
    }
}

impl Situation<'_> {
    fn answer(&self, code: Code, sentence: impl Into<String>) -> Why {
        let run = self.run;
        let answer =
            Why { run_id: run.run_id.clone(), status: run.status, code, sentence: sentence.into(), as_of: self.now, members: Map::new() };
        answer.with("task_id", &run.task_id).with("agent_id", &run.agent_id)
    }

    /// How the latest attempt ended, in a few words, when it did not go well: `attempt 2 failed (trap): …`.
    fn last_failure(&self) -> Option<String> {
        let attempt = self.attempt?;
        let kind = attempt.error_kind?;
        let how = if kind == ErrorKind::Timeout { "met its time limit".to_owned() } else { format!("failed ({})", kind_word(kind)) };
        let error = attempt.error.as_deref().map(|error| format!(": {}", one_line(error))).unwrap_or_default();
        Some(format!("attempt {} {how}{error}", attempt.attempt_number))
    }
}

impl Why {
    /// Adds a member.
    #[must_use]
    fn with(mut self, name: &str, value: impl Serialize) -> Why {
        // What cannot be written as JSON is left out; ids, numbers, times and texts always can.
        if let Ok(value) = serde_json::to_value(value)
            && !value.is_null()
        {
            self.members.insert(name.to_owned(), value);
        }
        self
    }

    /// Adds what a retry that was decided is about.
    #[must_use]
    fn with_retry(self, known: &Situation<'_>) -> Why {
        let run = known.run;
        let Some(attempt) = known.attempt.filter(|attempt| attempt.retry_delay_seconds.is_some()) else { return self };
        let retry = json!({"number": run.failures, "of": run.policy.retry.max_retries, "after_attempt": attempt.attempt_number});
        self.with("retry", retry).with("error", &attempt.error).with("error_kind", attempt.error_kind)
    }
}

/// A text of somebody else's as part of a sentence: one line, bounded.
fn one_line(text: &str) -> String {
    // What is cut off anyway is not looked at.
    let start: String = text.chars().take(OTHERS_TEXT * 2).collect();
    text::bounded(start.split_whitespace().collect::<Vec<_>>().join(" "), OTHERS_TEXT, "…")
}

/// An error kind as records spell it.
fn kind_word(kind: ErrorKind) -> String {
    serde_json::to_value(kind).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
