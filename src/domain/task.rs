//! A task: what to run, when, and how.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::budget::{Budget, read_task_budget};
use super::id::{AgentId, TaskId};
use super::input::{Faults, Fields};
use super::lifecycle::RERUN_OF;
use super::policy::{Backoff, OnUnknown, OverlapPolicy, RetryOn, RetryPolicy, SessionMode, SessionPolicy, WorkspacePolicy};
use super::schedule::Schedule;
use super::time::{Seconds, Timestamp};

/// How many runs of a task may wait for their turn unless it says otherwise.
pub const DEFAULT_MAX_QUEUED: u32 = 1000;
/// The most that `max_queued` may be: the queue is one record.
pub const MOST_QUEUED: u32 = 10_000;
/// The most that `max_parallel` may be: the live runs are in that record too.
pub const MOST_PARALLEL: u32 = 10_000;
/// The longest query, in bytes of JSON.
const QUERY_BYTES: usize = 256 * 1024;
/// The largest metadata, in bytes of JSON.
const METADATA_BYTES: usize = 64 * 1024;

/// A valid task. Serialized as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its id.
    pub task_id: TaskId,
    /// The agent that executes its runs.
    pub agent_id: AgentId,
    /// What the agent is asked.
    pub query: String,
    /// When it runs.
    pub schedule: Schedule,
    /// Whether it runs at all.
    pub enabled: bool,
    /// The time limit of an attempt; the daemon's default when there is none.
    pub timeout_seconds: Option<Seconds>,
    /// Retries.
    pub retry_policy: RetryPolicy,
    /// What happens when a run of it is live.
    pub overlap_policy: OverlapPolicy,
    /// Which session its runs continue.
    pub session_policy: SessionPolicy,
    /// Where its runs work.
    pub workspace_policy: WorkspacePolicy,
    /// Copied into each run.
    pub metadata: Map<String, Value>,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// How many of its runs may wait for their turn.
    pub max_queued: u32,
    /// How many of its runs may be live at once under allow_parallel; none for any number.
    pub max_parallel: Option<u32>,
    /// What follows when an attempt is lost after its first outside effect.
    pub on_unknown: OnUnknown,
    /// How many lost workers in a row it bears; the daemon's default when there is none.
    pub max_recoveries: Option<u32>,
    /// How long a cancelled guest has; the daemon's default when there is none.
    pub cancel_grace_seconds: Option<Seconds>,
    /// What it and its runs may spend, above what its agent says.
    #[serde(default, skip_serializing_if = "Budget::is_empty")]
    pub budget: Budget,
    /// The configuration file that it comes from; none for one that the API made.
    pub source: Option<String>,
}

/// The fields that a task can be given with, in the order of the documentation.
const FIELDS: &[&str] = &[
    "task_id",
    "agent_id",
    "query",
    "schedule",
    "enabled",
    "timeout_seconds",
    "retry_policy",
    "overlap_policy",
    "session_policy",
    "workspace_policy",
    "metadata",
    "max_queued",
    "max_parallel",
    "on_unknown",
    "max_recoveries",
    "cancel_grace_seconds",
    "budget",
];

impl Task {
    /// How many of its runs may be live at once; none for any number.
    pub fn capacity(&self) -> Option<usize> {
        match self.overlap_policy {
            OverlapPolicy::AllowParallel => self.max_parallel.map(|most| most as usize),
            OverlapPolicy::SkipIfRunning | OverlapPolicy::QueueNext | OverlapPolicy::CancelPrevious => Some(1),
        }
    }

