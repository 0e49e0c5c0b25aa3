//! The statements of the SQLite store. Each works on sets: a list of any length is one parameter, a JSON array.

use std::sync::LazyLock;

use super::super::batch::{NOTHING, Writes};
use super::super::rows::{KNOWN, RECORD};

/// What is known of the records named in $1, with their places in it, and of the records that hang on the runs in $2: two rows.
pub static LOAD: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT json_group_array(json_array(w.key, NULL, {KNOWN}, NULL)) \
         FROM json_each($1) AS w CROSS JOIN record AS r ON r.id = w.value LEFT JOIN lease AS l ON l.run = r.ord \
         UNION ALL \
         SELECT json_group_array(json_array(NULL, r.id, {KNOWN}, NULL)) \
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
/// what is known of them, and their bodies one behind the other.
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
           ORDER BY 1, 2 LIMIT $3) \
         SELECT NULL, json_group_array(json_array(t.place, r.id, {KNOWN}, length(r.body))), group_concat(r.body, '') \
         FROM turn AS t CROSS JOIN record AS r ON r.ord = t.ord LEFT JOIN lease AS l ON l.run = r.ord"
    )
});

/// Renews the leases in $1 (each a record's id and a fence) of worker $2 that hold at $3, until $4.
pub const RENEW: &str = "UPDATE lease SET until = $4, heartbeat_at = $3 WHERE owner = $2 AND until > $3 AND run IN \
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
    due_sql(
        "SELECT min(until) FROM lease WHERE until > $1",
        "SELECT until AS due, run AS ord FROM lease WHERE until <= $1 ORDER BY until, run LIMIT $2",
    )
});

/// Records of kind $3 that are due at $1, at most $2, and when the next one is.
pub static DUE: LazyLock<String> = LazyLock::new(|| {
    due_sql(
        "SELECT min(due) FROM record WHERE kind = $3 AND ready = 0 AND due > $1",
        "SELECT due, ord FROM record WHERE kind = $3 AND ready = 0 AND due <= $1 ORDER BY due, ord LIMIT $2",
    )
});

fn due_sql(next: &str, due: &str) -> String {
    format!(
        "SELECT n.next, {RECORD} FROM (SELECT ({next}) AS next) AS n LEFT JOIN ({due}) AS d ON true \
         LEFT JOIN record AS r ON r.ord = d.ord LEFT JOIN lease AS l ON l.run = r.ord ORDER BY d.due, d.ord"
    )
}

/// Runs leased by workers of daemon $1 other than $3, at most $2.
pub static OLDER_INCARNATIONS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT NULL, {RECORD} FROM lease AS l CROSS JOIN record AS r ON r.ord = l.run \
         WHERE l.daemon = $1 AND l.owner <> $3 ORDER BY l.until, l.run LIMIT $2"
    )
});

/// The records named in $1, with their places in it.
pub static GET: LazyLock<String> = LazyLock::new(|| {
    format!("SELECT w.key, {RECORD} FROM json_each($1) AS w CROSS JOIN record AS r ON r.id = w.value LEFT JOIN lease AS l ON l.run = r.ord")
});

/// The events of run $1 with numbers above $2, at most $3.
pub const EVENTS: &str =
    "SELECT seq, body FROM event WHERE run = (SELECT ord FROM record WHERE id = $1) AND seq > $2 ORDER BY seq LIMIT $3";

/// The counts of scope $1.
pub const COUNTS: &str = "SELECT status, n FROM count WHERE scope = $1 AND n > 0";

/// Deletes the records in $1; a trigger deletes their events and leases.
const DELETE_RECORDS: &str = "DELETE FROM record WHERE ord IN (SELECT value FROM json_each($1));";

/// Takes the leases of the runs in $2 away.
const DELETE_LEASES: &str = "DELETE FROM lease WHERE run IN (SELECT value FROM json_each($2));";

/// Writes the records in $3, whose bytes are in $4.
const PUT_RECORDS: &str = "INSERT INTO record (ord, id, kind, rev, task, agent, run, status, live, ready, due, cancel_requested, fence, \
       heartbeat_at, change_id, body) \
     SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8, value->>9, value->>10, \
       value->>11, value->>12, value->>13, substr($4, value->>14, 16), substr($4, value->>15, value->>16) \
     FROM jsonb_each($3) WHERE true \
     ON CONFLICT (ord) DO UPDATE SET rev = excluded.rev, task = excluded.task, agent = excluded.agent, run = excluded.run, \
       status = excluded.status, live = excluded.live, ready = excluded.ready, due = excluded.due, \
       cancel_requested = excluded.cancel_requested, fence = excluded.fence, heartbeat_at = excluded.heartbeat_at, \
       change_id = excluded.change_id, body = excluded.body;";

/// Appends the events in $5, whose bytes are in $4.
const APPEND_EVENTS: &str =
    "INSERT INTO event (run, seq, body) SELECT value->>0, value->>1, substr($4, value->>2, value->>3) FROM jsonb_each($5);";

/// Changes the counts in $6 by what is given there.
const ADD_COUNTS: &str = "INSERT INTO count (scope, status, n) SELECT value->>0, value->>1, value->>2 FROM jsonb_each($6) WHERE true \
     ON CONFLICT (scope, status) DO UPDATE SET n = count.n + excluded.n;";

/// Leases the runs in $7 to worker $8 of daemon $9 until $10, as of $11, under token $12.
const PUT_LEASES: &str = "INSERT OR REPLACE INTO lease (run, owner, daemon, until, heartbeat_at, token) \
     SELECT value, $8, $9, $10, $11, $12 FROM json_each($7);";

/// The statements that a batch needs, in the order that keeps a name free for a record that is deleted and put again.
pub fn write_parts(writes: &Writes) -> Vec<&'static str> {
    let parts = [
        (&writes.deleted, DELETE_RECORDS),
        (&writes.unleased, DELETE_LEASES),
        (&writes.records, PUT_RECORDS),
        (&writes.events, APPEND_EVENTS),
        (&writes.leased, PUT_LEASES),
        (&writes.counts, ADD_COUNTS),
    ];
    parts.into_iter().filter(|(list, _)| *list != NOTHING).map(|(_, sql)| sql).collect()
}
