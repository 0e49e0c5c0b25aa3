//! What the Redis store promises beyond the suite: batches and claims of several daemons at once, the server's own clock, connections that
//! break, servers that start again, are full or are old, and what its scripts cost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use redis::AsyncCommands as _;
use sandclock::clock::SystemClock;
use sandclock::domain::event::EventName;
use sandclock::domain::id::WorkerId;
use sandclock::domain::run::{Run, Status};
use sandclock::store::ServerClock;
use sandclock::store::redis::RedisStore;
use sandclock::store::{
    Change, ChangeId, CountScope, DueKind, Guard, Index, Kind, Outcome, PageRequest, Put, RecordId, Renewal, Scope, Store, StoreError,
};

use super::trace::{trace, traces};
use super::{ManualClock, Place, absent, event, plain, queued, request, rev, run_id};
use crate::servers::own::{OwnServer, Stop};
use crate::servers::{self, TestDatabase};

const AGENT: &[(&str, Option<u32>)] = &[("agent", None)];

#[test]
fn redis_answers_as_memory_does() {
    traces(12, async |seed| {
        let Some(database) = servers::redis() else { return };
        let clock = ManualClock::new();
        let open = async || Arc::new(handle(&database, &clock).await) as Arc<dyn Store>;
        trace(seed, clock.clone(), open).await;
    });
}

/// One of several daemons' ways to one store.
async fn handle(database: &TestDatabase, clock: &Arc<ManualClock>) -> RedisStore {
    RedisStore::connect(&database.url, &database.name, ServerClock::given(clock.clone())).await.unwrap()
}

async fn handles(database: &TestDatabase, clock: &Arc<ManualClock>, count: usize) -> Vec<RedisStore> {
    join_all((0..count).map(|_| handle(database, clock))).await
}

/// A store that the server's own clock judges.
async fn judged_by_server(url: &str) -> RedisStore {
    RedisStore::connect(url, "sandclock", ServerClock::of_server(Arc::new(SystemClock))).await.unwrap()
}

/// A connection of the test's own.
async fn beside(url: &str) -> redis::aio::MultiplexedConnection {
    redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
}

fn change(id: u128) -> Change {
    Change { id: ChangeId(id), guards: Vec::new(), puts: Vec::new(), deletes: Vec::new(), events: Vec::new() }
}

/// An enqueue: a new run with its first event.
fn enqueue(number: u32, run: &Run) -> Change {
    let id = RecordId::run(&run.run_id);
    let now = run.queued_at;
    Change {
        guards: vec![absent(&id)],
        puts: vec![Put::run(run, now).unwrap()],
        events: vec![event(run, EventName::Queued, now)],
        ..change(u128::from(number) + 1)
    }
}

/// W-35: nothing of what many ask for at once is refused for contention.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w_35_200_concurrent_enqueues_give_200_runs() {
    let Some(database) = servers::redis() else { return };
    let clock = ManualClock::new();
    let stores = handles(&database, &clock, 10).await;
    let now = sandclock::clock::Clock::now(&*clock);
    let asked = (0..200_u32).map(|number| {
        let store = &stores[number as usize % stores.len()];
        let run = queued(number, "task", "agent", now);
        async move { store.apply(vec![enqueue(number, &run)]).await.unwrap() }
    });
    assert!(join_all(asked).await.into_iter().flatten().all(|outcome| outcome == Outcome::Applied));
    let counts = stores[0].counts(CountScope::All(Kind::Run)).await.unwrap();
    assert_eq!((counts.total, counts.of(Status::Queued)), (200, 200));
    let runs = stores[0].list(Scope::All(Kind::Run), PageRequest::first(1000)).await.unwrap().records;
    let orders: BTreeSet<i64> = runs.iter().map(|run| run.order).collect();
    assert_eq!((runs.len(), orders.len()), (200, 200), "each has an order of its own");
}

