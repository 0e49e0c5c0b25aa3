//! What the MongoDB store promises beyond the contract.

mod faults;
mod plans;
mod races;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::mongodb::bson::{Document, doc};
use sandclock::clock::{BootInstant, Clock, SystemClock};
use sandclock::domain::event::EventName;
use sandclock::domain::id::WorkerId;
use sandclock::domain::run::{Run, Status};
use sandclock::domain::time::Timestamp;
use sandclock::store::mongodb::{MongoOptions, MongoStore, OnCommand};
use sandclock::store::{
    Change, ChangeId, ClaimRequest, CountScope, DueKind, Index, Kind, Outcome, PageRequest, Put, RecordId, Renewal, Scope, ServerClock,
    Store, StoreError, When,
};

use super::trace::{trace, traces};
use super::{ManualClock, absent, agent_id, event, plain, queued, request, rev, run_id, schedule, task_id};
use crate::servers::{self, TestDatabase};

/// A store in that database.
pub async fn open(database: &TestDatabase, clock: ServerClock) -> MongoStore {
    MongoStore::connect(&database.url, &options(database), clock).await.unwrap()
}

fn options(database: &TestDatabase) -> MongoOptions {
    MongoOptions { database: Some(database.name.clone()), ..MongoOptions::default() }
}

/// Stores of several daemons in one database, with one clock in place of the server's.
async fn handles<const N: usize>(database: &TestDatabase, clock: &Arc<ManualClock>) -> [Arc<MongoStore>; N] {
    let opened = futures::future::join_all((0..N).map(|_| open(database, ServerClock::given(clock.clone())))).await;
    opened.into_iter().map(Arc::new).collect::<Vec<_>>().try_into().unwrap_or_else(|_| unreachable!())
}

/// Names changes that no other test of the database makes.
fn change(number: u128) -> Change {
    Change { id: ChangeId(number), guards: Vec::new(), puts: Vec::new(), deletes: Vec::new(), events: Vec::new() }
}

async fn put_runs(store: &MongoStore, number: u128, runs: &[Run], now: Timestamp) {
    let puts = runs.iter().map(|run| Put::run(run, now).unwrap()).collect();
    assert_eq!(store.apply(vec![Change { puts, ..change(number) }]).await.unwrap(), [Outcome::Applied]);
}

#[test]
fn mongodb_answers_as_memory_does() {
    traces(6, async |seed| {
        let Some(database) = servers::mongodb() else { return };
        let clock = ManualClock::new();
        let open = async || Arc::new(open(&database, ServerClock::given(clock.clone())).await) as Arc<dyn Store>;
        trace(seed, clock.clone(), open).await;
    });
}

/// The commands that a store sent.
#[derive(Default)]
struct Commands(Mutex<Vec<(String, Document)>>);

impl Commands {
    fn watch(self: &Arc<Self>) -> OnCommand {
        let commands = Arc::clone(self);
        Arc::new(move |name, command| commands.0.lock().unwrap().push((name.to_owned(), command.clone())))
    }

    fn take(&self) -> Vec<(String, Document)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// How many were sent since the last time.
    fn count(&self) -> usize {
        self.take().len()
    }
}