    /// Reads a new task from JSON; `default_agent` executes it when it names none.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(value: Value, default_agent: &AgentId, source: Option<String>, now: Timestamp) -> Result<Task, Faults> {
        let mut faults = Faults::new();
        let mut fields = Fields::open("", value, &mut faults);
        let task_id = fields.required::<TaskId>("task_id");
        let agent_id = fields.optional("agent_id").unwrap_or_else(|| default_agent.clone());
        let query = fields.required::<String>("query");
        if !fields.has("schedule") || fields.is_null("schedule") {
            fields.fault("schedule", "is required, such as {\"type\": \"manual\"}");
        }
        let schedule = fields.nested("schedule").and_then(Schedule::parse);
        let enabled = fields.or("enabled", true);
        let task = Settings::read(&mut fields, Settings::default());
        fields.refuse_rest(FIELDS);
        check_query(query.as_deref(), &mut faults);
        let (Some(task_id), Some(query), Some(schedule)) = (task_id, query, schedule) else {
            if faults.is_empty() {
                faults.add("schedule", "is required, such as {\"type\": \"manual\"}");
            }
            return Err(faults);
        };
        task.check_workspace(&agent_id, &task_id, &mut faults);
        faults.into_result(task.into_task(task_id, agent_id, query, schedule, enabled, source, now, now))
    }

    /// Changes the given fields; a policy that is given replaces the old one whole.
    ///
    /// # Errors
    /// Everything that is wrong with the patch. Ids cannot be changed.
    pub fn patched(&self, patch: Value, now: Timestamp) -> Result<Task, Faults> {
        let mut faults = Faults::new();
        let mut fields = Fields::open("", patch, &mut faults);
        for name in ["task_id", "agent_id"] {
            if fields.raw(name).is_some() {
                fields.fault(name, "cannot be changed; register another task instead");
            }
        }
        for name in ["query", "schedule", "enabled", "overlap_policy", "retry_policy", "session_policy", "workspace_policy"] {
            if fields.has(name) && fields.is_null(name) {
                fields.fault(name, "cannot be null; leave it out to keep it as it is");
            }
        }
        let query: Option<String> = fields.optional("query");
        let schedule = fields.nested("schedule").and_then(Schedule::parse);
        let enabled = fields.or("enabled", self.enabled);
        let settings = Settings::read(&mut fields, Settings::of(self));
        fields.refuse_rest(FIELDS);
        if query.is_some() {
            check_query(query.as_deref(), &mut faults);
        }
        let query = query.unwrap_or_else(|| self.query.clone());
        let schedule = schedule.unwrap_or_else(|| self.schedule.clone());
        let (task, agent) = (self.task_id.clone(), self.agent_id.clone());
        settings.check_workspace(&agent, &task, &mut faults);
        faults.into_result(settings.into_task(task, agent, query, schedule, enabled, self.source.clone(), self.created_at, now))
    }

    /// Whether two tasks ask for the same, whenever they were registered.
    pub fn same_as(&self, other: &Task) -> bool {
        let mut other = other.clone();
        other.created_at = self.created_at;
        other.updated_at = self.updated_at;
        *self == other
    }
}

fn check_query(query: Option<&str>, faults: &mut Faults) {
    match query {
        Some(query) if query.trim().is_empty() => faults.add("query", "must not be blank"),
        Some(query) if is_too_long(query) => faults.add("query", format!("is longer than {QUERY_BYTES} bytes of JSON")),
        _ => {}
    }
}

/// Records are JSON, in which a control character takes six bytes.
fn is_too_long(query: &str) -> bool {
    query.len() > QUERY_BYTES || serde_json::to_vec(query).map_or(0, |text| text.len()) > QUERY_BYTES
}

/// Checks a query that stands in for the task's in one run.
///
/// # Errors
/// The query is too long.
pub fn check_query_override(query: &str) -> Result<(), Faults> {
    if is_too_long(query) {
        return Err(Faults::one("query", format!("is longer than {QUERY_BYTES} bytes of JSON")));
    }
    Ok(())
}

/// Checks what somebody who asks for a run wants to be kept with it.
///
/// # Errors
/// It is too large, or uses a name of sandclock's.
pub fn check_trigger_metadata(metadata: &Map<String, Value>) -> Result<(), Faults> {
    if metadata.contains_key(RERUN_OF) {
        return Err(Faults::one("metadata", format!("may not have `{RERUN_OF}`: sandclock sets it in a run that repeats another one")));
    }
    if serde_json::to_vec(metadata).map_or(0, |text| text.len()) > METADATA_BYTES {
        return Err(Faults::one("metadata", format!("is larger than {METADATA_BYTES} bytes of JSON")));
    }
    Ok(())
}

