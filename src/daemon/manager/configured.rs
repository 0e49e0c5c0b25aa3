//! Tasks that a configuration file owns.

use super::Manager;
use crate::daemon::error::ManagerError;
use crate::domain::id::{AgentId, TaskId};
use crate::domain::task::Task;
use crate::store::{CountScope, Kind, PageRequest, RecordId, Scope};

/// How many tasks are looked at a time.
const PAGE: usize = 1000;

impl Manager {
    /// Why a configured task must not replace the one in the store; none when it may.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn foreign_owner(&self, task: &Task) -> Result<Option<String>, ManagerError> {
        let Some(record) = self.record(RecordId::task(&task.task_id)).await? else { return Ok(None) };
        let kept: Task = record.decode()?;
        Ok(match kept.source {
            source if source == task.source => None,
            None => Some("it was made through the API; delete it there, or take it out of the file".to_owned()),
            Some(other) => Some(format!(
                "it belongs to {other}; take it out of one of the two files, and where that one is gone, delete the task and start again"
            )),
        })
    }

    /// The agent of a task, when there is no such agent yet.
    pub fn missing_agent(&self, task: &Task) -> Option<AgentId> {
        let agents = self.0.agents.as_ref()?;
        (!agents.knows(&task.agent_id)).then(|| task.agent_id.clone())
    }

    /// Tasks in the store that belong to a file and are not among its `present` ones.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn tasks_gone_from(&self, file: &str, present: &std::collections::HashSet<TaskId>) -> Result<Vec<TaskId>, ManagerError> {
        let store = &self.inner().store;
        if store.counts(CountScope::All(Kind::Task)).await?.total <= present.len() as u64 {
            return Ok(Vec::new());
        }
        let mut gone = Vec::new();
        let mut page = PageRequest::first(PAGE);
        loop {
            let listed = store.list(Scope::All(Kind::Task), page).await?;
            for record in &listed.records {
                let task: Task = record.decode()?;
                if task.source.as_deref() == Some(file) && !present.contains(&task.task_id) {
                    gone.push(task.task_id);
                }
            }
            match listed.next {
                Some(after) => page.after = Some(after),
                None => return Ok(gone),
            }
        }
    }
}
