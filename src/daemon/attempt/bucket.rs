//! An attempt's workspace where there is a bucket: it begins with what the newest manifest names, and what it leaves is uploaded before its
//! outcome is committed.
//!
//! How it fails: a bucket that does not answer is asked again for a while, which ends early when the run is cancelled or the daemon hurries.
//! An attempt that cannot begin is given back; one that has ended keeps its outcome, and its files stay owed.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::workspace::PATIENCE;
use super::{Word, Work};
use crate::daemon::error::ManagerError;
use crate::daemon::kept::{KeptWorkspace, Left};
use crate::domain::lifecycle::Outcome;
use crate::domain::policy::ErrorKind;
use crate::domain::run::Usage;
use crate::sandbox::DiskUse;
use crate::store::StoreError;
use crate::workspace::bucket::{BucketError, GoOn, Progress, Upload, Uploaded};
use crate::workspace::{Bucket, DiskUsage, Mark, Workspace, WorkspaceError};

/// How long an attempt that has not begun waits for the bucket at most: others want its place.
const BEGINNING: Duration = Duration::from_secs(30);
/// How long a daemon that hurries lets an upload go on.
const HURRY: Duration = Duration::from_secs(8);
/// How long a bucket that does not answer is let be: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Why an attempt has no workspace.
enum Fault {
    Bucket(BucketError),
    Host(ManagerError),
    /// The run was cancelled meanwhile.
    Cancelled,
}

