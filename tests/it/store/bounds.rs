//! What retention asks a store: which runs ended, and which records came due, how long ago.

use std::time::Duration;

use sandclock::domain::run::{Run, Status};
use sandclock::domain::time::Timestamp;
use sandclock::store::sql::sqlite::SqliteStore;
use sandclock::store::{Change, DueKind, Index, Kind, Put, RecordId, Store, When};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tempfile::TempDir;

use super::{ManualClock, Place, on_every_store, plain, queued, run_id, schedule, task_id};

on_every_store!(
    ended_runs_are_found_by_how_long_ago_they_ended,
    other_records_are_found_by_their_age,
    a_step_of_the_wall_clock_makes_nothing_older,
);

fn ended(status: Status, seconds: u64) -> DueKind {
    DueKind::Ended { status, for_at_least: Duration::from_secs(seconds) }
}

fn aged(kind: Kind, seconds: u64) -> DueKind {
    DueKind::Aged { kind, for_at_least: Duration::from_secs(seconds) }
}

async fn due(place: &Place, what: DueKind, limit: usize) -> (Vec<String>, Option<Timestamp>) {
    let due = place.store.due(what, limit).await.unwrap();
    assert_eq!(due.now, place.now());
    let short = |record: &sandclock::store::Record| record.id.key.trim_start_matches("run_").trim_start_matches('0').to_owned();
    (due.records.iter().map(short).collect(), due.next)
}

fn after(place: &Place, seconds: u64) -> Timestamp {
    place.now() + Duration::from_secs(seconds)
}

async fn ended_runs_are_found_by_how_long_ago_they_ended(place: Place) {
    let run = |number, status| Run { status, ..queued(number, "task", "agent", place.now()) };
    let none = (Vec::new(), None);
    assert_eq!(due(&place, ended(Status::Completed, 0), 9).await, none);
    let live = [run(1, Status::Queued), run(2, Status::AwaitingApproval), run(3, Status::Queued)];
    place.put_runs(&[run(4, Status::Completed), run(5, Status::Failed)]).await;
    place.put_runs(&live).await;
    place.claim(1, &[("agent", None)], 1).await;
    assert_eq!(due(&place, ended(Status::Completed, 0), 9).await, (vec!["4".into()], None));
    assert_eq!(due(&place, ended(Status::Completed, 10), 9).await, (Vec::new(), Some(after(&place, 10))));
    place.advance(4);
    // It was made first and ends last: what counts is the end.
    place.put_runs(&[run(6, Status::Completed), run(1, Status::Completed)]).await;
    assert_eq!(due(&place, ended(Status::Completed, 10), 9).await, (Vec::new(), Some(after(&place, 6))));
    place.advance(6);
    assert_eq!(due(&place, ended(Status::Completed, 10), 9).await, (vec!["4".into()], Some(after(&place, 4))));
    place.advance(100);
    assert_eq!(due(&place, ended(Status::Completed, 10), 9).await, (vec!["4".into(), "1".into(), "6".into()], None));
    assert_eq!(due(&place, ended(Status::Completed, 10), 2).await.0, ["4", "1"]);
    assert_eq!(due(&place, ended(Status::Failed, 110), 9).await, (vec!["5".into()], None));
    assert_eq!(due(&place, ended(Status::Failed, 111), 9).await, (Vec::new(), Some(after(&place, 1))));
    for status in [Status::Timeout, Status::Cancelled, Status::Skipped] {
        assert_eq!(due(&place, ended(status, 0), 9).await, none, "{status:?}");
    }
    // What is deleted is not found again.
    place.apply(Change { deletes: vec![RecordId::run(&run_id(4))], ..place.change() }).await;
    assert_eq!(due(&place, ended(Status::Completed, 10), 1).await.0, ["1"]);
    assert_eq!(due(&place, DueKind::Expiries, 9).await.0, [""; 0], "an ended run does not expire");
}

async fn other_records_are_found_by_their_age(place: Place) {
    let range = |key: &str| Put {
        index: Index { task: Some(task_id("task")), due: Some(When::In(Duration::ZERO)), ..Index::default() },
        ..plain(Kind::SkipRange, key, "{}")
    };
    let key = |key: &str, seconds| Put {
        index: Index { due: Some(When::In(Duration::from_secs(seconds))), ..Index::default() },
        ..plain(Kind::Idempotency, key, "{}")
    };
    place.put(vec![range("b"), key("later", 9), key("soon", 3), schedule("task", Some(When::At(place.now())))]).await;
    place.advance(2);
    place.put(vec![range("a")]).await;
    assert_eq!(due(&place, aged(Kind::SkipRange, 5), 9).await, (Vec::new(), Some(after(&place, 3))));
    assert_eq!(due(&place, aged(Kind::Idempotency, 0), 9).await, (Vec::new(), Some(after(&place, 1))));
    place.advance(3);
    assert_eq!(due(&place, aged(Kind::SkipRange, 5), 9).await, (vec!["b".into()], Some(after(&place, 2))));
    assert_eq!(due(&place, aged(Kind::Idempotency, 0), 9).await, (vec!["soon".into()], Some(after(&place, 4))));
    place.advance(50);
    assert_eq!(due(&place, aged(Kind::SkipRange, 5), 9).await, (vec!["b".into(), "a".into()], None));
    assert_eq!(due(&place, aged(Kind::Idempotency, 0), 1).await.0, ["soon"]);
    assert_eq!(due(&place, aged(Kind::Removal, 0), 9).await, (Vec::new(), None));
}