/// What of a task has a default.
#[derive(Clone)]
struct Settings {
    timeout_seconds: Option<Seconds>,
    retry_policy: RetryPolicy,
    overlap_policy: OverlapPolicy,
    session_policy: SessionPolicy,
    workspace_policy: WorkspacePolicy,
    metadata: Map<String, Value>,
    max_queued: u32,
    max_parallel: Option<u32>,
    on_unknown: OnUnknown,
    max_recoveries: Option<u32>,
    cancel_grace_seconds: Option<Seconds>,
    budget: Budget,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            timeout_seconds: None,
            retry_policy: RetryPolicy::default(),
            overlap_policy: OverlapPolicy::default(),
            session_policy: SessionPolicy::default(),
            workspace_policy: WorkspacePolicy::default(),
            metadata: Map::new(),
            max_queued: DEFAULT_MAX_QUEUED,
            max_parallel: None,
            on_unknown: OnUnknown::default(),
            max_recoveries: None,
            cancel_grace_seconds: None,
            budget: Budget::default(),
        }
    }
}

impl Settings {
    fn of(task: &Task) -> Self {
        Settings {
            timeout_seconds: task.timeout_seconds,
            retry_policy: task.retry_policy.clone(),
            overlap_policy: task.overlap_policy,
            session_policy: task.session_policy.clone(),
            workspace_policy: task.workspace_policy.clone(),
            metadata: task.metadata.clone(),
            max_queued: task.max_queued,
            max_parallel: task.max_parallel,
            on_unknown: task.on_unknown,
            max_recoveries: task.max_recoveries,
            cancel_grace_seconds: task.cancel_grace_seconds,
            budget: task.budget,
        }
    }

    /// Takes what is given; what is not given stays as in `base`. A null clears what may be absent.
    fn read(fields: &mut Fields<'_>, base: Settings) -> Self {
        let timeout_seconds = nullable(fields, "timeout_seconds", base.timeout_seconds);
        if timeout_seconds.is_some_and(Seconds::is_zero) {
            fields.fault("timeout_seconds", "must be more than 0");
        }
        let max_parallel = nullable(fields, "max_parallel", base.max_parallel);
        if max_parallel.is_some_and(|most| most == 0 || most > MOST_PARALLEL) {
            fields.fault("max_parallel", format!("must be from 1 to {MOST_PARALLEL}; leave it out for any number"));
        }
        let max_queued = fields.or("max_queued", base.max_queued);
        if max_queued > MOST_QUEUED {
            fields.fault("max_queued", format!("must be at most {MOST_QUEUED}"));
        }
        let metadata = fields.optional("metadata").unwrap_or(base.metadata);
        if serde_json::to_vec(&metadata).map_or(0, |text| text.len()) > METADATA_BYTES {
            fields.fault("metadata", format!("is larger than {METADATA_BYTES} bytes of JSON"));
        }
        let overlap_policy = fields.or("overlap_policy", base.overlap_policy);
        if max_parallel.is_some() && overlap_policy != OverlapPolicy::AllowParallel {
            fields.fault("max_parallel", "only has a meaning with overlap_policy = allow_parallel");
        }
        Settings {
            timeout_seconds,
            retry_policy: fields.nested("retry_policy").map_or(base.retry_policy, read_retry),
            overlap_policy,
            session_policy: fields.nested("session_policy").map_or(base.session_policy, read_session),
            workspace_policy: fields.nested("workspace_policy").map_or(base.workspace_policy, read_workspace),
            metadata,
            max_queued,
            max_parallel,
            on_unknown: fields.or("on_unknown", base.on_unknown),
            max_recoveries: nullable(fields, "max_recoveries", base.max_recoveries),
            cancel_grace_seconds: nullable(fields, "cancel_grace_seconds", base.cancel_grace_seconds),
            budget: if fields.is_null("budget") {
                Budget::default()
            } else {
                fields.nested("budget").map_or(base.budget, read_task_budget)
            },
        }
    }

