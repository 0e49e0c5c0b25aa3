//! Where an attempt works: the run's directory, or a copy of it where the attempt before may still be at work in another process.

use std::sync::Arc;
use std::time::Duration;

use super::{Word, Work};
use crate::daemon::executor::Start;
use crate::domain::lifecycle::Outcome;
use crate::domain::policy::ErrorKind;
use crate::domain::run::{Attempt, Usage};
use crate::sandbox::{AttemptContext, AttemptSpec, DiskUse};
use crate::store::{PageRequest, Scope, StoreError};
use crate::workspace::{DiskUsage, Takeover, Workspace, WorkspaceError};

/// How many earlier attempts are looked at. One that was lost before them has been taken over from, or has left nothing.
const LOOK_BACK: usize = 64;
/// The waits between readings of the earlier attempts while the store does not answer.
pub(super) const PATIENCE: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

impl Work<'_> {
    /// Opens the workspace; none for an agent that uses none. Otherwise, what is to become of the attempt.
    pub(super) async fn workspace(&self, start: &dyn Start) -> Result<Option<Workspace>, Word> {
        if !start.needs_workspace() {
            return Ok(None);
        }
        let lost = match self.lost_elsewhere().await {
            Ok(lost) => lost,
            Err(error) => {
                tracing::warn!(%error, "the run's earlier attempts could not be read; the run is given back");
                return Err(Word::HandBack("the store did not tell of the run's earlier attempts", None));
            }
        };
        if let Some(bucket) = self.inner.workspaces.bucket() {
            return self.workspace_of(bucket, start.disk(), lost.is_some()).await.map(Some);
        }
        let (workspaces, path) = (self.inner.workspaces.clone(), self.run.workspace_path.clone());
        let (signals, is_first, disk) = (Arc::clone(&self.live.signals), self.run.attempt == 1, start.disk());
        let takeover = Takeover { fence: self.fence, lost, most: DiskUsage { bytes: disk.bytes, entries: disk.files } };
        let opened = self.inner.blocking(move || match signals.may_act() {
            true if is_first => workspaces.create(&path),
            true => workspaces.take_over(&path, takeover, &|| signals.may_act()),
            false => Err(WorkspaceError::Stopped { path }),
        });
        opened.await.map(Some).map_err(|error| match self.live.signals.stopped() {
            Some(why) => self.word_of_stop(why, Usage::default()),
            None => {
                let message = format!("the workspace could not be made: {error}");
                Word::Outcome(Outcome::Failed { kind: ErrorKind::Host, message, after: None }, Usage::default())
            }
        })
    }

    /// The fence of the latest attempt that another daemon lost: that daemon may be alive, and so may its guest. An older incarnation of
    /// this daemon is not, for it held the daemon's id.
    async fn lost_elsewhere(&self) -> Result<Option<u64>, StoreError> {
        if self.run.attempt == 1 {
            return Ok(None);
        }
        let settings = self.inner.settings();
        let daemon = settings.worker.daemon();
        let page = PageRequest { after: None, limit: LOOK_BACK, newest_first: true };
        let mut patience = PATIENCE.iter();
        let records = loop {
            match self.inner.store.list(Scope::Attempts(self.run.run_id.clone()), page).await {
                Err(error) if error.is_transient() => match patience.next() {
                    Some(wait) => tokio::time::sleep(*wait).await,
                    None => return Err(error),
                },
                page => break page?.records,
            }
        };
        for record in records {
            let attempt: Attempt = record.decode()?;
            let is_lost = attempt.error_kind == Some(ErrorKind::Lost) && attempt.lease_generation < self.fence;
            if is_lost && attempt.worker_id.daemon() != daemon {
                return Ok(Some(attempt.lease_generation));
            }
        }
        Ok(None)
    }

    pub(super) fn spec(&self, workspace: Option<&Workspace>) -> AttemptSpec {
        let run = &self.run;
        AttemptSpec {
            egress: None,
            context: AttemptContext {
                run_id: run.run_id.to_string(),
                task_id: run.task_id.to_string(),
                agent_id: run.agent_id.to_string(),
                session_id: run.session_id.clone(),
                attempt: run.attempt,
                trigger: run.trigger_type.as_str().to_owned(),
                due_at: run.due_at.map(|at| at.to_string()),
                metadata: serde_json::to_string(&run.metadata).unwrap_or_else(|_| "{}".to_owned()),
            },
            query: run.query_snapshot.clone(),
            workspace: workspace.map_or_else(|| self.inner.workspaces.root().join(&run.workspace_path), |opened| opened.path.clone()),
            folder: workspace.map(|opened| Arc::clone(&opened.dir)),
            found: workspace.and_then(|opened| opened.found).map(|found| DiskUse { bytes: found.bytes, files: found.entries }),
            limits: crate::domain::agent::Limits::default(),
            env: Vec::new(),
            config: Arc::default(),
            time_limit: Some(run.policy.timeout_seconds.duration()),
        }
    }
}
