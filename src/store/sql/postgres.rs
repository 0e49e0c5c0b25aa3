//! The PostgreSQL store: one schema of a database, for any number of daemons.
//!
//! Invariants: what was acknowledged was committed as the server's `synchronous_commit` has it; a batch is one transaction that holds the
//! locks of all that it rests on; a renewal writes nothing but the lease, on a connection of its own; only the server's clock judges,
//! read behind the locks.
//!
//! How it fails: a server that is away, restarts or fails over is [`StoreError::Unavailable`] within the bound of each call, and its
//! connections are made anew when it is back; a full disk is [`StoreError::Full`].

mod columns;
mod connect;
mod errors;
mod pool;
mod report;
mod statements;
mod writer;

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use sqlx::postgres::{PgArguments, PgListener, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Postgres, Row as _};

use super::super::report::Report;
use super::super::request::Times;
use super::super::server::ServerClock;
use super::super::{
    Change, ClaimRequest, Claimed, CountScope, Counts, Due, DueKind, Hint, NumberedEvent, Outcome, Page, PageRequest, Record, RecordId,
    Renewal, Scope, Store, StoreError,
};
use super::lists::PageQuery;
use super::rows::{self, Fields, number};
use crate::domain::id::{RunId, WorkerId};
use crate::domain::time::Timestamp;
use errors::Failure;
use pool::Pool;

type PgQuery = Query<'static, Postgres, PgArguments>;

/// How many connections batches, claims and readers share.
const CONNECTIONS: usize = 6;

/// How long a call may take, in all.
const BOUND: Duration = Duration::from_secs(15);

/// How long a renewal may take: another one must fit into what is left of the lease.
const RENEWAL_BOUND: Duration = Duration::from_secs(7);

/// How old the server's answer may be that the present is reckoned from.
const KNOWN_FOR: Duration = Duration::from_secs(10);

/// Where the daemons of a database tell each other what changed.
const CHANNEL: &str = "sandclock_hints";

/// The schema that holds the store.
const SCHEMA: &str = "sandclock";

/// A store in a PostgreSQL database.
pub struct PostgresStore {
    pool: Pool,
    renewals: Pool,
    clock: ServerClock,
}

impl PostgresStore {
    /// Connects to the database that the URL names, and sees to it that its schema `sandclock` holds a store of this version: a new one is
    /// made, an older one is brought forward.
    ///
    /// # Errors
    /// The server cannot be reached now ([`StoreError::Unavailable`]); the URL, the user, the database, the server's version or the
    /// schema's cannot be used as they are ([`StoreError::Invalid`]).
    pub async fn connect(url: &str, clock: ServerClock) -> Result<Self, StoreError> {
        let server = connect::server(url)?;
        connect::prepare(&server).await?;
        let pool = Pool::new(server.clone(), CONNECTIONS, BOUND);
        Ok(PostgresStore { pool, renewals: Pool::new(server, 1, RENEWAL_BOUND), clock })
    }

    /// Looks at the server and at the store in the database, which is not made where there is none.
    ///
    /// # Errors
    /// As [`PostgresStore::connect`].
    pub async fn look(url: &str) -> Result<Report, StoreError> {
        report::look(&connect::server(url)?).await
    }

    /// The present that judges, of a row that begins with the server's.
    fn told(&self, row: &PgRow, instead: Option<Times>) -> Result<Times, StoreError> {
        let told = self.clock.tell(Timestamp::from_micros(row.some_number(0)?));
        Ok(instead.unwrap_or(told))
    }

    async fn renew_all(&self, worker: &WorkerId, leases: &[(RunId, u64)], lease: Duration) -> Result<Vec<Renewal>, Failure> {
        let mut renewed = HashMap::new();
        let all: Vec<&(RunId, u64)> = leases.iter().collect();
        self.renew_some(&statements::RENEW, worker, &all, lease, &mut renewed).await?;
        // Those that are missing are lost, or somebody was writing them.
        let missing: Vec<&(RunId, u64)> = leases.iter().filter(|named| !renewed.contains_key(*named)).collect();
        if !missing.is_empty() {
            self.renew_some(&statements::RENEW_WAITING, worker, &missing, lease, &mut renewed).await?;
        }
        Ok(leases.iter().map(|named| renewed.get(named).cloned().unwrap_or(Renewal::Lost)).collect())
    }

