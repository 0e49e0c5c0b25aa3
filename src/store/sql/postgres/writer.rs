//! Batches and claims: each is one transaction that locks what it needs, reads it behind the locks, and writes what was decided.
//!
//! Invariants: what a decision rests on is locked until the commit, or its absence is; nobody waits for a lock while he holds one that
//! comes later in the order of names.
//!
//! How it fails: whoever finds a name taken that was free, or waits in a circle, reads and decides again; after a few times it is
//! [`StoreError::Unavailable`].

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use sqlx::postgres::PgRow;

use super::super::super::batch::{Batch, Writes};
use super::super::super::claim::{Earlier, Ready};
use super::super::super::request::Times;
use super::super::super::{Change, ClaimRequest, Claimed, Guard, Outcome, RecordId, StoreError};
use super::super::rows::{self, Fields};
use super::PostgresStore;
use super::columns::{self, Holder};
use super::errors::Failure;
use super::pool::Lent;
use super::statements;

/// How often a batch is decided before it is given up.
const TRIES: usize = 8;

/// How many records one batch can put: the orders of a block.
const MOST_PUTS: usize = 65_536;

/// What a transaction came to before its end.
struct Done<T> {
    answers: Vec<T>,
    has_written: bool,
}

impl PostgresStore {
    /// Applies changes.
    pub(super) async fn apply_all(&self, changes: &[Change]) -> Result<Vec<Outcome>, Failure> {
        changes.iter().try_for_each(Change::check)?;
        if changes.iter().map(|change| change.puts.len()).sum::<usize>() > MOST_PUTS {
            return Err(StoreError::Invalid(format!("a batch puts at most {MOST_PUTS} records; apply fewer changes at once")).into());
        }
        let mut lent = self.pool.begin("BEGIN").await?;
        for _ in 1..TRIES {
            match self.try_apply(&mut lent, changes).await {
                Err(failure) if failure.is_conflict() => lent.run("ROLLBACK; BEGIN").await?,
                result => return end(lent, result).await,
            }
        }
        let result = self.try_apply(&mut lent, changes).await;
        end(lent, result).await
    }

    async fn try_apply(&self, lent: &mut Lent<'_>, changes: &[Change]) -> Result<Done<Outcome>, Failure> {
        let mut batch = Batch::new(0);
        changes.iter().for_each(|change| batch.want_change(change));
        lock(lent, &batch, &unwritten_absences(changes)).await?;
        let (at, block) = self.load(lent, &mut batch).await?;
        let outcomes = changes.iter().map(|change| batch.decide(change.clone(), at)).collect::<Result<Vec<_>, _>>()?;
        Ok(Done { has_written: write(lent, &batch.writes(), block, None).await?, answers: outcomes })
    }

    /// Reads what a batch needs to know; answers with the present, and the order behind which orders are free.
    async fn load(&self, lent: &mut Lent<'_>, batch: &mut Batch) -> Result<(Times, i64), Failure> {
        let names: Vec<String> = batch.wanted().iter().map(RecordId::text).collect();
        let hanging: Vec<String> = batch.wanted_hanging().map(str::to_owned).collect();
        let instead = self.clock.instead();
        let rows = lent
            .fetch(sqlx::query(statements::LOAD.as_str()).bind(instead.map(|times| times.now.micros())).bind(names).bind(hanging))
            .await?;
        let first = rows.first().ok_or_else(|| StoreError::corrupt("the server did not tell the time"))?;
        let (at, block) = (self.told(first, instead)?, first.some_number(1)?);
        batch.begin_above(block);
        for row in &rows {
            let id = match (row.number(2)?, row.text(3)?) {
                (Some(place), _) => usize::try_from(place).ok().and_then(|place| batch.wanted().get(place).cloned()),
                (None, text) => text.map(RecordId::of_text).transpose()?,
            };
            if let Some(id) = id {
                batch.learn(id, rows::known(row, 4)?);
            }
        }
        Ok((at, block))
    }

    /// Leases ready runs.
    pub(super) async fn claim_all(&self, request: &ClaimRequest) -> Result<Vec<Claimed>, Failure> {
        let begin = claim_begin(request);
        let mut lent = self.pool.begin(&begin).await?;
        for _ in 1..TRIES {
            match self.try_claim(&mut lent, request).await {
                Err(failure) if failure.is_conflict() => lent.run(&format!("ROLLBACK; {begin}")).await?,
                result => return end(lent, result).await,
            }
        }
        let result = self.try_claim(&mut lent, request).await;
        end(lent, result).await
    }

