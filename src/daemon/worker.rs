//! Claims runs and executes them, a bounded number at once, each in a task of its own.
//!
//! It sleeps until a run is ready: woken by a commit, by the time for which the next run waits, by a changed plugin, or by the poll that
//! stands in for a lost wake-up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::attempt;
use super::executor::Offer;
use super::inner::Inner;
use super::outage::tell_unless_out;
use crate::store::{ChangeId, ClaimRequest, Claimed, DueKind};

/// The most runs claimed in one call.
const CLAIM_BATCH: usize = 256;

/// How many attempts may have ended whose outcome is not committed yet.
const OUTCOMES: usize = 256;

/// Works until it is told to stop; the attempts that run then are left to `attempts`.
pub async fn work(inner: Arc<Inner>, attempts: TaskTracker, mut offers: watch::Receiver<u64>, stop: CancellationToken) {
    // A guest's place is free when the guest has ended; its outcome may still wait for its commit, and those that do are bounded too.
    let slots = Arc::new(Semaphore::new(inner.settings().max_running));
    let open = Arc::new(Semaphore::new(inner.settings().max_running + OUTCOMES));
    let mut idle: Option<Duration> = None;
    loop {
        let room = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            room = Arc::clone(&slots).acquire_owned() => room,
        };
        let (Ok(first), Ok(first_open)) = (room, Arc::clone(&open).acquire_owned().await) else { return };
        let mut permits = vec![(first, first_open)];
        permits.extend((1..CLAIM_BATCH).map_while(|_| Some((take_one(&slots)?, take_one(&open)?))));
        let offer = inner.executor.offer();
        let asked_at = inner.clock.boot();
        let claimed = claim(&inner, &offer, permits.len(), &stop).await;
        let full = claimed.len() == permits.len();
        let starts: HashMap<_, _> = offer.iter().map(|offered| (&offered.claim.agent, &offered.start)).collect();
        for (claimed, (slot, open)) in claimed.into_iter().zip(permits.drain(..)) {
            let Some(start) = starts.get(&claimed.run.agent_id) else { continue };
            let executing = attempt::execute(Arc::clone(&inner), claimed, Arc::clone(start), asked_at, slot);
            let wakes = Arc::clone(&inner.wakeups);
            let attempt = attempts.track_future(async move {
                executing.await;
                drop(open);
                // An agent at its limit may have room again.
                wakes.ready.notify_one();
            });
            // The tracker waits for it.
            drop(inner.spawner.spawn(Box::pin(attempt)));
        }
        drop(permits);
        idle = match idle.take().filter(|_| !full) {
            Some(wait) => {
                rest(&inner, wait, &mut offers, &stop).await;
                None
            }
            // Looked up before the last claim, so that nothing falls due unseen between the two.
            None if !full => Some(next_ready(&inner).await),
            None => None,
        };
    }
}

fn take_one(of: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(of).try_acquire_owned().ok()
}

/// Claims, and asks again under the same token while the store does not answer, but for a worker that is to stop.
async fn claim(inner: &Inner, offer: &Offer, limit: usize, stop: &CancellationToken) -> Vec<Claimed> {
    if offer.is_empty() {
        return Vec::new();
    }
    let mut token = [0; 16];
    inner.entropy.fill(&mut token);
    let request = ClaimRequest {
        token: ChangeId(u128::from_ne_bytes(token)),
        worker: inner.settings().worker.clone(),
        agents: offer.iter().map(|offered| offered.claim.clone()).collect(),
        limit,
        lease: inner.settings().lease,
    };
    for wait in [Duration::from_millis(50), Duration::from_millis(500), Duration::ZERO] {
        match inner.store.claim(request.clone()).await {
            Ok(claimed) => return claimed,
            Err(error) if error.is_transient() && !wait.is_zero() && !stop.is_cancelled() => tokio::time::sleep(wait).await,
            Err(error) => {
                tell_unless_out!(error, error, %error, "no runs could be claimed");
                break;
            }
        }
    }
    Vec::new()
}

/// Returns when a claim may find something.
async fn rest(inner: &Inner, wait: Duration, offers: &mut watch::Receiver<u64>, stop: &CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = inner.wakeups.ready.notified() => {}
        // A catalogue that is gone changes no more.
        Ok(()) = offers.changed() => {}
        () = tokio::time::sleep(wait) => {}
    }
}

/// How long nothing will be ready that is not ready now.
async fn next_ready(inner: &Inner) -> Duration {
    let poll = inner.settings().poll;
    match inner.store.due(DueKind::Ready, 0).await {
        Ok(due) => due.next.map_or(poll, |next| next.since(due.now).max(Duration::from_millis(1)).min(poll)),
        Err(_) => poll,
    }
}
