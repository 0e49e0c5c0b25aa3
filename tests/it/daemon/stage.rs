//! What executes attempts in these tests: an agent that answers at once, one whose every attempt the test holds in its hands, and real
//! components in the real sandbox.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sandclock::daemon::executor::{Executor, Offer, Offered, Start};
use sandclock::domain::budget::Budget;
use sandclock::domain::id::{AgentId, RunId};
use sandclock::domain::policy::ErrorKind;
use sandclock::egress::Account;
use sandclock::sandbox::{
    AttemptReport, AttemptSignals, AttemptSpec, DiskUse, Ended, GuestHost, Prepared, Sandbox, SandboxSettings, Usage,
};
use sandclock::store::ClaimAgent;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use wasmtime::component::Component;

use super::harness::until;

static SANDBOX: LazyLock<Sandbox> =
    LazyLock::new(|| Sandbox::new(&SandboxSettings { max_instances: 64, ..SandboxSettings::default() }).unwrap());

fn report(ended: Ended) -> AttemptReport {
    AttemptReport { ended, usage: Usage::default() }
}

/// An attempt that does what the test says.
pub struct Guest {
    pub spec: AttemptSpec,
    pub host: Arc<dyn GuestHost>,
    pub signals: Arc<AttemptSignals>,
    pub account: Option<Arc<dyn Account>>,
    answer: oneshot::Sender<AttemptReport>,
}

impl Guest {
    pub fn run_id(&self) -> RunId {
        RunId::parse(&self.spec.context.run_id).unwrap()
    }

    pub fn end(self, ended: Ended) {
        self.end_having_used(ended, Usage::default());
    }

    pub fn end_having_used(self, ended: Ended, usage: Usage) {
        // The daemon may have been stopped by the test.
        let _ = self.answer.send(AttemptReport { ended, usage });
    }

    /// Ends as the sandbox would, once it has been stopped.
    pub async fn end_stopped(self) {
        self.stopped().await;
        let why = self.signals.stopped().unwrap();
        self.end(Ended::Stopped(why));
    }

    pub fn complete(self, answer: &str) {
        self.end(Ended::Completed(answer.to_owned()));
    }

    pub fn fail(self, kind: ErrorKind) {
        self.end(Ended::Failed { kind, message: "it went wrong".to_owned(), after: None });
    }

    /// Returns when a cancel was asked for.
    pub async fn cancelled(&self) {
        until("a cancel", async || self.signals.cancel_asked()).await;
    }

