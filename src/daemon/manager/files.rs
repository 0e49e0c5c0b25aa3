//! What a run left behind: its workspace and its logs.

use serde_json::{Value, json};

use super::Manager;
use crate::daemon::error::ManagerError;
use crate::domain::id::RunId;
use crate::domain::run::{Run, Status};
use crate::workspace::{FileEntry, OpenFile, WorkspaceError};

/// A page of a run's workspace.
#[derive(Clone, Debug)]
pub struct WorkspaceListing {
    /// The run.
    pub run: Run,
    /// The root of all workspaces.
    pub workspace_root: String,
    /// The files and folders.
    pub entries: Vec<FileEntry>,
    /// Where the next page starts; none when this is the last.
    pub next: Option<String>,
    /// What the listing leaves out, if it does.
    pub note: Option<String>,
}

impl Manager {
    /// Lists a run's workspace, all levels deep.
    ///
    /// # Errors
    /// There is no such run, or its workspace cannot be read.
    pub async fn workspace(&self, run: &RunId, after: Option<String>, limit: usize) -> Result<WorkspaceListing, ManagerError> {
        let run = self.run(run).await?;
        let (workspaces, path) = (self.inner().workspaces.clone(), run.workspace_path.clone());
        let page = self
            .inner()
            .blocking(move || match workspaces.list(&path, after.as_deref(), limit) {
                // A run that has not started has no workspace yet.
                Err(WorkspaceError::NotFound { .. }) => Ok(crate::workspace::FilePage::default()),
                listed => listed,
            })
            .await?;
        let workspace_root = self.inner().workspaces.root().to_string_lossy().into_owned();
        Ok(WorkspaceListing { run, workspace_root, entries: page.entries, next: page.next, note: page.note })
    }

    /// Opens a file of a run's workspace.
    ///
    /// # Errors
    /// There is no such run or file, or it is no regular file.
    pub async fn workspace_file(&self, run: &RunId, file: &str) -> Result<OpenFile, ManagerError> {
        let run = self.run(run).await?;
        let workspaces = self.inner().workspaces.clone();
        let name = file.to_owned();
        let opened = tokio::task::spawn_blocking(move || workspaces.open_file(&run.workspace_path, &name)).await;
        match opened {
            Ok(Ok(file)) => Ok(file),
            Ok(Err(WorkspaceError::NotFound { .. })) => Err(ManagerError::not_found("File", file)),
            Ok(Err(error @ (WorkspaceError::NotAFile { .. } | WorkspaceError::BadPath { .. } | WorkspaceError::Link { .. }))) => {
                Err(ManagerError::Invalid(crate::domain::input::Faults::one("path", error.to_string())))
            }
            Ok(Err(error)) => Err(ManagerError::Host(error.to_string())),
            Err(error) => Err(ManagerError::Host(format!("work on the workspace was abandoned: {error}"))),
        }
    }

    /// The lines of an attempt's log behind an offset; of the latest attempt when none is named.
    ///
    /// # Errors
    /// There is no such run or attempt.
    pub async fn logs(&self, run: &RunId, attempt: Option<u32>, after: u64, limit: usize) -> Result<Value, ManagerError> {
        let of = self.run(run).await?;
        let number = attempt.unwrap_or(of.attempt);
        if number > of.attempt || attempt == Some(0) {
            return Err(ManagerError::not_found("Attempt", format!("{number} of run {run}")));
        }
        let ended = number < of.attempt || !of.status.is_leased();
        let (workspaces, id) = (self.inner().workspaces.clone(), run.clone());
        let page = self.inner().blocking(move || workspaces.logs().read(&id, number, after, limit)).await?;
        Ok(json!({
            "run_id": run,
            "attempt": number,
            "lines": page.lines,
            "next_offset": page.next_offset,
            "at_end": page.at_end,
            "finished": ended && page.at_end,
        }))
    }

    /// Writes an ended run's mirrors again from what the store has; answers with the names of the files that are there then.
    ///
    /// # Errors
    /// There is no such run, it has not ended, its task wants no mirrors, or the disk refuses.
    pub async fn mirror_run(&self, run: &RunId) -> Result<(Run, Vec<&'static str>), ManagerError> {
        let of = self.run(run).await?;
        if !of.status.is_terminal() {
            let sentence =
                format!("Run {run} is {}; its worker writes its mirrors, and they can be rebuilt when it has ended", of.status.as_str());
            return Err(ManagerError::Conflict(sentence));
        }
        let mut mirrors = self.inner().mirrors_of(&of, None, std::iter::empty()).await?;
        if !mirrors.any() {
            let sentence =
                format!("Run {run} was made without mirrors (workspace_policy of its task); the API has its record and its history");
            return Err(ManagerError::Conflict(sentence));
        }
        mirrors.output = self.result(run).await?.filter(|_| of.status == Status::Completed);
        let written = self.inner().put_mirrors(mirrors, None).await?;
        Ok((of, written))
    }
}
