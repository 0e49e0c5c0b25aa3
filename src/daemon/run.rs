//! Starts a daemon's parts, and stops them so that no attempt is burned.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::Admission;
use super::agents::Agents;
use super::committer::{Committer, Parts};
use super::executor::Executor;
use super::inner::{DaemonSettings, Inner};
use super::live::LiveRuns;
use super::manager::Manager;
use super::outage::{self, Outage, Watched};
use super::owed::OwedMirrors;
use super::signals::Wakeups;
use super::spawn::{Part, Spawner};
use super::{fleet, follow, hints, recovery, renewals, retention, scheduler, worker};
use crate::clock::{Clock, Entropy};
use crate::sandbox::Stop;
use crate::store::{Store, StoreError};
use crate::workspace::Workspaces;

/// Heartbeats that wait to be written.
const HEARTBEATS: usize = 1024;
/// How long the outcomes of stopped attempts may take to be committed.
const FLUSH: Duration = Duration::from_secs(15);

/// What a daemon is made of.
pub struct DaemonParts {
    /// The shared truth.
    pub store: Arc<dyn Store>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// Where runs work.
    pub workspaces: Workspaces,
    /// The agents; none for a daemon whose attempts something else executes.
    pub agents: Option<Arc<Agents>>,
    /// What executes attempts.
    pub executor: Arc<dyn Executor>,
    /// Rises when what the executor offers has changed.
    pub offers: watch::Receiver<u64>,
    /// Where its parts run.
    pub spawner: Arc<dyn Spawner>,
    /// What it is told to do.
    pub settings: DaemonSettings,
}

/// A running daemon.
pub struct Daemon {
    inner: Arc<Inner>,
    manager: Manager,
    attempts: TaskTracker,
    offers: watch::Receiver<u64>,
    intake: CancellationToken,
    upkeep: CancellationToken,
    /// What takes up work: the scheduler, retention and the worker.
    takers: Vec<JoinHandle<()>>,
    /// What looks after the runs and the store until the end.
    keepers: Vec<JoinHandle<()>>,
    committing: JoinHandle<()>,
    heartbeats: JoinHandle<()>,
    renewing: Part,
}

impl Daemon {
    /// Opens a daemon and lets it take up work.
    ///
    /// # Errors
    /// The store does not answer, or the system gives no thread.
    pub async fn start(parts: DaemonParts) -> Result<Daemon, StoreError> {
        let mut daemon = Self::open(parts).await?;
        daemon.take_up_work();
        Ok(daemon)
    }

    /// Starts the parts that answer, and takes back what an older incarnation left. Nothing is dispatched or executed yet.
    ///
    /// # Errors
    /// The store does not answer, or the system gives no thread.
    pub async fn open(parts: DaemonParts) -> Result<Daemon, StoreError> {
        let wakeups = Arc::new(Wakeups::default());
        let live = Arc::new(LiveRuns::default());
        let outage = Arc::new(Outage::default());
        let store: Arc<dyn Store> = Arc::new(Watched { store: parts.store, outage: Arc::clone(&outage), live: Arc::clone(&live) });
        let (committer, committing) = Committer::start(Parts {
            store: Arc::clone(&store),
            clock: Arc::clone(&parts.clock),
            entropy: Arc::clone(&parts.entropy),
            wakeups: Arc::clone(&wakeups),
            live: Arc::clone(&live),
        });
        let committing = parts.spawner.spawn(Box::pin(committing));
        let admission = Admission::new(&parts.settings.bounds);
        admission.refresh(&*store, &*parts.clock).await;
        let inner = Arc::new(Inner {
            store,
            outage,
            owed_mirrors: OwedMirrors::default(),
            clock: parts.clock,
            entropy: parts.entropy,
            committer,
            wakeups,
            live,
            executor: parts.executor,
            workspaces: parts.workspaces,
            admission,
            spawner: parts.spawner,
            told: ArcSwap::from_pointee(parts.settings),
        });
        // Whatever works by itself ends when the store is another daemon's.
        let (intake, upkeep) = (inner.outage.gone().child_token(), inner.outage.gone().child_token());
        let (beats, to_write) = mpsc::channel(HEARTBEATS);
        let heartbeats = inner.spawner.spawn(Box::pin(recovery::write_heartbeats(Arc::clone(&inner), to_write)));
        let renewing = inner.spawner.spawn_apart(Box::pin(renewals::renew(Arc::clone(&inner), beats, upkeep.clone())))?;
        let are_back = recovery::take_back(&inner).await?;
        let (attempts, takers) = (TaskTracker::new(), Vec::new());
        let mut keepers = vec![
            inner.spawner.spawn(Box::pin(recovery::watch(Arc::clone(&inner), are_back, upkeep.clone()))),
            inner.spawner.spawn(Box::pin(outage::watch(Arc::clone(&inner), upkeep.clone()))),
        ];
        if inner.settings().hints {
            keepers.push(inner.spawner.spawn(Box::pin(hints::tell(Arc::clone(&inner), upkeep.clone()))));
            keepers.push(inner.spawner.spawn(Box::pin(hints::listen(Arc::clone(&inner), upkeep.clone()))));
        }
        if let Some(agents) = &parts.agents {
            let following = follow::follow(Arc::clone(&inner), Arc::clone(agents), upkeep.clone());
            keepers.push(inner.spawner.spawn(Box::pin(following)));
        }
        let (manager, offers) = (Manager::new(Arc::clone(&inner), parts.agents), parts.offers);
        Ok(Daemon { inner, manager, attempts, offers, intake, upkeep, takers, keepers, committing, heartbeats, renewing })
    }

