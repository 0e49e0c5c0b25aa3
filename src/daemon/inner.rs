//! What the parts of one daemon share.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use super::admission::Admission;
use super::bounds::Bounds;
use super::committer::Committer;
use super::error::ManagerError;
use super::executor::Executor;
use super::live::LiveRuns;
use super::outage::{Outage, tell_unless_out};
use super::owed::OwedMirrors;
use super::signals::Wakeups;
use super::spawn::Spawner;
use crate::clock::{BootInstant, Clock, Entropy};
use crate::domain::event::Event;
use crate::domain::id::{RunId, WorkerId};
use crate::domain::run::{Run, Status};
use crate::domain::time::Seconds;
use crate::store::{Kind, RecordId, Store, StoreError};
use crate::workspace::{DiskUsage, EVENTS_JSONL, OUTPUT_MD, RUN_JSON, Takeover, Workspace, WorkspaceError, Workspaces};

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
    /// How often the daemon gives the store's other daemons a sign of life; none for never.
    pub announce: Option<Duration>,
    /// Whether it tells the store's other daemons what it has changed, and listens to them; else polls and renewals alone find it.
    pub hints: bool,
    /// The longest wait between two heartbeat events of a run.
    pub heartbeat_events: Duration,
    /// The agent of tasks that name none.
    pub default_agent: crate::domain::id::AgentId,
    /// What it bounds.
    pub bounds: Bounds,
}

/// What the parts of one daemon share.
pub struct Inner {
    pub(super) store: Arc<dyn Store>,
    pub(super) outage: Arc<Outage>,
    pub(super) owed_mirrors: OwedMirrors,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) committer: Committer,
    pub(super) wakeups: Arc<Wakeups>,
    pub(super) live: Arc<LiveRuns>,
    pub(super) executor: Arc<dyn Executor>,
    pub(super) workspaces: Workspaces,
    pub(super) admission: Arc<Admission>,
    pub(super) spawner: Arc<dyn Spawner>,
    /// Read through [`Inner::settings`]: they change while the daemon runs.
    pub(super) told: ArcSwap<DaemonSettings>,
}

/// The files that tell of a run in its workspace.
#[derive(Clone)]
pub(super) struct Mirrors {
    pub(super) run: RunId,
    path: String,
    /// The run's latest fence.
    pub(super) fence: u64,
    pub(super) run_json: Option<Vec<u8>>,
    pub(super) events_jsonl: Option<Vec<u8>>,
    pub(super) output: Option<String>,
}

impl Mirrors {
    /// Whether the task has any of them written; otherwise its runs leave no file but the guest's own.
    pub(super) fn any(&self) -> bool {
        self.run_json.is_some() || self.events_jsonl.is_some()
    }

    /// The names of the files.
    fn names(&self) -> Vec<&'static str> {
        let files = [(self.run_json.is_some(), RUN_JSON), (self.events_jsonl.is_some(), EVENTS_JSONL), (self.output.is_some(), OUTPUT_MD)];
        files.into_iter().filter_map(|(is_there, name)| is_there.then_some(name)).collect()
    }
}

impl Inner {
    /// What the daemon is told to do, as it stands now.
    pub(super) fn settings(&self) -> Arc<DaemonSettings> {
        self.told.load_full()
    }

    /// Puts other settings into force, but for what a running daemon keeps: who it is, what it executes, its lease and its hints.
    pub(super) fn configure(&self, told: DaemonSettings) {
        let kept = self.settings();
        self.admission.configure(&told.bounds);
        self.told.store(Arc::new(DaemonSettings {
            worker: kept.worker.clone(),
            executes: kept.executes,
            max_running: kept.max_running,
            lease: kept.lease,
            announce: kept.announce,
            hints: kept.hints,
            heartbeat_events: kept.heartbeat_events,
            ..told
        }));
        self.wakeups.schedules.notify_one();
        self.wakeups.bounds.notify_one();
    }

