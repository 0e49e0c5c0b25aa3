//! Deletes what has been kept for long enough: ended runs by status and age, and by number a task; skip ranges; idempotency keys; the
//! key-values of sessions; the bytes of pushed plugins that no agent keeps.
//!
//! Invariants: only what has ended is deleted, judged again in the commit that deletes it; the store's clock tells how long ago it
//! ended; the totals of schedules are not touched. The work is done in small changes with a rest after each as long as it took, so
//! that at most half of the store's time goes into it.
//!
//! How it fails: what could not be deleted is told in the log and tried with the next pass.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::ManagerError;
use super::fleet;
use super::inner::Inner;
use super::memory;
use super::outage::tell_unless_out;
use super::pushed;
use super::removal;
use super::sweep;
use super::transitions::Step;
use super::txn::Txn;
use crate::domain::id::TaskId;
use crate::domain::memory::Bucket;
use crate::store::{CountScope, Counts, DueKind, Kind, PageRequest, Record, RecordId, Scope};

/// How many records are deleted in one change: few enough that it is soon over though each run has a thousand events.
const CHUNK: usize = 64;
/// How many changes one pass makes for one status, kind or task before the next has its turn.
const TURN: usize = 128;
/// After how many passes this machine's own directories are looked after.
const SWEEPS: u64 = 10;
/// How many tasks are counted in one pass.
const TASKS: usize = 1000;
/// How long an ended run is kept at least, whatever the bounds: whoever made it and lost the answer finds it by reading back, and would
/// make it again where it is gone.
const LEAST: Duration = Duration::from_secs(60);