/// All daemons want the one record, again and again: each change is made once, on top of the one before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_one_record_by_many_daemons_follow_each_other() {
    const DAEMONS: usize = 8;
    const EACH: usize = 25;
    let Some(database) = servers::redis() else { return };
    let clock = ManualClock::new();
    let stores = handles(&database, &clock, DAEMONS).await;
    let id = RecordId::new(Kind::Slot, "hot");
    stores[0].apply(vec![Change { puts: vec![plain(Kind::Slot, "hot", "0")], ..change(1) }]).await.unwrap();
    let first = stores[0].get(std::slice::from_ref(&id)).await.unwrap().remove(0).unwrap().rev;
    join_all(stores.iter().enumerate().map(|(daemon, store)| {
        let id = &id;
        async move {
            for turn in 0..EACH {
                loop {
                    let seen = store.get(std::slice::from_ref(id)).await.unwrap().remove(0).unwrap();
                    let count: usize = std::str::from_utf8(&seen.body).unwrap().parse().unwrap();
                    let next = plain(Kind::Slot, "hot", &(count + 1).to_string());
                    let number = 2 + (daemon * EACH + turn) as u128;
                    let change = Change { guards: vec![rev(id, seen.rev)], puts: vec![next], ..change(number) };
                    if store.apply(vec![change]).await.unwrap() == [Outcome::Applied] {
                        break;
                    }
                }
            }
        }
    }))
    .await;
    let last = stores[0].get(&[id]).await.unwrap().remove(0).unwrap();
    assert_eq!((&last.body[..], last.rev), (b"200".as_slice(), first + 200));
}

/// Of daemons that make the same record at the same time one succeeds, and the others are told by which guard they did not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_those_that_make_a_record_one_makes_it() {
    let Some(database) = servers::redis() else { return };
    let clock = ManualClock::new();
    let stores = handles(&database, &clock, 6).await;
    for round in 0..20_u128 {
        let id = RecordId::new(Kind::Slot, &format!("task-{round}"));
        let asked = stores.iter().enumerate().map(|(daemon, store)| {
            let change = Change {
                guards: vec![absent(&id)],
                puts: vec![Put { id: id.clone(), index: Index::default(), body: "{}".into() }],
                ..change(round * 10 + daemon as u128 + 1)
            };
            store.apply(vec![change])
        });
        let outcomes: Vec<Outcome> = join_all(asked).await.into_iter().flat_map(Result::unwrap).collect();
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Applied).count(), 1);
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Applied | Outcome::Refused(Guard::Absent(_)))));
    }
}

/// 20,000 due runs drain, by daemons that claim at the same time: each run once, never more of an agent than it may have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn due_runs_by_the_thousands_drain_through_claims() {
    const RUNS: u32 = 20_000;
    let Some(database) = servers::redis() else { return };
    let clock = ManualClock::new();
    let stores = handles(&database, &clock, 3).await;
    let now = sandclock::clock::Clock::now(&*clock);
    for chunk in (0..RUNS).collect::<Vec<_>>().chunks(500) {
        let runs = chunk.iter().map(|number| queued(*number, "task", ["a", "b"][*number as usize % 2], now));
        let puts = runs.map(|run| Put::run(&run, now).unwrap()).collect();
        stores[0].apply(vec![Change { puts, ..change(u128::from(chunk[0]) + 1) }]).await.unwrap();
    }
    let claimed = join_all(stores.iter().enumerate().map(|(daemon, store)| async move {
        let mut claimed = Vec::new();
        for turn in 0.. {
            let token = (daemon as u128 + 1) << 32 | turn;
            let mine = store.claim(request(token, &format!("daemon-{daemon}.one"), &[("a", None), ("b", None)], 500)).await.unwrap();
            if mine.is_empty() {
                return claimed;
            }
            claimed.extend(mine.into_iter().map(|claim| claim.run.run_id));
        }
        claimed
    }))
    .await;
    let all: BTreeSet<_> = claimed.iter().flatten().collect();
    assert_eq!((all.len(), claimed.iter().map(Vec::len).sum::<usize>()), (RUNS as usize, RUNS as usize), "each run once");
    assert!(claimed.iter().all(|mine| !mine.is_empty()), "all of them have claimed");
    let counts = stores[0].counts(CountScope::All(Kind::Run)).await.unwrap();
    assert_eq!(counts.of(Status::Running), u64::from(RUNS));
}

