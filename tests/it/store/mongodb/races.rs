//! Several daemons at once on one database.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sandclock::clock::Clock;
use sandclock::domain::id::WorkerId;
use sandclock::domain::run::{Run, Status};
use sandclock::store::mongodb::MongoStore;
use sandclock::store::{Change, Claimed, CountScope, DueKind, Guard, Kind, Outcome, Put, RecordId, Renewal, ServerClock, Store};

use super::super::{ManualClock, absent, agent_id, plain, queued, request, rev, run_id};
use super::{change, handles, open, put_runs};
use crate::servers;

async fn one(store: &MongoStore, change: Change) -> Outcome {
    store.apply(vec![change]).await.unwrap().remove(0)
}

fn slot(name: &str) -> RecordId {
    RecordId::new(Kind::Slot, name)
}

async fn rev_of(store: &MongoStore, id: &RecordId) -> u64 {
    store.get(std::slice::from_ref(id)).await.unwrap()[0].as_ref().unwrap().rev
}

#[tokio::test]
async fn many_daemons_make_the_collections_at_once() {
    let Some(database) = servers::mongodb() else { return };
    let clock = ManualClock::new();
    let stores: [Arc<MongoStore>; 4] = handles(&database, &clock).await;
    for (number, store) in (1..).zip(&stores) {
        assert_eq!(
            one(store, Change { puts: vec![plain(Kind::Agent, &number.to_string(), "{}")], ..change(number) }).await,
            Outcome::Applied
        );
    }
    assert_eq!(stores[0].counts(CountScope::All(Kind::Agent)).await.unwrap().total, 4);
}

#[tokio::test]
async fn a_free_name_is_taken_once() {
    let Some(database) = servers::mongodb() else { return };
    let [a, b]: [Arc<MongoStore>; 2] = handles(&database, &ManualClock::new()).await;
    for round in 1..=20_u128 {
        let id = slot(&round.to_string());
        let take = |by: u128| Change {
            guards: vec![absent(&id)],
            puts: vec![plain(Kind::Slot, &id.key, &by.to_string())],
            ..change(round * 2 + by)
        };
        let (by_a, by_b) = tokio::join!(one(&a, take(0)), one(&b, take(1)));
        let applied = [&by_a, &by_b].iter().filter(|outcome| ***outcome == Outcome::Applied).count();
        assert_eq!(applied, 1, "round {round}: {by_a:?} and {by_b:?}");
    }
    assert_eq!(a.counts(CountScope::All(Kind::Slot)).await.unwrap().total, 20);
}

#[tokio::test]
async fn no_update_is_lost() {
    let Some(database) = servers::mongodb() else { return };
    let stores: [Arc<MongoStore>; 3] = handles(&database, &ManualClock::new()).await;
    let id = slot("shared");
    one(&stores[0], Change { puts: vec![plain(Kind::Slot, "shared", "0")], ..change(1) }).await;
    let first = rev_of(&stores[0], &id).await;
    let bump = async |store: &MongoStore, base: u128| {
        let mut number = base;
        for _ in 0..10 {
            loop {
                number += 1;
                let guards = vec![rev(&id, rev_of(store, &id).await)];
                if one(store, Change { guards, puts: vec![plain(Kind::Slot, "shared", "{}")], ..change(number) }).await == Outcome::Applied
                {
                    break;
                }
            }
        }
    };
    tokio::join!(bump(&stores[0], 1000), bump(&stores[1], 2000), bump(&stores[2], 3000));
    assert_eq!(rev_of(&stores[1], &id).await, first + 30);
}

/// Each relies on what the other writes: in no order can both be right.
#[tokio::test]
async fn what_is_only_relied_on_holds_in_the_commit() {
    let Some(database) = servers::mongodb() else { return };
    let [a, b]: [Arc<MongoStore>; 2] = handles(&database, &ManualClock::new()).await;
    let (left, right) = (slot("left"), slot("right"));
    one(&a, Change { puts: vec![plain(Kind::Slot, "left", "0"), plain(Kind::Slot, "right", "0")], ..change(1) }).await;
    for round in 1..=20_u128 {
        let cross = |guard: &RecordId, guard_rev: u64, put: &RecordId, by: u128| Change {
            guards: vec![rev(guard, guard_rev)],
            puts: vec![plain(Kind::Slot, &put.key, "{}")],
            ..change(round * 10 + by)
        };
        let (of_left, of_right) = (rev_of(&a, &left).await, rev_of(&a, &right).await);
        let (by_a, by_b) = tokio::join!(one(&a, cross(&left, of_left, &right, 1)), one(&b, cross(&right, of_right, &left, 2)));
        assert!(by_a == Outcome::Applied || by_b == Outcome::Applied);
        assert!(by_a != by_b, "round {round}: both found the other's record as it was before");
    }
}

