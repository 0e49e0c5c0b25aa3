//! What a statement costs: its plan, and how many of them a batch is.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::super::super::batch::{Named, Writes};
use super::super::super::{
    Change, ChangeId, ClaimAgent, ClaimRequest, CountScope, Guard, Index, Kind, Outcome, PageRequest, Put, RecordId, Scope, Store,
    StoreError,
};
use super::super::lists::PageQuery;
use super::{SqliteStore, failed, open, statements};
use crate::clock::SystemClock;
use crate::domain::event::EventName;
use crate::domain::id::{AgentId, RunId, TaskId, WorkerId};
use crate::domain::run::Status;

/// A store's file with some thousand finished runs, their attempts and events, and a few live ones.
async fn filled(path: &Path) -> SqliteConnection {
    drop(open::prepare(path).unwrap());
    let mut connection = open::open(path).await.unwrap().connection;
    let fill = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) \
         INSERT INTO record (ord, id, kind, rev, task, agent, status, live, ready, due, cancel_requested, fence, body) \
         SELECT i, 'run/' || i, 'run', 3, 'task' || (i % 7), 'agent' || (i % 3), iif(i % 100, 'completed', 'queued'), i % 100 = 0, \
           i % 100 = 0, i, 0, 1, x'7b7d' FROM n; \
         INSERT INTO record (id, kind, rev, run, live, ready, cancel_requested, fence, body) \
         SELECT 'attempt/' || ord || '/1', 'attempt', 2, ord, 0, 0, 0, 0, x'7b7d' FROM record; \
         INSERT INTO event (run, seq, body) SELECT r.ord, s.value, x'7b7d' FROM record AS r, json_each('[1,2,3,4]') AS s; \
         INSERT INTO lease (run, owner, daemon, until, heartbeat_at, token) SELECT ord, 'd.' || ord, 'd', ord, ord, x'00' FROM record LIMIT 500;";
    connection.execute(fill).await.unwrap();
    connection
}