    async fn renew_some<'a>(
        &self,
        sql: &'static str,
        worker: &WorkerId,
        leases: &[&'a (RunId, u64)],
        lease: Duration,
        renewed: &mut HashMap<&'a (RunId, u64), Renewal>,
    ) -> Result<(), Failure> {
        let instead = self.clock.instead();
        let query = || {
            sqlx::query(sql)
                .bind(instead.map(|times| times.steady.micros()))
                .bind(leases.iter().map(|(run, _)| RecordId::run(run).text()).collect::<Vec<_>>())
                .bind(leases.iter().map(|(_, fence)| i64::try_from(*fence).unwrap_or(i64::MAX)).collect::<Vec<_>>())
                .bind(worker.as_str().to_owned())
                .bind(i64::try_from(lease.as_micros()).unwrap_or(i64::MAX))
        };
        for row in self.renewals.fetch(query).await? {
            let until = self.told(&row, instead)?.steady + lease;
            let named = row.number(1)?.and_then(|place| usize::try_from(place).ok()).and_then(|place| leases.get(place));
            if let Some(named) = named {
                let is_cancelled = row.some_number(2)? != 0;
                renewed.insert(named, if is_cancelled { Renewal::CancelRequested(until) } else { Renewal::Held(until) });
            }
        }
        Ok(())
    }

    async fn due_now(&self, what: &DueKind, limit: usize) -> Result<Due, Failure> {
        let instead = self.clock.instead();
        let for_at_least = what.for_at_least();
        let age = i64::try_from(for_at_least.as_micros()).unwrap_or(i64::MAX);
        let timed =
            |sql: String| sqlx::query(AssertSqlSafe(sql)).bind(instead.map(|times| times.of(what).micros())).bind(number(limit)).bind(age);
        let query = || match what {
            DueKind::Ready => timed(statements::NEXT_READY.clone()),
            DueKind::ExpiredLeases => timed(statements::EXPIRED_LEASES.clone()),
            DueKind::OlderIncarnations { daemon, current } => {
                timed(statements::OLDER_INCARNATIONS.clone()).bind(daemon.clone()).bind(current.as_str().to_owned())
            }
            DueKind::Schedules => timed(statements::DUE_SCHEDULES.clone()),
            DueKind::Expiries => timed(statements::DUE_RUNS.clone()),
            DueKind::Ended { status, .. } => timed(statements::due_runs(&[*status])),
            DueKind::Aged { kind, .. } => timed(statements::aged(*kind)),
        };
        let mut due = Due::default();
        for row in &self.pool.fetch(query).await? {
            due.now = self.told(row, instead)?.of(what);
            due.next = row.time(1)?.map(|next| next + for_at_least);
            if *what != DueKind::Ready && row.text(2)?.is_some() {
                due.records.push(rows::record(row, 2)?);
            }
        }
        Ok(due)
    }

    async fn ask_now(&self) -> Result<Timestamp, Failure> {
        let rows = self.pool.fetch(|| sqlx::query(statements::NOW.as_str())).await?;
        let row = rows.first().ok_or_else(|| StoreError::corrupt("the server did not tell the time"))?;
        Ok(self.told(row, self.clock.instead())?.now)
    }
}

/// A number for an advisory lock in the database.
fn lock_key(what: &str) -> i64 {
    let hash = blake3::hash(format!("{SCHEMA}/{what}").as_bytes());
    hash.as_bytes().first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes))
}

/// What is true or not.
fn flag(row: &PgRow, at: usize) -> Result<bool, StoreError> {
    row.try_get(at).map_err(|error| unreadable(&error))
}

