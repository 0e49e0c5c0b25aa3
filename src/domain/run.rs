//! A run, its attempts, and the slot that decides which run of a task is live.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::budget::Budget;
use super::http::HttpCalls;
use super::id::{AgentId, AttemptId, RunId, TaskId, WorkerId};
use super::park::Parked;
use super::policy::{ErrorKind, OnUnknown, RetryPolicy};
use super::receipt::{CallsByKind, Models, Outgoing};
use super::spend::Spend;
use super::time::{Seconds, Timestamp};

/// Where a run is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It waits for its time, its turn or a worker.
    Queued,
    /// A worker has it and has not started it.
    Claimed,
    /// An attempt executes.
    Running,
    /// A failed attempt is being put back into the queue; never seen at rest.
    Retrying,
    /// It succeeded.
    Completed,
    /// It failed for good.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// Its last attempt met its time limit.
    Timeout,
    /// Its task's overlap policy did not let it run.
    Skipped,
    /// It waits for a person's decision.
    AwaitingApproval,
    /// It waits for budget.
    AwaitingBudget,
}

impl Status {
    /// Every status, in the order in which counts are shown.
    pub const ALL: [Status; 11] = [
        Status::Queued,
        Status::Claimed,
        Status::Running,
        Status::Retrying,
        Status::Completed,
        Status::Failed,
        Status::Cancelled,
        Status::Timeout,
        Status::Skipped,
        Status::AwaitingApproval,
        Status::AwaitingBudget,
    ];

    /// The status as records and the API spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Queued => "queued",
            Status::Claimed => "claimed",
            Status::Running => "running",
            Status::Retrying => "retrying",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
            Status::Timeout => "timeout",
            Status::Skipped => "skipped",
            Status::AwaitingApproval => "awaiting_approval",
            Status::AwaitingBudget => "awaiting_budget",
        }
    }

    /// The status of that spelling.
    pub fn parse(text: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether nothing can follow.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Status::Completed | Status::Failed | Status::Cancelled | Status::Timeout | Status::Skipped)
    }

    /// Whether the run is parked: it holds its slot, and neither a lease nor a worker.
    pub const fn is_waiting(self) -> bool {
        matches!(self, Status::AwaitingApproval | Status::AwaitingBudget)
    }

    /// Whether a worker has the run under a lease.
    pub const fn is_leased(self) -> bool {
        matches!(self, Status::Claimed | Status::Running | Status::Retrying)
    }

    /// Whether somebody who waits for the run has an answer.
    pub const fn is_settled(self) -> bool {
        self.is_terminal() || self.is_waiting()
    }
}

/// What asked for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A person or a program.
    Manual,
    /// An interval schedule.
    Interval,
    /// A cron schedule.
    Cron,
    /// A once schedule.
    Once,
}

impl Trigger {
    /// The trigger as records and guests spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Trigger::Manual => "manual",
            Trigger::Interval => "interval",
            Trigger::Cron => "cron",
            Trigger::Once => "once",
        }
    }
}

/// The run's part in its task's slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotPart {
    /// Its task's runs do not wait for each other.
    #[default]
    Free,
    /// It is (one of) the task's live run(s).
    Holds,
    /// It waits for a live run to end.
    Waits,
}

/// What the task said when the run was made; later edits of the task do not change it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunPolicy {
    /// The time limit of each attempt.
    pub timeout_seconds: Seconds,
    /// How long a guest has between a cancel and the trap.
    pub cancel_grace_seconds: Seconds,
    /// Retries.
    pub retry: RetryPolicy,
    /// How many workers may be lost in a row.
    pub max_recoveries: u32,
    /// What follows a loss after the first outside effect.
    pub on_unknown: OnUnknown,
    /// Whether `run.json` is written.
    pub write_run_json: bool,
    /// Whether `events.jsonl` is written.
    pub write_events_jsonl: bool,
    /// What its task said that may be spent.
    #[serde(default, skip_serializing_if = "Budget::is_empty")]
    pub budget: Budget,
}

