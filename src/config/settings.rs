//! The typed settings, and their defaults.
//!
//! Invariant: a value that [`super::load`] gives is within the range that config/sandclock.toml states. Paths are as they
//! were written, relative ones to the directory in which the daemon starts; nothing here exists on disk yet.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::domain::agent::Limits;
use crate::domain::budget::Budget;
use crate::domain::http::{Credential, HttpPolicy};
use crate::domain::id::AgentId;
use crate::domain::price::Prices;
use crate::domain::role::Roles;
use crate::domain::task::Task;
use crate::domain::time::{Seconds, Timestamp};

use super::fault::{ConfigFault, ConfigFaults, Origin};
use super::store_url::ServerUrl;
use crate::domain::secret::{Secret, TokenHash};

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The HTTP API.
    pub server: Server,
    /// Where the records are kept.
    pub store: StoreSettings,
    /// The daemon's folders.
    pub paths: Paths,
    /// The bucket through which workspaces go from one machine to another, if there is one.
    pub bucket: Option<BucketSettings>,
    /// The part that executes runs.
    pub worker: Worker,
    /// The part that fires schedules.
    pub scheduler: Scheduler,
    /// How many runs may wait.
    pub queue: Queue,
    /// How long what has ended is kept.
    pub retention: Retention,
    /// The agent of a task that names none.
    pub default_agent: AgentId,
    /// What is set for agents, by their ids. A plugin without an entry is an agent of its own name with every default.
    pub agents: BTreeMap<AgentId, AgentSettings>,
    /// What one attempt of an agent may use when its entry does not say otherwise.
    pub limits: Limits,
    /// What is put into requests to one host, by the names that agents use.
    pub credentials: BTreeMap<String, Arc<Credential>>,
    /// What the tokens of models cost.
    pub prices: Arc<Prices>,
    /// After how many crashes in a row a digest starts no more attempts of an agent; 0 for never.
    pub quarantine_after: u32,
    /// The tasks of the file, in its order, each with a valid id of its own and otherwise unjudged.
    pub tasks: Vec<TaskEntry>,
    /// What the daemon says of itself.
    pub logging: Logging,
}

/// The HTTP API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The addresses to listen on; at least one.
    pub listen: Vec<SocketAddr>,
    /// What a caller must present, if anything. There is one whenever an address of `listen` is public.
    pub token: Option<Secret>,
    /// What comes before every path: empty, or `/` and segments without a `/` at the end.
    pub api_prefix: String,
    /// The tokens that have a name and roles.
    pub tokens: Vec<NamedToken>,
    /// What the listener proves itself with; none for a listener without TLS.
    pub tls: Option<TlsFiles>,
    /// How long one request may take.
    pub request_timeout: Seconds,
    /// The largest body of a request, in bytes.
    pub max_body_bytes: u64,
    /// How long the answer under an idempotency key is kept.
    pub idempotency: Seconds,
    /// How many idempotency keys are kept at once.
    pub idempotency_keys: u64,
}

/// A caller's token, of which only the hash is known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedToken {
    /// Whose it is; events tell it.
    pub name: String,
    /// The token's hash.
    pub hash: TokenHash,
    /// What its bearer may ask for.
    pub roles: Roles,
}

/// The files that a listener with TLS is made of, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those between it and a root.
    pub certificates: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
}

/// Where the records are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreSettings {
    /// In this process; gone when it ends.
    Memory,
    /// In one SQLite file.
    Sqlite {
        /// The file.
        path: PathBuf,
    },
    /// In a PostgreSQL database.
    Postgres {
        /// The server and the database.
        url: ServerUrl,
    },
    /// In Redis or Valkey.
    Redis {
        /// The server.
        url: ServerUrl,
        /// What the keys begin with.
        prefix: String,
    },
    /// In MongoDB.
    Mongodb {
        /// The servers.
        url: ServerUrl,
        /// The database; none for the one that the URL names.
        database: Option<String>,
        /// What the collections' names begin with.
        prefix: String,
    },
}

/// Where workspaces go between attempts, so that several machines have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketSettings {
    /// The bucket's name.
    pub name: String,
    /// What its keys begin with: plain segments with slashes between, or nothing.
    pub prefix: String,
    /// The server; none for AWS.
    pub endpoint: Option<String>,
    /// The region.
    pub region: String,
    /// Whether the endpoint may be reached without TLS.
    pub allow_http: bool,
    /// Who asks, by the names of the variables of AWS.
    pub credentials: Vec<(String, Secret)>,
    /// How long an attempt's outcome waits for a bucket that takes nothing.
    pub patience: Seconds,
}

/// The daemon's folders. They are made when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// What the daemon keeps for itself.
    pub data: PathBuf,
    /// The root of all workspaces.
    pub workspace: PathBuf,
    /// Where plugins are dropped.
    pub plugins: PathBuf,
    /// Compiled plugins, private to this daemon.
    pub cache: PathBuf,
}

