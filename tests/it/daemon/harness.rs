//! Daemons that a test starts, stops and kills on a store that outlives them.
//!
//! Each daemon has a runtime of its own, so that a crash takes everything that it was doing with it. It polls once an hour unless the test
//! says otherwise: what a test waits for comes by a wake-up, or the test fails.

use std::ops::Deref;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use futures::future::join_all;
use sandclock::clock::{BootInstant, Clock, SystemClock, SystemEntropy};
use sandclock::daemon::spawn::OnRuntime;
use sandclock::daemon::{Bounds, Daemon, DaemonParts, DaemonSettings};
use sandclock::domain::id::{AgentId, WorkerId};
use sandclock::domain::run::Attempt;
use sandclock::domain::time::{Seconds, Timestamp};
use sandclock::store::ServerClock;
use sandclock::store::memory::MemoryStore;
use sandclock::store::mongodb::{MongoOptions, MongoStore};
use sandclock::store::redis::RedisStore;
use sandclock::store::sql::postgres::PostgresStore;
use sandclock::store::sql::sqlite::SqliteStore;
use sandclock::store::{Counts, PageRequest, RecordId, Store};
use sandclock::workspace::Workspaces;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::faulty::Faulty;
use super::stage::Stage;
use super::*;
use crate::servers::{self, TestDatabase};

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The threads of a daemon's runtime.
const WORKERS: usize = 2;

/// The machine's clock, and what the test adds to it.
#[derive(Default)]
pub struct TestClock {
    wall: AtomicI64,
    steady: AtomicI64,
}

impl TestClock {
    /// Lets time pass.
    pub fn advance(&self, span: Duration) {
        let span = i64::try_from(span.as_micros()).unwrap();
        self.steady.fetch_add(span, Ordering::SeqCst);
        self.step_wall(span);
    }

    /// Sets the wall clock forward, or back, by these microseconds.
    pub fn step_wall(&self, micros: i64) {
        self.wall.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(SystemClock.now().micros() + self.wall.load(Ordering::SeqCst))
    }

    fn steady(&self) -> Timestamp {
        Timestamp::from_micros(SystemClock.steady().micros() + self.steady.load(Ordering::SeqCst))
    }

    fn boot(&self) -> BootInstant {
        SystemClock.boot()
    }
}