/// One execution of a task. Serialized as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its id.
    pub run_id: RunId,
    /// Its task.
    pub task_id: TaskId,
    /// The agent that executes it.
    pub agent_id: AgentId,
    /// Where it is in its life.
    pub status: Status,
    /// The number of the latest attempt; 0 before the first.
    pub attempt: u32,
    /// How many attempts the retry policy allows.
    pub max_attempts: u32,
    /// What the agent is asked.
    pub query_snapshot: String,
    /// What asked for it.
    pub trigger_type: Trigger,
    /// When it was asked for.
    pub triggered_at: Timestamp,
    /// Its nominal fire time.
    pub due_at: Option<Timestamp>,
    /// The occurrence it stands for.
    pub occurrence_id: Option<String>,
    /// Free for whoever asked for it.
    pub trigger_metadata: Map<String, Value>,
    /// The session it continues.
    pub session_id: String,
    /// Its workspace below the workspace root.
    pub workspace_path: String,
    /// The worker that has it.
    pub lease_owner: Option<WorkerId>,
    /// Always null: a lease is not a secret that anybody needs.
    pub lease_token: (),
    /// The fence: it rises with every claim and is never reset.
    pub lease_generation: u64,
    /// When the lease ends unless it is renewed. This and the other times of the lease are by the clock that the store judges leases
    /// by, which a step of the wall clock does not move.
    pub lease_expires_at: Option<Timestamp>,
    /// When the lease was last taken or renewed.
    pub heartbeat_at: Option<Timestamp>,
    /// When it entered the queue, or the time before which it does not start.
    pub queued_at: Timestamp,
    /// When it was last claimed, by the clock of leases; `started_at` is the same by the wall clock.
    pub claimed_at: Option<Timestamp>,
    /// When its latest attempt started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// When its cancel was asked for.
    pub cancel_requested_at: Option<Timestamp>,
    /// What went wrong last.
    pub error: Option<String>,
    /// The first 1000 characters of its result.
    pub result_preview: Option<String>,
    /// The task's metadata when the run was made.
    pub metadata: Map<String, Value>,
    /// The kind of `error`.
    pub error_kind: Option<ErrorKind>,
    /// Who asked for the cancel.
    pub cancel_requested_by: Option<String>,
    /// Attempts that failed or timed out.
    pub failures: u32,
    /// Workers lost in a row.
    pub recoveries: u32,
    /// Its part in the task's slot.
    pub slot: SlotPart,
    /// The run behind which it had to wait for its turn when it was made.
    pub waited_for: Option<RunId>,
    /// What its last attempt parked it for, while it is parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked: Option<Parked>,
    /// What its attempts used, without one that executes and those whose worker was lost.
    #[serde(default, skip_serializing_if = "Spend::is_nothing")]
    pub usage: Spend,
    /// What the task said when it was made.
    pub policy: RunPolicy,
}

/// How an attempt ended, or that it has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptStatus {
    /// It executes.
    Running,
    /// It gave a result, or parked the run.
    Completed,
    /// It failed.
    Failed,
    /// It met its time limit.
    Timeout,
    /// It was cancelled.
    Cancelled,
    /// It was handed back or its worker was lost; the run goes on without it.
    Interrupted,
}

/// Why an attempt was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptReason {
    /// It is the first.
    Initial,
    /// The one before it failed.
    Retry,
    /// The one before it was handed back, or the run was parked.
    Recovery,
    /// The one before it lost its lease.
    LeaseExpired,
}

fn is_no_time(seconds: &Seconds) -> bool {
    seconds.is_zero()
}

/// What an attempt used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Time from start to end.
    pub wall_seconds: Seconds,
    /// Processor time of the guest, and of what the host did for it meanwhile.
    #[serde(default, skip_serializing_if = "is_no_time")]
    pub cpu_seconds: Seconds,
    /// The most linear memory that it held at once.
    pub peak_memory_bytes: u64,
    /// Bytes that it wrote to its workspace.
    pub disk_bytes_written: u64,
    /// Calls to host functions that are counted.
    pub host_calls: u64,
    /// The same by kind, with requests over HTTP beside them.
    #[serde(default, skip_serializing_if = "CallsByKind::is_empty")]
    pub host_calls_by_kind: CallsByKind,
    /// Progress reports and events that exceeded the limit.
    pub events_dropped: u64,
    /// Bytes of output that exceeded the limit.
    pub log_bytes_dropped: u64,
    /// Requests over HTTP that left.
    #[serde(default, skip_serializing_if = "Outgoing::is_empty")]
    pub outgoing: Outgoing,
    /// What models were asked.
    #[serde(default, skip_serializing_if = "Models::is_empty")]
    pub models: Models,
    /// The hash of what was set for the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_hash: Option<String>,
}

