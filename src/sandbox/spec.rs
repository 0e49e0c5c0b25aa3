//! What goes into an attempt and what comes out of it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::checkpoints::{Approvals, Checkpoints};
use super::egress::Egress;
use super::memory::KeyValues;
use super::signals::Stop;
use crate::domain::agent::Limits;
use crate::domain::http::HttpCalls;
pub use crate::domain::log::{LogLevel, LogStream};
use crate::domain::park::Park;
use crate::domain::policy::ErrorKind;
use crate::domain::receipt::{CallsByKind, Models, Outgoing};
use crate::domain::text;

/// What the guest learns about its run through the `context` interface.
#[derive(Clone, Debug, Default)]
pub struct AttemptContext {
    /// The run.
    pub run_id: String,
    /// The run's task.
    pub task_id: String,
    /// The agent; also `argv[0]` of a command.
    pub agent_id: String,
    /// The session that the run continues.
    pub session_id: String,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// manual, interval, cron or once.
    pub trigger: String,
    /// The nominal fire time in RFC 3339, when there is one.
    pub due_at: Option<String>,
    /// A JSON object.
    pub metadata: String,
}

/// Bytes and files of a workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// The sizes of its files and the lengths of its links' targets.
    pub bytes: u64,
    /// Its files, folders and links, without the workspace's own folder.
    pub files: u64,
}

/// One attempt to be executed.
#[derive(Clone)]
pub struct AttemptSpec {
    /// Who is running.
    pub context: AttemptContext,
    /// What the guest is asked to do.
    pub query: String,
    /// The workspace: a folder that exists, seen by the guest as `/`.
    pub workspace: PathBuf,
    /// That folder, opened, where whoever gives the attempt has it so: it is used and the path is not, whoever has its name by then.
    pub folder: Option<Arc<OwnedFd>>,
    /// What the workspace holds at the start, where that is known, as it is for a new one; none has it counted.
    pub found: Option<DiskUse>,
    /// What the attempt may use.
    pub limits: Limits,
    /// Environment variables that the guest sees.
    pub env: Vec<(String, String)>,
    /// Its way out; none refuses every request.
    pub egress: Option<Arc<dyn Egress>>,
    /// What the guest reads through `wasi:config`.
    pub config: Arc<[(String, String)]>,
    /// How long the attempt may take, instantiation included.
    pub time_limit: Option<Duration>,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The guest answered.
    Completed(String),
    /// The attempt failed.
    Failed {
        /// Why.
        kind: ErrorKind,
        /// One sentence of at most 4 KiB; parts of it may be the guest's own, untrusted text.
        message: String,
        /// The least delay that the guest wants before the next attempt.
        after: Option<Duration>,
    },
    /// The guest stopped because it was asked to.
    Cancelled {
        /// What the guest says about it, at most 4 KiB, untrusted.
        message: String,
    },
    /// The time limit passed.
    TimedOut,
    /// The attempt was ended from outside.
    Stopped(Stop),
    /// The guest asked for what somebody has to give first.
    Parked(Park),
}

impl Ended {
    /// A failure without a wish of the guest's for the delay.
    pub(crate) fn failed(kind: ErrorKind, message: impl Into<String>) -> Self {
        Ended::Failed { kind, message: bounded(message.into(), MESSAGE_BYTES), after: None }
    }
}

/// What an attempt used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// From its start to its end.
    pub wall: Duration,
    /// Processor time of the guest and of what the host did for it on the guest's thread.
    pub cpu: Option<Duration>,
    /// The most linear memory it held at once.
    pub peak_memory_bytes: u64,
    /// Bytes written to files, rewritten ones included.
    pub disk_bytes_written: u64,
    /// Calls to the sandclock interfaces and to the file system.
    pub host_calls: u64,
    /// The same by kind, with requests over HTTP beside them.
    pub calls: CallsByKind,
    /// Progress reports and events that exceeded a limit.
    pub events_dropped: u64,
    /// Bytes of stdout and stderr that exceeded the limit.
    pub log_bytes_dropped: u64,
    /// Outgoing requests that were refused.
    pub requests_denied: u64,
    /// What the workspace holds at the end, never too little.
    pub workspace: DiskUse,
    /// Its calls to others over HTTP.
    pub http: HttpCalls,
    /// Those of them that left.
    pub outgoing: Outgoing,
    /// What models it asked through them.
    pub models: Models,
}

/// How an attempt ended and what it used.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptReport {
    /// How it ended.
    pub ended: Ended,
    /// What it used.
    pub usage: Usage,
}

/// A line that a guest gives the log through `wasi:logging`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// How much it matters.
    pub level: LogLevel,
    /// What it belongs to, at most 256 bytes.
    pub context: String,
    /// The text, which may have several lines.
    pub message: String,
}

/// Why nothing outside may be changed for an attempt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EffectsRefused {
    /// Another attempt may have begun.
    #[error("the attempt may change nothing outside: the lease of its run is lost")]
    LeaseLost,
    /// What would have to be known of it when it is lost could not be kept.
    #[error("the attempt may change nothing outside as long as the store cannot keep that it begins to: {0}")]
    NotKept(String),
}

/// Where the guest's reports, events and logs go. Every call but `begin_effects` returns at once: it is made on the guest's thread.
/// Counts and sizes were checked against the limits before; the texts are the guest's own and untrusted.
#[async_trait]
pub trait GuestHost: Send + Sync {
    /// Keeps that the attempt begins to change something outside, before it does: a request other than GET, HEAD and OPTIONS. To be
    /// awaited before each such call; only the first takes time.
    ///
    /// # Errors
    /// The call must not be made.
    async fn begin_effects(&self) -> Result<(), EffectsRefused>;
    /// A sentence about how far the guest is, with the part done from 0 to 1 where it is known.
    fn report(&self, message: String, fraction: Option<f64>);
    /// An event of the agent's own. The payload should be JSON, but nobody has checked it.
    fn emit(&self, name: String, payload: String);
    /// Bytes of the guest's output, cut anywhere.
    fn log(&self, stream: LogStream, bytes: &[u8]);
    /// A line for the log.
    fn log_entry(&self, entry: LogEntry);
    /// What is kept from run to run; none where nothing is.
    fn key_values(&self) -> Option<&dyn KeyValues> {
        None
    }
    /// What the run's attempts keep for those that follow; none where nothing is.
    fn checkpoints(&self) -> Option<&dyn Checkpoints> {
        None
    }
    /// What was asked and answered in this run; none where nobody can be asked.
    fn approvals(&self) -> Option<&dyn Approvals> {
        None
    }
}

/// The longest error message that leaves the sandbox.
pub(crate) const MESSAGE_BYTES: usize = 4 * 1024;

/// Cuts a text at a character's boundary.
pub(crate) fn bounded(text: String, bytes: usize) -> String {
    text::bounded(text, bytes, " …")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(bounded("short".to_owned(), 5), "short");
        let cut = bounded("é".repeat(100), 100);
        assert!(cut.len() <= 100 && cut.ends_with(" …") && cut.starts_with('é'));
    }
}
