//! One attempt in the foreground, and a look at a plugin: the daemon's sandbox without the daemon.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::agents::{SandboxPreparer, config_texts};
use super::capabilities::{Capability, capabilities};
use super::egress;
pub use super::here::{GivenAnswers, RunCheckpoints};
pub use super::memory::RunMemory;
use super::open::{roster, sandbox_settings};
use crate::clock::{Clock as _, Entropy as _, SystemClock, SystemEntropy};
use crate::config::Settings;
use crate::domain::id::{AgentId, RunId, TaskId};
use crate::domain::policy::SessionPolicy;
use crate::egress::{Account, Gateway};
use crate::plugins::{Loaded, Loader, PluginError, PluginSettings};
use crate::sandbox::{AttemptContext, AttemptReport, AttemptSignals, AttemptSpec, GuestHost, Prepared, Sandbox, SandboxError};

/// Why a plugin cannot be run or looked at.
#[derive(Debug, thiserror::Error)]
pub enum ForegroundError {
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The compile threads.
    #[error(transparent)]
    Plugins(#[from] PluginError),
    /// The plugin is refused.
    #[error("{0}")]
    Refused(String),
}

/// What a plugin is, for people.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PluginReport {
    /// The SHA-256 of its bytes.
    pub digest: String,
    /// `agent` or `command`.
    pub shape: &'static str,
    /// What it imports.
    pub imports: Vec<String>,
    /// What it exports.
    pub exports: Vec<String>,
    /// The agent that it is looked at as.
    pub agent: String,
    /// What it can ask for, and what that agent is granted.
    pub capabilities: Vec<Capability>,
}

/// A sandbox that loads one plugin after the other.
pub struct Workbench {
    sandbox: Arc<Sandbox>,
    gateway: Arc<Gateway>,
    loader: Loader<SandboxPreparer>,
    settings: Settings,
}

impl Workbench {
    /// With the configuration's limits and cache.
    ///
    /// # Errors
    /// The sandbox or the compile threads cannot be started.
    pub fn open(settings: &Settings) -> Result<Workbench, ForegroundError> {
        let sandbox = Arc::new(Sandbox::new(&sandbox_settings(settings))?);
        let mut plugins = PluginSettings::new(&settings.paths.plugins, &settings.paths.cache);
        // The whole machine waits for this one.
        plugins.compile_threads = std::thread::available_parallelism().map_or(1, usize::from);
        let loader = Loader::open(&plugins, sandbox.engine().clone(), SandboxPreparer(Arc::clone(&sandbox)))?;
        let gateway = Gateway::new(tokio::runtime::Handle::current(), Arc::new(SystemClock));
        Ok(Workbench { sandbox, gateway, loader, settings: settings.clone() })
    }

    /// Loads a plugin file.
    ///
    /// # Errors
    /// The daemon would refuse it too, and why.
    pub async fn load(&self, plugin: &Path) -> Result<Foreground, ForegroundError> {
        let loaded = self.loader.load(plugin).await.map_err(|refused| ForegroundError::Refused(refused.reason))?;
        let (sandbox, gateway) = (Arc::clone(&self.sandbox), Arc::clone(&self.gateway));
        Ok(Foreground { sandbox, gateway, account: None, loaded, settings: self.settings.clone() })
    }
}

/// A plugin that is ready for one attempt after the other.
pub struct Foreground {
    sandbox: Arc<Sandbox>,
    gateway: Arc<Gateway>,
    account: Option<Arc<dyn Account>>,
    loaded: Loaded<Prepared>,
    settings: Settings,
}

/// What one attempt is asked.
pub struct ForegroundRun<'a> {
    /// The agent, whose settings apply; the plugin's own name unless given.
    pub agent: Option<AgentId>,
    /// The question.
    pub query: String,
    /// The workspace, which exists.
    pub workspace: &'a Path,
    /// The time limit; the configuration's when none is given.
    pub timeout: Option<Duration>,
    /// The run's id, which the guest sees.
    pub run_id: RunId,
}

