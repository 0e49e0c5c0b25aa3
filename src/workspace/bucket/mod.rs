//! Workspaces in an S3-compatible bucket, so that the next attempt of a run can start on any machine and any daemon can show its files.
//!
//! Below the bucket's prefix lies `RUN/FENCE/HASH` for each piece of a file, uploaded by the attempt under that fence, and
//! `RUN/FENCE/manifest-HASH` for what the workspace held when it was uploaded. Which manifest counts is said by a record of the store, and
//! by nothing in the bucket: what an attempt without its lease uploads is named by nobody.
//!
//! Invariants: a key is made of ids, numbers and hashes, never of what a guest named; what is read is checked against the hash by which it
//! was asked for before any of it is used; the pieces in memory at once are bounded, and so are requests. Only this room names object_store.
//!
//! How it fails: with what was done so far left in the bucket, where a repetition goes on; removing the run removes all of it.

mod error;
mod fill;
mod manifest;
mod objects;
#[cfg(feature = "s3")]
mod s3;
mod scan;
mod serve;
mod upload;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use blake3::Hash;
use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};

pub use error::BucketError;
pub use manifest::Manifest;
pub use objects::{ObjectError, Objects};
pub use serve::BucketFile;
pub use upload::{Progress, Upload, Uploaded};

use super::WorkspaceError;
use super::copy::Fault;
use super::error::shown;
use crate::domain::id::RunId;

/// How many mebibytes of pieces are in memory at once, over all runs.
const MEMORY: usize = 32;
/// The fewest that one request counts for; it bounds how many there are at once.
const LEAST: u32 = 1;
/// How many workspaces are read from the disk at once to be uploaded.
const SCANS: usize = 4;
/// How many manifests are kept in memory, and how many names they may have together.
const KEPT: (usize, usize) = (16, 500_000);
/// How many files are downloaded from it at once by those who ask the API; a slow one of them holds up to two pieces in memory.
const DOWNLOADS: usize = 16;
/// How long one more download waits for its turn.
const TURN: Duration = Duration::from_secs(10);
/// How long a request may take, and how many bytes a second are taken into account beside.
const REQUEST: (Duration, u64) = (Duration::from_secs(10), 70_000);
/// How long a listing, or the removal of so many objects, may take.
const MANY: (Duration, usize) = (Duration::from_secs(60), 1000);
/// How many requests of one run are under way at once.
const AT_ONCE: usize = 16;

/// How long a bucket that did not answer is not asked to remove anything: whoever removes much must not wait for each.
const REST: Duration = Duration::from_secs(10);

/// Whether an attempt may go on; asked before each step.
pub type GoOn = Arc<dyn Fn() -> bool + Send + Sync>;

/// Where a bucket is and how it is reached.
#[derive(Clone, Default)]
pub struct BucketOptions {
    /// Its name.
    pub name: String,
    /// What every key begins with: plain segments with slashes between, or nothing.
    pub prefix: String,
    /// The server; none for AWS itself.
    pub endpoint: Option<String>,
    /// The region.
    pub region: String,
    /// Whether the endpoint may be reached without TLS.
    pub allow_http: bool,
    /// The credentials, by the names of the variables of AWS.
    pub credentials: Vec<(String, String)>,
    /// How long an outcome waits for a bucket that takes nothing.
    pub patience: Duration,
}

impl BucketOptions {
    /// What messages call it: `s3://NAME/PREFIX`.
    fn shown(&self) -> String {
        format!("s3://{}/{}", self.name, self.prefix).trim_end_matches('/').to_owned()
    }
}

/// The objects of a bucket of S3 or of what speaks like it.
///
/// # Errors
/// The options make no client, or this sandclock was built without one.
pub fn s3_objects(options: &BucketOptions) -> Result<Arc<dyn Objects>, BucketError> {
    #[cfg(feature = "s3")]
    let made = s3::S3::new(options).map(|made| Arc::new(made) as Arc<dyn Objects>);
    #[cfg(not(feature = "s3"))]
    let made = Err("this sandclock was built without the feature `s3`".to_owned());
    made.map_err(|why| BucketError::Invalid { bucket: options.shown(), why })
}

/// A manifest that counts: under which fence it was uploaded, its hash and its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestRef {
    /// The fence.
    pub fence: u64,
    /// The hash of its bytes.
    pub hash: Hash,
    /// How many bytes it has.
    pub bytes: u64,
}

/// A bucket for workspaces.
pub struct Bucket {
    objects: Arc<dyn Objects>,
    shown: String,
    prefix: String,
    patience: Duration,
    memory: Semaphore,
    downloads: Arc<Semaphore>,
    scans: Semaphore,
    kept: Mutex<VecDeque<(Hash, Arc<Manifest>)>>,
    /// Until when nothing is removed, because it did not answer.
    resting: Mutex<Option<Instant>>,
}

