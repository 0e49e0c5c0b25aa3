//! The statements of the SQLite store. Each works on sets: a list of any length is one parameter, a JSON array, or rows of parameters.
//!
//! A parameter that decides a plan, as a bare one behind LIMIT or one beside a partial index's own column does, has SQLite prepare the
//! statement anew for each value: hence `LIMIT $1 + 0`, and kinds are spelled out.

use std::sync::LazyLock;

use super::super::super::Kind;
use super::super::super::batch::Writes;
use super::super::due;
pub use super::super::due::EVENTS;
use super::super::rows::{KNOWN, RECORD};
use crate::domain::run::Status;

/// Whose the store is now.
pub const OWNER: &str = "SELECT epoch FROM owner WHERE one = 1";

/// What is known of the records named in $1, with their places in it, and of the records that hang on the runs in $2: two rows, each
/// behind [`OWNER`].
pub static LOAD: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT ({OWNER}), json_group_array(json_array(w.key, NULL, {KNOWN}, NULL)) \
         FROM json_each($1) AS w CROSS JOIN record AS r ON r.id = w.value LEFT JOIN lease AS l ON l.run = r.ord \
         UNION ALL \
         SELECT ({OWNER}), json_group_array(json_array(NULL, r.id, {KNOWN}, NULL)) \
         FROM json_each($2) AS w CROSS JOIN record AS r ON r.run = w.value LEFT JOIN lease AS l ON l.run = r.ord"
    )
});

/// [`LOAD`] at the start of a transaction.
pub static BEGIN_LOAD: LazyLock<String> = LazyLock::new(|| format!("BEGIN IMMEDIATE;{}", *LOAD));

/// A claim's transaction up to what it found: what it was given before, or what it may have now.
pub static BEGIN_CLAIM: LazyLock<String> = LazyLock::new(|| format!("BEGIN IMMEDIATE;{};{}", *CLAIMED, *CLAIMABLE));

/// The runs that were claimed under token $1 by worker $2: for each its last event, and the record.
pub static CLAIMED: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT (SELECT max(e.seq) FROM event AS e WHERE e.run = r.ord), {RECORD} \
         FROM lease AS l CROSS JOIN record AS r ON r.ord = l.run WHERE l.token = $1 AND l.owner = $2 ORDER BY r.ord"
    )
});

/// The ready runs that are due at $4, of the agents in $5 (each with its own limit or null), at most $3, longest due first: every
/// agent's next run waits in one queue, so that the work is that of the runs found, whatever waits behind them. One row: nothing,
/// what is known of them, their bodies one behind the other, and [`OWNER`].
pub static CLAIMABLE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH RECURSIVE wanted (place, agent, room) AS MATERIALIZED ( \
           SELECT w.key, w.value->>0, min($3, coalesce(w.value->>1, $3 + 0) - CASE WHEN w.value->>1 IS NULL THEN 0 ELSE \
             (SELECT coalesce(sum(c.n), 0) FROM count AS c \
              WHERE c.scope = 'agent/' || (w.value->>0) AND c.status IN ('claimed', 'running', 'retrying')) END) \
           FROM json_each($5) AS w), \
         turn (due, ord, place, agent, room) AS ( \
           SELECT n.due, n.ord, w.place, w.agent, w.room FROM wanted AS w CROSS JOIN record AS n ON n.ord = \
             (SELECT f.ord FROM record AS f WHERE f.ready = 1 AND f.agent = w.agent AND f.due <= $4 ORDER BY f.due, f.ord LIMIT 1) \
           WHERE w.room > 0 \
           UNION ALL \
           SELECT n.due, n.ord, t.place, t.agent, t.room - 1 FROM turn AS t CROSS JOIN record AS n ON n.ord = \
             (SELECT f.ord FROM record AS f WHERE f.ready = 1 AND f.agent = t.agent AND (f.due, f.ord) > (+t.due, +t.ord) AND f.due <= $4 \
              ORDER BY f.due, f.ord LIMIT 1) \
           WHERE t.room > 1 \
           ORDER BY 1, 2 LIMIT $3 + 0) \
         SELECT NULL, json_group_array(json_array(t.place, r.id, {KNOWN}, length(r.body))), group_concat(r.body, ''), ({OWNER}) \
         FROM turn AS t CROSS JOIN record AS r ON r.ord = t.ord LEFT JOIN lease AS l ON l.run = r.ord"
    )
});

