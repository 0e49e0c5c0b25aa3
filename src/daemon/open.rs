//! Makes a daemon of its settings: folders, store, sandbox, plugins, tasks of the configuration.

mod bucket;
pub(super) mod store;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::DaemonSettings;
use super::agents::{Agents, Roster, SandboxPreparer};
use super::bounds::{Bounds, Retention};
use super::doctor;
use super::error::ManagerError;
use super::identity::{Identity, IdentityError};
use super::manager::{Manager, Registered};
use super::reload::ConfigurationReport;
use super::run::{Daemon, DaemonParts};
use super::spawn::OnRuntime;
use super::upload;
use crate::clock::{Clock, Entropy, SystemClock, SystemEntropy};
use crate::config::{ConfigFaults, Loaded, Settings};
use crate::domain::agent::Limits;
use crate::domain::id::TaskId;
use crate::domain::task::Task;
use crate::domain::time::Seconds;
use crate::egress::Gateway;
use crate::plugins::{Catalogue, PluginError, PluginSettings};
use crate::sandbox::{Sandbox, SandboxError, SandboxSettings};
#[cfg(feature = "sqlite")]
use crate::store::sql::sqlite::OpenError as SqliteError;
use crate::store::{StoreError, transfer};
use crate::workspace::bucket::BucketError;
use crate::workspace::{WorkspaceError, Workspaces};

/// How long a start waits for the plugins folder.
const FIRST_SCAN: Duration = Duration::from_secs(1);

/// How often a daemon gives the store's others a sign of life.
const SIGNS_OF_LIFE: Duration = Duration::from_secs(10);

