//! The SQLite store: one file, one daemon.
//!
//! Invariants: one thread writes, all others read; what was acknowledged is on the disk (write-ahead log, `synchronous = FULL`);
//! a second daemon cannot open the file while the first has it.
//!
//! How it fails: a full disk is [`StoreError::Full`] and an unreadable one [`StoreError::Unavailable`]; the store goes on by itself
//! when that has passed. Before the disk is full, claims are refused as if it were.

mod bind;
mod open;
mod report;
mod room;
mod statements;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _, Sqlite};
use tokio::sync::{mpsc, oneshot};

use super::super::report::{Commits, Report, Schema};
use super::super::request::Times;
use super::super::{
    Change, ChangeId, ClaimRequest, Claimed, CountScope, Counts, Due, DueKind, NumberedEvent, Outcome, Page, PageRequest, Record, RecordId,
    Renewal, Scope, Store, StoreError,
};
use super::lists::PageQuery;
use super::names;
use super::rows::{self, Fields, number};
use crate::clock::Clock;
use crate::domain::id::{RunId, WorkerId};
use crate::domain::time::Timestamp;
pub use open::OpenError;
use room::Room;
use writer::{Renew, Work, Writer};

type SqliteQuery<'q> = Query<'q, Sqlite, SqliteArguments>;

/// How many connections read.
const READERS: u32 = 3;

/// How many requests wait for the writer before whoever asks waits too.
const WAITING: usize = 64;

/// A store in a SQLite file.
pub struct SqliteStore {
    clock: Arc<dyn Clock>,
    readers: SqlitePool,
    doors: Mutex<Option<Doors>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    statements: Arc<AtomicU64>,
    lock: Mutex<Option<File>>,
}

/// The ways to the writer.
#[derive(Clone)]
struct Doors {
    renewals: mpsc::Sender<Renew>,
    work: mpsc::Sender<Work>,
}

impl SqliteStore {
    /// Opens the store in this file, which is made with its directory if there is none.
    ///
    /// # Errors
    /// Another daemon has the file, it is not a sandclock store, it is damaged, or the system does not let us.
    pub async fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let unusable = |what: String| OpenError::Unusable { path: path.to_owned(), what };
        let file = path.to_owned();
        let prepared = tokio::task::spawn_blocking(move || open::prepare(&file)).await.map_err(|error| unusable(error.to_string()))?;
        let open::Claimed { path: file, lock } = prepared?;
        let opened = open::open(&file).await?;
        let options = open::options(&file);
        let statements = Arc::new(AtomicU64::new(0));
        let writer = Writer::new(options.clone(), opened, Room::of(&file), Arc::clone(&clock), Arc::clone(&statements));
        let (renewals, renewals_in) = mpsc::channel(WAITING);
        let (work, work_in) = mpsc::channel(WAITING);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(|error| unusable(error.to_string()))?;
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || runtime.block_on(writer.run(renewals_in, work_in)))
            .map_err(|error| unusable(error.to_string()))?;
        Ok(SqliteStore {
            clock,
            readers: readers(options),
            doors: Mutex::new(Some(Doors { renewals, work })),
            writer: Mutex::new(Some(thread)),
            statements,
            lock: Mutex::new(Some(lock)),
        })
    }

    /// Opens a store that is there to read it, also while a daemon has it. Nothing can be written through it.
    ///
    /// # Errors
    /// There is no sandclock store of this version in the file.
    pub async fn open_to_read(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        if !report::look(path).await?.schema.is_some_and(Schema::is_current) {
            let what = "there is no store of this version in it yet".to_owned();
            return Err(OpenError::Unusable { path: path.to_owned(), what });
        }
        let readers = readers(open::options(path));
        Ok(SqliteStore {
            clock,
            readers,
            doors: Mutex::default(),
            writer: Mutex::default(),
            statements: Arc::default(),
            lock: Mutex::default(),
        })
    }

    /// Looks at the file, also while a daemon has it; none is made where there is none.
    ///
    /// # Errors
    /// It is not a sandclock store, it is of a later release or damaged, or the system does not let us.
    pub async fn look(path: &Path) -> Result<Report, OpenError> {
        report::look(path).await
    }

    /// Measures commits on a store of its own in the same folder, which is removed again, so that a daemon that has the file is in nobody's
    /// way.
    ///
    /// # Errors
    /// The system does not let us, or there is no room.
    pub async fn measure_beside(path: &Path, clock: Arc<dyn Clock>, first: ChangeId) -> Result<Commits, OpenError> {
        report::measure_beside(path, clock, first).await
    }

    /// How many statements the writer has run, transactions' begins and ends among them.
    pub fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    fn doors(&self) -> Result<Doors, StoreError> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(closed)
    }

    async fn ask<T>(&self, work: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Work) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.doors()?.work.send(work(answer)).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    async fn fetch(&self, query: SqliteQuery<'_>) -> Result<Vec<SqliteRow>, StoreError> {
        query.fetch_all(&self.readers).await.map_err(|error| failed(&error))
    }

    /// Lets the writer end. Whoever gets its thread joins it and lets go of the lock then.
    fn finish(&self) -> (Option<JoinHandle<()>>, Option<File>) {
        drop(self.doors.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        (thread, lock)
    }
}

fn readers(options: SqliteConnectOptions) -> SqlitePool {
    let read_only = options.read_only(true).pragma("temp_store", "MEMORY").pragma("cache_size", "-4096");
    SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(Duration::from_secs(5))
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_lazy_with(read_only)
}