/// Renews the leases in $1 (each a record's id and a fence) of worker $2 that hold at $3, until $4, if the store is of epoch $5.
pub const RENEW: &str = "UPDATE lease NOT INDEXED SET until = $4, heartbeat_at = $3 \
     WHERE (SELECT epoch FROM owner WHERE one = 1) = $5 AND owner = $2 AND until > $3 AND run IN \
     (SELECT r.ord FROM json_each($1) AS w CROSS JOIN record AS r ON r.id = w.value->>0 AND r.fence = w.value->>1) \
     RETURNING (SELECT r.id FROM record AS r WHERE r.ord = lease.run), (SELECT r.fence FROM record AS r WHERE r.ord = lease.run), \
       (SELECT r.cancel_requested FROM record AS r WHERE r.ord = lease.run)";

/// When the next ready run is due after $1. One step an agent that has any, along the index that claims use.
pub const NEXT_READY: &str = "WITH RECURSIVE waiting (agent) AS ( \
       SELECT min(agent) FROM record WHERE ready = 1 \
       UNION ALL \
       SELECT (SELECT min(r.agent) FROM record AS r WHERE r.ready = 1 AND r.agent > w.agent) FROM waiting AS w WHERE w.agent IS NOT NULL) \
     SELECT min((SELECT min(r.due) FROM record AS r WHERE r.ready = 1 AND r.agent = w.agent AND r.due > $1)) FROM waiting AS w";

/// Leased runs whose lease has passed at $1, at most $2, and when the next one passes.
pub static EXPIRED_LEASES: LazyLock<String> = LazyLock::new(|| {
    due::sql(
        "",
        "SELECT min(until) FROM lease WHERE until > $1",
        "SELECT until AS due, run AS ord FROM lease WHERE until <= $1 ORDER BY until, run LIMIT $2 + 0",
    )
});

/// Schedules that are due at $1, at most $2, and when the next one is.
pub static DUE_SCHEDULES: LazyLock<String> = LazyLock::new(|| aged(Kind::Schedule));

/// Parked runs whose wait has expired at $1, at most $2, and when the next one's does.
pub static DUE_RUNS: LazyLock<String> = LazyLock::new(|| due_runs(&due::PARKED));

/// Records of a kind other than runs that were due at $1, at most $2, and when the next one is.
pub fn aged(kind: Kind) -> String {
    due::aged(kind, "$1", "")
}

/// Runs with one of these statuses, other than ready ones, that were due at $1, at most $2, and when the next one is.
pub fn due_runs(statuses: &[Status]) -> String {
    due::runs(statuses, "$1", "")
}

/// Runs leased by workers of daemon $1 other than $3, at most $2. A worker's name begins with its daemon's and a dot, and the slash
/// is the character behind the dot.
pub static OLDER_INCARNATIONS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT NULL, {RECORD} FROM lease AS l CROSS JOIN record AS r ON r.ord = l.run \
         WHERE l.owner > $1 || '.' AND l.owner < $1 || '/' AND l.daemon = $1 AND l.owner <> $3 ORDER BY l.until, l.run LIMIT $2 + 0"
    )
});

/// The records named in $1, with their places in it.
pub static GET: LazyLock<String> = LazyLock::new(|| {
    format!("SELECT w.key, {RECORD} FROM json_each($1) AS w CROSS JOIN record AS r ON r.id = w.value LEFT JOIN lease AS l ON l.run = r.ord")
});

/// The counts of scope $1.
pub const COUNTS: &str = "SELECT status, n FROM count WHERE scope = $1 AND n > 0";

/// Deletes the records in $1; a trigger deletes their events and leases.
const DELETE_RECORDS: &str = "DELETE FROM record WHERE ord IN (SELECT value FROM json_each($1));";

/// Takes the leases of the runs in $2 away.
const DELETE_LEASES: &str = "DELETE FROM lease WHERE run IN (SELECT value FROM json_each($2));";

/// A statement that takes rows of parameters, made for some numbers of rows. Rows that are not given are null and left out, so that a
/// few prepared statements serve lists of any length.
pub struct Rows([(usize, String); 3]);

impl Rows {
    fn new(sql: impl Fn(&str) -> String, columns: usize) -> Rows {
        let row = format!("({})", vec!["?"; columns].join(", "));
        Rows([4, 32, 256].map(|rows| (rows, sql(&format!("(VALUES {}) WHERE column1 IS NOT NULL", vec![row.as_str(); rows].join(", "))))))
    }

