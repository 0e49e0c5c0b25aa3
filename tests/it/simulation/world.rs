//! The machines of a simulation: daemons that come and go on a store that outlives them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sandclock::daemon::{Daemon, DaemonParts, DaemonSettings, Manager};
use sandclock::domain::id::{AgentId, WorkerId};
use sandclock::domain::time::Seconds;
use sandclock::store::Store;
use sandclock::workspace::Workspaces;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::chance::{Chance, Dice};
use super::clock::SimClock;
use super::gate::{Gate, InProcess};
use super::guests::{Cast, Stage};
use super::oracle::Oracle;
use super::plan::Plan;
use super::server::{Line, Server};

/// No run of a simulation has files, so all of them share a root that stays empty.
static ROOT: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

/// How long a daemon may take to start or to stop before the system loses patience with it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Wraps a store.
pub type Wrap = fn(Arc<dyn Store>) -> Arc<dyn Store>;

/// What is broken on purpose.
#[derive(Clone, Copy)]
pub struct Sabotage {
    /// The store itself.
    pub store: Wrap,
    /// What a daemon takes for the store.
    pub line: Wrap,
    /// Guests do not look at their lease.
    pub unruly: bool,
}

pub struct World {
    pub plan: Plan,
    pub server: Arc<Server>,
    pub oracle: Arc<Oracle>,
    pub stage: Arc<Stage>,
    pub machines: Vec<Arc<Machine>>,
    line: Wrap,
}

/// A machine that one daemon lives on.
pub struct Machine {
    name: String,
    pub clock: Arc<SimClock>,
    dice: Mutex<Chance>,
    incarnations: AtomicU32,
    process: Mutex<Option<Process>>,
}

struct Process {
    worker: WorkerId,
    gate: Arc<Gate>,
    manager: Manager,
    daemon: Option<Daemon>,
}

impl World {
    pub fn new(
        plan: Plan,
        chance: &mut Chance,
        oracle: Arc<Oracle>,
        store: Arc<dyn Store>,
        clock: Arc<SimClock>,
        sabotage: Sabotage,
    ) -> World {
        let began = tokio::time::Instant::now();
        let store = (sabotage.store)(store);
        let server = Server::new(store, Arc::clone(&clock), Arc::clone(&oracle), chance.fork(), plan.weather);
        let stage = Arc::new(Stage {
            server: Arc::clone(&server),
            chance: Mutex::new(chance.fork()),
            longest: plan.longest,
            calm: false.into(),
            unruly: sabotage.unruly,
        });
        let mut machine = |index: usize| {
            // A daemon alone is on the store's machine.
            let alone = plan.daemons == 1;
            let off = if chance.percent(50) { 0 } else { chance.within(0, 600_000_000) as i64 - 300_000_000 };
            Arc::new(Machine {
                name: format!("worker_{}", ["a", "b", "c"][index]),
                clock: if alone { Arc::clone(&clock) } else { SimClock::new(began, off) },
                dice: Mutex::new(chance.fork()),
                incarnations: AtomicU32::new(0),
                process: Mutex::new(None),
            })
        };
        let machines = (0..plan.daemons).map(&mut machine).collect();
        World { plan, server, oracle, stage, machines, line: sabotage.line }
    }

    /// Those daemons that take wishes.
    pub fn up(&self) -> Vec<Arc<Machine>> {
        self.machines.iter().filter(|machine| machine.is_up()).cloned().collect()
    }

    fn settings(&self, worker: WorkerId) -> DaemonSettings {
        DaemonSettings {
            worker,
            executes: true,
            max_running: self.plan.max_running,
            lease: self.plan.lease,
            cancel_grace: Seconds::whole(2),
            timeout: Seconds::whole(20),
            max_recoveries: 3,
            dispatch_batch: 4,
            misfire_grace: Duration::from_secs(5),
            poll: self.plan.poll,
            announce: None,
            hints: true,
            heartbeat_events: self.plan.heartbeat_events,
            default_agent: AgentId::parse("many").unwrap(),
            bounds: self.plan.bounds.clone(),
        }
    }

    /// Starts a machine's daemon, as often as it takes.
    pub async fn start(&self, machine: &Machine) {
        loop {
            let incarnation = machine.incarnations.fetch_add(1, Ordering::Relaxed) + 1;
            let worker = WorkerId::of(&machine.name, &incarnation.to_string()).unwrap();
            self.oracle.trace.note(|| format!("{worker} is started"));
            let gate = Gate::new();
            let name = worker.clone();
            let dice = machine.dice.lock().unwrap_or_else(PoisonError::into_inner).fork();
            let parts = DaemonParts {
                store: (self.line)(Line::to(&self.server, &worker, self.plan.lease)),
                clock: Arc::<SimClock>::clone(&machine.clock),
                entropy: Arc::new(Dice(Mutex::new(dice))),
                workspaces: Workspaces::open(ROOT.path()).unwrap(),
                agents: None,
                executor: Cast::new(&self.stage, &gate, &machine.clock),
                offers: watch::channel(0).1,
                spawner: Arc::new(InProcess(Arc::clone(&gate))),
                settings: self.settings(worker),
            };
            match timeout(PATIENCE, gate.inside(Daemon::start(parts))).await {
                Ok(Some(Ok(daemon))) => {
                    let manager = daemon.manager().clone();
                    *machine.process() = Some(Process { worker: name, gate, manager, daemon: Some(daemon) });
                    return;
                }
                // The store does not answer.
                _ => gate.kill(),
            }
            sleep(Duration::from_millis(500)).await;
        }
    }
}

impl Machine {
    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_up(&self) -> bool {
        self.process().is_some()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// kill -9.
    pub fn kill(&self) {
        if let Some(process) = self.process().take() {
            process.gate.kill();
        }
    }

    fn gate(&self) -> Option<Arc<Gate>> {
        self.process().as_ref().map(|process| Arc::clone(&process.gate))
    }

    /// SIGSTOP, and SIGCONT after a while.
    pub async fn freeze(&self, span: Duration) {
        if let Some(gate) = self.gate() {
            gate.freeze();
            sleep(span).await;
            gate.thaw();
        }
    }

    /// SIGTERM; answers with the worker that ended by itself.
    pub async fn stop(&self, grace: Duration) -> Option<WorkerId> {
        let (worker, gate, daemon) = {
            let mut process = self.process();
            let process = process.as_mut()?;
            (process.worker.clone(), Arc::clone(&process.gate), process.daemon.take()?)
        };
        let stopped = timeout(PATIENCE, gate.inside(daemon.stop(grace, CancellationToken::new()))).await;
        self.kill();
        stopped.ok().flatten().map(|()| worker)
    }

    /// Asks the daemon for something; none when no answer came.
    pub async fn ask<T, F>(&self, limit: Duration, wish: impl FnOnce(Manager) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (gate, made) = {
            let process = self.process();
            let process = process.as_ref()?;
            (Arc::clone(&process.gate), wish(process.manager.clone()))
        };
        timeout(limit, gate.inside(made)).await.ok().flatten()
    }
}
