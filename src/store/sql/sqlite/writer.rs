//! The one writer: a thread that owns the connection that writes.
//!
//! Invariants: renewals go ahead of every batch that waits; whoever asked may stop waiting at any time without leaving half a
//! transaction, since the writer owns the work and only the answer goes back; nothing is committed that did not find the store's epoch
//! to be this writer's in the same transaction, since what it keeps in memory is true of a store that nobody else writes.
//!
//! How it fails: a failed transaction is rolled back with its connection, the next one opens another; it is answered with the error. A
//! store that was taken over stays so: the writer lets the file be.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Connection, Executor};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::super::super::batch::{Batch, Named, Writes};
use super::super::super::claim::{Candidate, Earlier, Ready};
use super::super::super::request::Times;
use super::super::super::transfer::Page;
use super::super::super::{Change, ChangeId, ClaimRequest, Claimed, Outcome, Renewal, StoreError};
use super::super::rows::{self, Fields, Found};
use super::super::{json, names};
use super::room::{Room, Spare};
use super::statements::{self, Rows};
use super::{Shared, SqliteQuery, bind, failed, open};
use crate::clock::Clock;
use crate::domain::id::{RunId, WorkerId};
use crate::domain::run::Status;
use crate::domain::time::Timestamp;
use crate::store::RecordId;

/// How long the writer has nothing to do before it moves the log into the database.
const IDLE: Duration = Duration::from_secs(1);

/// Where an answer goes.
type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What is written in turn.
pub enum Work {
    /// Changes to apply.
    Apply(Vec<Change>, Answer<Vec<Outcome>>),
    /// A worker's wish.
    Claim(ClaimRequest, Answer<Vec<Claimed>>),
    /// A page to write as it is; without one, everything is taken out.
    Import(Option<Page>, Answer<()>),
}

/// What goes ahead of all other work.
pub struct Renew {
    /// Who renews.
    pub worker: WorkerId,
    /// The runs and their fences.
    pub leases: Vec<(RunId, u64)>,
    /// How long they are held from now.
    pub lease: Duration,
    /// Where the answer goes.
    pub answer: Answer<Vec<Renewal>>,
}

/// The writer.
pub struct Writer {
    options: SqliteConnectOptions,
    connection: Option<SqliteConnection>,
    clock: Arc<dyn Clock>,
    last_order: i64,
    /// The epoch in which the store is this writer's; none until there was room to take it.
    epoch: Option<i64>,
    is_taken_over: bool,
    shared: Arc<Shared>,
    room: Room,
    /// When the log is to be moved into the database unless more is written; none when it has been.
    checkpoint_at: Option<Instant>,
}

/// Whose leases a batch takes.
struct Holder<'a> {
    worker: &'a WorkerId,
    token: ChangeId,
    from: Timestamp,
    until: Timestamp,
}

impl Writer {
    /// A writer over an open connection.
    pub fn new(options: SqliteConnectOptions, opened: open::Opened, room: Room, clock: Arc<dyn Clock>, shared: Arc<Shared>) -> Self {
        let open::Opened { connection, last_order, epoch } = opened;
        let connection = Some(connection);
        Writer { options, connection, clock, last_order, epoch, is_taken_over: false, shared, room, checkpoint_at: None }
    }

    /// Works until nobody can ask any more, then moves the whole log into the database.
    pub async fn run(mut self, mut renewals: mpsc::Receiver<Renew>, mut work: mpsc::Receiver<Work>) {
        self.prepare().await;
        loop {
            tokio::select! {
                biased;
                Some(renew) = renewals.recv() => self.answer_renewal(renew).await,
                job = work.recv() => match job {
                    Some(job) => self.answer(job).await,
                    None => break,
                },
                () = sleep_until(self.checkpoint_at.unwrap_or_else(Instant::now)), if self.checkpoint_at.is_some() => {
                    self.checkpoint("PASSIVE").await;
                }
            }
        }
        while let Ok(renew) = renewals.try_recv() {
            self.answer_renewal(renew).await;
        }
        self.checkpoint("TRUNCATE").await;
        self.disconnect().await;
    }