    /// Refuses a template that no run of this task could have a workspace under.
    fn check_workspace(&self, agent: &AgentId, task: &TaskId, faults: &mut Faults) {
        if let Some(fault) = self.workspace_policy.fault_with(agent, task) {
            faults.add("workspace_policy.namespace_template", fault);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "called twice, in this file, with the fields that have no default")]
    fn into_task(
        self,
        task_id: TaskId,
        agent_id: AgentId,
        query: String,
        schedule: Schedule,
        enabled: bool,
        source: Option<String>,
        created_at: Timestamp,
        updated_at: Timestamp,
    ) -> Task {
        Task {
            task_id,
            agent_id,
            query,
            schedule,
            enabled,
            timeout_seconds: self.timeout_seconds,
            retry_policy: self.retry_policy,
            overlap_policy: self.overlap_policy,
            session_policy: self.session_policy,
            workspace_policy: self.workspace_policy,
            metadata: self.metadata,
            created_at,
            updated_at,
            max_queued: self.max_queued,
            max_parallel: self.max_parallel,
            on_unknown: self.on_unknown,
            max_recoveries: self.max_recoveries,
            cancel_grace_seconds: self.cancel_grace_seconds,
            budget: self.budget,
            source,
        }
    }
}

fn nullable<T: serde::de::DeserializeOwned>(fields: &mut Fields<'_>, name: &str, base: Option<T>) -> Option<T> {
    if fields.has(name) { fields.optional(name) } else { base }
}

fn read_retry(mut fields: Fields<'_>) -> RetryPolicy {
    let default = RetryPolicy::default();
    let initial = fields.or("initial_delay_seconds", default.initial_delay_seconds);
    let policy = RetryPolicy {
        max_retries: fields.or("max_retries", default.max_retries),
        initial_delay_seconds: initial,
        // A long first delay alone means that all delays may be that long.
        max_delay_seconds: fields.or("max_delay_seconds", default.max_delay_seconds.max(initial)),
        backoff: fields.or("backoff", Backoff::default()),
        retry_on: fields.optional::<Vec<RetryOn>>("retry_on").unwrap_or(default.retry_on),
        jitter: fields.or("jitter", default.jitter),
    };
    if policy.max_delay_seconds < policy.initial_delay_seconds {
        fields.fault("max_delay_seconds", "must not be less than initial_delay_seconds");
    }
    if !(0.0..=1.0).contains(&policy.jitter) {
        fields.fault("jitter", "must be from 0 to 1");
    }
    fields.refuse_rest(&["max_retries", "initial_delay_seconds", "max_delay_seconds", "backoff", "retry_on", "jitter"]);
    policy
}

fn read_session(mut fields: Fields<'_>) -> SessionPolicy {
    let policy = SessionPolicy { mode: fields.or_default("mode"), session_id: fields.optional("session_id") };
    match (policy.mode, policy.session_id.as_deref()) {
        (SessionMode::Fixed, None) => fields.fault("session_id", "is required when mode is fixed"),
        (SessionMode::Fixed, Some(id)) if id.trim().is_empty() || id.len() > 256 => {
            fields.fault("session_id", "must have 1 to 256 bytes and not be blank");
        }
        (SessionMode::Task | SessionMode::Run, Some(_)) => fields.fault("session_id", "only has a meaning when mode is fixed"),
        _ => {}
    }
    fields.refuse_rest(&["mode", "session_id"]);
    policy
}

fn read_workspace(mut fields: Fields<'_>) -> WorkspacePolicy {
    let default = WorkspacePolicy::default();
    let policy = WorkspacePolicy {
        namespace_template: fields.or("namespace_template", default.namespace_template),
        write_run_json: fields.or("write_run_json", default.write_run_json),
        write_events_jsonl: fields.or("write_events_jsonl", default.write_events_jsonl),
    };
    if let Some(fault) = WorkspacePolicy::fault_of_template(&policy.namespace_template) {
        fields.fault("namespace_template", fault);
    }
    fields.refuse_rest(&["namespace_template", "write_run_json", "write_events_jsonl"]);
    policy
}

#[cfg(test)]
mod tests;
