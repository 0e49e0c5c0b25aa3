//! The MongoDB store: one replica set, any number of daemons.
//!
//! Invariants:
//! - A batch is one transaction on a snapshot. What it read and relied on is written or touched by it, so that of two that met one begins
//!   anew and decides on what the other left.
//! - Every write is acknowledged by the majority and in its journal. Records are read as the majority has them, leases as the primary has
//!   them: a renewal that is on its way keeps others from taking the run.
//! - A leased run has one narrow document among the leases, made and deleted in a commit that writes the run; a renewal writes nothing else.
//!   It holds only if that document is still there, its fence too, and has not passed by the server's clock.
//! - The server's clock alone judges: `$$NOW`, in milliseconds, asked for in the statement that reads what is judged.
//!
//! How it fails: a transaction that met another is begun anew, some times and with pauses of chance; one that was left open is aborted by
//! whoever meets it. A commit whose answer was lost is
//! asked for again; if that does not help either, its session is ended before the next [`Store::get`], so that what is read then is final.

mod abandoned;
mod claim;
mod connect;
mod documents;
mod errors;
mod pipelines;
mod read;
mod report;
mod transaction;
mod wholes;
mod write;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ::mongodb::bson::{Binary, Document, doc, spec::BinarySubtype};
use ::mongodb::change_stream::ChangeStream;
use ::mongodb::change_stream::event::ChangeStreamEvent;
use ::mongodb::options::{Acknowledgment, WriteConcern};
use ::mongodb::{Client, Collection};
use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::Semaphore;

use super::report::Report;
use super::request::Times;
use super::server::ServerClock;
use super::{
    Change, ClaimRequest, Claimed, CountScope, Counts, Due, DueKind, Hint, NumberedEvent, Outcome, Page, PageRequest, Record, RecordId,
    Renewal, Scope, Store, StoreError,
};
use crate::domain::id::{RunId, WorkerId};
use crate::domain::time::Timestamp;
use connect::Renewing;
use documents::{CountDoc, EventDoc, LeaseDoc, RecordDoc};
use errors::Server;

/// The database that is used where none is named.
pub const DATABASE: &str = "sandclock";

/// The longest that a statement works on the server.
const STATEMENT: Duration = Duration::from_secs(8);

/// Answers come in one message as far as it has room.
const AT_ONCE: u32 = i32::MAX as u32;

/// The longest that a call takes, beginning anew and lost packets included.
const CALL: Duration = Duration::from_secs(20);

/// For how long the server's present is reckoned before it is asked again.
const PRESENT: Duration = Duration::from_secs(10);

/// Who is told of each command that is sent: its name, and the command.
pub type OnCommand = Arc<dyn Fn(&str, &Document) + Send + Sync>;

/// Where in a MongoDB a store is.
#[derive(Clone, Default)]
pub struct MongoOptions {
    /// The database; none for the one that the URL names, or else [`DATABASE`].
    pub database: Option<String>,
    /// What the names of the collections begin with, so that stores share a database.
    pub prefix: String,
    /// Who is told of each command.
    pub on_command: Option<OnCommand>,
}

/// A store in a MongoDB.
pub struct MongoStore {
    clock: ServerClock,
    /// When the server last told its present.
    told_at: Mutex<Option<Instant>>,
    server: Server,
    client: Client,
    tables: Tables,
    /// The leases by way of the renewals' connections.
    renewed: OnceLock<Collection<LeaseDoc>>,
    /// How those are made.
    renewing: Renewing,
    /// Changes of one daemon would only meet each other.
    applying: Semaphore,
    /// Claims too.
    claiming: Semaphore,
    /// Which parts of the counts are this daemon's.
    part: u32,
    /// What every fence that is given lies above.
    fences_above: AtomicU64,
    /// Sessions with a commit whose answer was lost.
    doubtful: Mutex<Vec<Document>>,
}

/// The collections.
struct Tables {
    /// Records of all kinds, as the majority has them.
    records: Collection<RecordDoc>,
    /// The leases of leased runs, as the primary has them.
    leases: Collection<LeaseDoc>,
    /// Events by run and number.
    events: Collection<EventDoc>,
    /// Counts by scope and part.
    counts: Collection<CountDoc>,
    /// The schema's version, the last order, and the like: one document each, as the majority has them.
    meta: Collection<Document>,
    /// The same as the primary has them.
    meta_now: Collection<Document>,
    /// What daemons tell each other; the oldest give way.
    hints: Collection<Document>,
}

/// What every write waits for.
fn durable() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build()
}

fn bytes(bytes: Vec<u8>) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes }
}

/// As many as a statement may ask for; it has no way to ask for none.
fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX).clamp(1, 1 << 30)
}

impl MongoStore {
    /// Connects, and makes the collections and their indexes where there are none.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the server cannot be reached now, [`StoreError::Invalid`] for what no waiting mends.
    pub async fn connect(url: &str, options: &MongoOptions, clock: ServerClock) -> Result<Self, StoreError> {
        connect::connect(url, options, clock).await
    }