    /// Whoever stopped waiting for an answer does not miss it.
    async fn answer(&mut self, job: Work) {
        match job {
            Work::Apply(changes, answer) => {
                let result = self.apply(changes).await;
                self.settle(&result).await;
                let _ = answer.send(result);
            }
            Work::Import(page, answer) => {
                let result = self.import(page).await;
                self.settle(&result).await;
                let _ = answer.send(result);
            }
            Work::Claim(mut request, answer) => {
                let room = self.check_room().await;
                if room.is_err() {
                    // Only what was claimed before under this token.
                    request.agents.clear();
                }
                let result = self.claim(&request).await;
                self.settle(&result).await;
                let _ = answer.send(result.and_then(|claimed| if claimed.is_empty() { room.map(|()| claimed) } else { Ok(claimed) }));
            }
        }
    }

    async fn answer_renewal(&mut self, renew: Renew) {
        let result = self.renew(&renew).await;
        self.settle(&result).await;
        let _ = renew.answer.send(result);
    }

    /// A connection that failed may be within a transaction, so it goes; closing rolls back.
    async fn settle<T: Sync>(&mut self, result: &Result<T, StoreError>) {
        if let Err(error) = result {
            if matches!(error, StoreError::Full(_)) {
                self.room.was_full();
            }
            self.disconnect().await;
        }
    }

    /// Whether something new may be begun: on the disk, or in what deleted records have left.
    async fn check_room(&mut self) -> Result<(), StoreError> {
        let room = self.room.check(Spare::default());
        if room.is_ok() {
            return room;
        }
        let spare = self.spare().await.unwrap_or_default();
        self.room.check(spare)
    }

    async fn spare(&mut self) -> Result<Spare, StoreError> {
        let log = self.fetch(1, sqlx::query("PRAGMA wal_checkpoint(PASSIVE)")).await?;
        let moved = log.first().map(|row| Ok::<_, StoreError>((row.some_number(1)?, row.some_number(2)?))).transpose()?;
        let free = self.fetch(1, sqlx::query("SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size")).await?;
        let bytes = free.first().map(|row| row.count(0)).transpose()?.unwrap_or(0);
        Ok(Spare { bytes, is_log_free: moved.is_some_and(|(pages, moved)| pages == moved) })
    }

    /// Sees to the log of a new connection. What cannot be set aside is missed only when the disk is full.
    async fn prepare(&mut self) {
        let bound = format!("PRAGMA wal_autocheckpoint = {}", self.room.log_pages());
        if let Some(connection) = &mut self.connection
            && let Err(error) = connection.execute(AssertSqlSafe(bound)).await
        {
            tracing::warn!(%error, "the store's log keeps another bound than the one that it should have");
        }
        if let Err(error) = self.room.set_aside() {
            tracing::debug!(%error, "the store has nothing in reserve");
            self.room.was_full();
        }
    }

