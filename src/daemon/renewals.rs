//! Keeps the leases of the runs that execute here, on a thread of its own, so that no amount of other work starves it.
//!
//! Invariants: only the store's word or the lease's own end makes a lease lost; an error never does, nor does an answer that does not
//! come. Nobody waits for a call: while one is out the leases are asked for again, and whichever answer comes counts from when it was
//! asked for. How it fails: when the store stays away, each guest stops itself before its lease ends.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::inner::Inner;
use super::outage::tell_unless_out;
use crate::clock::BootInstant;
use crate::domain::id::RunId;
use crate::sandbox::Stop;
use crate::store::{Renewal, StoreError};

/// The most leases renewed in one call.
const BATCH: usize = 1000;
/// The least wait before a call that failed is made again.
const LEAST_WAIT: Duration = Duration::from_millis(50);

/// A run whose history should tell that it lives.
pub struct Heartbeat {
    /// The run.
    pub run: RunId,
    /// Its fence.
    pub fence: u64,
}

/// What came of one call.
struct Answer {
    leases: Vec<(RunId, u64)>,
    asked_at: BootInstant,
    /// None when it did not come while it could still have helped.
    renewals: Option<Result<Vec<Renewal>, StoreError>>,
}

struct Work {
    inner: Arc<Inner>,
    heartbeats: mpsc::Sender<Heartbeat>,
    /// When a run's history was last told that it lives.
    told: HashMap<RunId, BootInstant>,
}

/// Renews until it is told to stop. Runs that live are told to `heartbeats`, which may be full: then they are told later.
pub async fn renew(inner: Arc<Inner>, heartbeats: mpsc::Sender<Heartbeat>, stop: CancellationToken) {
    let period = inner.settings().lease / 4;
    let mut work = Work { inner, heartbeats, told: HashMap::new() };
    let mut calls = FuturesUnordered::new();
    let mut asked = Instant::now();
    let mut ask_at = asked + period;
    let mut has_failed = false;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(answer) = calls.next() => {
                if !work.take(answer) {
                    has_failed = true;
                    ask_at = ask_at.min(Instant::now() + (period / 8).max(LEAST_WAIT));
                } else if calls.is_empty() && !has_failed {
                    ask_at = asked + period;
                }
            }
            () = tokio::time::sleep_until(ask_at) => {
                if !calls.is_empty() {
                    tracing::warn!(calls = calls.len(), "the store has not answered yet whether leases are renewed; asking again");
                }
                asked = Instant::now();
                // An answer that has not come by then is not waited for.
                ask_at = asked + period / 2;
                has_failed = false;
                let live = work.live();
                if live.is_empty() {
                    ask_at = asked + period;
                }
                live.chunks(BATCH).for_each(|leases| calls.push(ask(Arc::clone(&work.inner), leases.to_vec())));
            }
        }
    }
}

async fn ask(inner: Arc<Inner>, leases: Vec<(RunId, u64)>) -> Answer {
    let asked_at = inner.clock.boot();
    let lease = inner.settings().lease;
    // Later than that it tells of a time that has passed.
    let renewals = tokio::time::timeout(lease, inner.store.renew(&inner.settings().worker, &leases, lease)).await.ok();
    Answer { leases, asked_at, renewals }
}

impl Work {
    fn live(&mut self) -> Vec<(RunId, u64)> {
        let live: Vec<(RunId, u64)> = self.inner.live.all().into_iter().map(|(run, live)| (run, live.fence)).collect();
        let runs: HashSet<&RunId> = live.iter().map(|(run, _)| run).collect();
        self.told.retain(|run, _| runs.contains(run));
        live
    }

    /// Takes what came of a call; says whether that was an answer.
    fn take(&mut self, Answer { leases, asked_at, renewals }: Answer) -> bool {
        match renewals {
            Some(Ok(renewals)) => {
                for ((run, fence), renewal) in leases.iter().zip(renewals) {
                    self.take_one(run, *fence, &renewal, asked_at);
                }
                true
            }
            Some(Err(error)) => {
                tell_unless_out!(error, warn, %error, runs = leases.len(), "leases could not be renewed; trying again until they end");
                false
            }
            None => true,
        }
    }

    fn take_one(&mut self, run: &RunId, fence: u64, renewal: &Renewal, asked_at: BootInstant) {
        let Some(live) = self.inner.live.get(run).filter(|live| live.fence == fence) else { return };
        match renewal {
            Renewal::Held(_) => live.signals.extend_lease(self.inner.lease_end(asked_at)),
            Renewal::CancelRequested(_) => {
                live.signals.extend_lease(self.inner.lease_end(asked_at));
                live.ask_cancel();
            }
            // The attempt says it when it has ended.
            Renewal::Lost => return live.signals.trap_now(Stop::LeaseLost),
        }
        let since = |before: &BootInstant| Duration::from_nanos(asked_at.0.saturating_sub(before.0));
        if self.told.get(run).is_some_and(|before| since(before) < self.inner.settings().heartbeat_events) {
            return;
        }
        live.note_heartbeat();
        if self.heartbeats.try_send(Heartbeat { run: run.clone(), fence }).is_ok() {
            self.told.insert(run.clone(), asked_at);
        }
    }
}