#[tokio::test]
async fn a_name_that_must_stay_free_stays_free_until_the_commit() {
    let Some(database) = servers::mongodb() else { return };
    let [a, b]: [Arc<MongoStore>; 2] = handles(&database, &ManualClock::new()).await;
    for round in 1..=20_u128 {
        let (left, right) = (slot(&format!("left {round}")), slot(&format!("right {round}")));
        let cross = |free: &RecordId, put: &RecordId, by: u128| Change {
            guards: vec![absent(free)],
            puts: vec![plain(Kind::Slot, &put.key, "{}")],
            ..change(round * 10 + by)
        };
        let (by_a, by_b) = tokio::join!(one(&a, cross(&left, &right, 1)), one(&b, cross(&right, &left, 2)));
        assert!(by_a == Outcome::Applied || by_b == Outcome::Applied);
        assert!(by_a != by_b, "round {round}: both found the other's name free");
        // What only kept a name free is no record.
        assert_eq!(a.get(&[left, right]).await.unwrap().iter().flatten().count(), 1);
    }
}

async fn claim_all(store: &MongoStore, worker: &str, base: u128, agents: &[(&str, Option<u32>)], at_once: usize) -> Vec<Claimed> {
    let mut claimed = Vec::new();
    for token in base.. {
        let more = store.claim(request(token, worker, agents, at_once)).await.unwrap();
        if more.is_empty() {
            return claimed;
        }
        claimed.extend(more);
    }
    claimed
}

#[tokio::test]
async fn three_daemons_claim_each_run_once() {
    const RUNS: u32 = 500;
    let Some(database) = servers::mongodb() else { return };
    let clock = ManualClock::new();
    let stores: [Arc<MongoStore>; 3] = handles(&database, &clock).await;
    let runs: Vec<Run> = (1..=RUNS).map(|number| queued(number, "task", "agent", clock.now())).collect();
    put_runs(&stores[0], 1, &runs, clock.now()).await;
    let agents: &[(&str, Option<u32>)] = &[("agent", None)];
    let (a, b, c) = tokio::join!(
        claim_all(&stores[0], "a.one", 1000, agents, 16),
        claim_all(&stores[1], "b.one", 2000, agents, 16),
        claim_all(&stores[2], "c.one", 3000, agents, 16)
    );
    println!("claimed by each: {} {} {}", a.len(), b.len(), c.len());
    assert!([&a, &b, &c].iter().all(|claimed| !claimed.is_empty()), "nobody starves");
    let all: Vec<_> = a.iter().chain(&b).chain(&c).collect();
    assert_eq!(all.len(), RUNS as usize);
    assert_eq!(all.iter().map(|claimed| &claimed.run.run_id).collect::<BTreeSet<_>>().len(), RUNS as usize);
    assert!(all.iter().all(|claimed| claimed.run.lease_generation == 1));
    let counts = stores[0].counts(CountScope::RunsOfAgent(agent_id("agent"))).await.unwrap();
    assert_eq!((counts.total, counts.of(Status::Running)), (u64::from(RUNS), u64::from(RUNS)));
}

#[tokio::test]
async fn an_agents_limit_holds_whoever_claims() {
    const MOST: u32 = 5;
    let Some(database) = servers::mongodb() else { return };
    let clock = ManualClock::new();
    let stores: [Arc<MongoStore>; 4] = handles(&database, &clock).await;
    let runs: Vec<Run> = (1..=150).map(|number| queued(number, "task", "agent", clock.now())).collect();
    put_runs(&stores[0], 1, &runs, clock.now()).await;
    let agents: &[(&str, Option<u32>)] = &[("agent", Some(MOST))];
    for round in 1..=10_u128 {
        let base = round * 1000;
        // One at a time, so that who met another looks for a run that nobody else wants.
        let each = ["a.one", "b.one", "c.one", "d.one"].into_iter().zip(&stores).zip(0..);
        let claims = each.map(|((worker, store), number)| claim_all(store, worker, base + number * 200, agents, 1));
        let claimed: Vec<Claimed> = futures::future::join_all(claims).await.into_iter().flatten().collect();
        assert_eq!(claimed.len(), MOST as usize, "round {round}");
        let done: Vec<Run> = claimed.into_iter().map(|claimed| Run { status: Status::Completed, ..claimed.run }).collect();
        put_runs(&stores[1], base + 999, &done, clock.now()).await;
    }
}

