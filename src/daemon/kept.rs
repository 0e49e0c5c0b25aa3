//! Which of the workspaces in the bucket count: a record for each run names its newest manifest.
//!
//! Invariant: an attempt's manifest becomes the record in the same change as what the attempt brought about, under its fence; mirrors that
//! are written when a run has ended become a manifest only if nothing came in between. So whoever lost its lease has uploaded what nobody
//! names.
//!
//! How it fails: where the bucket takes nothing for too long, the record says on which daemon the files are, and that daemon's own
//! directory stands in until they are uploaded.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::error::ManagerError;
use super::inner::{Inner, Mirrors};
use super::transitions::{self, Step};
use super::txn::{Entity, Txn};
use crate::domain::id::RunId;
use crate::domain::time::Timestamp;
use crate::store::{Index, Kind, RecordId, StoreError};
use crate::workspace::bucket::{BucketError, Manifest, ManifestRef, Uploaded};
use crate::workspace::{Bucket, EVENTS_JSONL, Mark, OUTPUT_MD, RUN_JSON, WorkspaceError};

/// How long the removal of what a manifest no longer names may hold up an attempt's end.
const TIDY: Duration = Duration::from_secs(10);

/// How often mirrors are made anew because something came in between.
const TRIES: usize = 3;

/// What the store says of a run's workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptWorkspace {
    run_id: RunId,
    /// The newest manifest; none while nothing was uploaded.
    manifest: Option<KeptManifest>,
    /// Files that are newer than the manifest, and that only one daemon has.
    owed: Option<Owed>,
    at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeptManifest {
    fence: u64,
    hash: String,
    /// The length of the manifest itself.
    bytes: u64,
    workspace_bytes: u64,
    workspace_files: u64,
}

/// An attempt whose workspace could not be uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owed {
    daemon: String,
    fence: u64,
    why: String,
}

impl Entity for KeptWorkspace {
    const KIND: Kind = Kind::Workspace;

    fn index(&self, _now: Timestamp) -> Index {
        Index { run: Some(self.run_id.clone()), ..Index::default() }
    }
}

impl KeptWorkspace {
    /// The manifest that it names.
    pub(super) fn reference(&self) -> Option<ManifestRef> {
        let of = self.manifest.as_ref()?;
        Some(ManifestRef { fence: of.fence, hash: blake3::Hash::from_hex(&of.hash).ok()?, bytes: of.bytes })
    }

    /// Whether a daemon's own directory, which it marked so, is the workspace that counts.
    pub(super) fn is_in(&self, mark: &Mark, daemon: &str) -> bool {
        match (&self.owed, &self.manifest) {
            (Some(owed), _) => owed.daemon == daemon && mark.is_of_fence(daemon, owed.fence),
            (None, Some(manifest)) => mark.is_of_manifest(daemon, &manifest.hash),
            (None, None) => false,
        }
    }

    /// What is to be said to whoever looks at it from elsewhere.
    pub(super) fn note(&self) -> Option<String> {
        let owed = self.owed.as_ref()?;
        Some(format!("what the latest attempt left could not be uploaded and is on daemon {} only: {}", owed.daemon, owed.why))
    }
}

/// Names the record of a run's workspace.
pub(super) fn id_of(run: &RunId) -> RecordId {
    RecordId::new(Kind::Workspace, run.as_str())
}

/// What an attempt left, as it is to be kept with its outcome.
#[derive(Clone, Debug)]
pub(super) enum Left {
    /// There is no bucket, or the attempt had no workspace.
    Nothing,
    /// It is in the bucket.
    Uploaded(Uploaded),
    /// The bucket did not take it, and why.
    Owed(String),
}

impl Left {
    /// The mark of the directory that it was.
    pub(super) fn mark(&self, daemon: &str, fence: u64) -> Option<Mark> {
        match self {
            Left::Nothing => None,
            Left::Uploaded(uploaded) => Some(Mark::left(daemon, fence, Some(uploaded.reference.hash.to_string()))),
            Left::Owed(_) => Some(Mark::left(daemon, fence, None)),
        }
    }

    /// Writes it as the run's workspace. Whoever calls makes the change stand or fall with the lease, or with what else it depends on.
    ///
    /// # Errors
    /// The record is not loaded yet.
    pub(super) fn keep(&self, txn: &mut Txn<'_>, run: &RunId, daemon: &str, fence: u64) -> Step<()> {
        let id = id_of(run);
        let before = match self {
            Left::Nothing => return Ok(()),
            _ => txn.get::<KeptWorkspace, ManagerError>(&id)?,
        };
        let now = match self {
            Left::Nothing => return Ok(()),
            Left::Uploaded(uploaded) => kept(run, uploaded, txn.now()),
            Left::Owed(why) => KeptWorkspace {
                run_id: run.clone(),
                manifest: before.as_ref().and_then(|before| before.manifest.clone()),
                owed: Some(Owed { daemon: daemon.to_owned(), fence, why: why.clone() }),
                at: txn.now(),
            },
        };
        txn.put(id, Arc::new(now))
    }
}

fn kept(run: &RunId, uploaded: &Uploaded, at: Timestamp) -> KeptWorkspace {
    let (of, usage) = (uploaded.reference, uploaded.manifest.usage());
    let manifest = KeptManifest {
        fence: of.fence,
        hash: of.hash.to_string(),
        bytes: of.bytes,
        workspace_bytes: usage.bytes,
        workspace_files: usage.entries,
    };
    KeptWorkspace { run_id: run.clone(), manifest: Some(manifest), owed: None, at }
}