/// The part that executes runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Whether this daemon executes runs at all.
    pub enabled: bool,
    /// How many runs it executes at once.
    pub max_running: u32,
    /// How long a claim holds without renewal.
    pub lease: Seconds,
    /// How long a stopping daemon lets its runs finish.
    pub shutdown_grace: Seconds,
    /// How long a cancelled guest may go on before it is trapped.
    pub cancel_grace: Seconds,
    /// The time limit of an attempt for which neither task nor agent gives one.
    pub timeout: Seconds,
    /// How many times in a row a run may lose its worker.
    pub max_recoveries: u32,
}

/// The part that fires schedules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduler {
    /// How many due schedules are taken in one pass.
    pub dispatch_batch: u32,
    /// How late an occurrence may be before it counts as missed.
    pub misfire_grace: Seconds,
    /// How often the store is looked at when no hint comes.
    pub poll: Seconds,
}

/// How many runs may wait in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Over the whole store; 0 for any number.
    pub max_queued_runs: u64,
}

/// How long what has ended is kept; none for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Completed runs.
    pub completed: Option<Seconds>,
    /// Failed and timed-out runs.
    pub failed: Option<Seconds>,
    /// Cancelled runs.
    pub cancelled: Option<Seconds>,
    /// Skipped runs and skip ranges.
    pub skipped: Option<Seconds>,
    /// The key-values of sessions, since something was written last.
    pub sessions: Option<Seconds>,
    /// How many ended runs of a task are kept; 0 for any number.
    pub runs_per_task: u64,
    /// The bytes of pushed plugins that no agent keeps.
    pub plugins: Seconds,
    /// How often to look for what is to go.
    pub pass: Seconds,
}

/// What is set for one agent.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentSettings {
    /// The stem of its plugin's file.
    pub plugin: String,
    /// Its name for people; the id when none is given.
    pub name: Option<String>,
    /// The time limit of an attempt whose task gives none.
    pub timeout: Option<Seconds>,
    /// How many runs of it may execute at once, over all daemons.
    pub max_running: Option<u32>,
    /// How many runs of it may wait in the queue.
    pub max_queued_runs: Option<u64>,
    /// Environment variables that the guest sees.
    pub env: BTreeMap<String, String>,
    /// Values for the agent.
    pub config: BTreeMap<String, serde_json::Value>,
    /// What one attempt may use.
    pub limits: Limits,
    /// What it may ask of others over HTTP, with the credentials that are put in.
    pub http: Arc<HttpPolicy>,
    /// What it may spend.
    pub budget: Budget,
    /// Free for the user.
    pub metadata: BTreeMap<String, serde_json::Value>,
}

/// A task as the file has it, for the domain to judge.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskEntry {
    /// The table. Dates and times are RFC 3339 texts, without an offset where none is written.
    pub table: serde_json::Map<String, serde_json::Value>,
    /// The file that owns the task.
    pub file: Arc<Path>,
    /// The line on which the task starts, from 1.
    pub line: u32,
    /// The lines of its fields, by dotted path.
    pub lines: BTreeMap<String, u32>,
}

impl TaskEntry {
    /// The task's id as it is written; loading refuses a task without a valid one.
    pub fn task_id(&self) -> &str {
        self.table.get("task_id").and_then(serde_json::Value::as_str).unwrap_or_default()
    }

    /// The task, judged by the domain; `default_agent` executes it when it names none.
    ///
    /// # Errors
    /// All that is wrong with it, each at its line.
    pub fn task(&self, default_agent: &AgentId, now: Timestamp) -> Result<Task, ConfigFaults> {
        // The owner is known by its whole path: the same file must be the same owner from whatever directory a daemon starts.
        let source = std::path::absolute(&self.file)
            .map_or_else(|_| self.file.to_string_lossy().into_owned(), |path| path.to_string_lossy().into_owned());
        Task::parse(serde_json::Value::Object(self.table.clone()), default_agent, Some(source), now)
            .map_err(|faults| ConfigFaults(faults.iter().map(|fault| self.fault(&fault.field, &*fault.message)).collect()))
    }

    /// A fault of the field at a dotted path, placed at the line of the nearest field that is written.
    pub fn fault(&self, field: &str, message: impl Into<String>) -> ConfigFault {
        let mut nearest = field;
        let line = loop {
            if let Some(line) = self.lines.get(nearest) {
                break *line;
            }
            match nearest.rsplit_once('.') {
                Some((parent, _)) => nearest = parent,
                None => break self.line,
            }
        };
        let key = if field.is_empty() { format!("tasks.{}", self.task_id()) } else { format!("tasks.{}.{field}", self.task_id()) };
        ConfigFault { origin: Origin::File { file: Arc::clone(&self.file), line }, key: Some(key), message: message.into() }
    }
}

/// What the daemon says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// A level (off, error, warn, info, debug, trace), or several with targets: `info,sandclock::api=debug`.
    pub level: String,
    /// The form of a line.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