    /// Looks at the server and at the store in the database, which is not made where there is none.
    ///
    /// # Errors
    /// As [`MongoStore::connect`].
    pub async fn look(url: &str, options: &MongoOptions) -> Result<Report, StoreError> {
        report::look(url, options).await
    }

    /// Takes in what the server told in an answer, in microseconds; none when its collections are gone.
    fn tell(&self, now: Option<i64>) -> Result<Times, StoreError> {
        let now = now.ok_or_else(|| self.server.gone())?;
        *self.told_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(self.clock.tell(Timestamp::from_micros(now)))
    }

    /// Bounds a call in time.
    async fn bounded<T>(&self, call: impl Future<Output = Result<T, StoreError>> + Send) -> Result<T, StoreError> {
        match tokio::time::timeout(CALL, call).await {
            Ok(answer) => answer,
            Err(_) => Err(self.server.unavailable(&format!("it did not answer within {} s", CALL.as_secs()))),
        }
    }

    /// Ends what is left of commits whose answers were lost, and waits until the majority has all that is committed.
    async fn settle(&self) -> Result<(), StoreError> {
        let doubtful = std::mem::take(&mut *self.doubtful.lock().unwrap_or_else(PoisonError::into_inner));
        if doubtful.is_empty() {
            return Ok(());
        }
        let ended = self.end_sessions(&doubtful).await;
        if ended.is_err() {
            self.doubtful.lock().unwrap_or_else(PoisonError::into_inner).extend(doubtful);
        }
        ended
    }

    async fn end_sessions(&self, sessions: &[Document]) -> Result<(), StoreError> {
        let kill = doc! { "killSessions": sessions.to_vec() };
        self.client.database("admin").run_command(kill).await.map_err(|error| self.server.failed(&error))?;
        let barrier = self.tables.meta.update_one(doc! { "_id": "barrier" }, doc! { "$inc": { "n": 1_i64 } });
        barrier.upsert(true).await.map_err(|error| self.server.failed(&error))?;
        Ok(())
    }
}

#[async_trait]
impl Store for MongoStore {
    async fn apply(&self, changes: Vec<Change>) -> Result<Vec<Outcome>, StoreError> {
        changes.iter().try_for_each(Change::check)?;
        self.bounded(self.apply_all(&changes)).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        self.bounded(self.claim_all(&request)).await
    }

    async fn renew(&self, worker: &WorkerId, leases: &[(RunId, u64)], lease: Duration) -> Result<Vec<Renewal>, StoreError> {
        self.bounded(self.renew_all(worker, leases, lease)).await
    }

    async fn due(&self, what: DueKind, limit: usize) -> Result<Due, StoreError> {
        self.bounded(self.read_due(&what, limit)).await
    }

    async fn get(&self, ids: &[RecordId]) -> Result<Vec<Option<Record>>, StoreError> {
        let read = async {
            self.settle().await?;
            self.read_records(ids).await
        };
        self.bounded(read).await
    }

    async fn list(&self, scope: Scope, page: PageRequest) -> Result<Page, StoreError> {
        self.bounded(self.read_page(&scope, page)).await
    }

    async fn counts(&self, scope: CountScope) -> Result<Counts, StoreError> {
        self.bounded(self.read_counts(&scope)).await
    }

    async fn events(&self, run: &RunId, after: u64, limit: usize) -> Result<Vec<NumberedEvent>, StoreError> {
        self.bounded(self.read_events(run, after, limit)).await
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        let told_at = *self.told_at.lock().unwrap_or_else(PoisonError::into_inner);
        if told_at.is_some_and(|at| at.elapsed() < PRESENT)
            && let Some(now) = self.clock.now()
        {
            return Ok(now);
        }
        self.bounded(self.read_now()).await
    }

    async fn tell(&self, hint: &Hint) -> Result<(), StoreError> {
        let told = self.tables.hints.insert_one(doc! { "hint": hint.to_text() });
        self.bounded(async { told.await.map(drop).map_err(|error| self.server.failed(&error)) }).await
    }

    async fn hints(&self) -> Result<BoxStream<'static, Hint>, StoreError> {
        let told = self.bounded(async { self.tables.hints.watch().await.map_err(|error| self.server.failed(&error)) }).await?;
        let next = async |mut told: ChangeStream<ChangeStreamEvent<Document>>| loop {
            let text = told.next().await?.ok()?.full_document;
            if let Some(hint) = text.as_ref().and_then(|told| Hint::of_text(told.get_str("hint").ok()?)) {
                return Some((hint, told));
            }
        };
        Ok(Box::pin(futures::stream::unfold(told, next)))
    }

    fn begin_fences_above(&self, fence: u64) {
        self.fences_above.store(fence, Ordering::Relaxed);
    }

    async fn close(&self) {
        // Those of renewals have ended with the thread that made them, or end with this process.
        if tokio::time::timeout(CALL, self.client.clone().shutdown()).await.is_err() {
            tracing::warn!("the connections to {} did not close in time", self.server);
        }
    }
}
