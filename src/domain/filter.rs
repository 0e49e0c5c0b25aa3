//! Which runs are meant, when many are to be run again or cancelled at once.
//!
//! Invariant: a filter that names nothing means every run, so whoever takes one from outside asks for that in so many words.

use super::id::{AgentId, TaskId};
use super::input::Fields;
use super::policy::ErrorKind;
use super::run::{Run, Status};
use super::time::Timestamp;

/// What a run must be; what is not given does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// Its task.
    pub task: Option<TaskId>,
    /// Its agent.
    pub agent: Option<AgentId>,
    /// One of these statuses; any when there are none.
    pub status: Vec<Status>,
    /// It ended, or was asked for when it has not ended, at this time or later.
    pub since: Option<Timestamp>,
    /// It ended, or was asked for when it has not ended, before this time.
    pub until: Option<Timestamp>,
    /// The kind of its error.
    pub error_kind: Option<ErrorKind>,
}

impl RunFilter {
    /// Reads the fields `task_id`, `agent_id`, `status`, `since`, `until` and `error_kind`. Statuses must be among `sensible` ones.
    pub fn read(mut fields: Fields<'_>, sensible: impl Fn(Status) -> bool) -> RunFilter {
        let status: Option<Vec<Status>> = fields.optional("status");
        let is_no_status = status.as_ref().is_some_and(Vec::is_empty);
        let filter = RunFilter {
            task: fields.optional("task_id"),
            agent: fields.optional("agent_id"),
            status: status.unwrap_or_default(),
            since: fields.optional("since"),
            until: fields.optional("until"),
            error_kind: fields.optional("error_kind"),
        };
        let senseless: Vec<&str> = filter.status.iter().filter(|status| !sensible(**status)).map(|status| status.as_str()).collect();
        if !senseless.is_empty() {
            let known: Vec<&str> = Status::ALL.into_iter().filter(|status| sensible(*status)).map(Status::as_str).collect();
            fields.fault("status", format!("{} cannot be asked for here; one of {} can", senseless.join(", "), known.join(", ")));
        } else if is_no_status {
            fields.fault("status", "must be a list of at least one status; leave it out for any");
        }
        if filter.since.is_some_and(|since| filter.until.is_some_and(|until| until <= since)) {
            fields.fault("until", "must be later than since");
        }
        fields.refuse_rest(&["task_id", "agent_id", "status", "since", "until", "error_kind"]);
        filter
    }

    /// Whether every run fits.
    pub fn is_empty(&self) -> bool {
        *self == RunFilter::default()
    }

    /// Whether a run fits.
    pub fn fits(&self, run: &Run) -> bool {
        let at = run.finished_at.unwrap_or(run.triggered_at);
        self.task.as_ref().is_none_or(|task| *task == run.task_id)
            && self.agent.as_ref().is_none_or(|agent| *agent == run.agent_id)
            && (self.status.is_empty() || self.status.contains(&run.status))
            && self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at < until)
            && (self.error_kind.is_none() || self.error_kind == run.error_kind)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::input::Faults;

    fn read(filter: Value) -> Result<RunFilter, Faults> {
        let mut faults = Faults::new();
        let filter = RunFilter::read(Fields::open("filter", filter, &mut faults), Status::is_terminal);
        faults.into_result(filter)
    }

    #[test]
    fn a_filter_is_read_strictly() {
        assert!(read(json!({})).unwrap().is_empty());
        let all = json!({"task_id": "t", "agent_id": "a", "status": ["failed", "timeout"], "since": "2026-01-01T00:00:00Z",
            "until": "2026-01-02T00:00:00+01:00", "error_kind": "trap"});
        let filter = read(all).unwrap();
        assert_eq!((filter.status.len(), filter.error_kind, filter.is_empty()), (2, Some(ErrorKind::Trap), false));
        for (bad, field) in [
            (json!([]), "filter"),
            (json!({"task_id": ".."}), "filter.task_id"),
            (json!({"status": "failed"}), "filter.status"),
            (json!({"status": []}), "filter.status"),
            (json!({"status": ["failed", "running"]}), "filter.status"),
            (json!({"status": ["fail"]}), "filter.status"),
            (json!({"since": "2h"}), "filter.since"),
            (json!({"since": "2026-01-01T00:00:00"}), "filter.since"),
            (json!({"since": "2026-01-02T00:00:00Z", "until": "2026-01-02T00:00:00Z"}), "filter.until"),
            (json!({"error_kind": "fire"}), "filter.error_kind"),
            (json!({"task": "t"}), "filter.task"),
        ] {
            let faults = read(bad.clone()).unwrap_err();
            assert_eq!(faults.iter().map(|fault| fault.field.as_str()).collect::<Vec<_>>(), [field], "{bad}");
        }
    }
}
