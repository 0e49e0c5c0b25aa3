//! The stores: one suite for all of them, random traces compared with the memory store, and what each promises beyond that.

mod bounds;
mod claims;
mod conformance;
mod lists;
mod mongodb;
mod postgres;
mod redis;
mod sqlite;
mod trace;
mod transfer;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sandclock::clock::{BootInstant, Clock};
use sandclock::domain::event::{Event, EventName};
use sandclock::domain::id::{AgentId, RunId, TaskId, WorkerId};
use sandclock::domain::policy::{OnUnknown, RetryPolicy};
use sandclock::domain::run::{Run, RunPolicy, SlotPart, Status, Trigger};
use sandclock::domain::time::{Seconds, Timestamp};
use sandclock::store::ServerClock;
use sandclock::store::memory::MemoryStore;
use sandclock::store::redis::RedisStore;
use sandclock::store::sql::sqlite::SqliteStore;
use sandclock::store::{
    Change, ChangeId, ClaimAgent, ClaimRequest, Claimed, CountScope, Guard, Index, Kind, NumberedEvent, Outcome, Put, Record, RecordId,
    Store, When,
};
use tempfile::TempDir;

use crate::servers;

/// A clock that only moves when it is told to.
pub struct ManualClock {
    wall: AtomicI64,
    steady: AtomicI64,
}

impl ManualClock {
    pub fn new() -> Arc<Self> {
        let start = Timestamp::from_seconds(1_800_000_000).micros();
        Arc::new(ManualClock { wall: AtomicI64::new(start), steady: AtomicI64::new(start) })
    }

    /// Lets time pass.
    pub fn advance(&self, span: Duration) {
        let span = i64::try_from(span.as_micros()).unwrap();
        self.steady.fetch_add(span, Ordering::Relaxed);
        self.step_wall(span);
    }

    /// Sets the wall clock forward, or back, by these microseconds.
    pub fn step_wall(&self, micros: i64) {
        self.wall.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.wall.load(Ordering::Relaxed))
    }

    fn steady(&self) -> Timestamp {
        Timestamp::from_micros(self.steady.load(Ordering::Relaxed))
    }

    fn boot(&self) -> BootInstant {
        BootInstant(0)
    }
}

/// A fresh store for one test.
pub struct Place {
    pub store: Arc<dyn Store>,
    pub clock: Arc<ManualClock>,
    changes: AtomicU64,
    /// What goes with the store: its directory, its database.
    _kept: Box<dyn Any + Send + Sync>,
}

impl Place {
    pub async fn memory() -> Place {
        let clock = ManualClock::new();
        let store = Arc::new(MemoryStore::new(clock.clone()));
        Place::of(store, clock, ())
    }

    /// A place with this store, which reads this clock; what is kept is dropped with it.
    pub fn of(store: Arc<dyn Store>, clock: Arc<ManualClock>, kept: impl Any + Send + Sync) -> Place {
        Place { store, clock, changes: AtomicU64::new(0), _kept: Box::new(kept) }
    }

    pub async fn sqlite() -> Place {
        let clock = ManualClock::new();
        let directory = TempDir::new().unwrap();
        let store = Arc::new(SqliteStore::open(&directory.path().join("store.db"), clock.clone()).await.unwrap());
        Place::of(store, clock, directory)
    }

    /// None when the tests of Redis are left out.
    pub async fn redis() -> Option<Place> {
        let (database, clock) = (servers::redis()?, ManualClock::new());
        let store = RedisStore::connect(&database.url, &database.name, ServerClock::given(clock.clone())).await.unwrap();
        Some(Place::of(Arc::new(store), clock, database))
    }