/// Deletes until it is told to stop.
pub async fn keep_bounds(inner: Arc<Inner>, stop: CancellationToken) {
    let mut retention = Pass { inner: &inner, stop: &stop, next_task: None };
    for pass in 0_u64.. {
        if pass % SWEEPS == 0 {
            sweep(&inner, &stop).await;
        }
        let more = match retention.run().await {
            Ok(more) => more,
            Err(error) => {
                tracing::warn!(%error, "what has been kept for long enough could not be deleted; it is tried again");
                false
            }
        };
        let wait = if more { Duration::ZERO } else { inner.settings().bounds.retention.pass };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = inner.wakeups.bounds.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Looks after this machine's own directories, unless the daemon is to stop.
async fn sweep(inner: &Inner, stop: &CancellationToken) {
    let swept = tokio::select! {
        biased;
        () = stop.cancelled() => return,
        swept = sweep::sweep(inner) => swept,
    };
    if let Err(error) = swept {
        tell_unless_out!(error, warn, %error, "this machine's directories could not be looked after; it is tried again");
    }
}

struct Pass<'a> {
    inner: &'a Inner,
    stop: &'a CancellationToken,
    /// The task that the next pass counts first, by its order.
    next_task: Option<i64>,
}

impl Pass<'_> {
    /// Goes once through everything; answers whether some of it had to be left for another turn.
    async fn run(&mut self) -> Result<bool, ManagerError> {
        removal::clear_noted(self.inner).await?;
        let mut more = false;
        for (status, for_at_least) in self.inner.settings().bounds.retention.of_statuses() {
            more |= self.runs_that(DueKind::Ended { status, for_at_least: for_at_least.max(LEAST) }).await?;
        }
        more |= self.runs_beyond_the_number().await?;
        if let Some(for_at_least) = self.inner.settings().bounds.retention.skipped {
            more |= self.records_that(DueKind::Aged { kind: Kind::SkipRange, for_at_least }).await?;
        }
        more |= self.records_that(DueKind::Aged { kind: Kind::Idempotency, for_at_least: Duration::ZERO }).await?;
        more |= self.records_that(DueKind::Aged { kind: Kind::Daemon, for_at_least: fleet::KEPT }).await?;
        more |= pushed::sweep_unused(self.inner).await?;
        if let Some(for_at_least) = self.inner.settings().bounds.retention.sessions {
            // When one was written to is noted no more often than that.
            let for_at_least = for_at_least.saturating_add(Duration::from_secs(Bucket::STALE_SECONDS));
            more |= self.sessions_that(DueKind::Aged { kind: Kind::KeyValue, for_at_least }).await?;
        }
        Ok(more && !self.stop.is_cancelled())
    }

    async fn runs_that(&self, are_due: DueKind) -> Result<bool, ManagerError> {
        for _ in 0..TURN {
            let due = self.inner.store.due(are_due.clone(), CHUNK).await?;
            if self.delete(due.records).await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Deletes runs that nothing here is still busy with, and rests; answers how many they were.
    async fn delete(&self, mut records: Vec<Record>) -> Result<usize, ManagerError> {
        if self.stop.is_cancelled() {
            return Ok(0);
        }
        // An attempt that ends is here until its mirrors are written.
        let busy: Vec<RecordId> = self.inner.live.all().iter().map(|(run, _)| RecordId::run(run)).collect();
        records.retain(|record| !busy.contains(&record.id));
        if records.is_empty() {
            return Ok(0);
        }
        let since = Instant::now();
        let deleted = removal::delete_runs(self.inner, &records).await?;
        self.rest(since).await;
        Ok(deleted)
    }

    async fn rest(&self, since: Instant) {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(since.elapsed()) => {}
        }
    }

    /// Deletes the oldest ended runs of tasks that have more than are kept. A pass counts so many tasks and the next goes on behind
    /// them; nothing is counted while all runs together are too few.
    async fn runs_beyond_the_number(&mut self) -> Result<bool, ManagerError> {
        let Some(most) = self.inner.settings().bounds.retention.runs_per_task else { return Ok(false) };
        let store = &self.inner.store;
        if ended(&store.counts(CountScope::All(Kind::Run)).await?) <= most {
            return Ok(false);
        }
        let page = PageRequest { after: self.next_task, ..PageRequest::first(TASKS) };
        let tasks = store.list(Scope::All(Kind::Schedule), page).await?;
        let mut more = false;
        for task in tasks.records.iter().filter_map(|record| TaskId::parse(&record.id.key).ok()) {
            let excess = ended(&store.counts(CountScope::RunsOfTask(task.clone())).await?).saturating_sub(most);
            if excess > 0 {
                more |= self.oldest_of(task, usize::try_from(excess).unwrap_or(usize::MAX)).await?;
            }
        }
        self.next_task = tasks.next;
        Ok(more)
    }

    /// Deletes a task's oldest ended runs, so many.
    async fn oldest_of(&self, task: TaskId, mut excess: usize) -> Result<bool, ManagerError> {
        let scope = Scope::Runs { task: Some(task), status: None };
        let now = self.inner.store.now().await?;
        let mut page = PageRequest::first(CHUNK);
        for _ in 0..TURN {
            let listed = self.inner.store.list(scope.clone(), page).await?;
            let ended = |record: &Record| {
                record.decode_run().is_ok_and(|run| run.status.is_terminal() && run.finished_at.is_none_or(|at| now.since(at) >= LEAST))
            };
            let oldest: Vec<Record> = listed.records.into_iter().filter(ended).take(excess).collect();
            excess -= self.delete(oldest).await?;
            // Those that are live are passed over.
            match listed.next {
                Some(after) if excess > 0 && !self.stop.is_cancelled() => page.after = Some(after),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Takes out buckets of sessions that nobody has written to for long enough, judged again in the commit.
    async fn sessions_that(&self, are_due: DueKind) -> Result<bool, ManagerError> {
        for _ in 0..TURN {
            let due = self.inner.store.due(are_due.clone(), CHUNK).await?;
            let mut retired = 0;
            for record in &due.records {
                if self.stop.is_cancelled() {
                    return Ok(false);
                }
                let since = Instant::now();
                match record.decode::<Bucket>() {
                    Ok(bucket) => {
                        let (session, unless_after) = (bucket.session_id.as_deref(), Some(bucket.written_at));
                        retired += usize::from(memory::retire(self.inner, &bucket.agent_id, session, unless_after).await?.is_some());
                    }
                    Err(error) => tracing::error!(%error, "a session's key-values cannot be deleted"),
                }
                self.rest(since).await;
            }
            // Those that cannot be read would come again for ever.
            if retired == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn records_that(&self, are_due: DueKind) -> Result<bool, ManagerError> {
        for _ in 0..TURN {
            let due = self.inner.store.due(are_due.clone(), CHUNK).await?;
            if due.records.is_empty() || self.stop.is_cancelled() {
                return Ok(false);
            }
            let since = Instant::now();
            let ids: Vec<RecordId> = due.records.into_iter().map(|record| record.id).collect();
            let gone = ids.clone();
            let delete = move |txn: &mut Txn<'_>| -> Step<()> {
                txn.need(&gone)?;
                gone.iter().for_each(|id| txn.delete(id.clone()));
                Ok(())
            };
            self.inner.committer.commit(ids, Vec::new(), delete).await.map_err(ManagerError::from)?;
            self.rest(since).await;
        }
        Ok(true)
    }
}

fn ended(counts: &Counts) -> u64 {
    counts.total.saturating_sub(counts.active())
}
