//! The façade that the API, the command line and programs go through.

mod configured;
mod files;
mod runs;
mod status;
mod tasks;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::agents::Agents;
use super::error::ManagerError;
use super::inner::{DaemonSettings, Inner};
use super::transitions::Step;
use super::txn::{Known, Txn};
use crate::domain::id::RunId;
use crate::domain::lifecycle::Draft;
use crate::domain::run::Trigger;
use crate::domain::time::Timestamp;
use crate::store::{CountScope, PageRequest, Record, RecordId, Scope, StoreError};

pub use super::signals::RunWatch;
pub use files::WorkspaceListing;
pub use runs::RunWish;
pub use tasks::Registered;

/// The daemon, for those who ask it for something. Cheap to clone.
#[derive(Clone)]
pub struct Manager(Arc<Shared>);

struct Shared {
    inner: Arc<Inner>,
    agents: Option<Arc<Agents>>,
    running: AtomicBool,
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
        Manager(Arc::new(Shared { inner, agents, running: AtomicBool::new(true) }))
    }

    pub(super) fn stop_running(&self) {
        self.0.running.store(false, Ordering::Release);
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

    async fn record(&self, id: RecordId) -> Result<Option<Record>, StoreError> {
        Ok(self.inner().store.get(&[id]).await?.pop().flatten())
    }

    async fn page<T>(
        &self,
        scope: Scope,
        count: CountScope,
        page: PageRequest,
        decode: impl Fn(&Record) -> Result<T, StoreError>,
    ) -> Result<Listing<T>, ManagerError> {
        let total = self.inner().store.counts(count).await?.total;
        let page = self.inner().store.list(scope, page).await?;
        let items = page.records.iter().map(decode).collect::<Result<Vec<T>, StoreError>>()?;
        Ok(Listing { items, total, next: page.next })
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
            trigger_metadata: serde_json::Map::new(),
            default_timeout: self.timeout,
            default_cancel_grace: self.cancel_grace,
            default_max_recoveries: self.max_recoveries,
        }
    }
}