/// An agent's limit holds exactly, whoever claims at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_over_daemons_that_claim_at_once() {
    const LIMIT: u32 = 7;
    let Some(database) = servers::redis() else { return };
    let clock = ManualClock::new();
    let stores = handles(&database, &clock, 6).await;
    let now = sandclock::clock::Clock::now(&*clock);
    let puts = (0..60).map(|number| Put::run(&queued(number, "task", "agent", now), now).unwrap()).collect();
    stores[0].apply(vec![Change { puts, ..change(1) }]).await.unwrap();
    let mut fences = BTreeMap::new();
    for round in 0..8_u128 {
        let wishes = stores.iter().enumerate().map(|(daemon, store)| {
            store.claim(request(round * 10 + daemon as u128 + 1, &format!("d{daemon}.one"), &[("agent", Some(LIMIT))], 3))
        });
        let claimed: Vec<_> = join_all(wishes).await.into_iter().flat_map(Result::unwrap).collect();
        assert_eq!(claimed.len(), LIMIT as usize, "neither more nor fewer in round {round}");
        for claim in &claimed {
            assert_eq!(fences.insert(claim.run.run_id.clone(), claim.run.lease_generation), None, "each run once");
        }
        let done = claimed.into_iter().map(|claim| Run { status: Status::Completed, ..claim.run });
        let puts = done.map(|run| Put::run(&run, now).unwrap()).collect();
        stores[0].apply(vec![Change { puts, ..change(100 + round) }]).await.unwrap();
    }
}

/// The server's clock judges, and no daemon's: not even one that is five minutes off.
#[tokio::test]
async fn w_16_only_the_servers_clock_judges_leases() {
    let Some(database) = servers::redis() else { return };
    let mut stores = Vec::new();
    for off in [0, 300_000_000, -300_000_000] {
        let clock = ManualClock::new();
        clock.step_wall(off);
        stores.push(RedisStore::connect(&database.url, &database.name, ServerClock::of_server(clock)).await.unwrap());
    }
    let lease = Duration::from_secs(1);
    let now = stores[0].now().await.unwrap();
    let runs: Vec<Run> = (1..=2).map(|number| queued(number, "task", "agent", now)).collect();
    let puts = runs.iter().map(|run| Put::run(run, now).unwrap()).collect();
    stores[1].apply(vec![Change { puts, ..change(1) }]).await.unwrap();
    let wish = |token, worker| sandclock::store::ClaimRequest { lease, ..request(token, worker, AGENT, 1) };
    let first = stores[1].claim(wish(1, "ahead.one")).await.unwrap().remove(0);
    let second = stores[2].claim(wish(2, "behind.one")).await.unwrap().remove(0);
    let held = |claim: &sandclock::store::Claimed| Guard::Held(claim.run.run_id.clone(), claim.run.lease_generation);
    let is_held = async |store: &RedisStore, claim| {
        let outcomes = store.apply(vec![Change { guards: vec![held(claim)], ..change(9) }]).await.unwrap();
        outcomes == [Outcome::Applied]
    };
    for store in &stores {
        let due = store.due(DueKind::ExpiredLeases, 9).await.unwrap();
        assert!(
            due.records.is_empty() && due.now.since(now) < Duration::from_secs(60),
            "nothing has passed, whatever a daemon's clock says"
        );
        assert!(is_held(store, &first).await && is_held(store, &second).await);
    }
    // The server says when they have passed.
    let mut expired = 0;
    while expired < 2 {
        let due = stores[2].due(DueKind::ExpiredLeases, 9).await.unwrap();
        expired = due.records.len();
        if let Some(next) = due.next {
            assert!(next > due.now);
            tokio::time::sleep(next.since(due.now)).await;
        }
    }
    for store in &stores {
        assert!(!is_held(store, &first).await);
        assert_eq!(store.renew(&second.attempt.worker_id, &[(run_id(2), 1)], lease).await.unwrap(), [Renewal::Lost]);
        let now = store.now().await.unwrap();
        assert!(now.since(first.run.lease_expires_at.unwrap()) < Duration::from_secs(60), "the present is the server's");
    }
}

