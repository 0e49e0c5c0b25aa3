//! What `list` promises: keyset pages over the closed set of scopes, in both directions, while others write.

use sandclock::domain::run::{Run, Status};
use sandclock::store::{Change, Index, Kind, PageRequest, Put, RecordId, Scope, When};

use super::{Place, agent_id, on_every_store, plain, queued, run_id, task_id};

on_every_store!(every_scope_lists_its_own, pages_follow_each_other, pages_stand_inserts_and_deletes, odd_pages_are_answered,);

async fn keys(place: &Place, scope: Scope) -> Vec<String> {
    let page = place.store.list(scope, PageRequest::first(100)).await.unwrap();
    assert_eq!(page.next, None);
    page.records.iter().map(|record| record.id.key.trim_start_matches("run_").trim_start_matches('0').to_owned()).collect()
}

fn of_task(kind: Kind, key: &str, task: &str, agent: &str) -> Put {
    let index = Index { task: Some(task_id(task)), agent: Some(agent_id(agent)), ..Index::default() };
    Put { index, ..plain(kind, key, "{}") }
}

async fn every_scope_lists_its_own(place: Place) {
    let now = place.now();
    place
        .put(vec![of_task(Kind::Task, "a", "a", "x"), of_task(Kind::Task, "b", "b", "y"), of_task(Kind::SkipRange, "a/1", "a", "x")])
        .await;
    let bucket = |key: &str, agent: &str| {
        let due = key.starts_with("s/").then_some(When::In(std::time::Duration::ZERO));
        Put { index: Index { agent: Some(agent_id(agent)), due, ..Index::default() }, ..plain(Kind::KeyValue, key, "{}") }
    };
    // What is in a bucket belongs to no agent, and a receipt to its run.
    let receipt = Put { index: Index { run: Some(run_id(1)), ..Index::default() }, ..plain(Kind::KeyValue, "r/1", "{}") };
    place.put(vec![bucket("a/x", "x"), bucket("a/y", "y"), bucket("s/x/1", "x"), plain(Kind::KeyValue, "v/1/2", "{}"), receipt]).await;
    let statuses = [Status::Queued, Status::Completed, Status::AwaitingBudget, Status::Failed, Status::Queued];
    let runs: Vec<Run> = (1..)
        .zip(statuses)
        .map(|(number, status)| {
            let (task, agent) = if number % 2 == 1 { ("a", "x") } else { ("b", "y") };
            Run { status, ..queued(number, task, agent, now) }
        })
        .collect();
    place.put_runs(&runs).await;
    place.claim(1, &[("x", None)], 1).await;
    let runs = |task: Option<&str>, status| Scope::Runs { task: task.map(task_id), status };
    assert_eq!(keys(&place, Scope::All(Kind::Task)).await, ["a", "b"]);
    assert_eq!(keys(&place, Scope::All(Kind::Run)).await, ["1", "2", "3", "4", "5"]);
    assert_eq!(keys(&place, Scope::All(Kind::Daemon)).await, [""; 0]);
    assert_eq!(keys(&place, Scope::TasksOfAgent(agent_id("x"))).await, ["a"]);
    assert_eq!(keys(&place, runs(None, None)).await, ["1", "2", "3", "4", "5"]);
    assert_eq!(keys(&place, runs(None, Some(Status::Queued))).await, ["5"]);
    assert_eq!(keys(&place, runs(None, Some(Status::Running))).await, ["1"]);
    assert_eq!(keys(&place, runs(Some("a"), None)).await, ["1", "3", "5"]);
    assert_eq!(keys(&place, runs(Some("b"), Some(Status::Failed))).await, ["4"]);
    assert_eq!(keys(&place, runs(Some("a"), Some(Status::Failed))).await, [""; 0]);
    assert_eq!(keys(&place, Scope::LiveRunsOfAgent(agent_id("x"))).await, ["1", "3", "5"]);
    assert_eq!(keys(&place, Scope::LiveRunsOfAgent(agent_id("y"))).await, [""; 0]);
    assert_eq!(keys(&place, Scope::LiveRunsOfTask(task_id("a"))).await, ["1", "3", "5"]);
    assert_eq!(keys(&place, Scope::Attempts(run_id(1))).await, ["1/0000000001"]);
    assert_eq!(keys(&place, Scope::Attempts(run_id(2))).await, [""; 0]);
    assert_eq!(keys(&place, Scope::SkipRanges(task_id("a"))).await, ["a/1"]);
    assert_eq!(keys(&place, Scope::BucketsOfAgent(agent_id("x"))).await, ["a/x", "s/x/1"]);
    assert_eq!(keys(&place, Scope::BucketsOfAgent(agent_id("y"))).await, ["a/y"]);
    assert_eq!(keys(&place, Scope::BucketsOfAgent(agent_id("z"))).await, [""; 0]);
    // A record that moves moves in the lists too.
    place.put(vec![of_task(Kind::Task, "a", "a", "y")]).await;
    assert_eq!(keys(&place, Scope::TasksOfAgent(agent_id("x"))).await, [""; 0]);
    assert_eq!(keys(&place, Scope::TasksOfAgent(agent_id("y"))).await, ["a", "b"]);
    let listed = place.store.list(runs(None, Some(Status::Running)), PageRequest::first(1)).await.unwrap().records;
    assert_eq!(listed, [place.get(&RecordId::run(&run_id(1))).await.unwrap()]);
}