    async fn try_claim(&self, lent: &mut Lent<'_>, request: &ClaimRequest) -> Result<Done<Claimed>, Failure> {
        let instead = self.clock.instead();
        let query = sqlx::query(statements::CLAIMABLE.as_str())
            .bind(instead.map(|times| times.now.micros()))
            .bind(request.worker.as_str().to_owned())
            .bind(request.token.0.to_be_bytes().to_vec())
            .bind(i64::try_from(request.limit).unwrap_or(i64::MAX))
            .bind(request.agents.iter().map(|wanted| wanted.agent.as_str().to_owned()).collect::<Vec<_>>())
            .bind(request.agents.iter().map(|wanted| wanted.max_running.map(i64::from)).collect::<Vec<_>>());
        let rows = lent.fetch(query).await?;
        let first = rows.first().ok_or_else(|| StoreError::corrupt("the server did not tell the time"))?;
        let (at, block) = (self.told(first, instead)?, first.some_number(1)?);
        if super::flag(first, 2)? {
            return Ok(Done { has_written: false, answers: self.claimed_before(lent, request).await? });
        }
        let (mut batch, mut candidates, mut is_again) =
            (Batch::new(block).with_fences_above(self.fences_above.load(Ordering::Relaxed)), Vec::new(), false);
        for row in &rows {
            let Some(place) = row.number(3)? else { continue };
            let wanted = usize::try_from(place).ok().and_then(|place| request.agents.get(place));
            let digest = wanted.map(|wanted| wanted.digest.as_str()).unwrap_or_default();
            let (id, body) = (RecordId::of_text(row.some_text(4)?)?, row.some_bytes(5)?);
            is_again |= super::flag(row, 6)?;
            candidates.extend(Ready { id, known: rows::known(row, 7)?, digest, body: &body }.claim(request, at, &mut batch));
        }
        if candidates.is_empty() && !batch.has_puts() {
            return Ok(Done { has_written: false, answers: Vec::new() });
        }
        let mut block = block;
        if is_again {
            // An attempt may be there already; the runs themselves are as they were, since they are locked.
            lock(lent, &batch, &[]).await?;
            (_, block) = self.load(lent, &mut batch).await?;
        }
        let claimed = candidates.into_iter().map(|candidate| candidate.take(request, at, &mut batch)).collect::<Result<Vec<_>, _>>()?;
        let holder = Holder { worker: &request.worker, token: request.token, from: at.steady, until: at.steady + request.lease };
        Ok(Done { has_written: write(lent, &batch.writes(), block, Some(&holder)).await?, answers: claimed })
    }

    /// The runs that the same wish was given before.
    async fn claimed_before(&self, lent: &mut Lent<'_>, request: &ClaimRequest) -> Result<Vec<Claimed>, Failure> {
        let query =
            sqlx::query(statements::CLAIMED.as_str()).bind(request.token.0.to_be_bytes().to_vec()).bind(request.worker.as_str().to_owned());
        let found = lent.fetch(query).await?;
        let read = |row: &PgRow| Earlier::new(&rows::record(row, 1)?, if row.number(0)?.is_some() { row.count(0)? } else { 0 });
        let earlier = found.iter().map(read).collect::<Result<Vec<_>, StoreError>>()?;
        let names: Vec<String> = earlier.iter().map(|claim| claim.attempt_id().text()).collect();
        let attempts = rows::placed(&lent.fetch(sqlx::query(statements::GET.as_str()).bind(names)).await?, earlier.len())?;
        Ok(earlier.into_iter().zip(&attempts).map(|(claim, attempt)| claim.with(attempt.as_ref())).collect::<Result<_, _>>()?)
    }
}

/// Begins a claim's transaction. A wish that is told twice at once is met one after the other, and so are all wishes for runs of an
/// agent with a limit, since each must count what the others took.
fn claim_begin(request: &ClaimRequest) -> String {
    let limited = request.agents.iter().filter(|wanted| wanted.max_running.is_some());
    let mut keys: Vec<i64> = limited.map(|wanted| super::lock_key(&format!("agent/{}", wanted.agent))).collect();
    keys.push(super::lock_key(&format!("token/{}/{:032x}", request.worker, request.token.0)));
    keys.sort_unstable();
    keys.iter().fold("BEGIN".to_owned(), |sql, key| format!("{sql}; SELECT pg_advisory_xact_lock({key})"))
}

/// The names whose absence is a guard, and which no change puts: no row can be locked for them, and no write runs into another's.
fn unwritten_absences(changes: &[Change]) -> Vec<String> {
    let put: HashSet<&RecordId> = changes.iter().flat_map(|change| &change.puts).map(|put| &put.id).collect();
    let guards = changes.iter().flat_map(|change| &change.guards);
    let absent = guards.filter_map(|guard| match guard {
        Guard::Absent(id) if !put.contains(id) => Some(id.text()),
        _ => None,
    });
    absent.collect()
}

/// Locks what a batch needs, and sees to it that what is `absent` stays so.
async fn lock(lent: &mut Lent<'_>, batch: &Batch, absent: &[String]) -> Result<(), Failure> {
    let names: Vec<String> = batch.wanted().iter().map(RecordId::text).collect();
    if !names.is_empty() {
        lent.fetch(sqlx::query(statements::LOCK).bind(names)).await?;
    }
    let hanging: Vec<String> = batch.wanted_hanging().map(str::to_owned).collect();
    if !hanging.is_empty() {
        lent.fetch(sqlx::query(statements::LOCK_HANGING).bind(hanging)).await?;
    }
    if !absent.is_empty() {
        lent.fetch(sqlx::query(statements::RESERVE).bind(absent.to_vec())).await?;
        lent.fetch(sqlx::query(statements::UNRESERVE).bind(absent.to_vec())).await?;
    }
    Ok(())
}

/// Writes what was decided; answers whether that is anything.
async fn write(lent: &mut Lent<'_>, writes: &Writes, block: i64, holder: Option<&Holder<'_>>) -> Result<bool, Failure> {
    if writes.is_empty() {
        return Ok(false);
    }
    if !writes.deleted.is_empty() {
        let orders: Vec<i64> = writes.deleted.iter().map(|record| record.order).collect();
        lent.fetch(sqlx::query(statements::DELETE).bind(orders)).await?;
    }
    lent.fetch(columns::write(writes, block, holder)).await?;
    Ok(true)
}

/// Ends a transaction.
async fn end<T>(mut lent: Lent<'_>, result: Result<Done<T>, Failure>) -> Result<Vec<T>, Failure> {
    match result {
        Ok(Done { answers, has_written }) => {
            lent.run(if has_written { "COMMIT" } else { "ROLLBACK" }).await?;
            lent.keep();
            Ok(answers)
        }
        Err(failure) => {
            // What does not hear it is closed, which comes to the same.
            if !failure.is_broken() && lent.run("ROLLBACK").await.is_ok() {
                lent.keep();
            }
            Err(failure)
        }
    }
}