async fn a_step_of_the_wall_clock_makes_nothing_older(place: Place) {
    const DAY: u64 = 86_400;
    let run = |number| Run { status: Status::Completed, ..queued(number, "task", "agent", place.now()) };
    place.put_runs(&[run(1)]).await;
    place
        .put(vec![Put {
            index: Index { due: Some(When::In(Duration::from_secs(DAY))), ..Index::default() },
            ..plain(Kind::Idempotency, "k", "{}")
        }])
        .await;
    place.clock.step_wall(10 * 86_400_000_000);
    let found = async |what| place.store.due(what, 9).await.unwrap().records.len();
    assert_eq!((found(ended(Status::Completed, DAY)).await, found(aged(Kind::Idempotency, 0)).await), (0, 0));
    // Back again: what ended meanwhile is as young as what ended now.
    place.put_runs(&[run(2)]).await;
    place.clock.step_wall(-11 * 86_400_000_000);
    assert_eq!(found(ended(Status::Completed, 0)).await, 0);
    place.clock.step_wall(86_400_000_000);
    place.advance(DAY);
    assert_eq!((found(ended(Status::Completed, DAY)).await, found(aged(Kind::Idempotency, 0)).await), (1, 1));
    place.advance(10 * DAY);
    assert_eq!(found(ended(Status::Completed, DAY)).await, 2);
}

#[tokio::test]
async fn a_store_of_the_first_version_tells_when_its_runs_ended() {
    let (directory, clock) = (TempDir::new().unwrap(), ManualClock::new());
    let path = directory.path().join("store.db");
    let mut first = SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await.unwrap();
    let schema = include_str!("../../../src/store/sql/migrations/sqlite/0001_records.sql");
    let mark = "PRAGMA page_size = 8192; PRAGMA application_id = 0x73636c6b;";
    first.execute(AssertSqlSafe(format!("{mark} {schema} PRAGMA user_version = 1;"))).await.unwrap();
    let now = sandclock::clock::Clock::now(&*clock);
    let finished_at = now - Duration::from_millis(100_500);
    let run = Run { status: Status::Failed, finished_at: Some(finished_at), ..queued(1, "task", "agent", now) };
    let parked = Run { status: Status::AwaitingBudget, ..queued(2, "task", "agent", now) };
    let range = serde_json::json!({"task_id": "task", "first": now, "last": now, "count": 1, "reason": "missed", "at": finished_at});
    let insert = "INSERT INTO record (id, kind, rev, task, agent, status, live, ready, due, cancel_requested, fence, body) \
        VALUES ($1, $2, 1, 'task', 'agent', $3, $4, 0, $5, 0, 0, $6)";
    let rows = [
        ("run/a", "run", Some("failed"), 0, None, serde_json::to_vec(&run).unwrap()),
        ("run/b", "run", Some("awaiting_budget"), 1, Some(now.micros() + 5_000_000), serde_json::to_vec(&parked).unwrap()),
        ("skip_range/task/1", "skip_range", None, 0, None, range.to_string().into_bytes()),
        ("schedule/task", "schedule", None, 0, Some(now.micros()), b"{}".to_vec()),
    ];
    for (id, kind, status, live, due, body) in rows {
        sqlx::query(insert).bind(id).bind(kind).bind(status).bind(live).bind(due).bind(body).execute(&mut first).await.unwrap();
    }
    first.close().await.unwrap();
    let store = SqliteStore::open(&path, clock.clone()).await.unwrap();
    let kept = store.due(ended(Status::Failed, 101), 9).await.unwrap();
    assert_eq!((kept.records.len(), kept.next), (0, Some(now + Duration::from_millis(500))));
    let found = store.due(ended(Status::Failed, 100), 9).await.unwrap();
    assert_eq!(found.records[0].due, Some(finished_at));
    assert_eq!(store.due(aged(Kind::SkipRange, 100), 9).await.unwrap().records[0].due, Some(finished_at));
    assert_eq!(store.due(DueKind::Schedules, 9).await.unwrap().records.len(), 1);
    assert_eq!(store.due(DueKind::Expiries, 9).await.unwrap().next, Some(now + Duration::from_secs(5)));
}