async fn walk(place: &Place, scope: &Scope, limit: usize, newest_first: bool) -> Vec<i64> {
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = place.store.list(scope.clone(), PageRequest { after, limit, newest_first }).await.unwrap();
        assert!(page.records.len() <= limit);
        seen.extend(page.records.iter().map(|record| record.order));
        after = page.next;
        if after.is_none() {
            return seen;
        }
    }
}

async fn pages_follow_each_other(place: Place) {
    let now = place.now();
    for number in 0..25 {
        let task = if number % 3 == 0 { "a" } else { "b" };
        place.put_runs(&[queued(number, task, "x", now)]).await;
    }
    for scope in [Scope::All(Kind::Run), Scope::Runs { task: Some(task_id("b")), status: None }, Scope::LiveRunsOfAgent(agent_id("x"))] {
        let whole = walk(&place, &scope, 100, false).await;
        assert!(whole.is_sorted());
        for limit in [1, 2, 5, 24, 25] {
            assert_eq!(walk(&place, &scope, limit, false).await, whole, "{scope:?} by {limit}");
            let mut backwards = walk(&place, &scope, limit, true).await;
            backwards.reverse();
            assert_eq!(backwards, whole, "{scope:?} by {limit}, newest first");
        }
    }
}

async fn pages_stand_inserts_and_deletes(place: Place) {
    let now = place.now();
    place.put_runs(&(1..=9).map(|number| queued(number, "a", "x", now)).collect::<Vec<_>>()).await;
    let whole = walk(&place, &Scope::All(Kind::Run), 100, false).await;
    let page = |after, newest_first| place.store.list(Scope::All(Kind::Run), PageRequest { after, limit: 3, newest_first });
    let first = page(None, false).await.unwrap();
    let newest = page(None, true).await.unwrap();
    // The record that the cursors stand on goes, another comes, one that was read changes.
    let gone = |number: u32| RecordId::run(&run_id(number));
    let change = Change { deletes: vec![gone(3), gone(7)], ..place.change() };
    place.apply(change).await;
    place.put_runs(&[queued(10, "a", "x", now), Run { status: Status::Failed, ..queued(1, "a", "x", now) }]).await;
    let second = page(first.next, false).await.unwrap();
    assert_eq!(second.records.iter().map(|record| record.order).collect::<Vec<_>>(), whole[3..6]);
    let third = page(second.next, false).await.unwrap();
    assert_eq!(
        third.records.iter().map(|record| &*record.id.key).collect::<Vec<_>>(),
        [run_id(8).as_str(), run_id(9).as_str(), run_id(10).as_str()]
    );
    assert_eq!(third.next, None);
    let older = page(newest.next, true).await.unwrap();
    assert_eq!(older.records.iter().map(|record| record.order).collect::<Vec<_>>(), [whole[5], whole[4], whole[3]]);
}

async fn odd_pages_are_answered(place: Place) {
    place.put(vec![plain(Kind::Agent, "a", "1"), plain(Kind::Agent, "b", "1")]).await;
    for newest_first in [false, true] {
        for (after, limit) in [(None, 0), (Some(i64::MIN), 1), (Some(i64::MAX), 1), (Some(-1), 9), (None, usize::MAX)] {
            let request = PageRequest { after, limit, newest_first };
            let page = place.store.list(Scope::All(Kind::Agent), request).await.unwrap();
            let beyond = match after {
                None => false,
                Some(after) => (after < 0) == newest_first,
            };
            assert_eq!(page.records.len(), if beyond { 0 } else { limit.min(2) }, "{request:?}");
            assert_eq!(page.next.is_some(), limit == 1 && !beyond, "{request:?}");
        }
    }
}
