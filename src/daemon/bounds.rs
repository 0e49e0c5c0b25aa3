//! What keeps the store, and whoever waits in it, from growing without end.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::id::AgentId;
use crate::domain::run::Status;

/// What a daemon is told to bound. Nothing, as a rule of its own; the configuration has its own defaults.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// How long what has ended is kept.
    pub retention: Retention,
    /// How many runs may wait over the whole store; none for any number.
    pub max_queued_runs: Option<u64>,
    /// How many runs of an agent may wait.
    pub max_queued_of_agent: BTreeMap<AgentId, u64>,
    /// How long an idempotency key's answer is kept.
    pub idempotency: Duration,
    /// How many idempotency keys are kept at once; none for any number.
    pub idempotency_keys: Option<u64>,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            retention: Retention::default(),
            max_queued_runs: None,
            max_queued_of_agent: BTreeMap::new(),
            idempotency: Duration::from_secs(86_400),
            idempotency_keys: None,
        }
    }
}

/// How long what has ended is kept; none for ever.
#[derive(Clone, Debug)]
pub struct Retention {
    /// Completed runs.
    pub completed: Option<Duration>,
    /// Failed and timed-out runs.
    pub failed: Option<Duration>,
    /// Cancelled runs.
    pub cancelled: Option<Duration>,
    /// Skipped runs and skip ranges.
    pub skipped: Option<Duration>,
    /// The key-values of sessions, since something was written last.
    pub sessions: Option<Duration>,
    /// How many ended runs of a task are kept; none for any number.
    pub runs_per_task: Option<u64>,
    /// The bytes of pushed plugins that no agent keeps: for longer than a push takes.
    pub plugins: Duration,
    /// How often to look for what is to go.
    pub pass: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Retention {
            completed: None,
            failed: None,
            cancelled: None,
            skipped: None,
            sessions: None,
            runs_per_task: None,
            plugins: Duration::from_secs(3600),
            pass: Duration::from_secs(60),
        }
    }
}

impl Retention {
    /// Every status in which runs are kept for a while, with that while.
    pub(super) fn of_statuses(&self) -> impl Iterator<Item = (Status, Duration)> + use<> {
        let all = [
            (Status::Completed, self.completed),
            (Status::Failed, self.failed),
            (Status::Timeout, self.failed),
            (Status::Cancelled, self.cancelled),
            (Status::Skipped, self.skipped),
        ];
        all.into_iter().filter_map(|(status, kept)| Some((status, kept?)))
    }
}