impl Work<'_> {
    /// Opens the workspace as the newest manifest has it. `is_lost_elsewhere` tells that a lost attempt may still be at work somewhere.
    pub(super) async fn workspace_of(&self, bucket: &Arc<Bucket>, disk: DiskUse, is_lost_elsewhere: bool) -> Result<Workspace, Word> {
        let opened = self.opened(bucket, disk, is_lost_elsewhere).await;
        self.live.say_waits(None);
        opened.map_err(|fault| {
            if let Some(why) = self.live.signals.stopped() {
                return self.word_of_stop(why, Usage::default());
            }
            let failed = |message: String| Word::Outcome(Outcome::Failed { kind: ErrorKind::Host, message, after: None }, Usage::default());
            match fault {
                Fault::Cancelled => {
                    let message = "the run was cancelled while its workspace was waited for".to_owned();
                    Word::Outcome(Outcome::Cancelled(message), Usage::default())
                }
                Fault::Bucket(error) if error.is_transient() => {
                    tracing::warn!(%error, "the run's workspace cannot be had from the bucket; the run is given back");
                    Word::HandBack("the bucket that has the run's workspace did not give it; the daemon's log says why", None)
                }
                Fault::Bucket(error) => failed(format!("the workspace could not be made: {error}")),
                Fault::Host(error) => failed(format!("the workspace could not be made: {error}")),
            }
        })
    }

    async fn opened(&self, bucket: &Arc<Bucket>, disk: DiskUse, is_lost_elsewhere: bool) -> Result<Workspace, Fault> {
        let kept = if self.run.attempt == 1 { None } else { self.kept_patiently().await.map_err(|error| Fault::Host(error.into()))? };
        let (workspaces, path) = (self.inner.workspaces.clone(), self.run.workspace_path.clone());
        let (daemon, fence, is_first) = (self.inner.settings().worker.daemon().to_owned(), self.fence, self.run.attempt == 1);
        let (of, signals) = (kept.clone(), Arc::clone(&self.live.signals));
        let here = self.inner.blocking(move || {
            if !signals.may_act() {
                return Err(WorkspaceError::Stopped { path });
            }
            let mark = workspaces.marked(&path)?;
            let is_here = is_first || of.zip(mark).is_some_and(|(kept, mark)| kept.is_in(&mark, &daemon));
            // From here on, until the attempt has ended, the directory is nothing to rely on.
            workspaces.mark(&path, &Mark::open(&daemon, fence))?;
            if is_here { workspaces.create(&path).map(Some) } else { Ok(None) }
        });
        match here.await.map_err(Fault::Host)? {
            Some(workspace) => Ok(workspace),
            None => self.filled_patiently(bucket, kept, disk, is_lost_elsewhere).await,
        }
    }

    async fn kept_patiently(&self) -> Result<Option<KeptWorkspace>, StoreError> {
        let mut patience = PATIENCE.iter();
        loop {
            match self.inner.kept(&self.run.run_id).await {
                Err(error) if error.is_transient() => match patience.next() {
                    Some(wait) => tokio::time::sleep(*wait).await,
                    None => return Err(error),
                },
                other => return other,
            }
        }
    }

    async fn filled_patiently(
        &self,
        bucket: &Arc<Bucket>,
        kept: Option<KeptWorkspace>,
        disk: DiskUse,
        is_lost_elsewhere: bool,
    ) -> Result<Workspace, Fault> {
        let (begun, patience, mut wait) = (Instant::now(), bucket.patience().min(BEGINNING), AGAIN.0);
        loop {
            let filling = self.filled(bucket, kept.as_ref(), disk, is_lost_elsewhere);
            let error = tokio::select! {
                biased;
                () = self.live.cancelled.cancelled() => return Err(Fault::Cancelled),
                filled = filling => match filled {
                    Err(Fault::Bucket(error)) if error.is_transient() && begun.elapsed() < patience => error,
                    other => return other,
                },
            };
            tracing::debug!(%error, "the run's workspace is not there yet; the bucket is asked again");
            self.live.say_waits(Some(format!("it has not begun, for its workspace is not there: {error}")));
            tokio::select! {
                biased;
                () = self.live.cancelled.cancelled() => return Err(Fault::Cancelled),
                () = self.live.hurried.cancelled() => return Err(Fault::Bucket(error)),
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(AGAIN.1);
        }
    }

    /// Makes a new directory with what the manifest names, and gives it the workspace's name.
    async fn filled(
        &self,
        bucket: &Bucket,
        kept: Option<&KeptWorkspace>,
        disk: DiskUse,
        is_lost_elsewhere: bool,
    ) -> Result<Workspace, Fault> {
        let (run, fence) = (&self.run.run_id, self.fence);
        let manifest = match kept.and_then(KeptWorkspace::reference) {
            Some(reference) => Some(bucket.manifest(run, reference).await.map_err(Fault::Bucket)?),
            None => None,
        };
        let (workspaces, path) = (self.inner.workspaces.clone(), self.run.workspace_path.clone());
        let begun = self.inner.blocking(move || workspaces.begin(&path, fence)).await.map_err(Fault::Host)?;
        let may_go_on = self.may_act();
        let mut found = DiskUsage::default();
        if let Some(manifest) = &manifest {
            let most = DiskUsage { bytes: disk.bytes, entries: disk.files };
            found = bucket.fill(run, manifest, &begun, most, &may_go_on).await.map_err(Fault::Bucket)?;
        }
        let (workspaces, path) = (self.inner.workspaces.clone(), self.run.workspace_path.clone());
        let finish = move || workspaces.finish(&path, fence, is_lost_elsewhere, &*may_go_on);
        let mut workspace = self.inner.blocking(finish).await.map_err(Fault::Host)?;
        workspace.found = Some(found);
        Ok(workspace)
    }

    fn may_act(&self) -> GoOn {
        let signals = Arc::clone(&self.live.signals);
        Arc::new(move || signals.may_act())
    }

    /// Uploads the workspace as it is now. A checkpoint does so while its guest is held, and commits what this answers under the lease, with
    /// [`Left::keep`]; the end of an attempt marks its directory beside, with [`Work::mark_left`].
    pub(super) async fn upload(&self, workspace: Option<&Workspace>) -> Left {
        let (Some(bucket), Some(workspace)) = (self.inner.workspaces.bucket(), workspace) else { return Left::Nothing };
        let uploaded = self.uploaded_patiently(bucket, workspace).await;
        self.live.say_waits(None);
        match uploaded {
            Ok(uploaded) => Left::Uploaded(uploaded),
            Err(why) => {
                if self.live.signals.holds_lease() {
                    tracing::error!(
                        why,
                        "the run's workspace was not uploaded; its outcome is kept, and the files are on this machine only"
                    );
                }
                Left::Owed(why)
            }
        }
    }

    /// Remembers that the attempt has ended, and its directory is as it left it.
    pub(super) async fn mark_left(&self, left: &Left) {
        let daemon = self.inner.settings().worker.daemon().to_owned();
        let Some(mark) = left.mark(&daemon, self.fence).filter(|_| self.live.signals.holds_lease()) else { return };
        let (workspaces, path) = (self.inner.workspaces.clone(), self.run.workspace_path.clone());
        if let Err(error) = self.inner.blocking(move || workspaces.mark(&path, &mark)).await {
            tracing::warn!(%error, "the run's workspace could not be marked; the next attempt downloads it");
        }
    }

    async fn uploaded_patiently(&self, bucket: &Arc<Bucket>, workspace: &Workspace) -> Result<Uploaded, String> {
        let (progress, mut moved, mut wait) = (Progress::default(), (0, Instant::now()), AGAIN.0);
        let mut given_up = pin!(self.gives_up());
        loop {
            let error = tokio::select! {
                biased;
                why = &mut given_up => return Err(why.to_owned()),
                tried = self.try_upload(bucket, workspace, &progress) => match tried {
                    Err(error) if error.is_transient() => error,
                    other => return other.map_err(|error| error.to_string()),
                },
            };
            if progress.steps() > moved.0 {
                (moved, wait) = ((progress.steps(), Instant::now()), AGAIN.0);
            }
            if moved.1.elapsed() >= bucket.patience() {
                return Err(error.to_string());
            }
            if self.live.waits().is_none() {
                tracing::warn!(%error, "the run's workspace cannot be uploaded; its outcome waits, and the bucket is asked again");
            }
            self.live.say_waits(Some(format!("its agent has ended, and its outcome waits until its workspace is uploaded: {error}")));
            tokio::select! {
                biased;
                why = &mut given_up => return Err(format!("{why}; {error}")),
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(AGAIN.1);
        }
    }

    /// Answers when an upload is to be given up, and why.
    async fn gives_up(&self) -> &'static str {
        let cancelled = async {
            self.live.cancelled.cancelled().await;
            tokio::time::sleep(self.run.policy.cancel_grace_seconds.duration()).await;
        };
        let hurried = async {
            self.live.hurried.cancelled().await;
            tokio::time::sleep(HURRY).await;
        };
        tokio::select! {
            () = cancelled => "the run was cancelled before its workspace was uploaded",
            () = hurried => "the daemon was stopped before the workspace was uploaded",
        }
    }

    async fn try_upload(&self, bucket: &Arc<Bucket>, workspace: &Workspace, progress: &Progress) -> Result<Uploaded, BucketError> {
        let run = self.run.run_id.clone();
        // Without what is there already, all of it is uploaded.
        let kept = self.inner.kept(&run).await.ok().flatten().and_then(|kept| kept.reference());
        let base = match kept {
            Some(reference) => match bucket.manifest(&run, reference).await {
                Err(error) if error.is_transient() => return Err(error),
                found => found.ok(),
            },
            None => None,
        };
        let signals = Arc::clone(&self.live.signals);
        let may_go_on: GoOn = Arc::new(move || signals.holds_lease());
        let upload = Upload { run, fence: self.fence, dir: Arc::clone(&workspace.dir), base, may_go_on };
        bucket.upload(&upload, progress).await
    }
}