impl Foreground {
    /// Loads a plugin file with the configuration's limits and cache.
    ///
    /// # Errors
    /// The daemon would refuse it too, and why.
    pub async fn load(plugin: &Path, settings: &Settings) -> Result<Foreground, ForegroundError> {
        Workbench::open(settings)?.load(plugin).await
    }

    /// The same with another gateway, such as one with a resolver of its own.
    #[must_use]
    pub fn with_gateway(self, gateway: Arc<Gateway>) -> Foreground {
        Foreground { gateway, ..self }
    }

    /// The same with an account that calls are charged to.
    #[must_use]
    pub fn with_account(self, account: Arc<dyn Account>) -> Foreground {
        Foreground { account: Some(account), ..self }
    }

    /// What the plugin is, and what it can ask for as this agent; as the one of its own name where none is given.
    pub fn report(&self, agent: Option<&AgentId>) -> PluginReport {
        let prepared = &self.loaded.prepared;
        let agent = agent.cloned().or_else(|| AgentId::parse(&self.loaded.stem).ok());
        let roster = roster(&self.settings, &sandbox_settings(&self.settings));
        let told = agent.as_ref().map(|agent| capabilities(agent, prepared.imports(), &roster.settings_of(agent)));
        PluginReport {
            digest: self.loaded.digest.to_string(),
            shape: match prepared.shape() {
                crate::sandbox::Shape::Agent => "agent",
                crate::sandbox::Shape::Command => "command",
            },
            imports: prepared.imports().to_vec(),
            exports: prepared.exports().to_vec(),
            agent: agent.map_or_else(|| self.loaded.stem.clone(), |agent| agent.to_string()),
            capabilities: told.unwrap_or_default(),
        }
    }

    /// A new run's id.
    pub fn new_run_id() -> RunId {
        RunId::manual(SystemClock.now(), SystemEntropy.id_bytes())
    }

    /// Executes one attempt.
    pub async fn run(&self, run: ForegroundRun<'_>, host: Arc<dyn GuestHost>, signals: Arc<AttemptSignals>) -> AttemptReport {
        self.gateway.set_prices(Arc::clone(&self.settings.prices));
        let agent = run.agent.or_else(|| AgentId::parse(&self.loaded.stem).ok());
        let configured = agent.as_ref().and_then(|agent| self.settings.agents.get(agent));
        let agent = agent.map_or_else(|| self.loaded.stem.clone(), |agent| agent.to_string());
        let limits = configured.map_or_else(|| self.settings.limits.clone(), |agent| agent.limits.clone());
        let env = configured.map(|agent| agent.env.clone().into_iter().collect()).unwrap_or_default();
        let http = configured.map(|agent| Arc::clone(&agent.http)).unwrap_or_default();
        let config = configured.map(|agent| config_texts(&agent.config)).unwrap_or_default();
        let task = "foreground";
        let session = match (AgentId::parse(&agent), TaskId::parse(task)) {
            (Ok(agent), Ok(task)) => SessionPolicy::default().session_of(&agent, &task, &run.run_id),
            _ => format!("background:{}", run.run_id),
        };
        let timeout = run.timeout.or_else(|| configured.and_then(|agent| agent.timeout).map(|limit| limit.duration()));
        let spec = AttemptSpec {
            context: AttemptContext {
                run_id: run.run_id.to_string(),
                task_id: task.to_owned(),
                agent_id: agent,
                session_id: session,
                attempt: 1,
                trigger: "manual".to_owned(),
                due_at: None,
                metadata: "{}".to_owned(),
            },
            query: run.query,
            workspace: run.workspace.to_owned(),
            folder: None,
            found: None,
            limits,
            env,
            egress: None,
            config,
            time_limit: Some(timeout.unwrap_or_else(|| self.settings.worker.timeout.duration())),
        };
        egress::execute(&self.sandbox, &self.loaded.prepared, spec, (&self.gateway, &http), (host, self.account.clone()), signals).await
    }
}