/// Connections that the server closes come back with the next call.
#[tokio::test]
async fn closed_connections_come_back() {
    let Some(mut server) = OwnServer::redis(&["--appendonly", "yes", "--appendfsync", "always"]).await else { return };
    let store = judged_by_server(&server.url()).await;
    let now = store.now().await.unwrap();
    store.apply(vec![enqueue(1, &queued(1, "task", "agent", now))]).await.unwrap();
    let claimed = store.claim(request(1, "daemon.one", AGENT, 1)).await.unwrap().remove(0);
    let mut other = beside(&server.url()).await;
    let lease = Duration::from_secs(600);
    for round in 2..5 {
        let killed: i64 =
            redis::cmd("CLIENT").arg("KILL").arg("SKIPME").arg("yes").arg("TYPE").arg("normal").query_async(&mut other).await.unwrap();
        assert!(killed > 0);
        let renewed = store.renew(&claimed.attempt.worker_id, &[(run_id(1), 1)], lease).await.unwrap();
        assert!(matches!(renewed[..], [Renewal::Held(_)]));
        assert_eq!(store.events(&run_id(1), 0, 9).await.unwrap().len(), 3);
        let run = queued(round, "task", "agent", now);
        assert_eq!(store.apply(vec![enqueue(round, &run)]).await.unwrap(), [Outcome::Applied]);
    }
    // A server that is gone is told of, and it is used again when it is back; what was acknowledged is there, and scripts are loaded anew.
    let before = store.list(Scope::All(Kind::Run), PageRequest::first(9)).await.unwrap().records;
    server.kill().await;
    let gone = store.apply(vec![enqueue(7, &queued(7, "task", "agent", now))]).await.unwrap_err();
    assert!(matches!(&gone, StoreError::Unavailable(text) if text.contains("127.0.0.1")), "{gone}");
    assert!(store.now().await.is_ok(), "the present is reckoned for a while");
    server.start().await;
    assert_eq!(store.list(Scope::All(Kind::Run), PageRequest::first(9)).await.unwrap().records, before);
    assert_eq!(store.apply(vec![enqueue(7, &queued(7, "task", "agent", now))]).await.unwrap(), [Outcome::Applied]);
    assert!(matches!(store.renew(&claimed.attempt.worker_id, &[(run_id(1), 1)], lease).await.unwrap()[..], [Renewal::Held(_)]));
    // Scripts that somebody flushed are loaded again.
    let mut other = beside(&server.url()).await;
    redis::cmd("SCRIPT").arg("FLUSH").query_async::<()>(&mut other).await.unwrap();
    assert_eq!(store.apply(vec![enqueue(8, &queued(8, "task", "agent", now))]).await.unwrap(), [Outcome::Applied]);
    server.stop(Stop::Fast).await;
    assert!(matches!(store.get(&[RecordId::run(&run_id(1))]).await, Err(StoreError::Unavailable(_))));
    store.close().await;
    assert!(matches!(store.get(&[]).await, Ok(none) if none.is_empty()));
    assert!(matches!(store.counts(CountScope::All(Kind::Run)).await, Err(StoreError::Unavailable(text)) if text.contains("closed")));
}

/// A server that has lost its last writes gives no fence twice.
#[tokio::test]
async fn fences_rise_though_a_server_forgets_a_claim() {
    let Some(mut server) = OwnServer::redis(&["--appendonly", "no", "--save", ""]).await else { return };
    let store = judged_by_server(&server.url()).await;
    let now = store.now().await.unwrap();
    store.apply(vec![enqueue(1, &queued(1, "task", "agent", now))]).await.unwrap();
    let mut other = beside(&server.url()).await;
    redis::cmd("SAVE").query_async::<()>(&mut other).await.unwrap();
    let lost = store.claim(request(1, "daemon.one", AGENT, 1)).await.unwrap().remove(0);
    assert_eq!(lost.run.lease_generation, 1);
    server.kill().await;
    server.start().await;
    let again = store.claim(request(2, "daemon.two", AGENT, 1)).await.unwrap().remove(0);
    assert!(again.run.lease_generation > lost.run.lease_generation, "{}", again.run.lease_generation);
    let late = Change { guards: vec![Guard::Held(run_id(1), lost.run.lease_generation)], ..change(5) };
    assert!(matches!(store.apply(vec![late]).await.unwrap()[..], [Outcome::Refused(_)]));
    let held = Change { guards: vec![Guard::Held(run_id(1), again.run.lease_generation)], ..change(6) };
    assert_eq!(store.apply(vec![held]).await.unwrap(), [Outcome::Applied]);
    let record = store.get(&[RecordId::run(&run_id(1))]).await.unwrap().remove(0).unwrap();
    assert_eq!(record.lease.unwrap().fence, again.run.lease_generation);
}