/// Everything that a store is asked, once.
async fn live(store: &MongoStore, clock: &ManualClock) {
    let now = clock.now();
    let runs: Vec<Run> = (1..=4).map(|number| queued(number, "task", "agent", now)).collect();
    put_runs(store, 1, &runs, now).await;
    store.apply(vec![Change { puts: vec![schedule("task", Some(When::At(now)))], ..change(2) }]).await.unwrap();
    let claimed = store.claim(request(1, "daemon.one", &[("agent", Some(3))], 9)).await.unwrap();
    assert_eq!(claimed.len(), 3);
    store.claim(request(1, "daemon.one", &[("agent", Some(3))], 9)).await.unwrap();
    let worker = WorkerId::parse("daemon.one").unwrap();
    let renewed = store.renew(&worker, &[(run_id(1), 1), (run_id(2), 1)], Duration::from_secs(30)).await.unwrap();
    assert!(renewed.iter().all(|renewal| matches!(renewal, Renewal::Held(_))));
    let done = Run { status: Status::Completed, ..claimed[0].run.clone() };
    let outcome = Change {
        guards: vec![
            sandclock::store::Guard::Held(run_id(1), 1),
            rev(&RecordId::run(&run_id(2)), claimed[1].rev),
            absent(&RecordId::new(Kind::Slot, "free")),
        ],
        puts: vec![Put::run(&done, now).unwrap()],
        events: vec![event(&claimed[1].run, EventName::Heartbeat, now)],
        ..change(3)
    };
    assert_eq!(store.apply(vec![outcome]).await.unwrap(), [Outcome::Applied]);
    store.apply(vec![Change { deletes: vec![RecordId::run(&run_id(1))], ..change(4) }]).await.unwrap();
    for what in [DueKind::Ready, DueKind::ExpiredLeases, DueKind::Schedules, DueKind::Expiries] {
        store.due(what, 5).await.unwrap();
    }
    let older = DueKind::OlderIncarnations { daemon: "daemon".to_owned(), current: WorkerId::parse("daemon.two").unwrap() };
    assert_eq!(store.due(older, 5).await.unwrap().records.len(), 2);
    store.due(DueKind::Ended { status: Status::Completed, for_at_least: Duration::ZERO }, 5).await.unwrap();
    store.list(Scope::LiveRunsOfTask(task_id("task")), PageRequest::first(2)).await.unwrap();
    store.list(Scope::BucketsOfAgent(agent_id("agent")), PageRequest::first(2)).await.unwrap();
    store.counts(CountScope::RunsOfAgent(agent_id("agent"))).await.unwrap();
    assert_eq!(store.events(&run_id(2), 0, 9).await.unwrap().len(), 3);
    store.now().await.unwrap();
}

/// W-16: what only one member has acknowledged is lost with it.
#[tokio::test]
async fn w_16_every_write_waits_for_the_majority_and_its_journal() {
    let Some(database) = servers::mongodb() else { return };
    let (clock, commands) = (ManualClock::new(), Arc::new(Commands::default()));
    let options = MongoOptions { on_command: Some(commands.watch()), ..options(&database) };
    // Whatever the URL asks for.
    let url = format!("{}&w=1&journal=false&retryWrites=false&readPreference=secondary", database.url);
    let store = MongoStore::connect(&url, &options, ServerClock::given(clock.clone())).await.unwrap();
    live(&store, &clock).await;
    store.close().await;
    let sent = commands.take();
    let mut writes = 0;
    for (name, command) in &sent {
        let is_write = ["insert", "update", "delete", "findAndModify", "create", "createIndexes"].contains(&name.as_str());
        let in_transaction = command.contains_key("autocommit");
        if name == "commitTransaction" || (is_write && !in_transaction) {
            let concern = command.get_document("writeConcern").unwrap_or_else(|_| panic!("{name} says nothing: {command}"));
            assert_eq!((concern.get_str("w").ok(), concern.get_bool("j").ok()), (Some("majority"), Some(true)), "{name}");
            writes += 1;
        }
        if command.get_bool("startTransaction").is_ok_and(|starts| starts) {
            assert_eq!(command.get_document("readConcern").unwrap().get_str("level").ok(), Some("snapshot"), "{name}");
        }
        assert!(
            !command.contains_key("$readPreference") || !format!("{command}").contains("secondary"),
            "{name} may go to a secondary: {command}"
        );
    }
    assert!(writes > 10, "{writes} of {}", sent.len());
    assert!(sent.iter().any(|(name, command)| name == "update" && !command.contains_key("autocommit")), "renewals are writes too");
}