impl Bucket {
    /// A bucket of S3 or of what speaks like it. Nothing is asked of it yet.
    ///
    /// # Errors
    /// The options make no client, or this sandclock was built without one.
    pub fn s3(options: &BucketOptions) -> Result<Bucket, BucketError> {
        Ok(Bucket::of(s3_objects(options)?, &options.shown(), &options.prefix, options.patience))
    }

    /// A bucket of these objects, with what messages call it and what its keys begin with.
    pub fn of(objects: Arc<dyn Objects>, shown: &str, prefix: &str, patience: Duration) -> Bucket {
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let (memory, scans, downloads) = (Semaphore::new(MEMORY), Semaphore::new(SCANS), Arc::new(Semaphore::new(DOWNLOADS)));
        Bucket {
            objects,
            shown: shown.to_owned(),
            prefix,
            patience,
            memory,
            downloads,
            scans,
            kept: Mutex::default(),
            resting: Mutex::default(),
        }
    }

    /// What messages call it: `s3://NAME/PREFIX`.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// How long an outcome waits for a bucket that takes nothing.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Writes, reads, lists and deletes an object, so that a start tells what is wrong. `who` keeps two daemons apart.
    ///
    /// # Errors
    /// The first thing that does not work.
    pub async fn check(&self, who: &str) -> Result<(), BucketError> {
        let (folder, content) = (format!("{}check/{who}", self.prefix), Bytes::from_static(b"sandclock"));
        let key = format!("{folder}/object");
        self.put_object(&key, content.clone()).await?;
        let found = self.get_object(&key, content.len() as u64).await?;
        if found != content {
            return Err(self.corrupt(&key, "it has other bytes"));
        }
        let listed = self.list(&folder).await?;
        self.delete(&folder, listed).await
    }

    /// The manifest that a record names.
    ///
    /// # Errors
    /// It cannot be had, or is not what was uploaded.
    pub async fn manifest(&self, run: &RunId, of: ManifestRef) -> Result<Arc<Manifest>, BucketError> {
        if let Some(kept) = self.known(of.hash) {
            return Ok(kept);
        }
        let key = self.manifest_key(run, of.fence, of.hash);
        if of.bytes > manifest::LARGEST {
            return Err(self.corrupt(&key, "it is too large for a manifest"));
        }
        // Few are large; what does not fit into the bound takes all of it.
        let _room = self.room(of.bytes).await;
        let bytes = self.fetch(&key, of.hash, of.bytes).await?;
        let read = blocking(move || Manifest::from_bytes(&bytes)).await?;
        let read = Arc::new(read.map_err(|why| self.corrupt(&key, &why))?);
        self.keep(of.hash, &read);
        Ok(read)
    }