fn unreadable(error: &sqlx::Error) -> StoreError {
    StoreError::corrupt(error.to_string())
}

impl Fields for PgRow {
    fn number(&self, at: usize) -> Result<Option<i64>, StoreError> {
        self.try_get(at).map_err(|error| unreadable(&error))
    }

    fn text(&self, at: usize) -> Result<Option<&str>, StoreError> {
        self.try_get(at).map_err(|error| unreadable(&error))
    }

    fn bytes(&self, at: usize) -> Result<Option<Vec<u8>>, StoreError> {
        self.try_get(at).map_err(|error| unreadable(&error))
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn apply(&self, changes: Vec<Change>) -> Result<Vec<Outcome>, StoreError> {
        self.pool.bounded(self.apply_all(&changes)).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        self.pool.bounded(self.claim_all(&request)).await
    }

    async fn renew(&self, worker: &WorkerId, leases: &[(RunId, u64)], lease: Duration) -> Result<Vec<Renewal>, StoreError> {
        self.renewals.bounded(self.renew_all(worker, leases, lease)).await
    }

    async fn due(&self, what: DueKind, limit: usize) -> Result<Due, StoreError> {
        self.pool.bounded(self.due_now(&what, limit)).await
    }

    async fn get(&self, ids: &[RecordId]) -> Result<Vec<Option<Record>>, StoreError> {
        let names: Vec<String> = ids.iter().map(RecordId::text).collect();
        let found = self.pool.fetch(|| sqlx::query(statements::GET.as_str()).bind(names.clone()));
        rows::placed(&self.pool.bounded(found).await?, ids.len())
    }

    async fn list(&self, scope: Scope, page: PageRequest) -> Result<Page, StoreError> {
        let PageQuery { sql, first, second, after, limit } = PageQuery::new(&scope, page);
        let query = || sqlx::query(AssertSqlSafe(sql.clone())).bind(first.clone()).bind(second.clone()).bind(after).bind(limit);
        let rows = self.pool.bounded(self.pool.fetch(query)).await?;
        rows::page(&rows, page.limit)
    }

    async fn counts(&self, scope: CountScope) -> Result<Counts, StoreError> {
        let scope = scope.text();
        let found = self.pool.fetch(|| sqlx::query(statements::COUNTS).bind(scope.clone()));
        rows::counts(&self.pool.bounded(found).await?)
    }

    async fn events(&self, run: &RunId, after: u64, limit: usize) -> Result<Vec<NumberedEvent>, StoreError> {
        let (run, after) = (RecordId::run(run).text(), i64::try_from(after).unwrap_or(i64::MAX));
        let found = self.pool.fetch(|| sqlx::query(super::due::EVENTS).bind(run.clone()).bind(after).bind(number(limit)));
        self.pool.bounded(found).await?.iter().map(rows::event).collect()
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        match self.clock.now_within(KNOWN_FOR) {
            Some(now) => Ok(now),
            None => self.pool.bounded(self.ask_now()).await,
        }
    }

    async fn tell(&self, hint: &Hint) -> Result<(), StoreError> {
        let text = hint.to_text();
        let told = self.pool.fetch(|| sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(text.clone()));
        self.pool.bounded(told).await.map(drop)
    }

    async fn hints(&self) -> Result<BoxStream<'static, Hint>, StoreError> {
        let listener = self.pool.bounded(self.pool.listen(CHANNEL)).await?;
        let next = async |mut listener: PgListener| loop {
            // None: the connection broke, and what was told meanwhile is lost.
            let told = listener.try_recv().await.ok()??;
            if let Some(hint) = Hint::of_text(told.payload()) {
                return Some((hint, listener));
            }
        };
        Ok(Box::pin(futures::stream::unfold(listener, next)))
    }

    async fn close(&self) {
        self.pool.close().await;
        self.renewals.close().await;
    }
}