#[tokio::test]
async fn a_calls_round_trips_do_not_grow_with_what_it_is_about() {
    let Some(database) = servers::mongodb() else { return };
    let (clock, commands) = (ManualClock::new(), Arc::new(Commands::default()));
    let options = MongoOptions { on_command: Some(commands.watch()), ..options(&database) };
    let store = MongoStore::connect(&database.url, &options, ServerClock::given(clock.clone())).await.unwrap();
    let (now, worker) = (clock.now(), WorkerId::parse("daemon.one").unwrap());
    for (round, many) in [(1, 1), (2, 200_u32)] {
        let runs: Vec<Run> = (0..many).map(|number| queued(round * 1000 + number, "task", "agent", now)).collect();
        let enqueue = |run: &Run| Change {
            guards: vec![absent(&RecordId::run(&run.run_id))],
            puts: vec![Put::run(run, now).unwrap()],
            events: vec![event(run, EventName::Queued, now)],
            ..change(u128::from(u64::from_str_radix(&run.run_id.as_str()[28..], 16).unwrap()))
        };
        commands.take();
        store.apply(runs.iter().map(enqueue).collect()).await.unwrap();
        assert_eq!(commands.count(), 6, "orders, read, records, events, counts, commit");
        let claimed = store.claim(request(u128::from(round), "daemon.one", &[("agent", None)], 500)).await.unwrap();
        assert_eq!((claimed.len(), commands.count()), (many as usize, 8), "two reads, orders, records, leases, events, counts, commit");
        let leases: Vec<_> = claimed.iter().map(|claimed| (claimed.run.run_id.clone(), 1)).collect();
        store.renew(&worker, &leases, Duration::from_secs(30)).await.unwrap();
        assert_eq!(commands.count(), 2, "an update and a read");
        let end = |claimed: &sandclock::store::Claimed| {
            let done = Run { status: Status::Completed, ..claimed.run.clone() };
            Change {
                guards: vec![sandclock::store::Guard::Held(done.run_id.clone(), 1)],
                puts: vec![Put::run(&done, now).unwrap()],
                events: vec![event(&done, EventName::Heartbeat, now)],
                ..change(7)
            }
        };
        store.apply(claimed.iter().map(end).collect()).await.unwrap();
        assert_eq!(commands.count(), 6, "read, records, leases, events, counts, commit");
        assert_eq!(store.claim(request(9, "daemon.one", &[("agent", None)], 500)).await.unwrap(), []);
        assert_eq!(commands.count(), 2, "a claim that finds nothing reads once and aborts");
    }
}

#[tokio::test]
async fn stores_of_one_database_are_told_apart_by_their_prefix() {
    let Some(database) = servers::mongodb() else { return };
    let clock = ManualClock::new();
    let with = |prefix: &str| MongoOptions { prefix: prefix.to_owned(), ..options(&database) };
    let one = MongoStore::connect(&database.url, &with("one_"), ServerClock::given(clock.clone())).await.unwrap();
    let two = MongoStore::connect(&database.url, &with("two_"), ServerClock::given(clock.clone())).await.unwrap();
    one.apply(vec![Change { puts: vec![plain(Kind::Agent, "echo", "{}")], ..change(1) }]).await.unwrap();
    assert!(one.get(&[RecordId::new(Kind::Agent, "echo")]).await.unwrap()[0].is_some());
    assert_eq!(two.get(&[RecordId::new(Kind::Agent, "echo")]).await.unwrap(), [None]);
}

#[tokio::test]
async fn a_store_of_the_first_version_is_brought_forward() {
    let Some(database) = servers::mongodb() else { return };
    drop(open(&database, ServerClock::given(ManualClock::new())).await);
    let client = ::mongodb::Client::with_uri_str(&database.url).await.unwrap();
    let raw = client.database(&database.name);
    raw.collection::<Document>("records").drop_index("agent_buckets").await.unwrap();
    raw.collection::<Document>("meta").update_one(doc! { "_id": "schema" }, doc! { "$set": { "version": 1_i64 } }).await.unwrap();
    let store = open(&database, ServerClock::given(ManualClock::new())).await;
    let put = Put { index: Index { agent: Some(agent_id("x")), ..Index::default() }, ..plain(Kind::KeyValue, "a/x", "{}") };
    store.apply(vec![Change { puts: vec![put], ..change(1) }]).await.unwrap();
    assert_eq!(store.list(Scope::BucketsOfAgent(agent_id("x")), PageRequest::first(9)).await.unwrap().records.len(), 1);
}

