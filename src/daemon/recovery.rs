//! Takes up runs whose worker was lost, ends waits that are over, and writes the heartbeats that renewals tell of.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::committer::CommitError;
use super::error::ManagerError;
use super::inner::Inner;
use super::outage::tell_unless_out;
use super::renewals::Heartbeat;
use super::transitions::{self, Step};
use super::txn::{Stop, Txn};
use crate::domain::event::{Event, EventName};
use crate::domain::id::RunId;
use crate::domain::lifecycle::{self, Refused};
use crate::domain::run::{Attempt, Run};
use crate::store::{Due, DueKind, Record, RecordId, StoreError};

/// How many lost runs are taken up in one pass.
const BATCH: usize = 256;

/// Takes up the runs of this daemon's older incarnations: they are dead, for this one holds the daemon's id. Answers whether that
/// were all of them; a store that has no room may keep some back.
///
/// # Errors
/// The store does not answer.
pub async fn take_back(inner: &Inner) -> Result<bool, StoreError> {
    let worker = &inner.settings().worker;
    let mut taken = 0;
    let is_all = loop {
        let what = DueKind::OlderIncarnations { daemon: worker.daemon().to_owned(), current: worker.clone() };
        let due = inner.store.due(what, BATCH).await?;
        let found = due.records.len();
        let now_taken = recover(inner, &due.records).await;
        taken += now_taken;
        if found < BATCH || now_taken == 0 {
            break found == now_taken;
        }
    };
    if taken > 0 {
        tracing::info!(runs = taken, "runs of the daemon's last incarnation were taken back");
    }
    Ok(is_all)
}

/// Watches leases and waits until it is told to stop. `are_back` says whether the runs of older incarnations have been taken back.
pub async fn watch(inner: Arc<Inner>, mut are_back: bool, stop: CancellationToken) {
    loop {
        let done = async {
            are_back = are_back || take_back(&inner).await?;
            pass(&inner).await
        };
        let wait = match done.await {
            Ok(wait) => wait,
            Err(error) => {
                tell_unless_out!(error, warn, %error, "lost runs could not be looked for");
                inner.settings().poll
            }
        };
        inner.pay_mirrors().await;
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// One look; answers how long nothing will be due.
async fn pass(inner: &Inner) -> Result<Duration, StoreError> {
    let leases = inner.store.due(DueKind::ExpiredLeases, BATCH).await?;
    let mut done = recover(inner, &leases.records).await;
    let waits = inner.store.due(DueKind::Expiries, BATCH).await?;
    for record in &waits.records {
        done += usize::from(expire(inner, record).await);
    }
    // A whole batch of records that nothing can be done about is looked at again only after a while.
    if done > 0 && (leases.records.len() == BATCH || waits.records.len() == BATCH) {
        return Ok(Duration::ZERO);
    }
    let until = |due: &Due| due.next.map(|next| next.since(due.now).max(Duration::from_millis(10)));
    let wait = [until(&leases), until(&waits)].into_iter().flatten().min();
    Ok(wait.unwrap_or(inner.settings().poll).min(inner.settings().poll))
}

/// Takes the runs of these records from their workers, together: a store that syncs each commit can sync many in one.
async fn recover(inner: &Inner, records: &[Record]) -> usize {
    let taken = records.iter().map(|record| recover_one(inner, record)).collect::<FuturesUnordered<_>>();
    taken.filter(|taken| std::future::ready(*taken)).count().await
}

/// Answers whether the run was taken.
async fn recover_one(inner: &Inner, record: &Record) -> bool {
    let Ok(run) = RunId::parse(&record.id.key) else { return false };
    let fence = record.lease.as_ref().map_or(0, |lease| lease.fence);
    match inner.committer.commit(vec![record.id.clone()], Vec::new(), lose(run.clone(), fence)).await {
        Ok(Some(after)) => {
            tracing::warn!(%run, fence, status = after.status.as_str(), "a run was taken from a lost worker");
            if after.status.is_terminal() {
                inner.mirror_from_store(&run, None).await;
            }
            true
        }
        Ok(None) => false,
        Err(error) => {
            let error = ManagerError::from(error);
            tell_unless_out!(error, error, %run, %error, "a lost run could not be taken up");
            false
        }
    }
}

/// Takes a run from the worker that had it under `fence`.
fn lose(run_id: RunId, fence: u64) -> impl FnMut(&mut Txn<'_>) -> Step<Option<Arc<Run>>> + Send + 'static {
    move |txn| {
        let run = transitions::run_of(txn, &run_id)?;
        // The store renews no lease that has passed, so an expired one stays so; only another claim would change the fence.
        if run.lease_generation != fence {
            return Ok(None);
        }
        let attempt = txn.get::<Attempt, _>(&RecordId::attempt(&run_id, run.attempt))?;
        let Some(attempt) = attempt else { return Err(ManagerError::not_found("Attempt", &run_id).into()) };
        match lifecycle::lose(Run::clone(&run), Attempt::clone(&attempt), txn.now()) {
            Some(decision) => transitions::write(txn, decision).map(Some),
            None => Ok(None),
        }
    }
}

/// Ends the wait of a parked run that is over; answers whether that could be done.
async fn expire(inner: &Inner, record: &Record) -> bool {
    let Ok(run) = RunId::parse(&record.id.key) else { return false };
    let Ok(listed) = record.decode_run() else { return false };
    let run_id = run.clone();
    let decide = move |txn: &mut Txn<'_>| -> Step<Arc<Run>> {
        let run = transitions::run_of(txn, &run_id)?;
        // Since it was found it may have gone on and wait anew.
        if (run.status, run.attempt, &run.parked) != (listed.status, listed.attempt, &listed.parked) {
            return Ok(run);
        }
        match lifecycle::expire_parked(Run::clone(&run), txn.now()) {
            Some(decision) => transitions::write(txn, decision),
            None => Ok(run),
        }
    };
    match inner.committer.commit(vec![record.id.clone()], Vec::new(), decide).await {
        // The next attempt of one that goes on writes its mirrors.
        Ok(after) if !after.status.is_terminal() => {}
        Ok(_) => {
            inner.mirror_from_store(&run, None).await;
        }
        Err(error) => {
            let error = ManagerError::from(error);
            tell_unless_out!(error, error, %run, %error, "a run whose wait is over could not be ended");
            return false;
        }
    }
    true
}

/// Appends heartbeat events until no more can come.
pub async fn write_heartbeats(inner: Arc<Inner>, mut heartbeats: mpsc::Receiver<Heartbeat>) {
    while let Some(Heartbeat { run: run_id, fence }) = heartbeats.recv().await {
        let id = RecordId::run(&run_id);
        let decide = move |txn: &mut Txn<'_>| -> Result<(), Stop<ManagerError>> {
            let run = transitions::run_of(txn, &run_id)?;
            // The attempt's end may be in the same batch, and nothing comes behind that.
            if !run.status.is_leased() || run.lease_generation != fence {
                return Err(ManagerError::from(Refused::LeaseLost(run_id.clone())).into());
            }
            txn.held(&run_id, fence);
            let now = txn.now();
            txn.event(&run_id, Event::of(&run, EventName::Heartbeat, now));
            Ok(())
        };
        match inner.committer.commit(vec![id], Vec::new(), decide).await {
            // The run has ended meanwhile, or is not this daemon's any more.
            Ok(()) | Err(CommitError::Refused(_)) => {}
            Err(error) if error.is_loss() => {}
            Err(error) => {
                let error = ManagerError::from(error);
                tell_unless_out!(error, warn, %error, "a heartbeat could not be written");
            }
        }
    }
}