    /// Schedules from now on and, unless the settings say otherwise, executes. Once.
    pub fn take_up_work(&mut self) {
        let spawner = &self.inner.spawner;
        self.takers.push(spawner.spawn(Box::pin(scheduler::dispatch(Arc::clone(&self.inner), self.intake.clone()))));
        self.takers.push(spawner.spawn(Box::pin(retention::keep_bounds(Arc::clone(&self.inner), self.intake.clone()))));
        if let Some(period) = self.inner.settings().announce {
            self.keepers.push(spawner.spawn(Box::pin(fleet::announce(Arc::clone(&self.inner), period, self.upkeep.clone()))));
        }
        if self.inner.settings().executes {
            let (attempts, offers) = (self.attempts.clone(), self.offers.clone());
            self.takers.push(spawner.spawn(Box::pin(worker::work(Arc::clone(&self.inner), attempts, offers, self.intake.clone()))));
        }
    }

    /// The façade.
    pub fn manager(&self) -> &Manager {
        &self.manager
    }

    /// Stops: no new claims and dispatches, then up to `grace` for the attempts that run, then the rest is handed back. When `hurry`
    /// ends, the grace does.
    pub async fn stop(self, grace: Duration, hurry: CancellationToken) {
        self.manager.stop_running();
        self.intake.cancel();
        // A claim that is on its way still starts attempts, and all attempts must be there to be stopped.
        for taker in self.takers {
            finish(taker).await;
        }
        self.attempts.close();
        let running = self.attempts.len();
        if running > 0 {
            tracing::info!(running, grace_seconds = grace.as_secs_f64(), "waiting for running attempts to end");
        }
        tokio::select! {
            biased;
            () = self.attempts.wait() => {}
            () = tokio::time::sleep(grace) => {}
            () = hurry.cancelled() => {}
        }
        self.inner.live.stop_all(Stop::ShuttingDown);
        if tokio::time::timeout(FLUSH, self.attempts.wait()).await.is_err() {
            tracing::error!(left = self.attempts.len(), "attempts did not end; the next start takes their runs back");
        }
        self.upkeep.cancel();
        for keeper in self.keepers {
            finish(keeper).await;
        }
        // The renewals hold the sender of heartbeats, whose end ends their writer.
        self.renewing.await;
        finish(self.heartbeats).await;
        let store = Arc::clone(&self.inner.store);
        self.committing.abort();
        finish(self.committing).await;
        store.close().await;
    }
}

async fn finish(part: JoinHandle<()>) {
    if let Err(error) = part.await
        && error.is_panic()
    {
        tracing::error!(%error, "a part of the daemon ended in a panic");
    }
}
