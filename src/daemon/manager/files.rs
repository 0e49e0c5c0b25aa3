//! What a run left behind: its workspace and its logs.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use serde_json::{Value, json};

use super::Manager;
use crate::daemon::error::ManagerError;
use crate::daemon::kept::{self, KeptWorkspace};
use crate::domain::id::RunId;
use crate::domain::run::{Run, Status};
use crate::domain::time::Timestamp;
use crate::workspace::bucket::{BucketError, BucketFile, Manifest};
use crate::workspace::{Bucket, FileEntry, FilePage, OpenFile, WorkspaceError};

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

/// A file of a run's workspace, wherever it is.
pub struct WorkspaceFile {
    /// Its length in bytes.
    pub size: u64,
    /// When it was last written, as the file system or the guest says.
    pub modified_at: Timestamp,
    /// Its bytes.
    pub content: FileContent,
}

/// The bytes of a file.
pub enum FileContent {
    /// In a file of this machine, at its start.
    Here(File),
    /// Out of the bucket, each piece checked.
    Bucket(BoxStream<'static, Result<Bytes, BucketError>>),
}

impl Manager {
    /// Lists a run's workspace, all levels deep.
    ///
    /// # Errors
    /// There is no such run, or its workspace cannot be read.
    pub async fn workspace(&self, run: &RunId, after: Option<String>, limit: usize) -> Result<WorkspaceListing, ManagerError> {
        let run = self.run(run).await?;
        let page = match self.elsewhere(&run).await? {
            Some((_, manifest, note)) => {
                let page = manifest.list(after.as_deref(), limit);
                FilePage { note: page.note.or(note), ..page }
            }
            None => self.page_here(&run, after, limit).await?,
        };
        let workspace_root = self.inner().workspaces.root().to_string_lossy().into_owned();
        Ok(WorkspaceListing { run, workspace_root, entries: page.entries, next: page.next, note: page.note })
    }

    async fn page_here(&self, run: &Run, after: Option<String>, limit: usize) -> Result<FilePage, ManagerError> {
        let (workspaces, path) = (self.inner().workspaces.clone(), run.workspace_path.clone());
        let listed = move || match workspaces.list(&path, after.as_deref(), limit) {
            // A run that has not started has no workspace yet.
            Err(WorkspaceError::NotFound { .. }) => Ok(FilePage::default()),
            listed => listed,
        };
        self.inner().blocking(listed).await
    }

    /// The bucket and what it has of a run's workspace, where this daemon's own directory is not the one that counts; and what is to be
    /// said of it.
    async fn elsewhere(&self, run: &Run) -> Result<Option<(Arc<Bucket>, Arc<Manifest>, Option<String>)>, ManagerError> {
        let Some(bucket) = self.inner().workspaces.bucket() else { return Ok(None) };
        let mut again = false;
        loop {
            let kept = self.inner().kept(&run.run_id).await?;
            if self.inner().has_workspace(&run.run_id, &run.workspace_path, kept.as_ref()).await? {
                return Ok(None);
            }
            let note = kept.as_ref().and_then(KeptWorkspace::note);
            let manifest = match kept.and_then(|kept| kept.reference()) {
                // A newer manifest may have replaced it meanwhile.
                Some(reference) => match bucket.manifest(&run.run_id, reference).await {
                    Err(BucketError::Missing { .. }) if !again => {
                        again = true;
                        continue;
                    }
                    found => found.map_err(kept::host)?,
                },
                None => Arc::default(),
            };
            return Ok(Some((Arc::clone(bucket), manifest, note)));
        }
    }

    /// Opens a file of a run's workspace.
    ///
    /// # Errors
    /// There is no such run or file, or it is no regular file.
    pub async fn workspace_file(&self, run: &RunId, file: &str) -> Result<WorkspaceFile, ManagerError> {
        let run = self.run(run).await?;
        let opened = match self.elsewhere(&run).await? {
            Some((bucket, manifest, _)) => match manifest.open(&run.run_id, &run.workspace_path, file) {
                Ok(found) => return from_bucket(bucket, found).await,
                Err(error) => Err(error),
            },
            None => {
                let (workspaces, name) = (self.inner().workspaces.clone(), file.to_owned());
                let opened = tokio::task::spawn_blocking(move || workspaces.open_file(&run.workspace_path, &name)).await;
                opened.map_err(|error| ManagerError::Host(format!("work on the workspace was abandoned: {error}")))?
            }
        };
        match opened {
            Ok(OpenFile { file, size, modified_at }) => Ok(WorkspaceFile { size, modified_at, content: FileContent::Here(file) }),
            Err(WorkspaceError::NotFound { .. }) => Err(ManagerError::not_found("File", file)),
            Err(error @ (WorkspaceError::NotAFile { .. } | WorkspaceError::BadPath { .. } | WorkspaceError::Link { .. })) => {
                Err(ManagerError::Invalid(crate::domain::input::Faults::one("path", error.to_string())))
            }
            Err(error) => Err(ManagerError::Host(error.to_string())),
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

/// The content of a file in the bucket. Its start is asked for at once, so that whoever asks is told what is wrong with it.
async fn from_bucket(bucket: Arc<Bucket>, found: BucketFile) -> Result<WorkspaceFile, ManagerError> {
    let (size, modified_at) = (found.size, found.modified_at);
    let mut rest = bucket.read(found).await.map_err(kept::host)?.boxed();
    let first = rest.next().await.transpose().map_err(kept::host)?;
    let content = stream::iter(first.map(Ok)).chain(rest).boxed();
    Ok(WorkspaceFile { size, modified_at, content: FileContent::Bucket(content) })
}