    /// Removes all that was uploaded for a run, by whatever attempt.
    ///
    /// # Errors
    /// The bucket does not do it; some may be gone then.
    pub async fn remove(&self, run: &RunId) -> Result<(), BucketError> {
        let folder = format!("{}{run}", self.prefix);
        let is_resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until);
        if is_resting {
            return Err(BucketError::Unavailable { bucket: self.shown.clone(), why: "it did not answer a moment ago".to_owned() });
        }
        let removed = match self.list(&folder).await {
            Ok(keys) => self.delete(&folder, keys).await,
            Err(error) => Err(error),
        };
        if removed.as_ref().is_err_and(BucketError::is_transient) {
            *self.resting.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + REST);
        }
        removed
    }

    /// Removes what attempts up to this manifest's have uploaded for a run and it does not name: what was replaced since, and what lost
    /// attempts left. Later attempts are not touched. Only for a manifest that counts.
    ///
    /// # Errors
    /// The bucket does not do it; some may be gone then.
    pub async fn tidy(&self, run: &RunId, of: ManifestRef, manifest: &Manifest) -> Result<(), BucketError> {
        let folder = format!("{}{run}", self.prefix);
        let named: std::collections::HashSet<String> = manifest
            .pieces()
            .map(|piece| self.piece_key(run, piece.fence, piece.hash))
            .chain([self.manifest_key(run, of.fence, of.hash)])
            .collect();
        let mut keys = self.list(&folder).await?;
        let fence_of = |key: &str| key.strip_prefix(&folder)?.strip_prefix('/')?.split('/').next()?.parse::<u64>().ok();
        keys.retain(|key| !named.contains(key) && fence_of(key).is_some_and(|fence| fence <= of.fence));
        self.delete(&folder, keys).await
    }

    fn piece_key(&self, run: &RunId, fence: u64, hash: Hash) -> String {
        format!("{}{run}/{fence}/{hash}", self.prefix)
    }

    fn manifest_key(&self, run: &RunId, fence: u64, hash: Hash) -> String {
        format!("{}{run}/{fence}/manifest-{hash}", self.prefix)
    }

    /// An object of that hash and length.
    async fn fetch(&self, key: &str, hash: Hash, bytes: u64) -> Result<Bytes, BucketError> {
        let content = self.get_object(key, bytes).await?;
        if content.len() as u64 != bytes {
            return Err(self.corrupt(key, "it is shorter"));
        }
        if blake3::hash(&content) != hash {
            return Err(self.corrupt(key, "its hash differs"));
        }
        Ok(content)
    }

    async fn put_object(&self, key: &str, content: Bytes) -> Result<(), BucketError> {
        let bytes = content.len() as u64;
        self.within(time_for(bytes), key, self.objects.put(key, content)).await
    }

    async fn get_object(&self, key: &str, most: u64) -> Result<Bytes, BucketError> {
        self.within(time_for(most), key, self.objects.get(key, most)).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>, BucketError> {
        self.within(MANY.0, folder, self.objects.list(folder)).await
    }

    async fn delete(&self, folder: &str, keys: Vec<String>) -> Result<(), BucketError> {
        for some in keys.chunks(MANY.1) {
            self.within(MANY.0, folder, self.objects.delete(some.to_vec())).await?;
        }
        Ok(())
    }

    /// Asks, and waits so long for the answer.
    async fn within<T>(&self, time: Duration, key: &str, asked: impl Future<Output = Result<T, ObjectError>>) -> Result<T, BucketError> {
        let answered = tokio::time::timeout(time, asked).await;
        let late = |_| ObjectError::Unavailable(format!("it did not answer within {} s", time.as_secs()));
        answered.map_err(late).and_then(|answer| answer).map_err(|error| self.fault(&error, key))
    }

    /// Waits until so many bytes may be in memory.
    async fn room(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        let wanted = u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX).clamp(LEAST, u32::try_from(MEMORY).unwrap_or(LEAST));
        // It is never closed.
        self.memory.acquire_many(wanted).await.ok()
    }

    fn known(&self, hash: Hash) -> Option<Arc<Manifest>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(of, _)| *of == hash)?;
        let found = kept.remove(at)?;
        let manifest = Arc::clone(&found.1);
        kept.push_back(found);
        Some(manifest)
    }

    /// Keeps a manifest in memory, for those who list it page by page.
    fn keep(&self, hash: Hash, manifest: &Arc<Manifest>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back((hash, Arc::clone(manifest)));
        let names = |kept: &VecDeque<(Hash, Arc<Manifest>)>| kept.iter().map(|(_, manifest)| manifest.entries().len()).sum::<usize>();
        while kept.len() > 1 && (kept.len() > KEPT.0 || names(&kept) > KEPT.1) {
            kept.pop_front();
        }
    }

    fn fault(&self, error: &ObjectError, key: &str) -> BucketError {
        let (bucket, key) = (self.shown.clone(), key.to_owned());
        match error {
            ObjectError::Unavailable(why) => BucketError::Unavailable { bucket, why: why.clone() },
            ObjectError::Refused(why) => BucketError::Refused { bucket, why: why.clone() },
            ObjectError::Missing => BucketError::Missing { bucket, key },
            ObjectError::TooLarge => BucketError::Corrupt { bucket, key, why: "it is longer".to_owned() },
        }
    }

    fn corrupt(&self, key: &str, why: &str) -> BucketError {
        BucketError::Corrupt { bucket: self.shown.clone(), key: key.to_owned(), why: why.to_owned() }
    }
}

/// How long an object of so many bytes may take.
fn time_for(bytes: u64) -> Duration {
    REQUEST.0 + Duration::from_secs(bytes / REQUEST.1)
}

/// Does work that blocks, away from the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, BucketError> {
    let abandoned = |error: tokio::task::JoinError| WorkspaceError::io("work on", "a workspace", std::io::Error::other(error.to_string()));
    tokio::task::spawn_blocking(work).await.map_err(|error| abandoned(error).into())
}

/// What went wrong with a run's directory on this machine.
fn local(what: &'static str, run: &RunId, fault: Fault) -> BucketError {
    let path = shown(run.as_str());
    BucketError::Workspace(match fault {
        Fault::Os(errno) => WorkspaceError::io(what, run.as_str(), errno),
        Fault::TooLarge => WorkspaceError::io(what, run.as_str(), std::io::Error::other("it has more names than a manifest can hold")),
        Fault::Stopped => WorkspaceError::Stopped { path },
    })
}