    /// The statement for so many rows, or for as many as one can take, and how many that is.
    pub fn of(&self, rows: usize) -> (usize, &str) {
        let Rows([small, middle, large]) = self;
        let (most, sql) = [small, middle].into_iter().find(|(most, _)| *most >= rows).unwrap_or(large);
        (*most, sql)
    }
}

/// Writes records. A failure rolls back, here and below, so that no statement has to keep a journal.
pub static PUT_RECORDS: LazyLock<Rows> = LazyLock::new(|| {
    let sql = |rows: &str| {
        format!(
            "INSERT OR ROLLBACK INTO record (ord, rev, status, live, ready, due, cancel_requested, fence, heartbeat_at, change_id, body, \
             id, kind, task, agent, run) SELECT * FROM {rows} ON CONFLICT (ord) DO UPDATE SET {CHANGES}, \
             task = excluded.task, agent = excluded.agent, run = excluded.run"
        )
    };
    Rows::new(sql, 16)
});

/// Writes records that exist and are where they were: names and the indexes of tasks and runs stay as they are.
pub static PUT_SETTLED: LazyLock<Rows> = LazyLock::new(|| {
    let sql = |rows: &str| {
        format!(
            "INSERT OR ROLLBACK INTO record (ord, rev, status, live, ready, due, cancel_requested, fence, heartbeat_at, change_id, body, \
             id, kind) SELECT *, '', '' FROM {rows} ON CONFLICT (ord) DO UPDATE SET {CHANGES}"
        )
    };
    Rows::new(sql, 11)
});

const CHANGES: &str = "rev = excluded.rev, status = excluded.status, live = excluded.live, ready = excluded.ready, due = excluded.due, \
     cancel_requested = excluded.cancel_requested, fence = excluded.fence, heartbeat_at = excluded.heartbeat_at, \
     change_id = excluded.change_id, body = excluded.body";

/// Appends events.
pub static APPEND_EVENTS: LazyLock<Rows> =
    LazyLock::new(|| Rows::new(|rows| format!("INSERT OR ROLLBACK INTO event (run, seq, body) SELECT * FROM {rows}"), 3));

/// Changes the counts in $1 by what is given there.
const ADD_COUNTS: &str = "INSERT OR ROLLBACK INTO count (scope, status, n) SELECT value->>0, value->>1, value->>2 FROM jsonb_each($1) WHERE true \
     ON CONFLICT (scope, status) DO UPDATE SET n = count.n + excluded.n;";

/// Leases the runs in $2 to worker $3 of daemon $4 until $5, as of $6, under token $7.
pub const PUT_LEASES: &str = "INSERT OR REPLACE INTO lease (run, owner, daemon, until, heartbeat_at, token) \
     SELECT value, $3, $4, $5, $6, $7 FROM json_each($2);";

/// The start of a transaction that writes records as they are, or takes all out.
pub const IMPORT: &str = "BEGIN IMMEDIATE; SELECT epoch FROM owner WHERE one = 1";

/// Takes everything out, and commits.
pub const CLEAR: &str = "DELETE FROM event; DELETE FROM lease; DELETE FROM count; DELETE FROM record; COMMIT";

/// The events of spans in $1, each a run's place, the number that they begin behind and the last one's: the span's place in $1, the
/// event's number and its body.
pub const SPANS: &str = "SELECT w.key, e.seq, e.body FROM json_each($1) AS w CROSS JOIN event AS e \
     ON e.run = w.value->>0 AND e.seq > w.value->>1 AND e.seq <= w.value->>2 ORDER BY w.key, e.seq";

/// The statements that make room: a name must be free again for a record that is deleted and put in one batch.
pub fn clearing(writes: &Writes) -> Vec<&'static str> {
    wanted([(writes.deleted.is_empty(), DELETE_RECORDS), (writes.unleased.is_empty(), DELETE_LEASES)])
}

/// The statements behind the rows, and the end of the transaction.
pub fn closing(writes: &Writes) -> Vec<&'static str> {
    let mut parts = wanted([(writes.counts.is_empty(), ADD_COUNTS), (writes.leased.is_empty(), PUT_LEASES)]);
    parts.push("COMMIT");
    parts
}

fn wanted(parts: [(bool, &'static str); 2]) -> Vec<&'static str> {
    parts.into_iter().filter(|(is_empty, _)| !is_empty).map(|(_, sql)| sql).collect()
}
