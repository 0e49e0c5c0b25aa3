//! What the SQLite store promises beyond the contract: what was acknowledged survives, the file is nobody else's, and nobody else's
//! file is touched.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sandclock::domain::event::EventName;
use sandclock::domain::id::WorkerId;
use sandclock::domain::run::{Run, Status};
use sandclock::store::sql::sqlite::{OpenError, SqliteStore};
use sandclock::store::{Change, CountScope, DueKind, Kind, Outcome, RecordId, Renewal, Store, StoreError};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Row};
use tempfile::TempDir;

use super::{ManualClock, absent, event, plain, queued, request, rev, run_id};

async fn open(path: &Path) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(path, ManualClock::new()).await
}

fn change(number: u128) -> Change {
    Change { id: sandclock::store::ChangeId(number), guards: Vec::new(), puts: Vec::new(), deletes: Vec::new(), events: Vec::new() }
}

/// A connection of another program.
async fn outside(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).create_if_missing(true).busy_timeout(Duration::ZERO).connect().await.unwrap()
}

/// Puts a claimed run with its events into the store.
async fn fill(store: &SqliteStore) {
    let now = store.now().await.unwrap();
    let run = queued(1, "task", "agent", now);
    let insert = Change {
        puts: vec![sandclock::store::Put::run(&run, now).unwrap(), plain(Kind::Task, "task", "{}")],
        events: vec![event(&run, EventName::Queued, now)],
        ..change(1)
    };
    store.apply(vec![insert]).await.unwrap();
    assert_eq!(store.claim(request(1, "daemon.one", &[("agent", None)], 1)).await.unwrap().len(), 1);
}

/// Wants what [`fill`] put.
async fn filled(store: &SqliteStore) {
    let record = store.get(&[RecordId::run(&run_id(1))]).await.unwrap().remove(0).unwrap();
    let run = record.decode_run().unwrap();
    assert_eq!((record.rev, run.status, run.lease_generation), (2, Status::Running, 1));
    assert!(run.lease_expires_at.is_some());
    assert_eq!(store.events(&run_id(1), 0, 9).await.unwrap().len(), 3);
    assert_eq!(store.counts(CountScope::All(Kind::Run)).await.unwrap().of(Status::Running), 1);
    assert_eq!(store.counts(CountScope::All(Kind::Attempt)).await.unwrap().total, 1);
}