    async fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "the store's connection did not close cleanly");
        }
    }

    /// Whether the store is still this writer's, of what a statement found.
    ///
    /// # Errors
    /// It is another daemon's.
    pub fn check_owner(&mut self, epoch: i64) -> Result<(), StoreError> {
        if self.epoch.is_none_or(|own| own == epoch) {
            return Ok(());
        }
        self.is_taken_over = true;
        Err(self.taken_over())
    }

    fn taken_over(&self) -> StoreError {
        StoreError::TakenOver(self.options.get_filename().display().to_string())
    }

    async fn connect(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        if self.is_taken_over {
            return Err(self.taken_over());
        }
        if self.connection.is_none() {
            let opened = open::connect(&self.options).await.map_err(|error| failed(&error))?;
            opened.epoch.map_or(Ok(()), |epoch| self.check_owner(epoch))?;
            self.last_order = opened.last_order;
            self.connection = Some(opened.connection);
            self.prepare().await;
        }
        if let (None, Some(connection)) = (self.epoch, &mut self.connection) {
            self.epoch = Some(open::take_epoch(connection).await.map_err(|error| failed(&error))?);
            self.last_order = open::last_order(connection).await.map_err(|error| failed(&error))?;
        }
        self.connection.as_mut().ok_or_else(|| StoreError::Unavailable("there is no connection to the database".to_owned()))
    }

    /// Runs statements in one go and answers the rows of all.
    pub async fn fetch(&mut self, count: usize, query: SqliteQuery<'_>) -> Result<Vec<SqliteRow>, StoreError> {
        self.shared.statements.fetch_add(count as u64, Ordering::Relaxed);
        self.connect().await?.fetch_all(query).await.map_err(|error| failed(&error))
    }

    async fn checkpoint(&mut self, mode: &str) {
        self.checkpoint_at = None;
        let checkpoint = sqlx::query(AssertSqlSafe(format!("PRAGMA wal_checkpoint({mode})")));
        if let Some(connection) = &mut self.connection
            && let Err(error) = connection.execute(checkpoint).await
        {
            // A full disk is told of when somebody's wish fails; the log has room of its own.
            if let StoreError::Full(_) = failed(&error) {
                self.room.was_full();
            } else {
                tracing::warn!(%error, "the log could not be moved into the database; it is tried again");
            }
        }
    }

    async fn apply(&mut self, changes: Vec<Change>) -> Result<Vec<Outcome>, StoreError> {
        let mut batch = Batch::new(self.last_order);
        changes.iter().for_each(|change| batch.want_change(change));
        self.load(&mut batch, true).await?;
        let at = Times::of_clock(&*self.clock);
        let outcomes = changes.into_iter().map(|change| batch.decide(change, at)).collect::<Result<Vec<_>, _>>()?;
        self.write(batch.writes(), None).await?;
        Ok(outcomes)
    }

    /// Reads what a batch needs to know, and begins the transaction first where it is not begun yet.
    async fn load(&mut self, batch: &mut Batch, begin: bool) -> Result<(), StoreError> {
        let (count, sql) = if begin { (2, &*statements::BEGIN_LOAD) } else { (1, &*statements::LOAD) };
        let query = sqlx::query(sql.as_str()).bind(names(batch.wanted())?).bind(json(batch.wanted_hanging())?);
        for row in self.fetch(count, query).await? {
            self.check_owner(row.some_number(0)?)?;
            for found in Found::all(row.some_text(1)?)? {
                let id = match (found.0, &found.1) {
                    (Some(place), _) => batch.wanted().get(place).cloned(),
                    (None, text) => text.as_deref().map(RecordId::of_text).transpose()?,
                };
                if let Some(id) = id {
                    batch.learn(id, found.known());
                }
            }
        }
        Ok(())
    }

    /// Writes what is new as it is, and commits.
    pub async fn write_as_it_is(&mut self, mut writes: Writes) -> Result<(), StoreError> {
        writes.last_order = writes.last_order.max(self.last_order);
        self.write(writes, None).await
    }

    /// Writes a batch and commits.
    async fn write(&mut self, writes: Writes, holder: Option<Holder<'_>>) -> Result<(), StoreError> {
        let (clearing, closing) = (statements::clearing(&writes), statements::closing(&writes));
        if !clearing.is_empty() {
            let query = sqlx::query(AssertSqlSafe(clearing.concat())).bind(orders(&writes.deleted)?).bind(orders(&writes.unleased)?);
            self.fetch(clearing.len(), query).await?;
        }
        self.put(&statements::PUT_RECORDS, writes.records, bind::record).await?;
        self.put(&statements::PUT_SETTLED, writes.settled, bind::settled).await?;
        self.put(&statements::APPEND_EVENTS, writes.events, bind::event).await?;
        let query = sqlx::query(AssertSqlSafe(closing.concat()))
            .bind(json(writes.counts.iter().map(|(scope, status, by)| (scope.text(), status.map_or("", Status::as_str), by)))?)
            .bind(orders(&writes.leased)?)
            .bind(holder.as_ref().map(|holder| holder.worker.as_str().to_owned()))
            .bind(holder.as_ref().map(|holder| holder.worker.daemon().to_owned()))
            .bind(holder.as_ref().map(|holder| holder.until.micros()))
            .bind(holder.as_ref().map(|holder| holder.from.micros()))
            .bind(holder.as_ref().map(|holder| holder.token.0.to_be_bytes().to_vec()));
        self.fetch(closing.len(), query).await?;
        self.checkpoint_at = Some(Instant::now() + IDLE);
        self.last_order = writes.last_order;
        Ok(())
    }

    /// Runs a statement of rows as often as the rows need it.
    async fn put<T>(&mut self, sql: &'static Rows, rows: Vec<T>, bind: bind::Bind<T>) -> Result<(), StoreError> {
        let mut rows = rows.into_iter();
        while rows.len() > 0 {
            let (most, sql) = sql.of(rows.len());
            let query = rows.by_ref().take(most).fold(sqlx::query(sql), bind);
            self.fetch(1, query).await?;
        }
        Ok(())
    }

    async fn claim(&mut self, request: &ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        let at = Times::of_clock(&*self.clock);
        let agents = json(request.agents.iter().map(|wanted| (wanted.agent.as_str(), wanted.max_running)))?;
        let query = sqlx::query(statements::BEGIN_CLAIM.as_str())
            .bind(request.token.0.to_be_bytes().to_vec())
            .bind(request.worker.as_str().to_owned())
            .bind(i64::try_from(request.limit).unwrap_or(i64::MAX))
            .bind(at.now.micros())
            .bind(agents);
        let mut earlier = Vec::new();
        let mut batch = Batch::new(self.last_order).with_fences_above(self.shared.fences_above.load(Ordering::Relaxed));
        let mut candidates = Vec::new();
        for row in self.fetch(3, query).await? {
            match row.number(0)? {
                Some(_) => earlier.push(Earlier::new(&rows::record(&row, 1)?, row.count(0)?)?),
                None => {
                    self.check_owner(row.some_number(3)?)?;
                    if earlier.is_empty() {
                        let bodies = row.bytes(2)?.unwrap_or_default();
                        candidates = candidates_of(Found::all(row.some_text(1)?)?, &bodies, request, at, &mut batch)?;
                    }
                }
            }
        }
        if (candidates.is_empty() && !batch.has_puts()) || !earlier.is_empty() {
            return self.claimed_before(earlier).await;
        }
        self.load(&mut batch, false).await?;
        let claimed = candidates.into_iter().map(|candidate| candidate.take(request, at, &mut batch)).collect::<Result<Vec<_>, _>>()?;
        let holder = Holder { worker: &request.worker, token: request.token, from: at.steady, until: at.steady + request.lease };
        self.write(batch.writes(), Some(holder)).await?;
        Ok(claimed)
    }

    /// Ends a claim that changes nothing.
    async fn claimed_before(&mut self, earlier: Vec<Earlier>) -> Result<Vec<Claimed>, StoreError> {
        let ids: Vec<RecordId> = earlier.iter().map(Earlier::attempt_id).collect();
        let mut attempts = Vec::new();
        if !ids.is_empty() {
            let found = self.fetch(1, sqlx::query(statements::GET.as_str()).bind(names(&ids)?)).await?;
            attempts = rows::placed(&found, ids.len())?;
        }
        self.fetch(1, sqlx::query("COMMIT")).await?;
        earlier.into_iter().zip(&attempts).map(|(claim, attempt)| claim.with(attempt.as_ref())).collect()
    }

    async fn renew(&mut self, renew: &Renew) -> Result<Vec<Renewal>, StoreError> {
        self.connect().await?;
        let steady = self.clock.steady();
        let until = steady + renew.lease;
        let names: Vec<(String, u64)> = renew.leases.iter().map(|(run, fence)| (RecordId::run(run).text(), *fence)).collect();
        let query = sqlx::query(statements::RENEW)
            .bind(json(&names)?)
            .bind(renew.worker.as_str().to_owned())
            .bind(steady.micros())
            .bind(until.micros())
            .bind(self.epoch);
        let mut held: HashMap<(String, u64), bool> = HashMap::new();
        for row in self.fetch(1, query).await? {
            held.insert((row.some_text(0)?.to_owned(), row.count(1)?), row.some_number(2)? != 0);
        }
        if held.is_empty() && !names.is_empty() {
            // Either all are lost, or the store is.
            for row in self.fetch(1, sqlx::query(statements::OWNER)).await? {
                self.check_owner(row.some_number(0)?)?;
            }
        }
        self.checkpoint_at = Some(Instant::now() + IDLE);
        Ok(names
            .into_iter()
            .map(|name| match held.get(&name) {
                Some(true) => Renewal::CancelRequested(until),
                Some(false) => Renewal::Held(until),
                None => Renewal::Lost,
            })
            .collect())
    }
}

fn orders(named: &[Named]) -> Result<String, StoreError> {
    json(named.iter().map(|named| named.order))
}

/// Claims the runs that were found, whose bodies come one behind the other.
fn candidates_of(
    found: Vec<Found>,
    mut bodies: &[u8],
    request: &ClaimRequest,
    at: Times,
    batch: &mut Batch,
) -> Result<Vec<Candidate>, StoreError> {
    let mut candidates = Vec::with_capacity(found.len());
    for found in found {
        let (body, rest) =
            bodies.split_at_checked(found.3.unwrap_or(0)).ok_or_else(|| StoreError::corrupt("a run's body is shorter than its length"))?;
        bodies = rest;
        let id = RecordId::of_text(found.1.as_deref().unwrap_or_default())?;
        let digest = found.0.and_then(|place| request.agents.get(place)).map(|wanted| wanted.digest.as_str()).unwrap_or_default();
        candidates.extend(Ready { id, known: found.known(), digest, body }.claim(request, at, batch));
    }
    Ok(candidates)
}