async fn plan(connection: &mut SqliteConnection, sql: &str) -> Vec<String> {
    let rows = connection.fetch_all(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"))).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>("detail")).collect()
}

/// Wants a statement that walks over no table, sorts at most what it found, and uses these indexes.
async fn efficient(connection: &mut SqliteConnection, name: &str, sql: &str, indexes: &[&str]) {
    let bare_limit = sql.split("LIMIT $").skip(1).any(|rest| !rest.get(1..).is_some_and(|rest| rest.starts_with(" + 0")));
    assert!(!bare_limit, "{name} is prepared anew for each limit: {sql}");
    let plan = plan(connection, sql).await;
    for step in &plan {
        let scanned = step.strip_prefix("SCAN ").map(|rest| rest.split(' ').next().unwrap_or(rest));
        // JSON lists, and what the statement itself found, are walked over.
        let harmless = [
            None,
            Some("w"),
            Some("json_each"),
            Some("jsonb_each"),
            Some("turn"),
            Some("t"),
            Some("wanted"),
            Some("waiting"),
            Some("n"),
            Some("d"),
        ];
        assert!(
            harmless.contains(&scanned) || step == "SCAN CONSTANT ROW" || step.ends_with("VALUES CLAUSE"),
            "{name}: {step} in {plan:#?}"
        );
    }
    for index in indexes {
        assert!(plan.iter().any(|step| step.starts_with("SEARCH") && step.contains(index)), "{name} does not use {index}: {plan:#?}");
    }
}

#[tokio::test]
async fn w_41_no_statement_walks_over_a_table() {
    let directory = tempfile::tempdir().unwrap();
    let mut connection = filled(&directory.path().join("store.db")).await;
    let connection = &mut connection;
    let by_order = "USING INTEGER PRIMARY KEY";
    efficient(connection, "load", &statements::LOAD, &["owner USING INTEGER PRIMARY KEY", "record_id (id=?)", "record_run (run=?)"]).await;
    efficient(connection, "claimed", &statements::CLAIMED, &["lease_owner (owner=? AND token=?)", by_order]).await;
    let ready = ["record_ready (agent=? AND due<?)", "record_ready (agent=? AND (due,rowid)>(?,?) AND due<?)", by_order];
    efficient(connection, "claimable", &statements::CLAIMABLE, &ready).await;
    efficient(connection, "next ready", statements::NEXT_READY, &["record_ready (agent>?)", "record_ready (agent=? AND due>?)"]).await;
    efficient(connection, "renew", statements::RENEW, &["lease USING INTEGER PRIMARY KEY", "record_id (id=?)"]).await;
    efficient(connection, "expired leases", &statements::EXPIRED_LEASES, &["lease_until (until>?)", "lease_until (until<?)"]).await;
    let due = ["record_due (kind=? AND due>?)", "record_due (kind=? AND due<?)"];
    efficient(connection, "due schedules", &statements::DUE_SCHEDULES, &due).await;
    let run_due = ["record_run_due (status=? AND due>?)", "record_run_due (status=? AND due<?)"];
    efficient(connection, "due runs", &statements::DUE_RUNS, &run_due).await;
    for status in Status::ALL.into_iter().filter(|status| status.is_terminal()) {
        let ended = statements::due_runs(&[status]);
        efficient(connection, "ended runs", &ended, &run_due).await;
        let plan = plan(connection, &ended).await;
        let sorted = plan.iter().filter(|step| step.contains("TEMP B-TREE")).count();
        assert!(sorted <= 1, "only what was found is sorted: {plan:#?}");
    }
    for kind in [Kind::SkipRange, Kind::Idempotency] {
        efficient(connection, "aged records", &statements::aged(kind), &due).await;
    }
    efficient(connection, "older incarnations", &statements::OLDER_INCARNATIONS, &["lease_owner (owner>? AND owner<?)"]).await;
    efficient(connection, "get", &statements::GET, &["record_id (id=?)"]).await;
    efficient(connection, "events", statements::EVENTS, &["record_id (id=?)", "PRIMARY KEY (run=? AND seq>?)"]).await;
    efficient(connection, "counts", statements::COUNTS, &["PRIMARY KEY (scope=?)"]).await;
    let all = || vec![Named { order: 1, id: RecordId::new(Kind::Run, "r") }];
    let counts = vec![(CountScope::All(Kind::Run), None, 1)];
    let lists = Writes { deleted: all(), unleased: all(), leased: all(), counts, ..Writes::default() };
    let mut parts = [statements::clearing(&lists), statements::closing(&lists)].concat();
    assert_eq!(parts.pop(), Some("COMMIT"));
    assert_eq!(parts.len(), 4);
    parts.extend([&*statements::PUT_RECORDS, &statements::PUT_SETTLED, &statements::APPEND_EVENTS].map(|rows| rows.of(1).1));
    for part in parts {
        efficient(connection, "write", part, &[]).await;
    }
}

#[tokio::test]
async fn every_list_walks_along_its_index() {
    let directory = tempfile::tempdir().unwrap();
    let mut connection = filled(&directory.path().join("store.db")).await;
    let (task, agent, run) = (TaskId::parse("t").unwrap(), AgentId::parse("a").unwrap(), RunId::parse("r").unwrap());
    let runs = |task: Option<&TaskId>, status| Scope::Runs { task: task.cloned(), status };
    let scopes = [
        (Scope::All(Kind::Attempt), "record_kind (kind=? AND rowid"),
        (runs(None, None), "record_kind (kind=? AND rowid"),
        (runs(None, Some(Status::Failed)), "record_status (status=? AND rowid"),
        (runs(Some(&task), None), "record_task (task=? AND kind=? AND rowid"),
        (runs(Some(&task), Some(Status::Failed)), "record_task_status (task=? AND status=? AND rowid"),
        (Scope::TasksOfAgent(agent.clone()), "record_agent_tasks (agent=? AND rowid"),
        (Scope::LiveRunsOfAgent(agent), "record_agent_live (agent=? AND rowid"),
        (Scope::LiveRunsOfTask(task.clone()), "record_task_status (task=? AND status=? AND rowid"),
        (Scope::Attempts(run), "record_run (run=? AND kind=? AND rowid"),
        (Scope::BucketsOfAgent(AgentId::parse("agent_1").unwrap()), "record_agent_buckets (agent=? AND rowid"),
        (Scope::SkipRanges(task), "record_task (task=? AND kind=? AND rowid"),
    ];
    for (scope, index) in scopes {
        for newest_first in [false, true] {
            let query = PageQuery::new(&scope, PageRequest { after: Some(1), limit: 9, newest_first });
            efficient(&mut connection, &format!("{scope:?}"), &query.sql, &[index]).await;
            let plan = plan(&mut connection, &query.sql).await;
            assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{scope:?} is sorted: {plan:#?}");
        }
    }
}

fn put(number: usize, status: Status) -> Put {
    let id = RecordId::new(Kind::Run, &format!("run{number}"));
    let index = Index { agent: AgentId::parse("agent").ok(), status: Some(status), ..Index::default() };
    Put { id, index, body: bytes::Bytes::from_static(b"{}") }
}

#[tokio::test]
async fn w_39_a_batch_is_a_handful_of_statements() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("store.db"), Arc::new(SystemClock)).await.unwrap();
    let now = store.now().await.unwrap();
    let event = |number: usize| {
        let run = RunId::parse(&format!("run{number}")).unwrap();
        let event = serde_json::from_value(serde_json::json!({
            "event": EventName::Queued, "at": now, "status": "queued", "attempt": 0, "fence": 0,
        }));
        (run, event.unwrap())
    };
    for count in [1, 5, 256] {
        let changes = (0..count).map(|number| Change {
            id: ChangeId(number as u128),
            guards: vec![Guard::Absent(RecordId::new(Kind::Slot, "none")), Guard::Held(RunId::parse("none").unwrap(), 1)],
            puts: Vec::new(),
            deletes: Vec::new(),
            events: Vec::new(),
        });
        let before = store.statements();
        assert!(store.apply(changes.collect()).await.unwrap().iter().all(|outcome| matches!(outcome, Outcome::Refused(_))));
        assert_eq!(store.statements() - before, 3, "begin, read, commit");
        // Everything at once: records, events, counts, deletes.
        let changes = (0..count).map(|number| Change {
            id: ChangeId(number as u128),
            guards: Vec::new(),
            puts: vec![put(number, Status::Queued), put(number + 1, Status::Completed)],
            deletes: vec![put(number + 1, Status::Queued).id],
            events: vec![event(number)],
        });
        let before = store.statements();
        assert!(store.apply(changes.collect()).await.unwrap().iter().all(|outcome| *outcome == Outcome::Applied));
        assert!(store.statements() - before <= 9, "{count} changes took {} statements", store.statements() - before);
    }
    let request = ClaimRequest {
        token: ChangeId(1),
        worker: WorkerId::parse("d.1").unwrap(),
        agents: vec![ClaimAgent { agent: AgentId::parse("agent").unwrap(), digest: String::new(), max_running: None }],
        limit: 100,
        lease: Duration::from_secs(9),
    };
    let before = store.statements();
    assert_eq!(store.claim(request).await.unwrap(), []);
    assert_eq!(store.statements() - before, 4, "begin, what it has, what it may have, commit");
    let leases: Vec<(RunId, u64)> = (0..500).map(|number| (RunId::parse(&format!("run{number}")).unwrap(), 1)).collect();
    let before = store.statements();
    assert_eq!(store.renew(&WorkerId::parse("d.1").unwrap(), &leases, Duration::from_secs(9)).await.unwrap().len(), 500);
    assert_eq!(store.statements() - before, 2, "renew, and whose the store is where no lease is held");
}

