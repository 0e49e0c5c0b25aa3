//! A store whose calls can fail before a commit, or lose the answer after it.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::stream::BoxStream;
use sandclock::domain::id::WorkerId;
use sandclock::domain::time::Timestamp;
use sandclock::store::{
    Change, ChangeId, ClaimRequest, Claimed, CountScope, Counts, Due, DueKind, Guard, Hint, Kind, NumberedEvent, Outcome, Page,
    PageRequest, Record, RecordId, Renewal, Scope, Store, StoreError,
};
use tokio::sync::RwLock;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;

/// What happens to a call.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    /// It is not carried out.
    Before,
    /// It is carried out and the answer is lost.
    After,
    /// It is not carried out, and no answer ever comes.
    Never,
    /// There is no room for it.
    Full,
}

pub type Plan = Box<dyn FnMut(&'static str) -> Option<Fault> + Send>;

/// A store whose calls fail as planned. It outlives the daemons that close it.
pub struct Faulty {
    store: Arc<dyn Store>,
    planned: Arc<Planned>,
}

impl Deref for Faulty {
    type Target = Planned;
    fn deref(&self) -> &Planned {
        &self.planned
    }
}

/// What happens to the calls of a store, whichever connection they come by.
pub struct Planned {
    pub plan: Mutex<Plan>,
    /// Changes wait before it while a test holds it.
    pub gate: RwLock<()>,
    pub at_gate: AtomicU32,
    /// How often each run's lease was renewed.
    pub renewed: Mutex<HashMap<RunId, u32>>,
}

impl Planned {
    /// Makes the next change and loses its answer; nothing can be read from then on, until the flag is cleared. Tells of each read that is
    /// tried in vain.
    pub fn lose_an_answer(&self) -> (UnboundedReceiver<()>, Arc<AtomicBool>) {
        let (told, heard) = unbounded_channel();
        let away = Arc::new(AtomicBool::new(false));
        let is_away = Arc::clone(&away);
        let mut is_first = true;
        *self.plan.lock().unwrap() = Box::new(move |call| match call {
            "apply" if std::mem::take(&mut is_first) => {
                is_away.store(true, Ordering::SeqCst);
                Some(Fault::After)
            }
            "get" if is_away.load(Ordering::SeqCst) => {
                let _ = told.send(());
                Some(Fault::Before)
            }
            _ => None,
        });
        (heard, away)
    }
}

impl Faulty {
    /// A store whose calls all succeed as yet.
    pub fn new(store: Arc<dyn Store>) -> Arc<Faulty> {
        let planned = Planned {
            plan: Mutex::new(Box::new(|_| None)),
            gate: RwLock::default(),
            at_gate: AtomicU32::new(0),
            renewed: Mutex::default(),
        };
        Arc::new(Faulty { store, planned: Arc::new(planned) })
    }

    /// The store itself, to which nothing happens that is not asked for.
    pub fn behind(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    /// The same store by a connection of its own; what is planned happens to its calls too.
    pub fn by(&self, store: Arc<dyn Store>) -> Arc<Faulty> {
        Arc::new(Faulty { store, planned: Arc::clone(&self.planned) })
    }

    /// Returns when nothing waits at the store that somebody asked for who is not there any more.
    pub async fn settle(&self) {
        let nobody = Guard::Held(RunId::parse("run_00000000000000000000000000000000").unwrap(), 1);
        let change = Change { id: ChangeId(0), guards: vec![nobody], puts: Vec::new(), deletes: Vec::new(), events: Vec::new() };
        // Changes and claims are taken in turn, so this one is behind them.
        assert!(matches!(self.store.apply(vec![change]).await.as_deref(), Ok([Outcome::Refused(_)])));
    }

    fn fault(&self, call: &'static str) -> Option<Fault> {
        (self.plan.lock().unwrap())(call)
    }

    async fn through<T>(&self, call: &'static str, made: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let lost = Err(StoreError::Unavailable("the connection broke, as the test wants".to_owned()));
        match self.fault(call) {
            None => made.await,
            Some(Fault::Before) => lost,
            Some(Fault::After) => made.await.and(lost),
            Some(Fault::Never) => std::future::pending().await,
            Some(Fault::Full) => Err(StoreError::Full("no room, as the test wants".to_owned())),
        }
    }
}

#[async_trait]
impl Store for Faulty {
    async fn apply(&self, changes: Vec<Change>) -> Result<Vec<Outcome>, StoreError> {
        self.at_gate.fetch_add(1, Ordering::SeqCst);
        let _open = self.gate.read().await;
        let deletes_a_run = changes.iter().flat_map(|change| &change.deletes).any(|id| id.kind == Kind::Run);
        self.through(if deletes_a_run { "delete" } else { "apply" }, self.store.apply(changes)).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        self.through("claim", self.store.claim(request)).await
    }

    async fn renew(&self, worker: &WorkerId, leases: &[(RunId, u64)], lease: Duration) -> Result<Vec<Renewal>, StoreError> {
        let renewals = self.through("renew", self.store.renew(worker, leases, lease)).await?;
        let mut renewed = self.renewed.lock().unwrap();
        for ((run, _), renewal) in leases.iter().zip(&renewals) {
            *renewed.entry(run.clone()).or_default() += u32::from(*renewal != Renewal::Lost);
        }
        drop(renewed);
        Ok(renewals)
    }

    async fn due(&self, what: DueKind, limit: usize) -> Result<Due, StoreError> {
        self.through("due", self.store.due(what, limit)).await
    }

    async fn get(&self, ids: &[RecordId]) -> Result<Vec<Option<Record>>, StoreError> {
        self.through("get", self.store.get(ids)).await
    }

    async fn list(&self, scope: Scope, page: PageRequest) -> Result<Page, StoreError> {
        self.store.list(scope, page).await
    }

    async fn counts(&self, scope: CountScope) -> Result<Counts, StoreError> {
        self.store.counts(scope).await
    }

    async fn events(&self, run: &RunId, after: u64, limit: usize) -> Result<Vec<NumberedEvent>, StoreError> {
        self.store.events(run, after, limit).await
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.store.now().await
    }

    async fn tell(&self, hint: &Hint) -> Result<(), StoreError> {
        self.store.tell(hint).await
    }

    async fn hints(&self) -> Result<BoxStream<'static, Hint>, StoreError> {
        self.store.hints().await
    }

    async fn close(&self) {}
}
