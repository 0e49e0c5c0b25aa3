//! What happened to a run, in order.
//!
//! Invariant: an [`Event`] holds what its run does not tell later (status, attempt, worker, lease at that time, details);
//! the rest of the payload is the run's own and is added by [`Event::payload`]. The store numbers events.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::id::WorkerId;
use super::run::{Run, Status};
use super::time::Timestamp;

macro_rules! event_names {
    ($($(#[$doc:meta])* $name:ident = $text:literal),+ $(,)?) => {
        /// The name of an event.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum EventName {
            $($(#[$doc])* #[serde(rename = $text)] $name,)+
            /// One that this release does not know: a later one has written it. It tells what it tells in its details.
            #[serde(other, rename = "background_later_event")]
            Later,
        }

        impl EventName {
            /// Every name that is known.
            pub const ALL: &'static [EventName] = &[$(EventName::$name),+];

            /// The name as payloads spell it.
            pub const fn as_str(self) -> &'static str {
                match self { $(EventName::$name => $text,)+ EventName::Later => "background_later_event" }
            }
        }
    };
}

event_names! {
    /// A schedule made the run; always the first event.
    TaskScheduled = "background_task_scheduled",
    /// The run entered the queue, or came back to it.
    Queued = "background_run_queued",
    /// A worker took the run.
    Claimed = "background_run_claimed",
    /// An attempt started.
    Started = "background_run_started",
    /// The attempt lives.
    Heartbeat = "background_run_heartbeat",
    /// The attempt failed and another follows.
    Retrying = "background_run_retrying",
    /// The worker was lost or handed the run back.
    Recovered = "background_run_recovered",
    /// It waits for a person.
    AwaitingApproval = "background_run_awaiting_approval",
    /// It waits for budget.
    AwaitingBudget = "background_run_awaiting_budget",
    /// A person answered what the agent asked.
    ApprovalDecided = "background_run_approval_decided",
    /// A cancel was asked for.
    CancelRequested = "background_run_cancel_requested",
    /// The agent told its progress.
    Progress = "background_run_progress",
    /// An event of the agent's own.
    Agent = "background_agent_event",
    /// The agent's digest has crashed too often in a row with this attempt, and starts no more.
    Quarantined = "background_agent_quarantined",
    /// The run succeeded.
    Completed = "background_run_completed",
    /// The run failed.
    Failed = "background_run_failed",
    /// The run's last attempt met its time limit.
    Timeout = "background_run_timeout",
    /// The run was cancelled.
    Cancelled = "background_run_cancelled",
    /// The overlap policy did not let the run start.
    Skipped = "background_run_skipped",
}

impl EventName {
    /// Whether it is the run's last.
    pub const fn is_terminal(self) -> bool {
        matches!(self, EventName::Completed | EventName::Failed | EventName::Timeout | EventName::Cancelled | EventName::Skipped)
    }

    /// The terminal event of a terminal status, or the one that tells of a parked run.
    pub const fn of_settled(status: Status) -> Option<EventName> {
        match status {
            Status::Completed => Some(EventName::Completed),
            Status::Failed => Some(EventName::Failed),
            Status::Timeout => Some(EventName::Timeout),
            Status::Cancelled => Some(EventName::Cancelled),
            Status::Skipped => Some(EventName::Skipped),
            Status::AwaitingApproval => Some(EventName::AwaitingApproval),
            Status::AwaitingBudget => Some(EventName::AwaitingBudget),
            Status::Queued | Status::Claimed | Status::Running | Status::Retrying => None,
        }
    }
}

/// One event, without its number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its name.
    pub event: EventName,
    /// When it happened.
    pub at: Timestamp,
    /// The run's status then.
    pub status: Status,
    /// The run's latest attempt then.
    pub attempt: u32,
    /// The worker that had the run then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// The fence then.
    pub fence: u64,
    /// The last renewal then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_at: Option<Timestamp>,
    /// The lease's end then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_expires_at: Option<Timestamp>,
    /// What only this kind of event tells: `error`, `reason`, `resumed`, `retry_delay_seconds`, `message` and so on.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
}

impl Event {
    /// An event that tells of a run as it is now.
    pub fn of(run: &Run, event: EventName, at: Timestamp) -> Event {
        Event {
            event,
            at,
            status: run.status,
            attempt: run.attempt,
            worker: run.lease_owner.clone(),
            fence: run.lease_generation,
            heartbeat_at: run.heartbeat_at,
            lease_expires_at: run.lease_expires_at,
            details: Map::new(),
        }
    }

    /// Adds a detail.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Event {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// The payload that the API, the mirrors and streams show.
    pub fn payload(&self, run: &Run, sequence: u64) -> Value {
        let time = |at: Option<Timestamp>| at.map(Timestamp::with_numeric_offset);
        let mut payload = json!({
            "event": self.event,
            "timestamp": self.at.with_numeric_offset(),
            "agent_id": run.agent_id,
            "task_id": run.task_id,
            "run_id": run.run_id,
            "session_id": run.session_id,
            "status": self.status,
            "attempt": self.attempt,
            "workspace_path": run.workspace_path,
            "worker_id": self.worker,
            "lease_generation": self.fence,
            "heartbeat_at": time(self.heartbeat_at),
            "lease_expires_at": time(self.lease_expires_at),
            "occurrence_id": run.occurrence_id,
            "due_at": time(run.due_at),
            "sequence": sequence,
        });
        if let Value::Object(object) = &mut payload {
            for (name, value) in &self.details {
                object.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_a_later_release_is_read_and_tells_what_it_tells() {
        let text = r#"{"event": "background_run_dreamt", "at": "2026-11-22T05:00:00Z", "status": "running", "attempt": 1, "fence": 7,
            "mood": "good", "details": {"of": "sheep"}}"#;
        let event: Event = serde_json::from_str(text).unwrap();
        assert_eq!((event.event, event.status, event.fence), (EventName::Later, Status::Running, 7));
        assert_eq!(event.details.get("of"), Some(&Value::from("sheep")));
        assert!(!event.event.is_terminal() && !EventName::ALL.contains(&event.event));
    }
}