#[tokio::test]
async fn a_store_of_a_later_version_is_left_alone() {
    let Some(database) = servers::mongodb() else { return };
    drop(open(&database, ServerClock::given(ManualClock::new())).await);
    let client = ::mongodb::Client::with_uri_str(&database.url).await.unwrap();
    let meta = client.database(&database.name).collection::<Document>("meta");
    meta.update_one(doc! { "_id": "schema" }, doc! { "$set": { "version": 99_i64 } }).await.unwrap();
    let refused = MongoStore::connect(&database.url, &options(&database), ServerClock::given(ManualClock::new())).await;
    let Err(StoreError::Invalid(said)) = refused else { panic!("it was opened") };
    assert!(said.contains("schema version 99") && said.contains("run the newer sandclock"), "{said}");
}

/// A clock whose wall clock is off.
struct Off(i64);

impl Clock for Off {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(SystemClock.now().micros() + self.0)
    }

    fn steady(&self) -> Timestamp {
        Timestamp::from_micros(SystemClock.steady().micros() + self.0)
    }

    fn boot(&self) -> BootInstant {
        SystemClock.boot()
    }
}

/// W-09: two daemons whose clocks are ten minutes apart, and neither right.
#[tokio::test]
async fn w_09_the_servers_clock_alone_judges() {
    const FIVE_MINUTES: i64 = 300_000_000;
    let Some(database) = servers::mongodb() else { return };
    let fast = open(&database, ServerClock::of_server(Arc::new(Off(FIVE_MINUTES)))).await;
    let slow = open(&database, ServerClock::of_server(Arc::new(Off(-FIVE_MINUTES)))).await;
    for store in [&fast, &slow] {
        let off = store.now().await.unwrap().micros().abs_diff(SystemClock.now().micros());
        assert!(off < 60_000_000, "the server runs on this machine, and its clock is told: off by {off}");
    }
    let now = fast.now().await.unwrap();
    let later = Put::run(&Run { queued_at: now + Duration::from_secs(200), ..queued(2, "task", "agent", now) }, now).unwrap();
    let puts = vec![Put::run(&queued(1, "task", "agent", now), now).unwrap(), later];
    fast.apply(vec![Change { puts, ..change(1) }]).await.unwrap();
    let wish =
        |token, worker, seconds| ClaimRequest { lease: Duration::from_secs(seconds), ..request(token, worker, &[("agent", None)], 9) };
    let claimed = slow.claim(wish(1, "slow.one", 1)).await.unwrap();
    assert_eq!(claimed.len(), 1, "what is due in 200 s is not due by any clock");
    // The next look is when the server says that the lease has passed.
    let due = loop {
        let due = fast.due(DueKind::ExpiredLeases, 9).await.unwrap();
        if !due.records.is_empty() {
            break due;
        }
        tokio::time::sleep(due.next.unwrap().since(due.now) + Duration::from_millis(1)).await;
    };
    let until = due.records[0].lease.as_ref().unwrap().until.unwrap();
    assert!(until <= due.now && due.now.since(until) < Duration::from_secs(60));
    let worker = WorkerId::parse("slow.one").unwrap();
    assert_eq!(slow.renew(&worker, &[(run_id(1), 1)], Duration::from_secs(30)).await.unwrap(), [Renewal::Lost]);
    let held = Change { guards: vec![sandclock::store::Guard::Held(run_id(1), 1)], ..change(2) };
    assert_eq!(slow.apply(vec![held.clone()]).await.unwrap(), [Outcome::Refused(held.guards[0].clone())]);
}
