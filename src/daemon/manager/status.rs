//! How the daemon, its agents and its tasks are.

use serde_json::{Map, Value, json};

use super::Manager;
use crate::daemon::error::ManagerError;
use crate::daemon::fleet;
use crate::domain::id::{AgentId, TaskId};
use crate::domain::run::Status;
use crate::domain::schedule::ScheduleState;
use crate::plugins::PluginState;
use crate::store::{CountScope, Counts, Kind, PageRequest, RecordId, Scope, StoreError};

fn by_status(counts: &Counts) -> Value {
    Value::Object(Status::ALL.into_iter().map(|status| (status.as_str().to_owned(), json!(counts.of(status)))).collect::<Map<_, _>>())
}

impl Manager {
    /// The daemon's status in the seed's form.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn status(&self) -> Result<Value, ManagerError> {
        let inner = self.inner();
        let runs = inner.store.counts(CountScope::All(Kind::Run)).await?;
        let tasks = inner.store.counts(CountScope::All(Kind::Task)).await?;
        Ok(json!({
            "running": self.is_running(),
            "initialized": true,
            "worker_id": inner.settings().worker,
            "lease_seconds": inner.settings().lease.as_secs_f64(),
            "agents": self.0.agents.as_ref().map_or(0, |agents| agents.ids().len()),
            "tasks": tasks.total,
            "runs": runs.total,
            "active_runs": runs.active(),
            "status_counts": by_status(&runs),
            "version": env!("CARGO_PKG_VERSION"),
            "executes": inner.settings().executes,
            "max_running": inner.settings().max_running,
            "executing_here": inner.live.len(),
            "workspace_root": inner.workspaces.root(),
            "configuration": *self.configuration(),
        }))
    }

    /// A task's status in the seed's form.
    ///
    /// # Errors
    /// There is no such task.
    pub async fn task_status(&self, task: &TaskId) -> Result<Value, ManagerError> {
        let definition = self.task(task).await?;
        let store = &self.inner().store;
        let state = self.record(RecordId::schedule(task)).await?;
        let state: ScheduleState = state.ok_or_else(|| ManagerError::not_found("Task", task))?.decode()?;
        let counts = store.counts(CountScope::RunsOfTask(task.clone())).await?;
        let scope = Scope::Runs { task: Some(task.clone()), status: None };
        let latest = store.list(scope, PageRequest { after: None, limit: 1, newest_first: true }).await?;
        let latest = latest.records.first().map(crate::store::Record::decode_run).transpose()?;
        Ok(json!({
            "task_id": task,
            "agent_id": definition.agent_id,
            "enabled": definition.enabled,
            "schedule": definition.schedule,
            "schedule_state": state,
            "runs": counts.total,
            "active_runs": counts.active(),
            "status_counts": by_status(&counts),
            "latest_run": latest,
        }))
    }

    /// The daemons of the store, each with its agents and its last sign of life.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn daemons(&self) -> Result<Vec<Value>, ManagerError> {
        Ok(fleet::all(&*self.inner().store).await?)
    }

    /// All agents.
    pub fn agents(&self) -> Vec<Value> {
        let Some(agents) = &self.0.agents else { return Vec::new() };
        agents.ids().iter().filter_map(|agent| agents.show(agent)).collect()
    }

    /// An agent.
    ///
    /// # Errors
    /// There is no such agent.
    pub fn agent(&self, agent: &AgentId) -> Result<Value, ManagerError> {
        let shown = self.0.agents.as_ref().and_then(|agents| agents.show(agent));
        shown.ok_or_else(|| ManagerError::not_found("Agent", agent))
    }

    /// The plugin files, and what was pushed.
    pub fn plugins(&self) -> Vec<Value> {
        let Some(agents) = &self.0.agents else { return Vec::new() };
        let plugins = agents.catalogue().list();
        let show = |plugin: crate::plugins::PluginStatus| {
            let (state, reason) = match &plugin.state {
                PluginState::Compiling => ("compiling", None),
                PluginState::Accepted { .. } => ("accepted", None),
                PluginState::Rejected { reason } => ("rejected", Some(reason.clone())),
            };
            json!({
                "plugin": plugin.stem,
                "file": plugin.file_name,
                "size": plugin.size_bytes,
                "modified_at": plugin.modified_at,
                "state": state,
                "reason": reason,
                "digest": plugin.serving.map(|digest| digest.to_string()),
                "source": "folder",
                "overridden": agents.overridden_by(&plugin.stem),
            })
        };
        plugins.into_iter().map(show).chain(agents.pushes()).collect()
    }

    /// Whether the daemon takes requests; otherwise why not.
    ///
    /// # Errors
    /// The reason, in a sentence.
    pub fn ready(&self) -> Result<(), String> {
        if !self.is_running() {
            return Err("the daemon is stopping".to_owned());
        }
        if self.inner().outage.gone().is_cancelled() {
            return Err("another daemon has taken the store over; stop one of the two".to_owned());
        }
        match self.outage() {
            None => Ok(()),
            Some(why) => Err(why.to_owned()),
        }
    }

    /// Why the store takes nothing at the moment, in a sentence; none when it does.
    pub(super) fn outage(&self) -> Option<&'static str> {
        // What the store says of itself may name files and servers; that is for the log.
        Some(match self.inner().outage.reason()? {
            StoreError::Full(_) => "the store is full; free some space for it, it goes on by itself",
            _ => "the store is not available at the moment; the daemon's log says why",
        })
    }
}
