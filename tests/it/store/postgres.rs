//! What the PostgreSQL store promises beyond the contract: several daemons on one database, the server's clock, errors that tell what to
//! do and no secret, and connections that come back.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use sandclock::domain::event::EventName;
use sandclock::domain::id::WorkerId;
use sandclock::domain::run::Status;
use sandclock::store::ServerClock;
use sandclock::store::sql::postgres::PostgresStore;
use sandclock::store::{Change, ChangeId, Claimed, CountScope, DueKind, Guard, Kind, Outcome, Put, RecordId, Renewal, Store, StoreError};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, PgConnection, Row as _};

use super::trace::{trace, traces};
use super::{ManualClock, Place, absent, event, plain, queued, request, rev, run_id};
use crate::servers::own::{OwnServer, Stop};
use crate::servers::{self, TestDatabase};

mod cost;
mod outages;

/// A new store on the shared server, which reads the place's clock.
pub async fn place() -> Option<Place> {
    let database = servers::postgres().await?;
    let clock = ManualClock::new();
    let store = Arc::new(open(&database, &clock).await);
    Some(Place::of(store, clock, database))
}

async fn open(database: &TestDatabase, clock: &Arc<ManualClock>) -> PostgresStore {
    PostgresStore::connect(&database.url, ServerClock::given(clock.clone())).await.unwrap()
}

/// As many daemons as asked for, on one new database.
async fn daemons<const N: usize>() -> Option<(TestDatabase, Arc<ManualClock>, [Arc<PostgresStore>; N])> {
    let database = servers::postgres().await?;
    let clock = ManualClock::new();
    let mut stores = Vec::new();
    for _ in 0..N {
        stores.push(Arc::new(open(&database, &clock).await));
    }
    Some((database, clock, stores.try_into().ok().unwrap()))
}

/// A connection of somebody else.
async fn outside(url: &str) -> PgConnection {
    let mut connection = url.parse::<sqlx::postgres::PgConnectOptions>().unwrap().connect().await.unwrap();
    connection.execute("SET search_path = sandclock").await.unwrap();
    connection
}

fn change(number: u128) -> Change {
    Change { id: ChangeId(number), guards: Vec::new(), puts: Vec::new(), deletes: Vec::new(), events: Vec::new() }
}

fn worker(name: &str) -> WorkerId {
    WorkerId::parse(name).unwrap()
}

