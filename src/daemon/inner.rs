//! What the parts of one daemon share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::committer::Committer;
use super::error::ManagerError;
use super::executor::Executor;
use super::live::LiveRuns;
use super::signals::Wakeups;
use super::spawn::Spawner;
use crate::clock::{BootInstant, Clock, Entropy};
use crate::domain::event::Event;
use crate::domain::id::{RunId, WorkerId};
use crate::domain::run::Run;
use crate::domain::time::Seconds;
use crate::store::{RecordId, Store, StoreError};
use crate::workspace::{WorkspaceError, Workspaces};

/// How many events are read at once.
pub(super) const EVENTS_PAGE: usize = 1000;

/// What a daemon is told to do.
#[derive(Clone, Debug)]
pub struct DaemonSettings {
    /// This incarnation of the worker.
    pub worker: WorkerId,
    /// Whether this daemon executes runs.
    pub executes: bool,
    /// How many runs it executes at once.
    pub max_running: usize,
    /// How long a claim holds without renewal.
    pub lease: Duration,
    /// How long a cancelled guest may go on when its task does not say.
    pub cancel_grace: Seconds,
    /// The time limit of an attempt for which nothing else gives one.
    pub timeout: Seconds,
    /// How many times in a row a run may lose its worker when its task does not say.
    pub max_recoveries: u32,
    /// How many due schedules are taken in one pass.
    pub dispatch_batch: usize,
    /// How late an occurrence may be before it counts as missed.
    pub misfire_grace: Duration,
    /// How often the store is looked at when no wake-up comes.
    pub poll: Duration,
    /// The longest wait between two heartbeat events of a run.
    pub heartbeat_events: Duration,
    /// The agent of tasks that name none.
    pub default_agent: crate::domain::id::AgentId,
}

/// What the parts of one daemon share.
pub struct Inner {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) committer: Committer,
    pub(super) wakeups: Arc<Wakeups>,
    pub(super) live: Arc<LiveRuns>,
    pub(super) executor: Arc<dyn Executor>,
    pub(super) workspaces: Workspaces,
    pub(super) spawner: Arc<dyn Spawner>,
    pub(super) settings: DaemonSettings,
}

/// The files that tell of a run in its workspace.
pub(super) struct Mirrors {
    path: String,
    run_json: Option<Vec<u8>>,
    events_jsonl: Option<Vec<u8>>,
    pub(super) output: Option<String>,
}

impl Mirrors {
    /// Whether the task has any of them written; otherwise its runs leave no file but the guest's own.
    pub(super) fn any(&self) -> bool {
        self.run_json.is_some() || self.events_jsonl.is_some()
    }
}

impl Inner {
    /// When a guest whose lease was asked for at that time must have stopped, by the clock that runs through suspend.
    pub(super) fn lease_end(&self, asked_at: BootInstant) -> u64 {
        let lease = self.settings.lease;
        let margin = Duration::from_secs(2).max(lease / 6).min(lease / 2);
        let span = u64::try_from(lease.saturating_sub(margin).as_nanos()).unwrap_or(u64::MAX);
        asked_at.0.saturating_add(span)
    }

    /// Does blocking work off the runtime's threads.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, WorkspaceError> + Send + 'static,
    ) -> Result<T, ManagerError> {
        let (answer, answered) = oneshot::channel();
        // Whoever asked may be gone by then; the work is done all the same.
        self.spawner.block(Box::new(move || drop(answer.send(work()))));
        match answered.await {
            Ok(done) => done.map_err(|error| ManagerError::Host(error.to_string())),
            Err(_) => Err(ManagerError::Host("work on the workspace was abandoned, for it panicked or the daemon ends".to_owned())),
        }
    }

    /// The mirrors of a run as it will be, its history so far followed by `more`. The history is read where it is not known.
    pub(super) async fn mirrors_of(
        &self,
        run: &Run,
        known: Option<Vec<Event>>,
        more: impl Iterator<Item = &Event>,
    ) -> Result<Mirrors, StoreError> {
        let mut mirrors = Mirrors { path: run.workspace_path.clone(), run_json: None, events_jsonl: None, output: None };
        if run.policy.write_run_json {
            mirrors.run_json = serde_json::to_vec_pretty(run).ok();
        }
        if run.policy.write_events_jsonl {
            let history = match known {
                Some(events) => events,
                None => self.history(&run.run_id).await?,
            };
            let mut lines = Vec::new();
            let mut sequence = 0;
            let mut write = |event: &Event| {
                sequence += 1;
                // A value that was made of JSON can be written as JSON.
                if serde_json::to_writer(&mut lines, &event.payload(run, sequence)).is_ok() {
                    lines.push(b'\n');
                }
            };
            history.iter().for_each(&mut write);
            more.for_each(&mut write);
            mirrors.events_jsonl = Some(lines);
        }
        Ok(mirrors)
    }

    /// A run's events so far. They are bounded by what an attempt may tell and by how many attempts there are.
    async fn history(&self, run: &RunId) -> Result<Vec<Event>, StoreError> {
        let mut events = Vec::new();
        loop {
            let after = events.len() as u64;
            let page = self.store.events(run, after, EVENTS_PAGE).await?;
            let is_last = page.len() < EVENTS_PAGE;
            events.extend(page.into_iter().map(|numbered| numbered.event));
            if is_last {
                return Ok(events);
            }
        }
    }

    /// Writes mirrors; a failure is told in the log, for the store has it all.
    pub(super) async fn write_mirrors(&self, mirrors: Mirrors) {
        if !mirrors.any() {
            return;
        }
        let workspaces = self.workspaces.clone();
        let path = mirrors.path.clone();
        let written = self
            .blocking(move || {
                if let Some(output) = &mirrors.output {
                    workspaces.write_output_if_absent(&mirrors.path, output)?;
                }
                workspaces.write_mirrors(&mirrors.path, mirrors.run_json.as_deref(), mirrors.events_jsonl.as_deref())
            })
            .await;
        if let Err(error) = written {
            tracing::warn!(%error, path, "the mirrors of a run could not be written; the store has its history");
        }
    }

    /// Writes a run's mirrors from what the store has.
    pub(super) async fn mirror_from_store(&self, run: &RunId) {
        let written: Result<(), ManagerError> = async {
            let run = self.read_run(run).await?;
            let mirrors = self.mirrors_of(&run, None, std::iter::empty()).await?;
            self.write_mirrors(mirrors).await;
            Ok(())
        }
        .await;
        if let Err(error) = written {
            tracing::warn!(%error, %run, "the mirrors of a run could not be written again");
        }
    }

    /// Reads a run.
    pub(super) async fn read_run(&self, run: &RunId) -> Result<Run, ManagerError> {
        match self.store.get(&[RecordId::run(run)]).await?.pop().flatten() {
            Some(record) => Ok(record.decode_run()?),
            None => Err(ManagerError::not_found("Run", run)),
        }
    }
}
