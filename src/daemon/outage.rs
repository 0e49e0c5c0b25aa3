//! Notices when the store takes nothing, tells of it once, and notices when that is over.
//!
//! Invariant: whoever meets a transient error of the store need not tell of it: its outage has been told, and its end will be. While
//! the store is full nothing new is begun, so that the room that is left is for what runs.
//!
//! A store that is another daemon's by now stays so: every attempt here has lost its lease, and what takes up work ends.
//!
//! How it fails: an outage that nobody's call meets is not noticed, and harms nobody.

use std::mem::discriminant;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::inner::Inner;
use super::live::LiveRuns;
use crate::domain::id::{RunId, WorkerId};
use crate::domain::time::Timestamp;
use crate::sandbox::Stop;
use crate::store::{
    Change, ChangeId, ClaimRequest, Claimed, CountScope, Counts, Due, DueKind, Hint, NumberedEvent, Outcome, Page, PageRequest, Record,
    RecordId, Renewal, Scope, Store, StoreError,
};

/// How often a store that is out is asked whether it is back.
const ASK: Duration = Duration::from_secs(1);

/// Tells of what an error has led to, quietly where the store's outage is the reason and has been told.
macro_rules! tell_unless_out {
    ($error:expr, $level:ident, $($told:tt)+) => {
        if $error.is_outage() { tracing::debug!($($told)+) } else { tracing::$level!($($told)+) }
    };
}
pub(super) use tell_unless_out;

/// Why the store takes nothing at the moment, if that is so.
#[derive(Default)]
pub struct Outage {
    now: watch::Sender<Option<StoreError>>,
    /// A store that this daemon has closed is not out.
    closed: AtomicBool,
    gone: CancellationToken,
}

impl Outage {
    /// Why the store takes nothing; none when all is well as far as is known.
    pub fn reason(&self) -> Option<StoreError> {
        self.now.borrow().clone()
    }

    /// Whether something new may be begun.
    ///
    /// # Errors
    /// The store is full.
    pub fn room(&self) -> Result<(), StoreError> {
        match self.reason() {
            Some(full @ StoreError::Full(_)) => Err(full),
            _ => Ok(()),
        }
    }

    /// Ends when the store is another daemon's.
    pub fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    fn lose(&self, error: &StoreError, live: &LiveRuns) {
        if !self.gone.is_cancelled() {
            self.gone.cancel();
            tracing::error!(%error, "the daemon lost its store: it executes nothing any more and answers only what there is");
            live.stop_all(Stop::LeaseLost);
        }
    }

    fn meet(&self, error: &StoreError) {
        if !error.is_transient() || self.closed.load(Ordering::Acquire) {
            return;
        }
        let is_news = self.now.send_if_modified(|known| {
            // That it is full is the stronger word, for it says what to do.
            let is_news = match known {
                None => true,
                Some(StoreError::Full(_)) => false,
                Some(known) => discriminant(known) != discriminant(error),
            };
            if is_news {
                *known = Some(error.clone());
            }
            is_news
        });
        if is_news {
            tracing::error!(%error, "the store takes nothing new; what runs goes on for as long as its leases can be renewed");
        }
    }

    /// Whether there was an outage.
    fn end(&self) -> bool {
        let was_out = self.now.send_replace(None).is_some();
        if was_out {
            tracing::info!("the store takes everything again");
        }
        was_out
    }
}

/// Asks a store that is out whether it is back, until it is told to stop.
pub async fn watch(inner: Arc<Inner>, stop: CancellationToken) {
    let mut known = inner.outage.now.subscribe();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Ok(_) = known.wait_for(Option::is_some) => {}
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ASK) => {}
        }
        // What waited for the store's end does not wait for its next poll.
        if is_back(&inner).await && inner.outage.end() {
            inner.wakeups.ready.notify_one();
            inner.wakeups.schedules.notify_one();
        }
    }
}

/// Whether a read succeeds, and a claim that wants nothing: a store with little room refuses every claim.
async fn is_back(inner: &Inner) -> bool {
    let mut token = [0; 16];
    inner.entropy.fill(&mut token);
    let claim = ClaimRequest {
        token: ChangeId(u128::from_ne_bytes(token)),
        worker: inner.settings().worker.clone(),
        agents: Vec::new(),
        limit: 0,
        lease: inner.settings().lease,
    };
    inner.store.due(DueKind::Ready, 0).await.is_ok() && inner.store.claim(claim).await.is_ok()
}

/// A store whose errors are noticed.
pub struct Watched {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Where they are noticed.
    pub outage: Arc<Outage>,
    /// What executes under its leases.
    pub live: Arc<LiveRuns>,
}

impl Watched {
    fn seen<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        answer.inspect_err(|error| match error {
            StoreError::TakenOver(_) => self.outage.lose(error, &self.live),
            other => self.outage.meet(other),
        })
    }
}

#[async_trait]
impl Store for Watched {
    async fn apply(&self, changes: Vec<Change>) -> Result<Vec<Outcome>, StoreError> {
        self.seen(self.store.apply(changes).await)
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        self.seen(self.store.claim(request).await)
    }

    async fn renew(&self, worker: &WorkerId, leases: &[(RunId, u64)], lease: Duration) -> Result<Vec<Renewal>, StoreError> {
        self.seen(self.store.renew(worker, leases, lease).await)
    }

    async fn due(&self, what: DueKind, limit: usize) -> Result<Due, StoreError> {
        self.seen(self.store.due(what, limit).await)
    }

    async fn get(&self, ids: &[RecordId]) -> Result<Vec<Option<Record>>, StoreError> {
        self.seen(self.store.get(ids).await)
    }

    async fn list(&self, scope: Scope, page: PageRequest) -> Result<Page, StoreError> {
        self.seen(self.store.list(scope, page).await)
    }

    async fn counts(&self, scope: CountScope) -> Result<Counts, StoreError> {
        self.seen(self.store.counts(scope).await)
    }

    async fn events(&self, run: &RunId, after: u64, limit: usize) -> Result<Vec<NumberedEvent>, StoreError> {
        self.seen(self.store.events(run, after, limit).await)
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.seen(self.store.now().await)
    }

    async fn tell(&self, hint: &Hint) -> Result<(), StoreError> {
        self.store.tell(hint).await
    }

    async fn hints(&self) -> Result<BoxStream<'static, Hint>, StoreError> {
        self.store.hints().await
    }

    async fn close(&self) {
        self.outage.closed.store(true, Ordering::Release);
        self.store.close().await;
    }
}