#[tokio::test]
async fn a_store_that_somebody_else_opened_meanwhile_is_not_written_any_more() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let stale = open(&path).await.unwrap();
    fill(&stale).await;
    // What an operator does who thinks that the lock was left behind.
    std::fs::remove_file(directory.path().join("store.db.lock")).unwrap();
    let owner = open(&path).await.unwrap();
    let put = |number, key: &str, body: &str| Change { puts: vec![plain(Kind::Agent, key, body)], ..change(number) };
    for number in 10..20 {
        owner.apply(vec![put(number, &format!("new{number}"), "{}")]).await.unwrap();
    }

    let told = |result: Result<(), StoreError>| match result {
        Err(error @ StoreError::TakenOver(_)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let leases = [(run_id(1), 1)];
    for _ in 0..2 {
        let refused = [
            told(stale.renew(&WorkerId::parse("daemon.one").unwrap(), &leases, Duration::from_secs(30)).await.map(drop)),
            told(stale.apply(vec![put(30, "stale", "{}")]).await.map(drop)),
            told(stale.claim(request(2, "daemon.one", &[("agent", None)], 1)).await.map(drop)),
        ];
        assert!(refused.iter().all(|told| told.contains("store.db") && told.contains("stop one of the two")), "{refused:?}");
    }
    filled(&stale).await;
    assert!(matches!(
        stale.renew(&WorkerId::parse("daemon.one").unwrap(), &leases, Duration::from_secs(30)).await,
        Err(StoreError::TakenOver(_))
    ));
    stale.close().await;

    // The first record that the stale one would have written has the place of the first that the owner wrote.
    filled(&owner).await;
    for number in 10..20 {
        let id = RecordId::new(Kind::Agent, &format!("new{number}"));
        assert_eq!(owner.get(std::slice::from_ref(&id)).await.unwrap().remove(0).unwrap().id, id);
    }
    assert_eq!(owner.get(&[RecordId::new(Kind::Agent, "stale")]).await.unwrap(), [None]);
    assert_eq!(owner.counts(CountScope::All(Kind::Agent)).await.unwrap().total, 10);
    assert!(matches!(
        owner.renew(&WorkerId::parse("daemon.one").unwrap(), &leases, Duration::from_secs(30)).await.unwrap()[..],
        [Renewal::Held(_)]
    ));
    owner.close().await;
    filled(&open(&path).await.unwrap()).await;
}

#[tokio::test]
async fn leases_that_are_all_lost_do_not_make_the_store_anothers() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory.path().join("store.db")).await.unwrap();
    fill(&store).await;
    let lost = store.renew(&WorkerId::parse("daemon.two").unwrap(), &[(run_id(1), 1)], Duration::from_secs(30)).await.unwrap();
    assert_eq!(lost, [Renewal::Lost]);
    filled(&store).await;
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_close() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("deep/er/store.db");
    let store = open(&path).await.unwrap();
    fill(&store).await;
    store.close().await;
    assert!(!path.with_extension("db-wal").exists(), "the log is gone after a close");
    let refused = store.apply(vec![change(2)]).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(matches!(store.get(&[]).await, Err(StoreError::Unavailable(_))));
    store.close().await;
    let store = open(&path).await.unwrap();
    filled(&store).await;
    // Orders go on where they ended, even behind what was deleted.
    let agent = RecordId::new(Kind::Agent, "agent");
    let put = |number| Change { puts: vec![plain(Kind::Agent, "agent", "{}")], ..change(number) };
    store.apply(vec![put(3)]).await.unwrap();
    let first = store.get(std::slice::from_ref(&agent)).await.unwrap().remove(0).unwrap();
    store.apply(vec![Change { deletes: vec![agent.clone()], ..change(4) }]).await.unwrap();
    drop(store);
    let store = open(&path).await.unwrap();
    store.apply(vec![put(5)]).await.unwrap();
    assert!(store.get(&[agent]).await.unwrap().remove(0).unwrap().order > first.order);
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path).await.unwrap();
    fill(&store).await;
    // The files as a killed process leaves them: no checkpoint, no goodbye.
    let killed = TempDir::new().unwrap();
    for name in ["store.db", "store.db-wal", "store.db.lock"] {
        std::fs::copy(directory.path().join(name), killed.path().join(name)).unwrap();
    }
    filled(&open(&killed.path().join("store.db")).await.unwrap()).await;
    drop(store);
    filled(&open(&path).await.unwrap()).await;
}

#[tokio::test]
async fn a_second_daemon_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path).await.unwrap();
    let refused = open(&path).await.err().unwrap();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    let sentence = refused.to_string();
    assert!(sentence.contains("in use by another daemon") && sentence.contains(&std::process::id().to_string()), "{sentence}");
    // Another way to the same file meets the same lock.
    let link = directory.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let refused = open(&link).await.err().unwrap();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    fill(&store).await;
    drop(store);
    filled(&open(&path).await.unwrap()).await;
}

/// What is in a directory, byte by byte, but for our lock.
fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_none_or(|ext| ext != "lock")).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[tokio::test]
async fn a_foreign_database_is_not_touched() {
    for mode in ["WAL", "DELETE"] {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("photos.db");
        let mut other = outside(&path).await;
        other.execute(AssertSqlSafe(format!("PRAGMA journal_mode = {mode}; CREATE TABLE record (photo BLOB)"))).await.unwrap();
        other.close().await.unwrap();
        let before = contents(directory.path());
        let refused = open(&path).await.err().unwrap();
        assert!(matches!(refused, OpenError::Foreign(_)), "{refused}");
        assert!(refused.to_string().contains("photos.db is a SQLite database of another program"), "{refused}");
        assert!(contents(directory.path()) == before, "it was touched");
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_not_touched() {
    let header = b"SQLite format 3\0".to_vec();
    for garbage in [b"x".to_vec(), b"[store]\nkind = \"sqlite\"\n".repeat(100), header, vec![0; 5000]] {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("notes.txt");
        std::fs::write(&path, &garbage).unwrap();
        let before = contents(directory.path());
        let refused = open(&path).await.err().unwrap();
        assert!(matches!(refused, OpenError::NotADatabase(_)), "{refused}");
        assert!(contents(directory.path()) == before, "it was touched");
    }
    // Nothing at all may become a store.
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("empty.db");
    std::fs::write(&path, b"").unwrap();
    fill(&open(&path).await.unwrap()).await;
}

#[tokio::test]
async fn a_damaged_store_is_told() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path).await.unwrap();
    fill(&store).await;
    store.close().await;
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100..].fill(0xa5);
    std::fs::write(&path, &bytes).unwrap();
    let refused = open(&path).await.err().unwrap();
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
    assert!(refused.to_string().contains("is damaged"), "{refused}");
}