/// A server that may use no more memory refuses what is new as a whole, and lets leases and deletes through.
#[tokio::test]
async fn a_full_server_is_full_and_goes_on() {
    let Some(server) = OwnServer::redis(&[]).await else { return };
    let store = judged_by_server(&server.url()).await;
    let now = store.now().await.unwrap();
    store.apply((1..=3).map(|number| enqueue(number, &queued(number, "task", "agent", now))).collect()).await.unwrap();
    let claimed = store.claim(request(1, "daemon.one", AGENT, 1)).await.unwrap().remove(0);
    let mut other = beside(&server.url()).await;
    let set = async |other: &mut redis::aio::MultiplexedConnection, most: &str| {
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(most).query_async::<()>(other).await.unwrap();
    };
    set(&mut other, "1mb").await;
    let enqueued = store.apply(vec![enqueue(4, &queued(4, "task", "agent", now))]).await.unwrap_err();
    assert!(matches!(&enqueued, StoreError::Full(text) if text.contains("maxmemory")), "{enqueued}");
    assert!(matches!(store.claim(request(2, "daemon.one", AGENT, 1)).await, Err(StoreError::Full(_))));
    assert!(matches!(store.claim(request(3, "daemon.one", &[], 0)).await, Err(StoreError::Full(_))), "a wish for nothing tells too");
    assert_eq!(store.get(&[RecordId::run(&run_id(4))]).await.unwrap(), [None], "nothing of it was written");
    let renewed = store.renew(&claimed.attempt.worker_id, &[(run_id(1), 1)], Duration::from_secs(60)).await.unwrap();
    assert!(matches!(renewed[..], [Renewal::Held(_)]));
    let delete = Change { deletes: vec![RecordId::run(&run_id(3))], ..change(50) };
    assert_eq!(store.apply(vec![delete]).await.unwrap(), [Outcome::Applied]);
    assert_eq!(store.counts(CountScope::All(Kind::Run)).await.unwrap().total, 2);
    set(&mut other, "0").await;
    assert_eq!(store.apply(vec![enqueue(4, &queued(4, "task", "agent", now))]).await.unwrap(), [Outcome::Applied]);
    assert_eq!(store.claim(request(2, "daemon.one", AGENT, 9)).await.unwrap().len(), 2);
}

/// Errors say which server and what to do, and no secret.
#[tokio::test]
async fn errors_name_the_server_and_no_secret() {
    let Some(server) = OwnServer::redis(&[]).await else { return };
    let mut other = beside(&server.url()).await;
    redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("right-secret").query_async::<()>(&mut other).await.unwrap();
    let at = format!("127.0.0.1:{}", server.port());
    let refused = async |url: &str, prefix: &str| {
        let clock = ServerClock::of_server(Arc::new(SystemClock));
        let error = RedisStore::connect(url, prefix, clock).await.err().expect("a refusal");
        for secret in ["right-secret", "wrong-secret", "somebody"] {
            assert!(!format!("{error} {error:?}").contains(secret), "{error}");
        }
        error
    };
    let wrong = refused(&format!("redis://somebody:wrong-secret@{at}/2"), "p").await;
    assert!(matches!(&wrong, StoreError::Invalid(text) if text.contains(&at) && text.contains("password")), "{wrong}");
    let none = refused(&format!("redis://{at}"), "p").await;
    assert!(matches!(&none, StoreError::Invalid(text) if text.contains("password")), "{none}");
    let nobody = refused("redis://somebody:wrong-secret@127.0.0.1:1/0", "p").await;
    assert!(matches!(&nobody, StoreError::Unavailable(text) if text.contains("127.0.0.1:1, database 0")), "{nobody}");
    let no_tls = refused(&format!("rediss://somebody:wrong-secret@{at}"), "p").await;
    assert!(matches!(&no_tls, StoreError::Unavailable(text) if text.contains(&at)), "{no_tls}");
    for url in ["", "somebody:wrong-secret", "http://somebody:wrong-secret@host", "redis://somebody:wrong-secret@host/x"] {
        assert!(matches!(refused(url, "p").await, StoreError::Invalid(_)), "{url}");
    }
    for prefix in ["", "a b", "a}b", "{a", "ü", &"x".repeat(129)] {
        assert!(matches!(refused(&format!("redis://:right-secret@{at}"), prefix).await, StoreError::Invalid(_)), "{prefix}");
    }
    RedisStore::connect(&format!("redis://:right-secret@{at}"), "p", ServerClock::of_server(Arc::new(SystemClock))).await.unwrap();
}