    /// None where its tests are left out.
    pub async fn mongodb() -> Option<Place> {
        let (database, clock) = (crate::servers::mongodb()?, ManualClock::new());
        let store = Arc::new(mongodb::open(&database, ServerClock::given(clock.clone())).await);
        Some(Place::of(store, clock, database))
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// A change of its own id.
    pub fn change(&self) -> Change {
        let id = ChangeId(u128::from(self.changes.fetch_add(1, Ordering::Relaxed)) + 1);
        Change { id, guards: Vec::new(), puts: Vec::new(), deletes: Vec::new(), events: Vec::new() }
    }

    pub async fn apply(&self, change: Change) -> Outcome {
        self.store.apply(vec![change]).await.unwrap().remove(0)
    }

    pub async fn put(&self, puts: Vec<Put>) {
        assert_eq!(self.apply(Change { puts, ..self.change() }).await, Outcome::Applied);
    }

    pub async fn put_runs(&self, runs: &[Run]) {
        let now = self.now();
        self.put(runs.iter().map(|run| Put::run(run, now).unwrap()).collect()).await;
    }

    pub async fn get(&self, id: &RecordId) -> Option<Record> {
        self.store.get(std::slice::from_ref(id)).await.unwrap().remove(0)
    }

    pub async fn run(&self, run: &RunId) -> Run {
        self.get(&RecordId::run(run)).await.unwrap().decode_run().unwrap()
    }

    pub async fn events(&self, run: &RunId) -> Vec<NumberedEvent> {
        self.store.events(run, 0, 1000).await.unwrap()
    }

    pub async fn claim(&self, token: u128, agents: &[(&str, Option<u32>)], limit: usize) -> Vec<Claimed> {
        self.store.claim(request(token, "daemon.one", agents, limit)).await.unwrap()
    }

    pub async fn count(&self, scope: CountScope) -> Vec<(Status, u64)> {
        self.store.counts(scope).await.unwrap().by_status.into_iter().collect()
    }
}

pub fn request(token: u128, worker: &str, agents: &[(&str, Option<u32>)], limit: usize) -> ClaimRequest {
    let wanted = |(agent, max_running): &(&str, Option<u32>)| ClaimAgent {
        agent: AgentId::parse(agent).unwrap(),
        digest: format!("digest of {agent}"),
        max_running: *max_running,
    };
    ClaimRequest {
        token: ChangeId(token),
        worker: WorkerId::parse(worker).unwrap(),
        agents: agents.iter().map(wanted).collect(),
        limit,
        lease: Duration::from_secs(30),
    }
}

pub fn run_id(number: u32) -> RunId {
    RunId::parse(&format!("run_{number:032x}")).unwrap()
}

pub fn task_id(text: &str) -> TaskId {
    TaskId::parse(text).unwrap()
}

pub fn agent_id(text: &str) -> AgentId {
    AgentId::parse(text).unwrap()
}

/// A run that waits for a worker since `now`.
pub fn queued(number: u32, task: &str, agent: &str, now: Timestamp) -> Run {
    Run {
        run_id: run_id(number),
        task_id: task_id(task),
        agent_id: agent_id(agent),
        status: Status::Queued,
        attempt: 0,
        max_attempts: 3,
        query_snapshot: format!("\"quoted\" and \\ back, ünïcode \u{1f980}, {number}"),
        trigger_type: Trigger::Manual,
        triggered_at: now,
        due_at: None,
        occurrence_id: None,
        trigger_metadata: serde_json::Map::new(),
        session_id: format!("session-{number}"),
        workspace_path: format!("runs/{number}"),
        lease_owner: None,
        lease_token: (),
        lease_generation: 0,
        lease_expires_at: None,
        heartbeat_at: None,
        queued_at: now,
        claimed_at: None,
        started_at: None,
        finished_at: None,
        cancel_requested_at: None,
        error: None,
        result_preview: None,
        metadata: serde_json::Map::new(),
        error_kind: None,
        cancel_requested_by: None,
        failures: 0,
        recoveries: 0,
        slot: SlotPart::Free,
        waited_for: None,
        parked: None,
        usage: Default::default(),
        policy: RunPolicy {
            timeout_seconds: Seconds::whole(60),
            cancel_grace_seconds: Seconds::whole(5),
            retry: RetryPolicy::default(),
            max_recoveries: 3,
            on_unknown: OnUnknown::Retry,
            write_run_json: true,
            write_events_jsonl: true,
            budget: Default::default(),
        },
    }
}

pub fn event(run: &Run, name: EventName, now: Timestamp) -> (RunId, Event) {
    (run.run_id.clone(), Event::of(run, name, now).with("note", "\"\n\u{0}'; DROP TABLE record"))
}

/// A record that is nothing but its body.
pub fn plain(kind: Kind, key: &str, body: &str) -> Put {
    Put { id: RecordId::new(kind, key), index: Index::default(), body: Bytes::from(body.to_owned()) }
}

pub fn schedule(task: &str, due: Option<When>) -> Put {
    let index = Index { task: Some(task_id(task)), due, ..Index::default() };
    Put { id: RecordId::new(Kind::Schedule, task), index, body: Bytes::from_static(b"{}") }
}

pub fn rev(id: &RecordId, rev: u64) -> Guard {
    Guard::Rev(id.clone(), rev)
}

pub fn absent(id: &RecordId) -> Guard {
    Guard::Absent(id.clone())
}

/// Runs each case on each store.
macro_rules! on_every_store {
    ($($case:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $case() { super::$case(crate::store::Place::memory().await).await })+
        }
        mod redis {
            $(#[tokio::test] async fn $case() {
                if let Some(place) = crate::store::Place::redis().await { super::$case(place).await }
            })+
        }
        mod sqlite {
            $(#[tokio::test] async fn $case() { super::$case(crate::store::Place::sqlite().await).await })+
        }
        mod mongodb {
            $(#[tokio::test] async fn $case() {
                let Some(place) = crate::store::Place::mongodb().await else { return };
                super::$case(place).await
            })+
        }
        mod postgres {
            $(#[tokio::test] async fn $case() {
                let Some(place) = crate::store::postgres::place().await else { return };
                super::$case(place).await
            })+
        }
    };
}
pub(crate) use on_every_store;
