//! How a task's runs overlap, retry, share sessions and use their workspaces.
//!
//! Invariant: a policy that exists is valid; everything is checked where it is parsed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::id::{AgentId, RunId, TaskId};
use super::time::Seconds;

/// The longest name of a folder, in bytes, that file systems take.
const LONGEST_NAME: usize = 255;
/// The longest path above a run's own folder, in bytes: with a file's path behind it, it must stay below the kernel's 4096.
const LONGEST_FOLDERS: usize = 900;

/// What happens when a task is to run while a run of it is live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverlapPolicy {
    /// The new run is recorded as skipped.
    #[default]
    SkipIfRunning,
    /// The new run waits for its turn, first in, first out.
    QueueNext,
    /// The live run is cancelled; the new one starts when its attempt has ended.
    CancelPrevious,
    /// Runs do not wait for each other, up to the task's `max_parallel`.
    AllowParallel,
}

/// How the delay before a retry grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backoff {
    /// The same delay each time.
    #[default]
    Fixed,
    /// Twice the delay each time, up to the greatest.
    Exponential,
}

/// Why an attempt did not succeed. A closed list: retry policies name these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The attempt's time limit passed.
    Timeout,
    /// The guest trapped: a panic, an unreachable instruction, a bad memory access, an exhausted stack.
    Trap,
    /// The guest wanted more memory, tables or instances than its limits allow.
    Memory,
    /// The guest wanted more disk bytes or files than its limits allow.
    Disk,
    /// The guest's answer was larger than its limit, or malformed.
    Output,
    /// The guest made more host calls, or larger ones, than its limits allow.
    HostCalls,
    /// The guest was refused an outside address.
    EgressDenied,
    /// No daemon can serve the agent, or its plugin does not instantiate.
    AgentMissing,
    /// The guest used an interface that this daemon does not serve.
    Unsupported,
    /// The guest answered `retryable`.
    GuestRetryable,
    /// The guest answered `permanent`.
    GuestPermanent,
    /// The worker was lost more often than the task allows.
    Lost,
    /// The host could not do its part, such as making the workspace.
    Host,
}

impl ErrorKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [ErrorKind; 13] = [
        ErrorKind::Timeout,
        ErrorKind::Trap,
        ErrorKind::Memory,
        ErrorKind::Disk,
        ErrorKind::Output,
        ErrorKind::HostCalls,
        ErrorKind::EgressDenied,
        ErrorKind::AgentMissing,
        ErrorKind::Unsupported,
        ErrorKind::GuestRetryable,
        ErrorKind::GuestPermanent,
        ErrorKind::Lost,
        ErrorKind::Host,
    ];

    /// Whether `exception` in a retry policy means this kind. A failure that the same input would meet again is not
    /// retried unless the policy names it.
    pub const fn is_exception(self) -> bool {
        matches!(self, ErrorKind::Trap | ErrorKind::GuestRetryable | ErrorKind::Host | ErrorKind::AgentMissing)
    }
}

/// One entry of `retry_on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// Every kind for which [`ErrorKind::is_exception`] holds.
    Exception,
    /// Exactly this kind.
    #[serde(untagged)]
    Kind(ErrorKind),
}

/// Whether and when a failed attempt is followed by another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// How many attempts may follow the first.
    pub max_retries: u32,
    /// The delay before the first retry.
    pub initial_delay_seconds: Seconds,
    /// The longest delay.
    pub max_delay_seconds: Seconds,
    /// How the delay grows.
    pub backoff: Backoff,
    /// The failures that are retried.
    pub retry_on: Vec<RetryOn>,
    /// The part of a delay, from 0 to 1, that chance may add to it.
    pub jitter: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            max_retries: 0,
            initial_delay_seconds: Seconds::whole(30),
            max_delay_seconds: Seconds::whole(300),
            backoff: Backoff::Fixed,
            retry_on: vec![RetryOn::Exception, RetryOn::Kind(ErrorKind::Timeout)],
            jitter: 0.1,
        }
    }
}

impl RetryPolicy {
    /// Whether a failure of this kind is retried at all.
    pub fn retries(&self, kind: ErrorKind) -> bool {
        self.retry_on.iter().any(|on| match on {
            RetryOn::Exception => kind.is_exception(),
            RetryOn::Kind(named) => *named == kind,
        })
    }