/// A store that a later release has written is not touched.
#[tokio::test]
async fn a_later_version_is_refused() {
    let Some(database) = servers::redis() else { return };
    let clock = ManualClock::new();
    let store = handle(&database, &clock).await;
    let mut other = beside(&database.url).await;
    let key = format!("{{{}}}", database.name);
    other.hset::<_, _, _, ()>(&key, "version", 2).await.unwrap();
    let refused = RedisStore::connect(&database.url, &database.name, ServerClock::given(clock.clone())).await.err().unwrap();
    assert!(matches!(&refused, StoreError::Invalid(text) if text.contains("version 2")), "{refused}");
    drop(store);
}

/// Several stores on one server do not see each other, and every key has its store's hash tag.
#[tokio::test]
async fn every_key_has_the_hash_tag() {
    let Some(database) = servers::redis() else { return };
    let place = Place::redis().await.unwrap();
    let store = handle(&database, &place.clock).await;
    let now = place.now();
    store.apply(vec![enqueue(1, &queued(1, "task", "agent", now))]).await.unwrap();
    store.claim(request(1, "daemon.one", AGENT, 1)).await.unwrap();
    assert_eq!(place.get(&RecordId::run(&run_id(1))).await, None);
    let mut other = beside(&database.url).await;
    let keys: Vec<String> = redis::cmd("KEYS").arg(format!("*{}*", database.name)).query_async(&mut other).await.unwrap();
    assert!(keys.len() > 10 && keys.iter().all(|key| key.starts_with(&format!("{{{}}}", database.name))), "{keys:?}");
}

/// What is deleted leaves nothing behind: no index, no event, no count.
#[tokio::test]
async fn nothing_is_left_of_what_is_deleted() {
    let Some(database) = servers::redis() else { return };
    let clock = ManualClock::new();
    let store = handle(&database, &clock).await;
    let now = sandclock::clock::Clock::now(&*clock);
    store.apply(vec![enqueue(1, &queued(1, "task", "agent", now)), enqueue(2, &queued(2, "task", "agent", now))]).await.unwrap();
    let claimed = store.claim(request(1, "daemon.one", AGENT, 1)).await.unwrap().remove(0);
    let done = Run { status: Status::Completed, ..claimed.run };
    store.apply(vec![Change { puts: vec![Put::run(&done, now).unwrap()], ..change(8) }]).await.unwrap();
    let deletes = [1, 2].map(|number| RecordId::run(&run_id(number))).to_vec();
    store.apply(vec![Change { deletes, ..change(9) }]).await.unwrap();
    let mut other = beside(&database.url).await;
    let keys: Vec<String> = redis::cmd("KEYS").arg(format!("*{}*", database.name)).query_async(&mut other).await.unwrap();
    assert_eq!(keys, [format!("{{{}}}", database.name)], "only the store itself is left");
}

/// The commands that a server was given, by name, and how often.
async fn commands(other: &mut redis::aio::MultiplexedConnection) -> BTreeMap<String, u64> {
    let info: String = redis::cmd("INFO").arg("commandstats").query_async(other).await.unwrap();
    let of = |line: &str| {
        let (name, stats) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), stats.split(',').next()?.parse().ok()?))
    };
    let mut commands: BTreeMap<String, u64> = info.lines().filter_map(of).collect();
    commands.retain(|name, _| !matches!(name.as_str(), "info" | "config|resetstat"));
    commands
}

