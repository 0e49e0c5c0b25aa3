//! Uploads a workspace: what the last manifest does not name already, then a manifest.
//!
//! How it fails: in any step, and a repetition with the same [`Progress`] uploads only what is not there yet.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use blake3::Hash;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::manifest::{self, Entry, Manifest, What};
use super::scan::{self, Scan};
use super::{AT_ONCE, Bucket, BucketError, GoOn, ManifestRef, blocking, local};
use crate::domain::id::RunId;
use crate::workspace::copy::Fault;
use crate::workspace::{WorkspaceError, beneath};

const DOING: &str = "upload the workspace of";

/// What is uploaded, and by whom.
pub struct Upload {
    /// The run.
    pub run: RunId,
    /// The fence of the attempt.
    pub fence: u64,
    /// The workspace's directory.
    pub dir: Arc<OwnedFd>,
    /// The manifest that counts so far: what it names is not uploaded again.
    pub base: Option<Arc<Manifest>>,
    /// Asked before each step.
    pub may_go_on: GoOn,
}

/// How far an attempt's uploads have come, over repetitions.
#[derive(Default)]
pub struct Progress {
    done: Mutex<HashSet<Hash>>,
    steps: AtomicU64,
}

impl Progress {
    /// Rises with each object that is uploaded.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    fn has(&self, hash: Hash) -> bool {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).contains(&hash)
    }

    fn note(&self, hash: Hash) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).insert(hash);
        self.steps.fetch_add(1, Ordering::Relaxed);
    }
}

/// A workspace that is in the bucket, though nothing says yet that its manifest counts.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// What a record says of it.
    pub reference: ManifestRef,
    /// The manifest.
    pub manifest: Arc<Manifest>,
}

impl Bucket {
    /// Uploads a workspace.
    ///
    /// # Errors
    /// The bucket or the disk refuse, or the attempt may not go on.
    pub async fn upload(&self, of: &Upload, progress: &Progress) -> Result<Uploaded, BucketError> {
        let Scan { entries, mut wanted } = self.scanned(of).await?;
        wanted.retain(|(_, _, hash)| !progress.has(*hash));
        let manifest = Arc::new(Manifest::of(entries).map_err(|why| local(DOING, &of.run, Fault::from(Errno::INVAL)).because(&why))?);
        let uploads = wanted.into_iter().map(|(number, at, hash)| self.piece(of, &manifest, (number, at), hash, progress));
        stream::iter(uploads).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        let reference = self.put_manifest(of, &manifest, progress).await?;
        self.keep(reference.hash, &manifest);
        Ok(Uploaded { reference, manifest })
    }