/// Waits for what another connection shows.
async fn until(outside: &mut PgConnection, sql: &str) {
    while !outside.fetch_one(AssertSqlSafe(sql.to_owned())).await.unwrap().get::<bool, _>(0) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Somebody waits for a lock.
const SOMEBODY_WAITS: &str = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')";

#[test]
fn postgres_answers_as_memory_does() {
    traces(6, async |seed| {
        let Some(database) = servers::postgres().await else { return };
        let clock = ManualClock::new();
        let open = async || Arc::new(open(&database, &clock).await) as Arc<dyn Store>;
        trace(seed, clock.clone(), open).await;
    });
}

/// Puts runs that are due.
async fn enqueue(store: &PostgresStore, numbers: std::ops::Range<u32>, agent: &str) {
    let now = store.now().await.unwrap();
    let puts = numbers.clone().map(|number| Put::run(&queued(number, "task", agent, now), now).unwrap()).collect();
    let done = store.apply(vec![Change { puts, ..change(u128::from(numbers.start) << 64) }]).await.unwrap();
    assert_eq!(done, [Outcome::Applied]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_daemons_that_make_a_record_one_does() {
    let Some((_database, _, stores)) = daemons::<2>().await else { return };
    let tries = (0..60_u128).map(|number| {
        let store = Arc::clone(&stores[usize::from(number % 2 == 0)]);
        tokio::spawn(async move {
            // In opposite orders, so that they would wait in a circle if names were taken as they come.
            let mut names: Vec<u128> = (0..20).collect();
            if number % 2 == 0 {
                names.reverse();
            }
            let make = |name: u128| {
                let put = plain(Kind::Agent, &format!("agent{name}"), "{}");
                Change { guards: vec![absent(&put.id)], puts: vec![put], ..change(number * 100 + name + 1) }
            };
            store.apply(names.into_iter().map(make).collect()).await.unwrap()
        })
    });
    let outcomes: Vec<Outcome> = join_all(tries).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Applied).count(), 20);
    assert_eq!(stores[0].counts(CountScope::All(Kind::Agent)).await.unwrap().total, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_nobody_puts_stays_free_while_a_change_rests_on_it() {
    let Some((_database, _, [one, two])) = daemons::<2>().await else { return };
    for round in 0..10 {
        let name = |side: &str| plain(Kind::Agent, &format!("{side}{round}"), "{}");
        let make = |ours: Put, theirs: Put, number| vec![Change { guards: vec![absent(&theirs.id)], puts: vec![ours], ..change(number) }];
        let (left, right) = tokio::join!(
            one.apply(make(name("left"), name("right"), 2 * round + 1)),
            two.apply(make(name("right"), name("left"), 2 * round + 2))
        );
        let applied = [left, right].into_iter().flat_map(Result::unwrap).filter(|outcome| *outcome == Outcome::Applied).count();
        assert_eq!(applied, 1, "in one order or the other, the second one finds the first one's record");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_daemons_that_decide_on_one_rev_one_does() {
    let Some((_database, _, stores)) = daemons::<3>().await else { return };
    let slot = RecordId::new(Kind::Slot, "task");
    stores[0].apply(vec![Change { puts: vec![plain(Kind::Slot, "task", "0")], ..change(1) }]).await.unwrap();
    let writers = (0..3_u128).map(|daemon| {
        let (store, slot) = (Arc::clone(&stores[usize::try_from(daemon).unwrap()]), slot.clone());
        tokio::spawn(async move {
            let mut applied = 0;
            for number in 0..25 {
                let before = store.get(std::slice::from_ref(&slot)).await.unwrap().remove(0).unwrap();
                let n: u64 = before.decode().unwrap();
                let put = plain(Kind::Slot, "task", &(n + 1).to_string());
                let id = 1000 * (daemon + 1) + number;
                let outcome =
                    store.apply(vec![Change { guards: vec![rev(&slot, before.rev)], puts: vec![put], ..change(id) }]).await.unwrap();
                applied += u64::from(outcome == [Outcome::Applied]);
            }
            applied
        })
    });
    let applied: u64 = join_all(writers).await.into_iter().map(Result::unwrap).sum();
    let record = stores[0].get(&[slot]).await.unwrap().remove(0).unwrap();
    assert_eq!((record.decode::<u64>().unwrap(), record.rev), (applied, ChangeId(1).first_rev() + applied), "no decision was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_run_is_claimed_once_and_an_agents_limit_holds_over_all_daemons() {
    let Some((_database, _, stores)) = daemons::<3>().await else { return };
    enqueue(&stores[0], 0..90, "free").await;
    enqueue(&stores[0], 100..150, "bounded").await;
    let claims = (0..24_u128).map(|number| {
        let store = Arc::clone(&stores[usize::try_from(number % 3).unwrap()]);
        tokio::spawn(async move {
            let wish = request(number + 1, &format!("daemon{}.one", number % 3), &[("free", None), ("bounded", Some(7))], 10);
            store.claim(wish).await.unwrap()
        })
    });
    let mut claimed: Vec<Claimed> = join_all(claims).await.into_iter().flat_map(Result::unwrap).collect();
    // Whoever found only runs that others were at found fewer than there were.
    for number in 100..120 {
        claimed.extend(stores[0].claim(request(number, "daemon0.one", &[("free", None), ("bounded", Some(7))], 10)).await.unwrap());
    }
    let names: HashSet<&str> = claimed.iter().map(|claim| claim.run.run_id.as_str()).collect();
    assert_eq!(names.len(), claimed.len(), "no run twice");
    let of = |agent: &str| claimed.iter().filter(|claim| claim.run.agent_id.as_str() == agent).count();
    assert_eq!((of("free"), of("bounded")), (90, 7));
    let running = stores[1].counts(CountScope::All(Kind::Run)).await.unwrap().of(Status::Running);
    assert_eq!(running, 97, "what several daemons counted at once adds up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_is_told_twice_at_once_is_met_once() {
    let Some((_database, _, [one, two])) = daemons::<2>().await else { return };
    for round in 0..10 {
        enqueue(&one, 100 * round..100 * round + 20, "agent").await;
        let wish = || request(u128::from(round) + 1, "daemon.one", &[("agent", None)], 5);
        let (first, second) = tokio::join!(one.claim(wish()), two.claim(wish()));
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!(first.len(), 5);
        assert_eq!(first, second);
    }
}

#[tokio::test]
async fn a_batch_that_waited_for_another_sees_what_that_one_did() {
    let Some((database, _, [store])) = daemons::<1>().await else { return };
    enqueue(&store, 1..2, "agent").await;
    let run = store.claim(request(1, "daemon.one", &[("agent", None)], 1)).await.unwrap().remove(0).run;
    let now = store.now().await.unwrap();
    // Another daemon is about to take the run away, and has appended an event.
    let mut other = outside(&database.url).await;
    other.execute("BEGIN; SELECT FROM record WHERE kind = 'run' FOR UPDATE; DELETE FROM lease; INSERT INTO event SELECT run, max(seq) + 1, convert_to('x', 'utf8') FROM event GROUP BY run").await.unwrap();
    let mut watcher = outside(&database.url).await;
    let held =
        Change { guards: vec![Guard::Held(run.run_id.clone(), 1)], events: vec![event(&run, EventName::Heartbeat, now)], ..change(2) };
    let free = Change { events: vec![event(&run, EventName::Heartbeat, now)], ..change(3) };
    let (outcomes, ()) = tokio::join!(store.apply(vec![held.clone(), free]), async {
        until(&mut watcher, SOMEBODY_WAITS).await;
        other.execute("COMMIT").await.unwrap();
    });
    assert_eq!(outcomes.unwrap(), [Outcome::Refused(held.guards[0].clone()), Outcome::Applied], "the lease is gone");
    let last = other.fetch_one("SELECT max(seq), count(*) FROM event").await.unwrap();
    assert_eq!(last.get::<i64, _>(0), last.get::<i64, _>(1), "numbers have no gaps");
}

#[tokio::test]
async fn a_lease_that_is_being_renewed_has_not_passed() {
    let Some((database, clock, [store])) = daemons::<1>().await else { return };
    enqueue(&store, 1..3, "agent").await;
    assert_eq!(store.claim(request(1, "daemon.one", &[("agent", None)], 2)).await.unwrap().len(), 2);
    clock.advance(Duration::from_secs(31));
    let mut renewal = outside(&database.url).await;
    renewal.execute("BEGIN; UPDATE lease SET until = until + 60000000 WHERE run = (SELECT min(run) FROM lease)").await.unwrap();
    let due = store.due(DueKind::ExpiredLeases, 10).await.unwrap();
    assert_eq!(due.records.len(), 1, "one is expired, of the other nobody knows yet");
    renewal.execute("COMMIT").await.unwrap();
    let due = store.due(DueKind::ExpiredLeases, 10).await.unwrap();
    assert_eq!(due.records.len(), 1);
    assert!(due.next.is_some());
}

#[tokio::test]
async fn a_renewal_that_waited_past_the_leases_end_is_lost() {
    let Some(database) = servers::postgres().await else { return };
    let store = PostgresStore::connect(&database.url, ServerClock::of_server(ManualClock::new())).await.unwrap();
    enqueue(&store, 1..2, "agent").await;
    let wish = sandclock::store::ClaimRequest { lease: Duration::from_secs(1), ..request(1, "daemon.one", &[("agent", None)], 1) };
    assert_eq!(store.claim(wish).await.unwrap().len(), 1);
    // As whoever looks for passed leases does.
    let mut look = outside(&database.url).await;
    look.execute("BEGIN; SELECT FROM lease FOR SHARE").await.unwrap();
    let mut watcher = outside(&database.url).await;
    let leases = [(run_id(1), 1)];
    let one = worker("daemon.one");
    let (renewed, ()) = tokio::join!(store.renew(&one, &leases, Duration::from_secs(60)), async {
        until(&mut watcher, SOMEBODY_WAITS).await;
        until(&mut watcher, "SELECT until < extract(epoch FROM clock_timestamp()) * 1000000 FROM lease").await;
        look.execute("COMMIT").await.unwrap();
    });
    assert_eq!(renewed.unwrap(), [Renewal::Lost], "it was found passed meanwhile");
    assert_eq!(store.due(DueKind::ExpiredLeases, 10).await.unwrap().records.len(), 1);
}

#[tokio::test]
async fn only_the_servers_clock_judges() {
    let Some(database) = servers::postgres().await else { return };
    for minutes in [-5_i64, 5] {
        let clock = ManualClock::new();
        clock.step_wall(minutes * 60_000_000);
        let store = PostgresStore::connect(&database.url, ServerClock::of_server(clock.clone())).await.unwrap();
        let number = u32::try_from(minutes + 10).unwrap();
        enqueue(&store, number..number + 1, "agent").await;
        let wish = sandclock::store::ClaimRequest {
            lease: Duration::from_secs(1),
            ..request(u128::from(number), "daemon.one", &[("agent", None)], 1)
        };
        assert_eq!(store.claim(wish).await.unwrap().len(), 1);
        let leases = [(run_id(number), 1)];
        let renew = async || store.renew(&worker("daemon.one"), &leases, Duration::from_secs(1)).await.unwrap().remove(0);
        assert!(matches!(renew().await, Renewal::Held(_)));
        let mut watcher = outside(&database.url).await;
        until(&mut watcher, "SELECT bool_and(until < extract(epoch FROM clock_timestamp()) * 1000000) FROM lease").await;
        assert_eq!(renew().await, Renewal::Lost);
        let due = store.due(DueKind::ExpiredLeases, 10).await.unwrap();
        assert!(due.records.iter().any(|record| record.id == RecordId::run(&run_id(number))));
        let told = watcher.fetch_one("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").await.unwrap().get::<i64, _>(0);
        assert!((store.now().await.unwrap().micros() - told).abs() < 60_000_000, "it is the server's present");
        // What the server told is too old now, so it is asked again.
        clock.advance(Duration::from_secs(3600));
        assert!((store.now().await.unwrap().micros() - told).abs() < 60_000_000);
    }
}

#[tokio::test]
async fn a_renewal_writes_the_lease_alone() {
    let Some((database, clock, [store])) = daemons::<1>().await else { return };
    enqueue(&store, 1..6, "agent").await;
    let claimed = store.claim(request(1, "daemon.one", &[("agent", None)], 5)).await.unwrap();
    let leases: Vec<_> = claimed.iter().map(|claim| (claim.run.run_id.clone(), 1)).collect();
    for _ in 0..20 {
        clock.advance(Duration::from_secs(1));
        let renewed = store.renew(&worker("daemon.one"), &leases, Duration::from_secs(30)).await.unwrap();
        assert!(renewed.iter().all(|renewal| matches!(renewal, Renewal::Held(_))));
    }
    store.close().await;
    let mut watcher = outside(&database.url).await;
    cost::settled(&mut watcher).await;
    let of = async |watcher: &mut PgConnection, table: &str| {
        let sql = format!("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = '{table}'");
        let row = watcher.fetch_one(AssertSqlSafe(sql)).await.unwrap();
        (row.get::<i64, _>(0), row.get::<i64, _>(1))
    };
    let (written, in_place) = of(&mut watcher, "lease").await;
    assert!(
        written == 100 && in_place >= 80,
        "of {written} only {in_place} left the indexes alone, as all do that have room on their page"
    );
    assert_eq!(of(&mut watcher, "record").await.0, 5, "the claims");
}

#[tokio::test]
async fn a_lease_that_is_being_written_holds_up_no_other() {
    let Some((database, _, [store])) = daemons::<1>().await else { return };
    enqueue(&store, 1..3, "agent").await;
    store.claim(request(1, "daemon.one", &[("agent", None)], 2)).await.unwrap();
    let mut writing = outside(&database.url).await;
    writing.execute("BEGIN; DELETE FROM lease WHERE run = (SELECT max(run) FROM lease)").await.unwrap();
    let mut watcher = outside(&database.url).await;
    let (one, leases) = (worker("daemon.one"), [(run_id(1), 1), (run_id(2), 1)]);
    let (renewed, ()) = tokio::join!(store.renew(&one, &leases, Duration::from_secs(90)), async {
        until(&mut watcher, SOMEBODY_WAITS).await;
        until(&mut watcher, "SELECT max(until) - min(until) > 10000000 FROM lease").await;
        writing.execute("COMMIT").await.unwrap();
    });
    assert!(matches!(renewed.unwrap()[..], [Renewal::Held(_), Renewal::Lost]));
}
