//! Deletes runs that have ended, with all that they left: records in one change, then files.
//!
//! Invariant: the change that deletes runs also notes the files that they leave, and the note goes when the files have gone. So a
//! crash in between leaves neither files that nobody knows of nor a record whose files are missing, and nothing has to be looked for
//! on the disk: only what was noted is ever removed.
//!
//! How it fails: files that cannot be removed stay noted and are tried again with each pass.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};

use super::error::ManagerError;
use super::inner::Inner;
use super::memory;
use super::transitions::Step;
use super::txn::{Entity, Known, Txn};
use crate::domain::id::RunId;
use crate::domain::run::Run;
use crate::domain::time::Timestamp;
use crate::store::{Index, Kind, PageRequest, Record, RecordId, Scope};
use crate::workspace::{WorkspaceError, Workspaces};

/// How many notes are read at a time.
const NOTES: usize = 16;

/// How many runs are removed from the bucket at once.
const REMOVALS: usize = 8;

/// What deleted runs and buckets have left that is still to be removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Leftovers {
    runs: Vec<Leftover>,
    /// The incarnation of a bucket of key-values that was taken out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bucket: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Leftover {
    run_id: RunId,
    workspace_path: String,
    /// Whether workspaces of earlier claims may lie beside it.
    set_aside: bool,
}

impl Entity for Leftovers {
    const KIND: Kind = Kind::Removal;

    fn index(&self, _now: Timestamp) -> Index {
        Index::default()
    }
}

/// Deletes those of these runs that have ended, with their files. Answers how many there were.
///
/// # Errors
/// The store does not answer.
pub(super) async fn delete_runs(inner: &Inner, records: &[Record]) -> Result<usize, ManagerError> {
    let (mut known, mut ids) = (Vec::new(), Vec::new());
    for record in records {
        match record.decode_run() {
            Ok(run) => {
                known.push(Known::at(record.id.clone(), record.rev, Arc::new(run)));
                ids.push(record.id.clone());
            }
            Err(error) => tracing::error!(%error, "an ended run cannot be deleted"),
        }
    }
    let note = new_note(inner);
    let noted = note.clone();
    let decide = move |txn: &mut Txn<'_>| delete(txn, &ids, &noted);
    let (deleted, left) = inner.committer.commit(Vec::new(), known, decide).await.map_err(ManagerError::from)?;
    if let Some(left) = left {
        clear(inner, note, left).await?;
    }
    Ok(deleted)
}

fn delete(txn: &mut Txn<'_>, ids: &[RecordId], note: &RecordId) -> Step<(usize, Option<Leftovers>)> {
    txn.need(ids)?;
    let (mut deleted, mut runs) = (0, Vec::new());
    for id in ids {
        // Somebody else was faster, or it is another run by now.
        let Some(run) = txn.get::<Run, _>(id)?.filter(|run| run.status.is_terminal()) else { continue };
        txn.delete(id.clone());
        deleted += 1;
        // A run that never started has left nothing.
        if run.attempt > 0 {
            let set_aside = run.lease_generation > 1;
            runs.push(Leftover { run_id: run.run_id.clone(), workspace_path: run.workspace_path.clone(), set_aside });
        }
    }
    if runs.is_empty() {
        return Ok((deleted, None));
    }
    let left = Leftovers { runs, bucket: None };
    txn.put(note.clone(), Arc::new(left.clone()))?;
    Ok((deleted, Some(left)))
}

/// Removes what a note tells of, then the note.
async fn clear(inner: &Inner, note: RecordId, left: Leftovers) -> Result<(), ManagerError> {
    if let Some(incarnation) = &left.bucket {
        memory::bury(inner, incarnation).await?;
    }
    let workspaces = inner.workspaces.clone();
    let runs: Vec<RunId> = left.runs.iter().map(|run| run.run_id.clone()).collect();
    let remove = move || Ok(left.runs.iter().filter(|run| !remove(&workspaces, run)).count());
    let kept = inner.blocking(remove).await?;
    if kept > 0 || !is_removed_from_bucket(inner, runs).await {
        return Ok(());
    }
    forget(inner, note).await
}

/// Names a new note.
pub(super) fn new_note(inner: &Inner) -> RecordId {
    RecordId::new(Kind::Removal, &inner.entropy.hex_name())
}

/// Notes that what a bucket of key-values held is still to be removed.
pub(super) fn note_bucket(txn: &mut Txn<'_>, note: &RecordId, incarnation: &str) -> Step<()> {
    txn.put(note.clone(), Arc::new(Leftovers { runs: Vec::new(), bucket: Some(incarnation.to_owned()) }))
}

/// Deletes a note.
pub(super) async fn forget(inner: &Inner, note: RecordId) -> Result<(), ManagerError> {
    let id = note.clone();
    let forget = move |txn: &mut Txn<'_>| -> Step<()> {
        txn.need(std::slice::from_ref(&id))?;
        txn.delete(id.clone());
        Ok(())
    };
    inner.committer.commit(vec![note], Vec::new(), forget).await.map_err(ManagerError::from)
}

/// Removes what runs left in the bucket, attempts that were lost included; answers whether nothing is left to do.
async fn is_removed_from_bucket(inner: &Inner, runs: Vec<RunId>) -> bool {
    let Some(bucket) = inner.workspaces.bucket().cloned() else { return true };
    let remove = move |run: RunId| {
        let bucket = Arc::clone(&bucket);
        async move { bucket.remove(&run).await }
    };
    let removals = stream::iter(runs).map(remove).buffer_unordered(REMOVALS);
    match removals.try_collect::<()>().await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "what deleted runs left in the bucket could not be removed; it is tried again");
            false
        }
    }
}

/// Removes what a run left on the disk; answers whether nothing is left to do.
fn remove(workspaces: &Workspaces, left: &Leftover) -> bool {
    let removed = workspaces
        .logs()
        .remove(&left.run_id)
        .and_then(|()| workspaces.remove(&left.workspace_path))
        .and_then(|()| if left.set_aside { workspaces.remove_set_aside(&left.workspace_path) } else { Ok(()) });
    match removed {
        Ok(()) | Err(WorkspaceError::NotFound { .. }) => true,
        // It never was a workspace's path, so nothing of ours is there.
        Err(error @ WorkspaceError::BadPath { .. }) => {
            tracing::warn!(run = %left.run_id, %error, "a deleted run has no workspace that could be removed");
            true
        }
        Err(error) => {
            tracing::warn!(run = %left.run_id, %error, "the files of a deleted run could not be removed; it is tried again");
            false
        }
    }
}

/// Removes files that were noted before and are still there: a crash came in between, or they could not be removed.
///
/// # Errors
/// The store does not answer.
pub(super) async fn clear_noted(inner: &Inner) -> Result<(), ManagerError> {
    let mut page = PageRequest::first(NOTES);
    loop {
        let notes = inner.store.list(Scope::All(Kind::Removal), page).await?;
        for record in notes.records {
            match record.decode() {
                Ok(left) => clear(inner, record.id, left).await?,
                Err(error) => tracing::error!(%error, "files of deleted runs cannot be removed"),
            }
        }
        match notes.next {
            Some(after) => page.after = Some(after),
            None => return Ok(()),
        }
    }
}