#[tokio::test]
async fn a_later_version_is_left_to_the_later_sandclock() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    open(&path).await.unwrap().close().await;
    let mut other = outside(&path).await;
    other.execute("PRAGMA user_version = 99").await.unwrap();
    other.close().await.unwrap();
    let refused = open(&path).await.err().unwrap();
    assert!(matches!(refused, OpenError::Newer { found: 99, .. }), "{refused}");
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_told() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("file"), b"").unwrap();
    for path in [directory.path().join("file/store.db"), PathBuf::from("/proc/store.db"), directory.path().to_owned()] {
        let refused = open(&path).await.err().unwrap();
        assert!(matches!(refused, OpenError::Unusable { .. }), "{refused}");
        assert!(refused.to_string().contains("see that its directory exists"), "{refused}");
    }
}

#[tokio::test]
async fn a_caller_that_stops_waiting_leaves_whole_changes() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let store = Arc::new(open(&path).await.unwrap());
    let runs = 40_u32;
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..runs {
        let store = Arc::clone(&store);
        callers.spawn(async move {
            let run = queued(number, "task", "agent", store.now().await.unwrap());
            let insert = Change {
                guards: vec![absent(&RecordId::run(&run.run_id))],
                puts: vec![sandclock::store::Put::run(&run, run.queued_at).unwrap()],
                events: vec![event(&run, EventName::Queued, run.queued_at)],
                ..change(u128::from(number))
            };
            // Polled once and dropped, or waited for.
            let mut asked = Box::pin(store.apply(vec![insert]));
            if number % 2 == 0 { futures::poll!(&mut asked).is_ready() } else { asked.await.is_ok() }
        });
    }
    while let Some(answer) = callers.join_next().await {
        answer.unwrap();
    }
    // The writer works in turn, so this one is behind all others.
    assert_eq!(store.apply(vec![change(9999)]).await.unwrap(), [Outcome::Applied]);
    let counts = store.counts(CountScope::All(Kind::Run)).await.unwrap();
    assert!(counts.total >= u64::from(runs / 2));
    let mut found = 0;
    for number in 0..runs {
        let there = store.get(&[RecordId::run(&run_id(number))]).await.unwrap()[0].is_some();
        assert_eq!(store.events(&run_id(number), 0, 9).await.unwrap().len(), usize::from(there), "all or nothing");
        found += u64::from(there);
    }
    assert_eq!(found, counts.total);
}

#[tokio::test]
async fn renewals_go_ahead_of_batches_that_wait() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let store = Arc::new(open(&path).await.unwrap());
    fill(&store).await;
    // Somebody holds the file, so that everything waits behind the first batch.
    let mut other = outside(&path).await;
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let slot = RecordId::new(Kind::Slot, "task");
    let (order, mut answered) = tokio::sync::mpsc::unbounded_channel();
    let mut waiting = Vec::new();
    for number in 0..3_u64 {
        let put = Change { guards: vec![if number == 0 { absent(&slot) } else { rev(&slot, number) }], ..change(u128::from(number)) };
        let put = Change { puts: vec![plain(Kind::Slot, "task", "{}")], ..put };
        let (store, order) = (Arc::clone(&store), order.clone());
        let mut asked = Box::pin(async move { store.apply(vec![put]).await });
        assert!(futures::poll!(&mut asked).is_pending());
        waiting.push(tokio::spawn(async move {
            assert_eq!(asked.await.unwrap(), [Outcome::Applied]);
            order.send("batch").unwrap();
        }));
    }
    let renewing = Arc::clone(&store);
    let mut renewal = Box::pin(async move {
        let worker = sandclock::domain::id::WorkerId::parse("daemon.one").unwrap();
        renewing.renew(&worker, &[(run_id(1), 1)], Duration::from_secs(9)).await
    });
    assert!(futures::poll!(&mut renewal).is_pending());
    waiting.push(tokio::spawn(async move {
        assert!(matches!(renewal.await.unwrap()[..], [Renewal::Held(_)]));
        order.send("renewal").unwrap();
    }));
    other.execute("ROLLBACK").await.unwrap();
    for waits in waiting {
        waits.await.unwrap();
    }
    let first_two = [answered.recv().await.unwrap(), answered.recv().await.unwrap()];
    assert!(first_two.contains(&"renewal"), "at most the batch that was under way goes before a renewal");
}

