//! The façade that the API, the command line and programs go through.

mod approvals;
mod budget;
mod bulk;
mod checkpoints;
mod configured;
mod denied;
mod deploy;
mod files;
mod memory;
mod registered;
mod runs;
mod status;
mod tasks;
mod why;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use super::agents::Agents;
use super::error::ManagerError;
use super::idempotency::{Answered, Once};
use super::inner::{DaemonSettings, Inner};
use super::reload::ConfigurationReport;
use super::transitions::Step;
use super::txn::{Known, Txn};
use crate::domain::id::RunId;
use crate::domain::idempotency::IdempotencyKey;
use crate::domain::lifecycle::Draft;
use crate::domain::run::Trigger;
use crate::domain::time::Timestamp;
use crate::store::{PageRequest, Record, RecordId, Scope, StoreError};

pub use super::deployment::{Back, Wish};
pub use super::signals::RunWatch;
pub use super::upload::Upload;
pub use approvals::{Decided, Waiting, Word};
pub use budget::GrantWish;
pub use bulk::{BulkCursor, BulkDone, BulkPreview, BulkVerb};
pub use deploy::Deployed;
pub use files::{FileContent, WorkspaceFile, WorkspaceListing};
pub use registered::refuse_secrets;
pub use runs::RunWish;
pub use tasks::Registered;

/// How many records are read at a time.
const PAGE_PART: usize = 100;
/// How many components may come in at once.
const UPLOADS: usize = 4;
/// A page ends with the record that passes this many bytes.
const PAGE_BYTES: usize = 8 * 1024 * 1024;

/// The daemon, for those who ask it for something. Cheap to clone.
#[derive(Clone)]
pub struct Manager(Arc<Shared>);

struct Shared {
    inner: Arc<Inner>,
    agents: Option<Arc<Agents>>,
    running: AtomicBool,
    /// How many more components may come in at once.
    uploads: Arc<Semaphore>,
    configuration: ArcSwap<ConfigurationReport>,
}

/// A page of something, and how much of it there is in all.
#[derive(Clone, Debug)]
pub struct Listing<T> {
    /// The page.
    pub items: Vec<T>,
    /// How many there are in all.
    pub total: u64,
    /// Where the next page starts; none when this is the last.
    pub next: Option<i64>,
}

impl Manager {
    pub(super) fn new(inner: Arc<Inner>, agents: Option<Arc<Agents>>) -> Self {
        let none = ConfigurationReport { file: None, read_at: inner.clock.now(), faults: Vec::new(), next_start: Vec::new() };
        let (running, uploads) = (AtomicBool::new(true), Arc::new(Semaphore::new(UPLOADS)));
        Manager(Arc::new(Shared { inner, agents, running, uploads, configuration: ArcSwap::from_pointee(none) }))
    }

    pub(super) fn stop_running(&self) {
        self.0.running.store(false, Ordering::Release);
    }

    /// How the configuration stands.
    pub fn configuration(&self) -> Arc<ConfigurationReport> {
        self.0.configuration.load_full()
    }

    pub(super) fn note_configuration(&self, report: ConfigurationReport) {
        self.0.configuration.store(Arc::new(report));
    }

    /// Puts other settings into force, as far as a running daemon takes them.
    pub(super) fn configure(&self, settings: DaemonSettings) {
        self.inner().configure(settings);
    }

    fn is_running(&self) -> bool {
        self.0.running.load(Ordering::Acquire)
    }

    fn inner(&self) -> &Arc<Inner> {
        &self.0.inner
    }

    fn now(&self) -> Timestamp {
        self.0.inner.clock.now()
    }

    async fn commit<T: Send + 'static>(
        &self,
        reads: Vec<RecordId>,
        known: Vec<Known>,
        decide: impl FnMut(&mut Txn<'_>) -> Step<T> + Send + 'static,
    ) -> Result<T, ManagerError> {
        Ok(self.inner().committer.commit(reads, known, decide).await?)
    }

    /// A request under a key. Whoever asks again asks for the same, whatever daemon made it.
    async fn once(&self, key: IdempotencyKey) -> Once {
        let inner = self.inner();
        inner.admission.refresh(&*inner.store, &*inner.clock).await;
        Once::new(key, inner.entropy.hex_name(), inner.settings().bounds.idempotency, Arc::clone(&inner.admission))
    }

    /// What was answered to a request before, if anything.
    async fn answered<T: DeserializeOwned + Send + 'static>(&self, once: &Once) -> Result<Option<Answered<T>>, ManagerError> {
        let once = once.clone();
        self.commit(vec![once.id()], Vec::new(), move |txn| once.answered(txn)).await
    }

    async fn record(&self, id: RecordId) -> Result<Option<Record>, StoreError> {
        Ok(self.inner().store.get(&[id]).await?.pop().flatten())
    }

    /// A page that is also bounded in bytes: a thousand records may each be large.
    async fn page<T>(
        &self,
        scope: Scope,
        page: PageRequest,
        decode: impl Fn(&Record) -> Result<T, StoreError>,
    ) -> Result<(Vec<T>, Option<i64>), ManagerError> {
        let mut items = Vec::new();
        let mut bytes = 0;
        let mut after = page.after;
        loop {
            let limit = (page.limit - items.len()).min(PAGE_PART);
            let part = self.inner().store.list(scope.clone(), PageRequest { after, limit, ..page }).await?;
            for record in &part.records {
                bytes += record.body.len();
                items.push(decode(record)?);
            }
            if part.next.is_none() || items.len() >= page.limit || bytes >= PAGE_BYTES {
                return Ok((items, part.next));
            }
            after = part.next;
        }
    }

    /// Counts what has no count of its own, page by page.
    async fn count(&self, scope: &Scope) -> Result<u64, ManagerError> {
        let mut page = PageRequest::first(PAGE_PART);
        let mut count = 0;
        loop {
            let part = self.inner().store.list(scope.clone(), page).await?;
            count += part.records.len() as u64;
            match part.next {
                Some(after) => page.after = Some(after),
                None => return Ok(count),
            }
        }
    }
}

impl DaemonSettings {
    /// A run that is to be made, with this daemon's defaults.
    pub(super) fn draft(&self, run_id: RunId, trigger: Trigger, due_at: Option<Timestamp>, occurrence_id: Option<String>) -> Draft {
        Draft {
            run_id,
            trigger,
            due_at,
            occurrence_id,
            query: None,
            by: None,
            trigger_metadata: serde_json::Map::new(),
            default_timeout: self.timeout,
            default_cancel_grace: self.cancel_grace,
            default_max_recoveries: self.max_recoveries,
        }
    }
}