    /// Returns when the attempt may do nothing any more.
    pub async fn stopped(&self) {
        while self.signals.may_act() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Hands each attempt to the test.
struct Steered {
    to_test: mpsc::UnboundedSender<Guest>,
    room: Arc<AtomicU64>,
    budget: Arc<Mutex<Budget>>,
}

#[async_trait]
impl Start for Steered {
    fn budget(&self) -> Budget {
        *self.budget.lock().unwrap()
    }

    fn disk(&self) -> DiskUse {
        DiskUse { bytes: self.room.load(Ordering::SeqCst), files: 1000 }
    }

    async fn execute(
        &self,
        spec: AttemptSpec,
        host: Arc<dyn GuestHost>,
        account: Option<Arc<dyn Account>>,
        signals: Arc<AttemptSignals>,
    ) -> AttemptReport {
        let (answer, answered) = oneshot::channel();
        self.to_test.send(Guest { spec, host, signals, account, answer }).unwrap();
        match answered.await {
            Ok(report) => report,
            // A test that lets go of a guest leaves it running.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Answers at once.
struct Echo;

#[async_trait]
impl Start for Echo {
    async fn execute(
        &self,
        spec: AttemptSpec,
        _: Arc<dyn GuestHost>,
        _: Option<Arc<dyn Account>>,
        _: Arc<AttemptSignals>,
    ) -> AttemptReport {
        report(Ended::Completed(format!("did: {}", spec.query)))
    }
}

/// Brings its attempt's task down, as a defect of the daemon's own would.
struct Panics;

#[async_trait]
impl Start for Panics {
    async fn execute(
        &self,
        spec: AttemptSpec,
        _: Arc<dyn GuestHost>,
        _: Option<Arc<dyn Account>>,
        _: Arc<AttemptSignals>,
    ) -> AttemptReport {
        assert!(spec.context.attempt > 1, "the first attempt panics, as this test wants");
        report(Ended::Completed("recovered".to_owned()))
    }
}

/// A component in the sandbox.
struct InSandbox(Prepared, Arc<Mutex<Budget>>);

#[async_trait]
impl Start for InSandbox {
    fn budget(&self) -> Budget {
        *self.1.lock().unwrap()
    }

    async fn execute(
        &self,
        spec: AttemptSpec,
        host: Arc<dyn GuestHost>,
        _: Option<Arc<dyn Account>>,
        signals: Arc<AttemptSignals>,
    ) -> AttemptReport {
        SANDBOX.execute(&self.0, spec, host, signals).await
    }
}

/// The agents of a world.
pub struct Stage {
    agents: Mutex<BTreeMap<AgentId, Offered>>,
    version: watch::Sender<u64>,
    guests: tokio::sync::Mutex<mpsc::UnboundedReceiver<Guest>>,
    room: Arc<AtomicU64>,
    budget: Arc<Mutex<Budget>>,
}

impl Stage {
    pub fn new() -> Arc<Self> {
        let (to_test, guests) = mpsc::unbounded_channel();
        let room = Arc::new(AtomicU64::new(1 << 30));
        let budget = Arc::<Mutex<Budget>>::default();
        let steered = Steered { to_test, room: Arc::clone(&room), budget: Arc::clone(&budget) };
        let guests = tokio::sync::Mutex::new(guests);
        let stage = Stage { agents: Mutex::default(), version: watch::channel(0).0, guests, room, budget };
        stage.add("guest", None, Arc::new(steered));
        stage.add("echo", None, Arc::new(Echo));
        stage.add("panics", None, Arc::new(Panics));
        Arc::new(stage)
    }

    pub fn add(&self, agent: &str, max_running: Option<u32>, start: Arc<dyn Start>) {
        let agent = AgentId::parse(agent).unwrap();
        let claim = ClaimAgent { agent: agent.clone(), digest: "d".repeat(64), max_running };
        self.agents.lock().unwrap().insert(agent, Offered { claim, start });
        self.version.send_modify(|version| *version += 1);
    }

    /// Makes an agent of a component.
    pub fn add_component(&self, agent: &str, bytes: &[u8]) {
        let prepared = SANDBOX.prepare(&Component::new(SANDBOX.engine(), bytes).unwrap()).unwrap();
        self.add(agent, None, Arc::new(InSandbox(prepared, Arc::clone(&self.budget))));
    }

    /// Another agent whose attempts the test holds, as those of `guest`.
    pub fn steer(&self, agent: &str) {
        let start = Arc::clone(&self.agents.lock().unwrap()[&AgentId::parse("guest").unwrap()].start);
        self.add(agent, None, start);
    }

    /// Lets an agent have so many runs at once.
    pub fn limit(&self, agent: &str, max_running: u32) {
        let start = Arc::clone(&self.agents.lock().unwrap()[&AgentId::parse(agent).unwrap()].start);
        self.add(agent, Some(max_running), start);
    }

    /// What the agents may spend whose attempts the test holds.
    pub fn budget(&self, budget: Value) {
        *self.budget.lock().unwrap() = serde_json::from_value(budget).unwrap();
    }

    /// How many bytes a workspace of the agent `guest` may have.
    pub fn room(&self, bytes: u64) {
        self.room.store(bytes, Ordering::SeqCst);
    }

    pub fn echo(&self, agent: &str) {
        self.add(agent, None, Arc::new(Echo));
    }

    pub fn offers(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// The next attempt of the agent `guest`.
    pub async fn guest(&self) -> Guest {
        let next = async { self.guests.lock().await.recv().await };
        tokio::time::timeout(Duration::from_secs(60), next).await.expect("no attempt started").unwrap()
    }

    /// An attempt of the agent `guest` that has started already.
    pub fn guest_now(&self) -> Option<Guest> {
        self.guests.try_lock().ok()?.try_recv().ok()
    }
}

impl Executor for Stage {
    fn budget_of(&self, _: &AgentId) -> Budget {
        *self.budget.lock().unwrap()
    }

    fn offer(&self) -> Offer {
        Arc::new(self.agents.lock().unwrap().values().cloned().collect())
    }
}