    /// The delay after the `failures`-th failed attempt (1 for the first). `chance` is from 0 to 1.
    pub fn delay(&self, failures: u32, chance: f64) -> Duration {
        let first = self.initial_delay_seconds.duration();
        let most = self.max_delay_seconds.duration();
        let grown = match self.backoff {
            Backoff::Fixed => first,
            // Past 2^40 any delay of a microsecond or more is over the longest span a setting may give.
            Backoff::Exponential => first.saturating_mul(1u32.checked_shl(failures.saturating_sub(1).min(31)).unwrap_or(u32::MAX)),
        };
        let base = grown.min(most);
        let extra = base.as_secs_f64() * self.jitter.clamp(0.0, 1.0) * chance.clamp(0.0, 1.0);
        base.saturating_add(Duration::try_from_secs_f64(extra).unwrap_or_default())
    }
}

/// Which conversation memory a run continues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionMode {
    /// All runs of the task share one session.
    #[default]
    Task,
    /// Each run has a session of its own.
    Run,
    /// The session named in the policy.
    Fixed,
}

/// The session of a task's runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPolicy {
    /// How the session is chosen.
    pub mode: SessionMode,
    /// The session's id when `mode` is fixed; none otherwise.
    pub session_id: Option<String>,
}

impl SessionPolicy {
    /// The session id of a run.
    pub fn session_of(&self, agent: &AgentId, task: &TaskId, run: &RunId) -> String {
        match (self.mode, &self.session_id) {
            (SessionMode::Fixed, Some(id)) => id.clone(),
            (SessionMode::Run, _) => format!("background:{run}"),
            (SessionMode::Task | SessionMode::Fixed, _) => format!("background:{agent}:{task}"),
        }
    }
}

/// Where a run's workspace is and which mirrors are written into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspacePolicy {
    /// The path below the workspace root, with `{agent_id}`, `{task_id}` and, last, `{run_id}`.
    pub namespace_template: String,
    /// Whether `run.json` is written.
    pub write_run_json: bool,
    /// Whether `events.jsonl` is written.
    pub write_events_jsonl: bool,
}

impl Default for WorkspacePolicy {
    fn default() -> Self {
        WorkspacePolicy {
            namespace_template: "background/{agent_id}/{task_id}/{run_id}".to_owned(),
            write_run_json: true,
            write_events_jsonl: true,
        }
    }
}

impl WorkspacePolicy {
    /// Says what is wrong with a template, or nothing when it can be used.
    pub fn fault_of_template(template: &str) -> Option<String> {
        if template.len() > 512 {
            return Some("it is longer than 512 bytes".to_owned());
        }
        let Some(folders) = template.strip_suffix("/{run_id}") else {
            return Some("it must end in `/{run_id}`, so that no two runs share a workspace".to_owned());
        };
        for part in folders.split('/') {
            // The ids that stand in for the names are checked on their own; what is left must be plain text.
            let plain = part.replace("{agent_id}", "a").replace("{task_id}", "a");
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
            if plain.is_empty() || plain.starts_with('.') || !plain.chars().all(allowed) {
                return Some(format!(
                    "`{}` is not a folder name: use letters, digits, `_`, `.`, `-`, `{{agent_id}}` and `{{task_id}}`, not starting with a dot",
                    part.chars().take(64).flat_map(char::escape_debug).collect::<String>()
                ));
            }
            if plain.starts_with("run_") {
                return Some("only the last part may start with `run_`".to_owned());
            }
        }
        None
    }

    /// Says what is wrong with the paths that the template makes of a task's ids, or nothing when its runs can have workspaces.
    pub fn fault_with(&self, agent: &AgentId, task: &TaskId) -> Option<String> {
        let path = self.namespace_template.replace("{agent_id}", agent.as_str()).replace("{task_id}", task.as_str());
        let folders = path.strip_suffix("/{run_id}").unwrap_or(&path);
        if folders.len() > LONGEST_FOLDERS {
            return Some(format!(
                "with the ids of the task and its agent it has {} bytes; at most {LONGEST_FOLDERS} are allowed",
                folders.len()
            ));
        }
        let bad = folders.split('/').find(|folder| folder.len() > LONGEST_NAME || RunId::is_made(folder))?;
        let shown: String = bad.chars().take(64).collect();
        Some(if bad.len() > LONGEST_NAME {
            format!(
                "with the ids of the task and its agent it has the folder `{shown}…` of {} bytes; a folder's name has at most {LONGEST_NAME}",
                bad.len()
            )
        } else {
            format!(
                "with the ids of the task and its agent it has the folder `{shown}`, which only a run's own may be called; choose another id"
            )
        })
    }

    /// A run's path below the workspace root.
    pub fn path_of(&self, agent: &AgentId, task: &TaskId, run: &RunId) -> String {
        self.namespace_template.replace("{agent_id}", agent.as_str()).replace("{task_id}", task.as_str()).replace("{run_id}", run.as_str())
    }
}

/// What becomes of a run whose attempt was lost after its first outside effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// It runs again.
    #[default]
    Retry,
    /// It waits for a person.
    Hold,
    /// It fails.
    Fail,
}