/// Returns when the condition holds. What has no signal of its own is looked at again and again.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !holds().await {
        assert!(since.elapsed() < PATIENCE, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What outlives a daemon.
pub struct World {
    pub store: Arc<dyn Store>,
    /// The same store, for those who want it to fail.
    pub faulty: Arc<Faulty>,
    pub clock: Arc<TestClock>,
    pub stage: Arc<Stage>,
    pub root: tempfile::TempDir,
    incarnations: AtomicU32,
    /// What goes with the world.
    database: Option<TestDatabase>,
}

/// Names the store that the tests of the daemon run on: `memory`, which is the default, `sqlite`, `postgres`, `redis` or `mongodb`.
pub const STORE: &str = "SANDCLOCK_TEST_STORE";

/// The part of a server that this world has to itself; none when its store is in this process.
async fn database() -> Option<TestDatabase> {
    let there = "who starts these tests leaves out those of a server that there is not";
    match std::env::var(STORE).as_deref() {
        Ok("postgres") => Some(servers::postgres().await.expect(there)),
        Ok("redis") => Some(servers::redis().expect(there)),
        Ok("mongodb") => Some(servers::mongodb().expect(there)),
        _ => None,
    }
}

/// The store of that name on a server, under the test's clock.
async fn connected(url: String, name: String, clock: Arc<TestClock>) -> Arc<dyn Store> {
    let clock = ServerClock::given(clock);
    match url.split(':').next().unwrap() {
        "redis" => Arc::new(RedisStore::connect(&url, &name, clock).await.unwrap()),
        "mongodb" => {
            let options = MongoOptions { database: Some(name), ..MongoOptions::default() };
            Arc::new(MongoStore::connect(&url, &options, clock).await.unwrap())
        }
        _ => Arc::new(PostgresStore::connect(&url, clock).await.unwrap()),
    }
}

impl World {
    /// A world with an empty store.
    pub async fn new() -> World {
        let clock = Arc::new(TestClock::default());
        let of_store: Arc<dyn Clock> = Arc::<TestClock>::clone(&clock);
        let root = tempfile::tempdir().unwrap();
        let database = database().await;
        let store: Arc<dyn Store> = match (std::env::var(STORE).as_deref(), &database) {
            (_, Some(database)) => connected(database.url.clone(), database.name.clone(), Arc::clone(&clock)).await,
            (Ok("sqlite"), None) => Arc::new(SqliteStore::open(&root.path().join("store.db"), of_store).await.unwrap()),
            (_, None) => Arc::new(MemoryStore::new(of_store)),
        };
        let faulty = Faulty::new(store);
        World { store: Arc::<Faulty>::clone(&faulty), faulty, clock, stage: Stage::new(), root, incarnations: AtomicU32::new(1), database }
    }

    /// The store as a daemon gets it: by a connection that goes with the daemon's runtime where the store is a server's.
    async fn connect(&self, runtime: &Runtime) -> Arc<Faulty> {
        let Some(database) = &self.database else { return Arc::clone(&self.faulty) };
        let connecting = runtime.spawn(connected(database.url.clone(), database.name.clone(), Arc::clone(&self.clock)));
        self.faulty.by(connecting.await.unwrap())
    }

    /// Another world on the same store, to whose calls nothing happens that is planned for this one's. It has agents of its own.
    pub fn beside(&self) -> World {
        let faulty = Faulty::new(self.faulty.behind());
        let (store, clock): (Arc<dyn Store>, _) = (Arc::<Faulty>::clone(&faulty), Arc::clone(&self.clock));
        let (stage, root) = (Stage::new(), tempfile::tempdir().unwrap());
        World { store, faulty, clock, stage, root, incarnations: AtomicU32::new(1), database: None }
    }

    /// Whether the store is a server's, whose daemons tell each other what they change.
    pub fn is_shared(&self) -> bool {
        self.database.is_some()
    }

    /// Starts the daemon `a`.
    pub async fn start(&self) -> TestDaemon {
        self.start_as("a", |_| {}).await
    }

    /// Starts the daemon `a` so that it sees at once what the test does to the clock or the store.
    pub async fn start_polling(&self) -> TestDaemon {
        self.start_as("a", |settings| settings.poll = Duration::from_millis(5)).await
    }

    pub async fn start_as(&self, name: &str, change: impl FnOnce(&mut DaemonSettings)) -> TestDaemon {
        self.start_in(name, Workspaces::open(&self.root.path().join("workspace")).unwrap(), change).await
    }

    /// Starts a daemon with workspaces of its own.
    pub async fn start_in(&self, name: &str, workspaces: Workspaces, change: impl FnOnce(&mut DaemonSettings)) -> TestDaemon {
        let incarnation = self.incarnations.fetch_add(1, Ordering::SeqCst).to_string();
        let mut settings = DaemonSettings {
            worker: WorkerId::of(&format!("worker_{name}"), &incarnation).unwrap(),
            executes: true,
            max_running: 64,
            lease: Duration::from_secs(30),
            cancel_grace: Seconds::whole(5),
            timeout: Seconds::whole(3600),
            max_recoveries: 3,
            dispatch_batch: 256,
            misfire_grace: Duration::from_secs(60),
            poll: Duration::from_secs(3600),
            announce: None,
            // As on a store without a server, nobody is told: what a test waits for must not hang on it.
            hints: false,
            heartbeat_events: Duration::from_secs(60),
            default_agent: AgentId::parse("guest").unwrap(),
            bounds: Bounds::default(),
        };
        change(&mut settings);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build().unwrap();
        let parts = DaemonParts {
            store: self.connect(&runtime).await,
            clock: Arc::<TestClock>::clone(&self.clock),
            entropy: Arc::new(SystemEntropy),
            workspaces,
            agents: None,
            executor: Arc::<Stage>::clone(&self.stage),
            offers: self.stage.offers(),
            spawner: Arc::new(OnRuntime),
            settings,
        };
        let daemon = runtime.spawn(Daemon::start(parts)).await.unwrap().unwrap();
        let (manager, store, faulty) = (daemon.manager().clone(), Arc::clone(&self.store), Arc::clone(&self.faulty));
        TestDaemon { manager, store, faulty, daemon: Some(daemon), runtime: Some(runtime) }
    }

    /// A file of a run's workspace.
    pub fn file(&self, run: &Run, name: &str) -> Option<String> {
        std::fs::read_to_string(self.root.path().join("workspace").join(&run.workspace_path).join(name)).ok()
    }
}

/// A daemon. It is the manager, with what tests need beside.
pub struct TestDaemon {
    manager: Manager,
    pub store: Arc<dyn Store>,
    faulty: Arc<Faulty>,
    daemon: Option<Daemon>,
    runtime: Option<Runtime>,
}

impl Deref for TestDaemon {
    type Target = Manager;
    fn deref(&self) -> &Manager {
        &self.manager
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl TestDaemon {
    /// Stops as SIGTERM does.
    pub async fn stop(mut self, grace: Duration) {
        let (daemon, runtime) = (self.daemon.take().unwrap(), self.runtime.take().unwrap());
        let stopping = runtime.spawn(daemon.stop(grace, CancellationToken::new()));
        tokio::time::timeout(PATIENCE, stopping).await.expect("the daemon does not stop").unwrap();
        runtime.shutdown_background();
    }

    /// Keeps every thread of its runtime busy until what this gives back is dropped.
    pub fn block(&self) -> impl Sized + use<> {
        let busy = Arc::new(Barrier::new(WORKERS + 1));
        let held: Vec<mpsc::Sender<()>> = (0..WORKERS)
            .map(|_| {
                let (hold, freed) = mpsc::channel();
                let busy = Arc::clone(&busy);
                self.runtime.as_ref().unwrap().spawn(async move {
                    busy.wait();
                    let _ = freed.recv();
                });
                hold
            })
            .collect();
        busy.wait();
        held
    }

    /// Ends as `kill -9` does; nothing of it is left when this returns.
    pub async fn crash(mut self) {
        let runtime = self.runtime.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.unwrap();
        // A store in this process outlives the daemon with what was asked of it, which the next daemon must not find halfway.
        self.faulty.settle().await;
    }

    /// Registers the task `t`, or the one that these fields name; its agent is `guest` unless they name one.
    pub async fn task(&self, fields: Value) -> TaskId {
        let mut body = json!({"task_id": "t", "query": "Do it.", "schedule": {"type": "manual"}});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.register_task(body, false, None).await.unwrap().task_id
    }

    /// Runs a task now.
    pub async fn fire(&self, task: &TaskId) -> Run {
        self.run_now(task, RunWish::default()).await.unwrap()
    }

    /// Runs a task so many times at once.
    pub async fn fire_at_once(&self, task: &TaskId, count: usize) -> Vec<Run> {
        let one = |_| {
            let (manager, task) = (Manager::clone(self), task.clone());
            tokio::spawn(async move { manager.run_now(&task, RunWish::default()).await.unwrap() })
        };
        join_all((0..count).map(one)).await.into_iter().map(Result::unwrap).collect()
    }

    /// The run when it has ended or is parked.
    pub async fn settled(&self, run: &RunId) -> Run {
        let settled = self.wait_for_run(run, PATIENCE).await.unwrap();
        assert!(settled.status.is_settled(), "the run does not end: {settled:?}");
        settled
    }

    /// The run when it has this status.
    pub async fn becomes(&self, run: &RunId, status: Status) -> Run {
        until(status.as_str(), async || self.run(run).await.unwrap().status == status).await;
        self.run(run).await.unwrap()
    }

    /// Runs a task and waits for its end.
    pub async fn run_to_end(&self, task: &TaskId) -> Run {
        let run = self.fire(task).await;
        self.settled(&run.run_id).await
    }

    pub async fn payloads(&self, run: &RunId) -> Vec<Value> {
        let payloads = self.events(run, 0, 10_000).await.unwrap();
        let sequences: Vec<u64> = payloads.iter().map(|payload| payload["sequence"].as_u64().unwrap()).collect();
        assert_eq!(sequences, (1..=payloads.len() as u64).collect::<Vec<_>>(), "the history has gaps");
        payloads
    }

    /// The names of a run's events, without what all of them begin with.
    pub async fn names(&self, run: &RunId) -> Vec<String> {
        let name =
            |payload: &Value| payload["event"].as_str().unwrap().trim_start_matches("background_").trim_start_matches("run_").to_owned();
        self.payloads(run).await.iter().map(name).collect()
    }

    pub async fn tries(&self, run: &RunId) -> Vec<(AttemptReason, AttemptStatus)> {
        let attempts: Vec<Attempt> = self.attempts(run).await.unwrap();
        attempts.iter().map(|attempt| (attempt.reason, attempt.status)).collect()
    }

    /// All runs of a task, first to last.
    pub async fn runs_of(&self, task: &TaskId) -> Vec<Run> {
        self.runs(Some(task.clone()), None, PageRequest::first(10_000)).await.unwrap().items
    }

    /// How many of a task's runs have this status.
    pub async fn count(&self, task: &TaskId, status: Status) -> u64 {
        let counts: Counts = self.store.counts(sandclock::store::CountScope::RunsOfTask(task.clone())).await.unwrap();
        counts.of(status)
    }

    /// The schedule's state as the API shows it.
    pub async fn state(&self, task: &TaskId) -> Value {
        self.task_status(task).await.unwrap()["schedule_state"].clone()
    }

    /// A record's rev and body.
    pub async fn raw(&self, id: RecordId) -> Option<(u64, String)> {
        let record = self.store.get(&[id]).await.unwrap().pop().unwrap()?;
        Some((record.rev, String::from_utf8(record.body.to_vec()).unwrap()))
    }
}

/// What an error says when it must be a conflict.
pub fn conflict<T: std::fmt::Debug>(result: Result<T, ManagerError>) -> String {
    match result {
        Err(ManagerError::Conflict(text)) => text,
        other => panic!("not a conflict: {other:?}"),
    }
}