impl Usage {
    /// What of it budgets limit.
    pub fn spend(&self) -> Spend {
        Spend {
            wall_seconds: self.wall_seconds,
            cpu_seconds: self.cpu_seconds,
            calls: self.outgoing.calls,
            bytes: self.outgoing.bytes(),
            tokens: self.models.all.tokens.total(),
            money: self.models.all.money,
        }
    }
}

/// One try of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its id.
    pub attempt_id: AttemptId,
    /// Its run.
    pub run_id: RunId,
    /// 1 for the first.
    pub attempt_number: u32,
    /// Why it was made.
    pub reason: AttemptReason,
    /// How it ended.
    pub status: AttemptStatus,
    /// The worker that made it.
    pub worker_id: WorkerId,
    /// Always null.
    pub lease_token: (),
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// What went wrong.
    pub error: Option<String>,
    /// The delay before the next attempt.
    pub retry_delay_seconds: Option<Seconds>,
    /// The kind of `error`.
    pub error_kind: Option<ErrorKind>,
    /// Its fence.
    pub lease_generation: u64,
    /// The SHA-256 of the plugin that it ran.
    pub digest: Option<String>,
    /// Whether it may have changed something outside.
    pub effects_began: bool,
    /// What it used; none while it executes, when its worker was lost, and when its guest never began.
    pub usage: Option<Usage>,
    /// What it asked of others over HTTP; none where it asked nothing, while it executes and when its worker was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCalls>,
}

impl Attempt {
    /// The key under which a run's attempt is stored; keys of one run sort by attempt.
    pub fn key(run: &RunId, number: u32) -> String {
        format!("{run}/{number:010}")
    }
}

/// Which runs of a task are live, and which wait, in order. It changes only in the commit that changes those runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The live runs.
    pub holders: Vec<RunId>,
    /// The waiting runs, next first.
    pub waiting: std::collections::VecDeque<RunId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::receipt::{CallKind, ModelUse, Tokens};
    use crate::domain::spend::Money;

    #[test]
    fn what_was_kept_before_there_were_receipts_is_read() {
        let old = r#"{"wall_seconds":0.25,"peak_memory_bytes":65536,"disk_bytes_written":3,"host_calls":2,"events_dropped":0,"log_bytes_dropped":0}"#;
        let usage: Usage = serde_json::from_str(old).unwrap();
        assert_eq!((usage.host_calls, usage.spend().calls, usage.config_hash.is_none()), (2, 0, true));
        assert_eq!(serde_json::to_string(&usage).unwrap(), old, "what was not used takes no room");
    }

    #[test]
    fn a_receipt_is_read_as_it_was_kept_and_summed_in_every_meter() {
        let tokens = Tokens { input: 5, cached: 2, output: 3, estimated: 8 };
        let mut models = Models::default();
        models.add(Some("m"), ModelUse { calls: 1, tokens, money: Money::from_nanos(7), unpriced_tokens: 8 });
        let usage = Usage {
            wall_seconds: Seconds::whole(2),
            cpu_seconds: Seconds::whole(1),
            host_calls_by_kind: [(CallKind::KeyValues, 4)].into(),
            outgoing: Outgoing { calls: 1, bytes_out: 10, bytes_in: 20 },
            models,
            config_hash: Some("0123456789abcdef".to_owned()),
            ..Usage::default()
        };
        let back: Usage = serde_json::from_str(&serde_json::to_string(&usage).unwrap()).unwrap();
        assert_eq!(back, usage);
        let spend = usage.spend();
        assert_eq!((spend.wall_seconds, spend.cpu_seconds), (Seconds::whole(2), Seconds::whole(1)));
        assert_eq!((spend.calls, spend.bytes, spend.tokens, spend.money), (1, 30, 8, Money::from_nanos(7)));
    }
}