/// Why a daemon does not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A folder cannot be made.
    #[error("the folder `{path}` cannot be made: {source}; make it writable for the daemon or configure another")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The data directory's id.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store's file.
    #[cfg(feature = "sqlite")]
    #[error(transparent)]
    Sqlite(#[from] SqliteError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The plugins.
    #[error(transparent)]
    Plugins(#[from] PluginError),
    /// The workspaces.
    #[error(transparent)]
    Workspaces(#[from] WorkspaceError),
    /// The workspaces' bucket.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The tasks of the configuration.
    #[error("{0}")]
    Tasks(ConfigFaults),
    /// A task could not be kept.
    #[error("a task of the configuration could not be kept: {0}")]
    Manager(#[from] ManagerError),
}

/// A daemon with its plugins' watcher.
pub struct Opened {
    daemon: Daemon,
    catalogue: Catalogue<SandboxPreparer>,
    agents: Arc<Agents>,
    /// What the sandbox has room for.
    sandbox: SandboxSettings,
    watching: (CancellationToken, JoinHandle<()>),
    /// Tells in the log what the store can lose.
    telling: JoinHandle<()>,
    identity: Identity,
}

/// How the sandbox is built for these settings.
pub fn sandbox_settings(settings: &Settings) -> SandboxSettings {
    let limits = || std::iter::once(&settings.limits).chain(settings.agents.values().map(|agent| &agent.limits));
    let default = SandboxSettings::default();
    SandboxSettings {
        max_instances: settings.worker.max_running,
        max_memory_bytes: limits().map(|limits| limits.memory_bytes).max().unwrap_or(default.max_memory_bytes),
        max_table_elements: limits().map(|limits| limits.table_elements).max().unwrap_or(default.max_table_elements),
        ..default
    }
}

fn make_folder(path: &Path) -> Result<(), OpenError> {
    std::fs::create_dir_all(path).map_err(|source| OpenError::Folder { path: path.to_owned(), source })
}

/// The tasks of the configuration, all good, or all that is wrong with them.
fn tasks_of(settings: &Settings, clock: &dyn Clock) -> Result<Vec<Task>, OpenError> {
    let now = clock.now();
    let (mut tasks, mut faults) = (Vec::new(), Vec::new());
    for entry in &settings.tasks {
        match entry.task(&settings.default_agent, now) {
            Ok(task) => tasks.push(task),
            Err(fault) => faults.extend(fault.0),
        }
    }
    if faults.is_empty() { Ok(tasks) } else { Err(OpenError::Tasks(ConfigFaults(faults))) }
}

impl Opened {
    /// Opens everything and starts the daemon.
    ///
    /// # Errors
    /// Something cannot be had; nothing runs then.
    pub async fn open(loaded: &Loaded) -> Result<Opened, OpenError> {
        let settings = &loaded.settings;
        let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        // A configuration that is refused must leave nothing behind.
        let tasks = tasks_of(settings, &*clock)?;
        for folder in [&settings.paths.data, &settings.paths.plugins] {
            make_folder(folder)?;
        }
        let identity = Identity::take(&settings.paths.data, &*entropy)?;
        let store = store::open(&settings.store, &clock).await?;
        transfer::enter(&*store).await?;
        let workspaces = Workspaces::open(&settings.paths.workspace)?;
        let workspaces = match &settings.bucket {
            Some(settings) => workspaces.with_bucket(bucket::open(settings, &identity).await?),
            None => workspaces,
        };
        let rooms = sandbox_settings(settings);
        let sandbox = Arc::new(Sandbox::new(&rooms)?);
        let plugins = PluginSettings::new(&settings.paths.plugins, &settings.paths.cache);
        let catalogue = Catalogue::open(plugins, sandbox.engine().clone(), SandboxPreparer(Arc::clone(&sandbox)))?;
        // What is compiled already serves at once; what has to be compiled must not keep the daemon from starting.
        match tokio::time::timeout(FIRST_SCAN, catalogue.scan()).await {
            Ok(summary) => report(&summary),
            Err(_) => tracing::info!("plugins are still being compiled; their agents serve when they are ready"),
        }
        let pushed = settings.paths.data.join("pushed");
        upload::make_folder(&pushed).map_err(|source| OpenError::Folder { path: pushed.clone(), source })?;
        let gateway = Gateway::new(tokio::runtime::Handle::current(), Arc::clone(&clock));
        let agents = Agents::new((sandbox, gateway), catalogue.clone(), roster(settings, &rooms), &*clock).with_pushes(pushed);
        let agents = Arc::new(agents);
        let mut daemon = Daemon::open(DaemonParts {
            store,
            clock,
            entropy,
            workspaces,
            executor: Arc::<Agents>::clone(&agents),
            offers: catalogue.changes(),
            agents: Some(Arc::clone(&agents)),
            spawner: Arc::new(OnRuntime),
            settings: daemon_settings(settings, &identity),
        })
        .await?;
        // Pushed plugins that are compiled already serve at once, too.
        let pushes = async {
            agents.seen_once().await;
            agents.all_here().await;
        };
        if tokio::time::timeout(FIRST_SCAN, pushes).await.is_err() {
            tracing::info!("pushed plugins are still on their way; their agents serve when they are ready");
        }
        // A schedule that the configuration has changed must not fire once more as it was.
        apply_tasks(daemon.manager(), tasks, loaded.file.as_deref()).await?;
        daemon.manager().note_configuration(ConfigurationReport::at_start(loaded));
        daemon.take_up_work();
        let cancel = CancellationToken::new();
        let watcher = catalogue.watch(cancel.clone());
        // The store is asked on a connection of its own, which must not keep the daemon from starting.
        let telling = tokio::spawn(doctor::tell(settings.store.clone()));
        Ok(Opened { daemon, catalogue, agents, sandbox: rooms, watching: (cancel, watcher), telling, identity })
    }

    /// Puts all of another configuration but its tasks into force, as far as a running daemon can take it. Answers with the tasks, for
    /// [`Opened::apply_tasks`], and names the limits that it cannot take whole. Attempts that run keep what they started with.
    ///
    /// # Errors
    /// A task is faulty, and then nothing has changed.
    pub fn configure(&self, loaded: &Loaded) -> Result<(Vec<Task>, Vec<String>), OpenError> {
        let mut settings = loaded.settings.clone();
        let tasks = tasks_of(&settings, &SystemClock)?;
        let beyond = within(&self.sandbox, &mut settings);
        self.manager().configure(daemon_settings(&settings, &self.identity));
        self.agents.configure(roster(&settings, &self.sandbox));
        Ok((tasks, beyond))
    }

    /// Keeps the tasks of a configuration that was put into force.
    ///
    /// # Errors
    /// The store does not take them; some may be kept.
    pub async fn apply_tasks(&self, tasks: Vec<Task>, loaded: &Loaded) -> Result<(), ManagerError> {
        apply_tasks(self.manager(), tasks, loaded.file.as_deref()).await
    }

    /// The façade.
    pub fn manager(&self) -> &Manager {
        self.daemon.manager()
    }

    /// The plugins.
    pub fn catalogue(&self) -> &Catalogue<SandboxPreparer> {
        &self.catalogue
    }

    /// Stops as [`Daemon::stop`] does.
    pub async fn stop(self, grace: Duration, hurry: CancellationToken) {
        let (cancel, watcher) = self.watching;
        cancel.cancel();
        self.telling.abort();
        // It has ended or was told to; there is nothing to tell any more.
        let _ = self.telling.await;
        if let Err(error) = watcher.await
            && error.is_panic()
        {
            tracing::error!(%error, "the plugins' watcher ended in a panic");
        }
        self.daemon.stop(grace, hurry).await;
    }
}

/// What is set for agents, on a sandbox that was built for so much.
pub fn roster(settings: &Settings, sandbox: &SandboxSettings) -> Roster {
    Roster {
        configured: settings.agents.clone(),
        limits: settings.limits.clone(),
        credentials: settings.credentials.clone(),
        prices: Arc::clone(&settings.prices),
        quarantine_after: settings.quarantine_after,
        most_memory_bytes: sandbox.max_memory_bytes,
        most_table_elements: sandbox.max_table_elements,
    }
}

/// Brings limits down to what the sandbox was built for, and names those that had to be.
fn within(sandbox: &SandboxSettings, settings: &mut Settings) -> Vec<String> {
    let mut beyond = Vec::new();
    let mut bring = |path: String, limits: &mut Limits| {
        let both = [
            ("memory_bytes", &mut limits.memory_bytes, sandbox.max_memory_bytes),
            ("table_elements", &mut limits.table_elements, sandbox.max_table_elements),
        ];
        for (name, limit, most) in both {
            if *limit > most {
                beyond.push(format!("{path}.{name} {limit}, and {most} until then, for which this daemon was started"));
                *limit = most;
            }
        }
    };
    bring("limits".to_owned(), &mut settings.limits);
    for (id, agent) in &mut settings.agents {
        bring(format!("agents.{id}.limits"), &mut agent.limits);
    }
    beyond
}

fn report(summary: &crate::plugins::ScanSummary) {
    tracing::info!(accepted = summary.accepted.join(" "), rejected = summary.rejected.join(" "), "the plugins folder was read");
}

fn daemon_settings(settings: &Settings, identity: &Identity) -> DaemonSettings {
    DaemonSettings {
        worker: identity.worker().clone(),
        executes: settings.worker.enabled,
        max_running: settings.worker.max_running as usize,
        lease: settings.worker.lease.duration(),
        cancel_grace: settings.worker.cancel_grace,
        timeout: settings.worker.timeout,
        max_recoveries: settings.worker.max_recoveries,
        dispatch_batch: settings.scheduler.dispatch_batch as usize,
        misfire_grace: settings.scheduler.misfire_grace.duration(),
        poll: settings.scheduler.poll.duration(),
        announce: Some(SIGNS_OF_LIFE),
        hints: true,
        heartbeat_events: Duration::from_secs(60),
        default_agent: settings.default_agent.clone(),
        bounds: bounds(settings),
    }
}

fn bounds(settings: &Settings) -> Bounds {
    let Settings { retention, queue, server, .. } = settings;
    let span = |seconds: Option<Seconds>| seconds.map(|seconds| seconds.duration());
    let number = |most: u64| (most > 0).then_some(most);
    let of_agent = settings.agents.iter().filter_map(|(id, agent)| Some((id.clone(), agent.max_queued_runs?)));
    Bounds {
        retention: Retention {
            completed: span(retention.completed),
            failed: span(retention.failed),
            cancelled: span(retention.cancelled),
            skipped: span(retention.skipped),
            sessions: span(retention.sessions),
            runs_per_task: number(retention.runs_per_task),
            plugins: retention.plugins.duration(),
            pass: retention.pass.duration(),
        },
        max_queued_runs: number(queue.max_queued_runs),
        max_queued_of_agent: of_agent.collect(),
        idempotency: server.idempotency.duration(),
        idempotency_keys: Some(server.idempotency_keys),
    }
}

/// Keeps the tasks of the configuration, and tells of those that it no longer has.
async fn apply_tasks(manager: &Manager, tasks: Vec<Task>, file: Option<&Path>) -> Result<(), ManagerError> {
    let present: HashSet<TaskId> = tasks.iter().map(|task| task.task_id.clone()).collect();
    let (mut created, mut changed, mut unchanged) = (0, 0, 0);
    for task in tasks {
        if let Some(reason) = manager.foreign_owner(&task).await? {
            tracing::warn!(task = %task.task_id, reason, "a task of the configuration is left as it is in the store");
            continue;
        }
        if let Some(agent) = manager.missing_agent(&task) {
            tracing::warn!(task = %task.task_id, %agent, "the agent of a task is not there; its runs wait for it");
        }
        match manager.keep_task(task, true).await?.1 {
            Registered::Created => created += 1,
            Registered::Replaced => changed += 1,
            Registered::Unchanged => unchanged += 1,
        }
    }
    if created + changed + unchanged > 0 {
        tracing::info!(created, changed, unchanged, "the tasks of the configuration were applied");
    }
    if let Some(file) = file.and_then(|file| std::path::absolute(file).ok()) {
        for task in manager.tasks_gone_from(&file.to_string_lossy(), &present).await? {
            tracing::warn!(%task, "the configuration has this task no more; it runs on until `sandclock tasks delete {task}`");
        }
    }
    Ok(())
}