#[tokio::test]
async fn errors_of_the_database_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let mut connection = filled(&path).await;
    connection.execute("PRAGMA max_page_count = 1").await.unwrap();
    let grow =
        "INSERT INTO event (run, seq, body) SELECT value + 100000, 1, zeroblob(1000) FROM json_each(json_array(1, 2, 3, 4, 5, 6, 7, 8, 9))";
    let full = connection.execute(grow).await.unwrap_err();
    assert!(matches!(failed(&full), StoreError::Full(_)), "{full}");
    assert!(failed(&full).is_transient());
    let mut second = open::connect(&open::options(&path).busy_timeout(Duration::ZERO)).await.unwrap().connection;
    connection.execute("BEGIN IMMEDIATE").await.unwrap();
    let busy = second.execute("BEGIN IMMEDIATE").await.unwrap_err();
    assert!(matches!(failed(&busy), StoreError::Unavailable(_)), "{busy}");
    let twice = connection.execute("INSERT INTO event (run, seq, body) VALUES (1, 1, x'')").await.unwrap_err();
    assert!(matches!(failed(&twice), StoreError::Corrupt(_)), "{twice}");
    let type_of = connection.execute("INSERT INTO event (run, seq, body) VALUES (1, 9, 'text')").await.unwrap_err();
    assert!(matches!(failed(&type_of), StoreError::Corrupt(_)), "{type_of}");
}