#[tokio::test]
async fn a_batch_that_fails_leaves_nothing_and_the_next_goes_on() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path).await.unwrap();
    fill(&store).await;
    // A trigger makes a statement in the middle of the transaction fail.
    let mut other = outside(&path).await;
    other
        .execute("CREATE TRIGGER no_room BEFORE INSERT ON record WHEN new.kind = 'agent' BEGIN SELECT RAISE(ABORT, 'no room'); END")
        .await
        .unwrap();
    let put = |kind| Change { puts: vec![plain(kind, "a", "{}")], ..change(7) };
    let batch = vec![put(Kind::Task), put(Kind::Agent)];
    let refused = store.apply(batch.clone()).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(store.get(&[RecordId::new(Kind::Task, "a")]).await.unwrap(), [None], "nothing of the batch is left");
    filled(&store).await;
    other.execute("DROP TRIGGER no_room").await.unwrap();
    assert_eq!(store.apply(batch).await.unwrap(), [Outcome::Applied, Outcome::Applied]);
    let claimed = store.claim(request(2, "daemon.one", &[("agent", None)], 1)).await.unwrap();
    assert_eq!(claimed, []);
}

#[tokio::test]
async fn the_file_is_what_the_design_says() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path).await.unwrap();
    fill(&store).await;
    let mut other = outside(&path).await;
    let mode: String = other.fetch_one("PRAGMA journal_mode").await.unwrap().get(0);
    assert_eq!(mode, "wal");
    for name in ["record", "lease", "event", "count"] {
        let strict: i64 =
            other.fetch_one(sqlx::query("SELECT strict FROM pragma_table_list WHERE name = $1").bind(name)).await.unwrap().get(0);
        assert_eq!(strict, 1, "{name} takes only what its columns say");
    }
    let run = Run {
        status: Status::Completed,
        ..store.get(&[RecordId::run(&run_id(1))]).await.unwrap()[0].clone().unwrap().decode_run().unwrap()
    };
    let done = Change { puts: vec![sandclock::store::Put::run(&run, run.queued_at).unwrap()], ..change(8) };
    store.apply(vec![done]).await.unwrap();
    let leases: i64 = other.fetch_one("SELECT count(*) FROM lease").await.unwrap().get(0);
    assert_eq!(leases, 0, "a run that has ended keeps no lease row, so that no statement ever walks over it");
    assert!(store.due(DueKind::ExpiredLeases, 9).await.unwrap().records.is_empty());
}

#[tokio::test]
async fn a_deleted_run_leaves_no_rows() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path).await.unwrap();
    fill(&store).await;
    let mut other = outside(&path).await;
    let rows = "SELECT (SELECT count(*) FROM record), (SELECT count(*) FROM lease), (SELECT count(*) FROM event)";
    let counted = |row: sqlx::sqlite::SqliteRow| [0, 1, 2].map(|column| row.get::<i64, _>(column));
    assert_eq!(counted(other.fetch_one(rows).await.unwrap()), [3, 1, 3], "the run, its attempt and a task; its lease; its events");
    // What the same batch says of it before goes too, and so does a run that only the batch has known.
    let now = store.now().await.unwrap();
    let told = |number: u32| {
        let run = queued(number, "task", "agent", now);
        Change {
            puts: vec![sandclock::store::Put::run(&run, now).unwrap()],
            events: vec![event(&run, EventName::Progress, now)],
            ..change(9)
        }
    };
    let gone = |number| Change { deletes: vec![RecordId::run(&run_id(number))], ..change(9) };
    store.apply(vec![told(1), gone(1), told(2), gone(2)]).await.unwrap();
    assert_eq!(counted(other.fetch_one(rows).await.unwrap()), [1, 0, 0]);
}