    /// Uploads a workspace that differs from another only in whole files at its top, and answers with what it is then.
    ///
    /// # Errors
    /// As [`Bucket::upload`].
    pub async fn patch(
        &self,
        run: &RunId,
        fence: u64,
        base: Option<&Manifest>,
        files: Vec<(&'static str, Bytes)>,
    ) -> Result<Uploaded, BucketError> {
        let mut entries = base.map(|base| base.entries().to_vec()).unwrap_or_default();
        let progress = Progress::default();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let modified = (i64::try_from(now.as_secs()).unwrap_or(0), now.subsec_nanos());
        for (name, content) in files {
            let parts: Vec<(Bytes, Hash)> =
                content.chunks(manifest::PIECE_LENGTH).map(|part| (content.slice_ref(part), blake3::hash(part))).collect();
            let there = entries.iter_mut().find(|there| there.parent == 0 && there.name.0 == name.as_bytes());
            let is_same = match there.as_deref().map(|there| &there.what) {
                Some(What::File { pieces, .. }) => pieces.iter().map(|piece| piece.hash).eq(parts.iter().map(|(_, hash)| *hash)),
                // A guest's directory of that name stays, as it would on a disk, where it is renamed.
                Some(What::Dir) => true,
                _ => false,
            };
            if is_same {
                continue;
            }
            let pieces = parts.iter().map(|(_, hash)| manifest::Piece { fence, hash: *hash }).collect();
            for (part, hash) in parts {
                self.put(run, fence, hash, part, &progress).await?;
            }
            let what = What::File { size: content.len() as u64, pieces };
            let entry = Entry { parent: 0, name: manifest::Name(name.as_bytes().to_vec()), mode: 0o644, modified, what };
            match there {
                Some(there) => *there = entry,
                None => entries.push(entry),
            }
        }
        let manifest = Arc::new(Manifest::of(entries).map_err(|why| local(DOING, run, Fault::from(Errno::INVAL)).because(&why))?);
        let reference = self.put_bytes(run, fence, &manifest, &progress).await?;
        Ok(Uploaded { reference, manifest })
    }

    async fn scanned(&self, of: &Upload) -> Result<Scan, BucketError> {
        let known: HashMap<Hash, _> = of.base.iter().flat_map(|base| base.pieces()).map(|piece| (piece.hash, *piece)).collect();
        let _turn = self.scans.acquire().await;
        let (dir, fence, may_go_on) = (Arc::clone(&of.dir), of.fence, Arc::clone(&of.may_go_on));
        let scanned = blocking(move || scan::scan(beneath::directory(&*dir, c".")?, fence, known, &*may_go_on)).await?;
        scanned.map_err(|fault| local(DOING, &of.run, fault))
    }

    async fn piece(
        &self,
        of: &Upload,
        manifest: &Arc<Manifest>,
        (number, at): (u32, u64),
        hash: Hash,
        progress: &Progress,
    ) -> Result<(), BucketError> {
        let size = match manifest.entry(number).map(|entry| &entry.what) {
            Some(What::File { size, .. }) => *size,
            _ => 0,
        };
        let _room = self.room((size - at * manifest::PIECE_BYTES).min(manifest::PIECE_BYTES)).await;
        if !(of.may_go_on)() {
            return Err(local(DOING, &of.run, Fault::Stopped));
        }
        let (dir, names) = (Arc::clone(&of.dir), Arc::clone(manifest));
        let read = blocking(move || {
            let file = scan::open(&dir, &names.parts(number), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
            scan::piece_of(&file, at, size)
        });
        let content = read.await?.map_err(|errno| local(DOING, &of.run, errno.into()))?;
        if blake3::hash(&content) != hash {
            return Err(local(DOING, &of.run, Errno::AGAIN.into()));
        }
        self.put(&of.run, of.fence, hash, content, progress).await
    }

    async fn put(&self, run: &RunId, fence: u64, hash: Hash, content: Bytes, progress: &Progress) -> Result<(), BucketError> {
        let key = self.piece_key(run, fence, hash);
        self.put_object(&key, content).await?;
        progress.note(hash);
        Ok(())
    }

    async fn put_manifest(&self, of: &Upload, manifest: &Arc<Manifest>, progress: &Progress) -> Result<ManifestRef, BucketError> {
        if !(of.may_go_on)() {
            return Err(local(DOING, &of.run, Fault::Stopped));
        }
        self.put_bytes(&of.run, of.fence, manifest, progress).await
    }

    async fn put_bytes(&self, run: &RunId, fence: u64, manifest: &Arc<Manifest>, progress: &Progress) -> Result<ManifestRef, BucketError> {
        let written = Arc::clone(manifest);
        let bytes = blocking(move || written.to_bytes()).await?.map_err(|why| local(DOING, run, Errno::INVAL.into()).because(&why))?;
        let (hash, length) = (blake3::hash(&bytes), bytes.len() as u64);
        if length > manifest::LARGEST {
            return Err(local(DOING, run, Fault::TooLarge));
        }
        let reference = ManifestRef { fence, hash, bytes: length };
        if progress.has(hash) {
            return Ok(reference);
        }
        let key = self.manifest_key(run, fence, hash);
        let _room = self.room(length).await;
        self.put_object(&key, Bytes::from(bytes)).await?;
        progress.note(hash);
        Ok(reference)
    }
}

impl BucketError {
    /// The same with what a scan or a manifest says of it.
    fn because(self, why: &str) -> BucketError {
        match self {
            BucketError::Workspace(WorkspaceError::Io { what, path, .. }) => {
                BucketError::Workspace(WorkspaceError::Io { what, path, source: std::io::Error::other(why.to_owned()) })
            }
            other => other,
        }
    }
}
