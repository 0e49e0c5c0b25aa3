//! Keeps the leases of the runs that execute here, on a thread of its own, so that no amount of other work starves it.
//!
//! Invariant: only the store's word or the lease's own end makes a lease lost; an error never does. How it fails: when the store
//! stays away, each guest stops itself before its lease ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::inner::Inner;
use super::outage::tell_unless_out;
use crate::clock::BootInstant;
use crate::domain::id::RunId;
use crate::sandbox::Stop;
use crate::store::Renewal;

/// The most leases renewed in one call.
const BATCH: usize = 1000;

/// A run whose history should tell that it lives.
pub struct Heartbeat {
    /// The run.
    pub run: RunId,
    /// Its fence.
    pub fence: u64,
}

/// Renews until it is told to stop. Runs that live are told to `heartbeats`, which may be full: then they are told later.
pub async fn renew(inner: Arc<Inner>, heartbeats: mpsc::Sender<Heartbeat>, stop: CancellationToken) {
    let period = inner.settings.lease / 4;
    let mut told: HashMap<RunId, BootInstant> = HashMap::new();
    let mut wait = period;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        let live: Vec<(RunId, u64)> = inner.live.all().into_iter().map(|(run, live)| (run, live.fence)).collect();
        told.retain(|run, _| live.iter().any(|(lives, _)| lives == run));
        wait = period;
        for batch in live.chunks(BATCH) {
            let asked_at = inner.clock.boot();
            match inner.store.renew(&inner.settings.worker, batch, inner.settings.lease).await {
                Ok(renewals) => {
                    for ((run, fence), renewal) in batch.iter().zip(renewals) {
                        take(&inner, run, *fence, &renewal, asked_at);
                        if renewal != Renewal::Lost {
                            tell(&inner, &mut told, run, *fence, asked_at, &heartbeats);
                        }
                    }
                }
                Err(error) => {
                    tell_unless_out!(error, warn, %error, runs = batch.len(), "leases could not be renewed; trying again until they end");
                    wait = (period / 8).max(Duration::from_millis(50));
                }
            }
        }
    }
}

fn take(inner: &Inner, run: &RunId, fence: u64, renewal: &Renewal, asked_at: BootInstant) {
    let Some(live) = inner.live.get(run).filter(|live| live.fence == fence) else { return };
    match renewal {
        Renewal::Held(_) => live.signals.set_lease_end(inner.lease_end(asked_at)),
        Renewal::CancelRequested(_) => {
            live.signals.set_lease_end(inner.lease_end(asked_at));
            live.ask_cancel();
        }
        Renewal::Lost => {
            tracing::warn!(%run, fence, "the lease of a run is lost; its guest is stopped");
            live.signals.trap_now(Stop::LeaseLost);
        }
    }
}

fn tell(
    inner: &Inner,
    told: &mut HashMap<RunId, BootInstant>,
    run: &RunId,
    fence: u64,
    now: BootInstant,
    heartbeats: &mpsc::Sender<Heartbeat>,
) {
    let since = |before: &BootInstant| Duration::from_nanos(now.0.saturating_sub(before.0));
    let due = told.get(run).is_none_or(|before| since(before) >= inner.settings.heartbeat_events);
    if due && let Some(live) = inner.live.get(run) {
        live.move_history();
    }
    if due && heartbeats.try_send(Heartbeat { run: run.clone(), fence }).is_ok() {
        told.insert(run.clone(), now);
    }
}