impl Inner {
    /// What the store says of a run's workspace.
    ///
    /// # Errors
    /// The store does not answer.
    pub(super) async fn kept(&self, run: &RunId) -> Result<Option<KeptWorkspace>, StoreError> {
        match self.store.get(&[id_of(run)]).await?.pop().flatten() {
            Some(record) => record.decode().map(Some),
            None => Ok(None),
        }
    }

    /// Whether this daemon's own directory is the workspace that counts: where an attempt executes here, where nothing else is known, and
    /// where it is as the record says.
    pub(super) async fn has_workspace(&self, run: &RunId, path: &str, kept: Option<&KeptWorkspace>) -> Result<bool, ManagerError> {
        let Some(kept) = kept else { return Ok(true) };
        if self.live.get(run).is_some() {
            return Ok(true);
        }
        let (workspaces, path) = (self.workspaces.clone(), path.to_owned());
        let mark = self.blocking(move || workspaces.marked(&path)).await?;
        Ok(mark.is_some_and(|mark| kept.is_in(&mark, self.settings().worker.daemon())))
    }

    /// Removes what a manifest that counts now made superfluous. What cannot be removed goes with the run.
    pub(super) async fn tidy(&self, bucket: &Bucket, run: &RunId, uploaded: &Uploaded) {
        // The first attempt has replaced nothing.
        if uploaded.reference.fence < 2 {
            return;
        }
        match tokio::time::timeout(TIDY, bucket.tidy(run, uploaded.reference, &uploaded.manifest)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%run, %error, "what a newer manifest replaced was not removed; it goes with the run"),
            Err(_) => tracing::debug!(%run, "what a newer manifest replaced was not removed in time; it goes with the run"),
        }
    }

    /// Writes the mirrors of a run that has ended into its workspace in the bucket, if it still has ended as they tell.
    pub(super) async fn mirror_to_bucket(&self, bucket: &Arc<Bucket>, mirrors: &Mirrors) -> Result<(), ManagerError> {
        for _ in 0..TRIES {
            let kept = self.kept(&mirrors.run).await?;
            // Who owes the files uploads them with the mirrors of then.
            if kept.as_ref().is_some_and(|kept| kept.owed.is_some()) {
                return Ok(());
            }
            let reference = kept.as_ref().and_then(KeptWorkspace::reference);
            let base = match reference {
                Some(reference) => Some(bucket.manifest(&mirrors.run, reference).await.map_err(host)?),
                None => None,
            };
            let uploaded = self.patched(bucket, mirrors, base.as_deref()).await?;
            if reference.is_some_and(|reference| reference.hash == uploaded.reference.hash) {
                return Ok(());
            }
            if self.replace_kept(&mirrors.run, mirrors.fence, kept, uploaded.clone()).await? {
                self.tidy(bucket, &mirrors.run, &uploaded).await;
                return Ok(());
            }
        }
        Err(ManagerError::Host(format!("the workspace of run {} changes all the while", mirrors.run)))
    }

    async fn patched(&self, bucket: &Bucket, mirrors: &Mirrors, base: Option<&Manifest>) -> Result<Uploaded, ManagerError> {
        let mut files: Vec<(&'static str, Bytes)> = Vec::new();
        let mut add = |name, content: &Option<Vec<u8>>| files.extend(content.clone().map(|content| (name, Bytes::from(content))));
        add(RUN_JSON, &mirrors.run_json);
        add(EVENTS_JSONL, &mirrors.events_jsonl);
        // The guest's own answer stays.
        if base.is_none_or(|base| !base.has(OUTPUT_MD)) {
            add(OUTPUT_MD, &mirrors.output.clone().map(String::into_bytes));
        }
        bucket.patch(&mirrors.run, mirrors.fence, base, files).await.map_err(host)
    }

    /// Makes what was uploaded for a run that has ended the workspace that counts; answers whether nothing had come in between.
    pub(super) async fn replace_kept(
        &self,
        run: &RunId,
        fence: u64,
        before: Option<KeptWorkspace>,
        uploaded: Uploaded,
    ) -> Result<bool, ManagerError> {
        let (run_id, reads) = (run.clone(), vec![RecordId::run(run), id_of(run)]);
        let decide = move |txn: &mut Txn<'_>| -> Step<bool> {
            let run = transitions::run_of(txn, &run_id)?;
            let now = txn.get::<KeptWorkspace, ManagerError>(&id_of(&run_id))?;
            if !run.status.is_terminal() || run.lease_generation != fence || now.as_deref() != before.as_ref() {
                return Ok(false);
            }
            txn.put(id_of(&run_id), Arc::new(kept(&run_id, &uploaded, txn.now())))?;
            Ok(true)
        };
        Ok(self.committer.commit(reads, Vec::new(), decide).await?)
    }
}

/// What a bucket's error is to whoever asked the manager.
pub(super) fn host(error: BucketError) -> ManagerError {
    match error {
        BucketError::Workspace(WorkspaceError::NotFound { path }) => ManagerError::not_found("File", path),
        away @ BucketError::Unavailable { .. } => ManagerError::Busy { message: away.to_string(), retry_after: Duration::from_secs(5) },
        other => ManagerError::Host(other.to_string()),
    }
}
