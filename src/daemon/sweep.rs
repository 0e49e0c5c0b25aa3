//! Looks after this machine's own directories where there is a bucket: those of runs that another daemon deleted go, and those that could
//! not be uploaded are.
//!
//! Invariants: only a directory that this daemon marked goes, and none whose files are nowhere else; nothing is uploaded for a run that may
//! be at work again.
//!
//! How it fails: what could not be done is tried with the next look.

use std::sync::Arc;

use super::error::ManagerError;
use super::inner::Inner;
use super::kept::host;
use crate::domain::id::RunId;
use crate::domain::run::Run;
use crate::store::RecordId;
use crate::workspace::bucket::{GoOn, Progress, Upload};
use crate::workspace::{Bucket, Mark, WorkspaceError};

/// How many runs are asked for at once.
const PAGE: usize = 256;

/// One look at all directories.
///
/// # Errors
/// The store, the disk or the bucket do not do their part.
pub(super) async fn sweep(inner: &Inner) -> Result<(), ManagerError> {
    let Some(bucket) = inner.workspaces.bucket() else { return Ok(()) };
    let (workspaces, daemon) = (inner.workspaces.clone(), inner.settings().worker.daemon().to_owned());
    let marked = inner.blocking(move || workspaces.all_marked(&daemon)).await?;
    for page in marked.chunks(PAGE) {
        let run_of = |path: &str| RunId::parse(path.rsplit('/').next().unwrap_or_default()).ok();
        let marked: Vec<(RunId, &str, &Mark)> = page.iter().filter_map(|(path, mark)| Some((run_of(path)?, path.as_str(), mark))).collect();
        let ids: Vec<RecordId> = marked.iter().map(|(run, ..)| RecordId::run(run)).collect();
        for ((run, path, mark), record) in marked.into_iter().zip(inner.store.get(&ids).await?) {
            match record {
                None if !mark.is_only_here() => remove(inner, run, path.to_owned()).await?,
                None => {}
                Some(record) if mark.is_only_here() => pay(inner, bucket, &record.decode_run()?, mark).await?,
                Some(_) => {}
            }
        }
    }
    Ok(())
}

async fn remove(inner: &Inner, run: RunId, path: String) -> Result<(), ManagerError> {
    if inner.live.get(&run).is_some() {
        return Ok(());
    }
    let workspaces = inner.workspaces.clone();
    inner
        .blocking(move || match workspaces.logs().remove(&run).and_then(|()| workspaces.remove(&path)) {
            Err(WorkspaceError::NotFound { .. }) => Ok(()),
            other => other,
        })
        .await
}

/// Uploads what an attempt left that ended while the bucket took nothing, if its run has ended with it; if the run went on elsewhere and has
/// ended, nobody wants it any more.
async fn pay(inner: &Inner, bucket: &Arc<Bucket>, run: &Run, mark: &Mark) -> Result<(), ManagerError> {
    // Nothing happens in the directory of a run that has ended.
    if !run.status.is_terminal() {
        return Ok(());
    }
    let settings = inner.settings();
    let (daemon, fence) = (settings.worker.daemon(), run.lease_generation);
    let Some(kept) = inner.kept(&run.run_id).await? else { return Ok(()) };
    if !kept.is_in(mark, daemon) {
        if mark.is_before(fence) && inner.live.get(&run.run_id).is_none() {
            let (workspaces, path) = (inner.workspaces.clone(), run.workspace_path.clone());
            inner.blocking(move || workspaces.remove(&path)).await?;
        }
        return Ok(());
    }
    let (workspaces, path) = (inner.workspaces.clone(), run.workspace_path.clone());
    let workspace = inner.blocking(move || workspaces.create(&path)).await?;
    let base = match kept.reference() {
        Some(reference) => Some(bucket.manifest(&run.run_id, reference).await.map_err(host)?),
        None => None,
    };
    let may_go_on: GoOn = Arc::new(|| true);
    let of = Upload { run: run.run_id.clone(), fence, dir: workspace.dir, base, may_go_on };
    let uploaded = bucket.upload(&of, &Progress::default()).await.map_err(host)?;
    if inner.replace_kept(&run.run_id, fence, Some(kept), uploaded.clone()).await? {
        tracing::info!(run = %run.run_id, "the workspace of a run was uploaded after all");
        let mark = Mark::left(daemon, fence, Some(uploaded.reference.hash.to_string()));
        let (workspaces, path) = (inner.workspaces.clone(), run.workspace_path.clone());
        inner.blocking(move || workspaces.mark(&path, &mark)).await?;
        inner.tidy(bucket, &run.run_id, &uploaded).await;
        // Those that were written when its attempt ended may not know of its end.
        inner.mirror_from_store(&run.run_id, None).await;
    }
    Ok(())
}