/// An outcome takes the lease away in its commit; a renewal beside it neither brings it back nor keeps the outcome from being.
#[tokio::test]
async fn a_renewal_and_an_outcome_do_not_both_have_the_last_word() {
    let Some(database) = servers::mongodb() else { return };
    let clock = ManualClock::new();
    let [a, b]: [Arc<MongoStore>; 2] = handles(&database, &clock).await;
    let worker = WorkerId::parse("a.one").unwrap();
    for round in 1..=15_u32 {
        put_runs(&a, u128::from(round) * 10, &[queued(round, "task", "agent", clock.now())], clock.now()).await;
        let claimed = a.claim(request(u128::from(round), "a.one", &[("agent", None)], 9)).await.unwrap().remove(0);
        let done = Run { status: Status::Completed, ..claimed.run.clone() };
        let outcome = Change {
            guards: vec![Guard::Held(run_id(round), 1)],
            puts: vec![Put::run(&done, clock.now()).unwrap()],
            ..change(u128::from(round) * 10 + 1)
        };
        let lease = [(run_id(round), 1)];
        let (ended, renewed) = tokio::join!(one(&b, outcome), a.renew(&worker, &lease, Duration::from_secs(30)));
        assert_eq!(ended, Outcome::Applied);
        renewed.unwrap();
        assert_eq!(a.renew(&worker, &lease, Duration::from_secs(30)).await.unwrap(), [Renewal::Lost]);
        clock.advance(Duration::from_secs(60));
        assert!(b.due(DueKind::ExpiredLeases, 9).await.unwrap().records.is_empty(), "no lease is left behind");
    }
}

/// Whoever finds a lease passed may take the run; then nobody can have renewed it.
#[tokio::test]
async fn a_renewal_and_a_take_over_cannot_both_succeed() {
    let Some(database) = servers::mongodb() else { return };
    let clock = ManualClock::new();
    let [a, b]: [Arc<MongoStore>; 2] = handles(&database, &clock).await;
    let worker = WorkerId::parse("a.one").unwrap();
    for round in 1..=15_u32 {
        put_runs(&a, u128::from(round) * 10, &[queued(round, "task", "agent", clock.now())], clock.now()).await;
        a.claim(request(u128::from(round), "a.one", &[("agent", None)], 9)).await.unwrap();
        clock.advance(Duration::from_secs(29));
        let take_over = async {
            clock.advance(Duration::from_secs(1));
            let due = b.due(DueKind::ExpiredLeases, 9).await.unwrap();
            let Some(found) = due.records.first() else { return false };
            let run = Run { status: Status::Completed, ..found.decode_run().unwrap() };
            let guards = vec![rev(&found.id, found.rev)];
            one(&b, Change { guards, puts: vec![Put::run(&run, clock.now()).unwrap()], ..change(u128::from(round) * 10 + 1) }).await
                == Outcome::Applied
        };
        let lease = [(run_id(round), 1)];
        let (taken, renewed) = tokio::join!(take_over, a.renew(&worker, &lease, Duration::from_secs(30)));
        let renewed = renewed.unwrap().remove(0);
        assert!(taken == (renewed == Renewal::Lost), "round {round}: taken over {taken}, and {renewed:?}");
        let done = Run { status: Status::Completed, ..queued(round, "task", "agent", clock.now()) };
        put_runs(&a, u128::from(round) * 10 + 2, &[done], clock.now()).await;
    }
}

#[tokio::test]
async fn two_hundred_at_once_are_two_hundred() {
    let Some(database) = servers::mongodb() else { return };
    let clock = ManualClock::new();
    let store = Arc::new(open(&database, ServerClock::given(clock.clone())).await);
    let enqueue = |number: u32| {
        let run = queued(number, "task", "agent", clock.now());
        let puts = vec![Put::run(&run, clock.now()).unwrap()];
        let store = &store;
        async move { one(store, Change { guards: vec![absent(&RecordId::run(&run.run_id))], puts, ..change(u128::from(number)) }).await }
    };
    let outcomes = futures::future::join_all((1..=200).map(enqueue)).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Applied));
    assert_eq!(store.counts(CountScope::All(Kind::Run)).await.unwrap().total, 200);
}