/// Waits for the writer to end.
fn join((thread, lock): (Option<JoinHandle<()>>, Option<File>)) {
    if thread.is_some_and(|thread| thread.join().is_err()) {
        tracing::error!("the store's writer ended by a panic");
    }
    drop(lock);
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        join(self.finish());
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("it has been closed".to_owned())
}

/// What the database said, without the driver's words around it.
fn said(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |database| database.message().to_owned())
}

/// What an error of the database means.
fn failed(error: &sqlx::Error) -> StoreError {
    let text = said(error);
    match error {
        sqlx::Error::Database(database) => {
            let code = database.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or(0);
            // The low byte of SQLite's extended codes is the error itself.
            match code & 0xff {
                13 => StoreError::Full(text),
                18 => StoreError::Invalid(text),
                1 | 11 | 19 | 20 | 26 => StoreError::Corrupt(text),
                _ => StoreError::Unavailable(text),
            }
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::Protocol(_) => StoreError::Corrupt(text),
        sqlx::Error::PoolClosed => closed(),
        _ => StoreError::Unavailable(text),
    }
}

impl Fields for SqliteRow {
    fn number(&self, at: usize) -> Result<Option<i64>, StoreError> {
        self.try_get(at).map_err(|error| failed(&error))
    }

    fn text(&self, at: usize) -> Result<Option<&str>, StoreError> {
        self.try_get(at).map_err(|error| failed(&error))
    }

    fn bytes(&self, at: usize) -> Result<Option<Vec<u8>>, StoreError> {
        self.try_get(at).map_err(|error| failed(&error))
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn apply(&self, changes: Vec<Change>) -> Result<Vec<Outcome>, StoreError> {
        changes.iter().try_for_each(Change::check)?;
        self.ask(|answer| Work::Apply(changes, answer)).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        self.ask(|answer| Work::Claim(request, answer)).await
    }

    async fn renew(&self, worker: &WorkerId, leases: &[(RunId, u64)], lease: Duration) -> Result<Vec<Renewal>, StoreError> {
        let (answer, answered) = oneshot::channel();
        let renew = Renew { worker: worker.clone(), leases: leases.to_vec(), lease, answer };
        self.doors()?.renewals.send(renew).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    async fn due(&self, what: DueKind, limit: usize) -> Result<Due, StoreError> {
        let now = Times::of_clock(&*self.clock).of(&what);
        let for_at_least = what.for_at_least();
        let timed = |sql: &'static str| sqlx::query(sql).bind(now.micros()).bind(number(limit));
        let aged = |sql: String| sqlx::query(AssertSqlSafe(sql)).bind((now - for_at_least).micros()).bind(number(limit));
        let query = match &what {
            DueKind::Ready => sqlx::query(statements::NEXT_READY).bind(now.micros()),
            DueKind::ExpiredLeases => timed(&statements::EXPIRED_LEASES),
            DueKind::OlderIncarnations { daemon, current } => sqlx::query(statements::OLDER_INCARNATIONS.as_str())
                .bind(daemon.clone())
                .bind(number(limit))
                .bind(current.as_str().to_owned()),
            DueKind::Schedules => timed(&statements::DUE_SCHEDULES),
            DueKind::Expiries => timed(&statements::DUE_RUNS),
            DueKind::Ended { status, .. } => aged(statements::due_runs(&[*status])),
            DueKind::Aged { kind, .. } => aged(statements::aged(*kind)),
        };
        let rows = self.fetch(query).await?;
        let mut due = Due { now, ..Due::default() };
        for row in &rows {
            due.next = row.time(0)?.map(|next| next + for_at_least);
            if what != DueKind::Ready && row.text(1)?.is_some() {
                due.records.push(rows::record(row, 1)?);
            }
        }
        Ok(due)
    }

    async fn get(&self, ids: &[RecordId]) -> Result<Vec<Option<Record>>, StoreError> {
        let rows = self.fetch(sqlx::query(statements::GET.as_str()).bind(names(ids)?)).await?;
        rows::placed(&rows, ids.len())
    }

    async fn list(&self, scope: Scope, page: PageRequest) -> Result<Page, StoreError> {
        let PageQuery { sql, first, second, after, limit } = PageQuery::new(&scope, page);
        let query = sqlx::query(AssertSqlSafe(sql)).bind(first).bind(second).bind(after).bind(limit);
        let rows = self.fetch(query).await?;
        rows::page(&rows, page.limit)
    }

    async fn counts(&self, scope: CountScope) -> Result<Counts, StoreError> {
        rows::counts(&self.fetch(sqlx::query(statements::COUNTS).bind(scope.text())).await?)
    }

    async fn events(&self, run: &RunId, after: u64, limit: usize) -> Result<Vec<NumberedEvent>, StoreError> {
        let query = sqlx::query(statements::EVENTS)
            .bind(RecordId::run(run).text())
            .bind(i64::try_from(after).unwrap_or(i64::MAX))
            .bind(number(limit));
        self.fetch(query).await?.iter().map(rows::event).collect()
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        Ok(self.clock.now())
    }

    async fn close(&self) {
        self.readers.close().await;
        let ending = self.finish();
        // The writer may have a long log to write out; the runtime goes on meanwhile.
        if tokio::task::spawn_blocking(move || join(ending)).await.is_err() {
            tracing::error!("the store's writer could not be waited for");
        }
    }
}