/// A life of a run: how many commands it costs does not depend on what is kept, none of them walks over what is kept, and a batch is two
/// round trips.
#[tokio::test]
async fn a_runs_life_costs_the_same_whatever_is_kept() {
    let Some(server) = OwnServer::redis(&[]).await else { return };
    let store = judged_by_server(&server.url()).await;
    let now = store.now().await.unwrap();
    let mut other = beside(&server.url()).await;
    let mut costs = Vec::new();
    // The first life makes the connections.
    for (number, kept) in [(100, 0_u32), (101, 10), (102, 5000)] {
        for chunk in (0..kept).collect::<Vec<_>>().chunks(500) {
            let done = chunk.iter().map(|number| Run { status: Status::Completed, ..queued(1000 + number, "task", "agent", now) });
            let puts = done.map(|run| Put::run(&run, now).unwrap()).collect();
            store.apply(vec![Change { puts, ..change(u128::from(chunk[0]) + 100_000) }]).await.unwrap();
        }
        redis::cmd("CONFIG").arg("RESETSTAT").query_async::<()>(&mut other).await.unwrap();
        store.apply(vec![enqueue(number, &queued(number, "task", "agent", now))]).await.unwrap();
        let claimed = store.claim(request(u128::from(number), "daemon.one", &[("agent", Some(3))], 9)).await.unwrap().remove(0);
        let lease = Duration::from_secs(60);
        store.renew(&claimed.attempt.worker_id, &[(claimed.run.run_id.clone(), 1)], lease).await.unwrap();
        for kind in [DueKind::Ready, DueKind::ExpiredLeases, DueKind::Schedules, DueKind::Expiries] {
            store.due(kind, 100).await.unwrap();
        }
        let done = Run { status: Status::Completed, ..claimed.run };
        let guards = vec![Guard::Held(done.run_id.clone(), done.lease_generation)];
        let end = Change { guards, puts: vec![Put::run(&done, now).unwrap()], ..change(u128::from(number) + 1000) };
        assert_eq!(store.apply(vec![end]).await.unwrap(), [Outcome::Applied]);
        let page = PageRequest { after: None, limit: 1, newest_first: true };
        store.list(Scope::Runs { task: None, status: Some(Status::Completed) }, page).await.unwrap();
        costs.push(commands(&mut other).await);
        store.apply(vec![Change { deletes: vec![RecordId::run(&run_id(number))], ..change(u128::from(number) + 2000) }]).await.unwrap();
    }
    assert_eq!(costs[1], costs[2]);
    let calls = &costs[1];
    // Two for each of the two batches, two for the claim, one for the renewal and for each of the five questions.
    assert_eq!(calls["evalsha"], 2 + 2 + 2 + 1 + 5, "{calls:?}");
    let walks = ["keys", "scan", "sscan", "hscan", "zscan", "hgetall", "zunionstore", "sort", "eval"];
    assert!(walks.iter().all(|name| !calls.contains_key(*name)), "{calls:?}");
}

/// A wish whose answer was lost is given the same runs again, on another connection too.
#[tokio::test]
async fn a_token_that_comes_again_brings_the_same_runs_by_any_way() {
    let Some(database) = servers::redis() else { return };
    let clock = ManualClock::new();
    let (one, other) = (handle(&database, &clock).await, handle(&database, &clock).await);
    let now = sandclock::clock::Clock::now(&*clock);
    let puts = (0..30).map(|number| Put::run(&queued(number, "task", "agent", now), now).unwrap()).collect();
    one.apply(vec![Change { puts, ..change(1) }]).await.unwrap();
    let wish = || request(7, "daemon.one", AGENT, 12);
    // Both at once: whoever comes second finds what the first was given.
    let (first, second) = tokio::join!(one.claim(wish()), other.claim(wish()));
    let first = first.unwrap();
    assert_eq!((first.len(), &first), (12, &second.unwrap()));
    assert_eq!(other.claim(wish()).await.unwrap(), first);
    assert_eq!(one.counts(CountScope::All(Kind::Run)).await.unwrap().of(Status::Running), 12);
    assert_eq!(WorkerId::parse("daemon.one").unwrap(), first[0].attempt.worker_id);
}