    /// When a guest whose lease was asked for at that time must have stopped, by the clock that runs through suspend.
    pub(super) fn lease_end(&self, asked_at: BootInstant) -> u64 {
        let lease = self.settings().lease;
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
        let (run_id, path, fence) = (run.run_id.clone(), run.workspace_path.clone(), run.lease_generation);
        let mut mirrors = Mirrors { run: run_id, path, fence, run_json: None, events_jsonl: None, output: None };
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

    /// Writes mirrors into the workspace that an attempt has open, else into the run's own, and answers whether that went well. A failure
    /// is told in the log once for each run, and they are owed.
    pub(super) async fn write_mirrors(&self, mirrors: Mirrors, opened: Option<Workspace>) -> bool {
        if !mirrors.any() {
            return true;
        }
        let (run, path) = (mirrors.run.clone(), mirrors.path.clone());
        let written = self.put_mirrors(mirrors, opened).await;
        if let Err(error) = &written
            && self.owed_mirrors.note(&run)
        {
            tracing::warn!(%error, path, "the mirrors of a run cannot be written now; the store has its history, and they are written later");
        }
        written.is_ok()
    }

    /// Writes mirrors; answers with the names of the files that are there then.
    pub(super) async fn put_mirrors(&self, mirrors: Mirrors, opened: Option<Workspace>) -> Result<Vec<&'static str>, ManagerError> {
        // Who has the workspace open uploads it with what is written now.
        if let (Some(bucket), None) = (self.workspaces.bucket(), &opened) {
            let kept = self.kept(&mirrors.run).await?;
            if kept.is_some() && self.has_workspace(&mirrors.run, &mirrors.path, kept.as_ref()).await? {
                self.put_mirrors_here(mirrors.clone(), None).await?;
            }
            self.mirror_to_bucket(bucket, &mirrors).await?;
            return Ok(mirrors.names());
        }
        self.put_mirrors_here(mirrors, opened).await
    }

    async fn put_mirrors_here(&self, mirrors: Mirrors, opened: Option<Workspace>) -> Result<Vec<&'static str>, ManagerError> {
        let workspaces = self.workspaces.clone();
        self.blocking(move || {
            let workspace = match opened {
                Some(workspace) => workspace,
                None => {
                    let most = DiskUsage { bytes: u64::MAX, entries: u64::MAX };
                    workspaces.take_over(&mirrors.path, Takeover { fence: mirrors.fence, lost: None, most }, &|| true)?
                }
            };
            if let Some(output) = &mirrors.output {
                workspace.write_output_if_absent(output)?;
            }
            workspace.write_mirrors(mirrors.run_json.as_deref(), mirrors.events_jsonl.as_deref())?;
            Ok(mirrors.names())
        })
        .await
    }

    /// Writes a run's mirrors from what the store has, into the workspace that an attempt has open, else into the run's own; answers
    /// whether that went well.
    pub(super) async fn mirror_from_store(&self, run: &RunId, opened: Option<Workspace>) -> bool {
        let written: Result<bool, ManagerError> = async {
            let run = self.read_run(run).await?;
            let mut mirrors = self.mirrors_of(&run, None, std::iter::empty()).await?;
            if run.status == Status::Completed {
                mirrors.output = Some(self.read_result(&run).await?.unwrap_or_default());
            }
            let is_written = self.write_mirrors(mirrors.clone(), opened.clone()).await;
            // The workspace that was uploaded has older ones.
            if let (Some(bucket), Some(_), true) = (self.workspaces.bucket(), opened, run.status.is_terminal() && mirrors.any()) {
                self.mirror_to_bucket(bucket, &mirrors).await?;
            }
            Ok(is_written)
        }
        .await;
        written.unwrap_or_else(|error| {
            tell_unless_out!(error, warn, %error, %run, "the mirrors of a run could not be written again");
            false
        })
    }

    /// A run's whole result; none while it has none.
    pub(super) async fn read_result(&self, run: &Run) -> Result<Option<String>, StoreError> {
        match self.store.get(&[RecordId::new(Kind::Result, run.run_id.as_str())]).await?.pop().flatten() {
            Some(record) => Ok(Some(record.decode()?)),
            None => Ok(run.result_preview.clone()),
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
