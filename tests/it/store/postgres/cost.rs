//! What a call costs does not depend on how many finished runs are kept: counted in rows and index entries that the server read.

use sandclock::clock::Clock;
use sandclock::domain::id::{AgentId, TaskId};
use sandclock::store::{PageRequest, Scope};

use super::*;

/// Waits until the store's connections have ended, and with them told what they read.
pub async fn settled(watcher: &mut PgConnection) {
    let gone = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sandclock')";
    until(watcher, gone).await;
}

/// How many rows and index entries were read so far.
async fn read(watcher: &mut PgConnection) -> i64 {
    settled(watcher).await;
    let sql = "SELECT ((SELECT sum(seq_tup_read) FROM pg_stat_user_tables) + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes))::bigint";
    watcher.fetch_one(sql).await.unwrap().get(0)
}

/// Everything that a daemon asks of a store, on ten runs that go again.
async fn work(url: &str, clock: &Arc<ManualClock>, round: u32) {
    let store = PostgresStore::connect(url, ServerClock::given(clock.clone())).await.unwrap();
    let numbers = 1000 * round..1000 * round + 10;
    enqueue(&store, numbers.clone(), "agent").await;
    let claimed = store.claim(request(u128::from(round), "daemon.one", &[("agent", Some(1000)), ("other", None)], 10)).await.unwrap();
    assert_eq!(claimed.len(), 10);
    let leases: Vec<_> = claimed.iter().map(|claim| (claim.run.run_id.clone(), 1)).collect();
    store.renew(&worker("daemon.one"), &leases, Duration::from_secs(30)).await.unwrap();
    let ended = |status| DueKind::Ended { status, for_at_least: Duration::from_secs(3600) };
    let kinds = [
        DueKind::Ready,
        DueKind::ExpiredLeases,
        DueKind::OlderIncarnations { daemon: "daemon".into(), current: worker("daemon.two") },
        DueKind::Schedules,
        DueKind::Expiries,
        ended(Status::Completed),
        ended(Status::Failed),
        DueKind::Aged { kind: Kind::SkipRange, for_at_least: Duration::ZERO },
    ];
    for kind in kinds {
        store.due(kind, 20).await.unwrap();
    }
    let (task, agent) = (TaskId::parse("task").unwrap(), AgentId::parse("agent").unwrap());
    let runs = |task: Option<&TaskId>, status| Scope::Runs { task: task.cloned(), status };
    let scopes = [
        Scope::All(Kind::Attempt),
        runs(None, None),
        runs(None, Some(Status::Completed)),
        runs(Some(&task), None),
        runs(Some(&task), Some(Status::Completed)),
        Scope::TasksOfAgent(agent.clone()),
        Scope::BucketsOfAgent(agent.clone()),
        Scope::LiveRunsOfAgent(agent.clone()),
        Scope::LiveRunsOfTask(task.clone()),
        Scope::Attempts(run_id(1)),
        Scope::SkipRanges(task.clone()),
    ];
    for scope in scopes {
        for newest_first in [false, true] {
            store.list(scope.clone(), PageRequest { after: Some(1 << 17), limit: 5, newest_first }).await.unwrap();
        }
    }
    for scope in [CountScope::All(Kind::Run), CountScope::RunsOfTask(task), CountScope::RunsOfAgent(agent)] {
        store.counts(scope).await.unwrap();
    }
    store.events(&run_id(numbers.start), 0, 10).await.unwrap();
    let deletes: Vec<RecordId> = leases.iter().map(|(run, _)| RecordId::run(run)).collect();
    store.get(&deletes).await.unwrap();
    store.apply(vec![Change { deletes, ..change(u128::from(round)) }]).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn w_41_no_call_costs_more_for_finished_runs_that_are_kept() {
    let Some(database) = servers::postgres().await else { return };
    let clock = ManualClock::new();
    work(&database.url, &clock, 1).await;
    let mut watcher = outside(&database.url).await;
    let mut costs = Vec::new();
    for round in 2..5 {
        let kept = if round == 2 { 100 } else { 20_000 };
        let fill = format!(
            "INSERT INTO record (ord, id, kind, rev, task, agent, status, live, ready, due, cancel_requested, fence, body) \
             SELECT {round} * 1000000 + i, 'run/kept{round}.' || i, 'run', 3, 'task', 'agent', 'completed', 0, 0, {now} - i, 0, 1, '{{}}' \
               FROM generate_series(1, {kept}) AS i; \
             INSERT INTO record (ord, id, kind, rev, run, live, ready, cancel_requested, fence, body) \
             SELECT {round} * 1000000 + 500000 + i, 'attempt/kept{round}.' || i || '/1', 'attempt', 2, 'kept{round}.' || i, 0, 0, 0, 0, '{{}}' \
               FROM generate_series(1, {kept}) AS i; \
             INSERT INTO event (run, seq, body) SELECT {round} * 1000000 + i, s, '{{}}' \
               FROM generate_series(1, {kept}) AS i, generate_series(1, 4) AS s",
            now = clock.now().micros(),
        );
        watcher.execute(AssertSqlSafe(fill)).await.unwrap();
        if round == 4 {
            // Once on what the server guesses, and once on what it has counted.
            watcher.execute("ANALYZE").await.unwrap();
        }
        let before = read(&mut watcher).await;
        work(&database.url, &clock, round).await;
        costs.push(read(&mut watcher).await - before);
    }
    let (few, many) = (costs[0], costs[1].max(costs[2]));
    // What was deleted may still be in the indexes.
    assert!(many <= 2 * few + 200, "{costs:?} rows and index entries were read");
}
