//! The statements of the PostgreSQL store. Each works on sets, which are arrays.
//!
//! What is read beside a row that a statement locks is as old as the statement, not as the lock. Hence a batch locks in one statement and
//! reads in the next; and where one statement does both, as a claim, what it read beside is such that a stale one fails in the write:
//! an event's number and an attempt's name are taken.
//!
//! A plan is made once for all parameters, perhaps before the tables have filled, so the first or last along an index is asked for as the
//! first of an order: a min or max may be made of all there are.

use std::sync::LazyLock;

use super::super::super::Kind;
use super::super::due;
use super::super::rows::RECORD;
use crate::domain::run::Status;

/// The server's present in microseconds.
const SERVER: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// The present that $1 gives in place of the server's, which is null where the server's judges.
fn present() -> String {
    format!("present AS MATERIALIZED (SELECT coalesce($1::bigint, {SERVER}) AS at)")
}

/// What is known of `record AS r` with its `lease AS l`, as [`super::super::rows::known`] reads it.
const KNOWN: &str = "r.ord, r.rev, r.task, r.agent, r.run, r.status, r.ready::bigint AS ready, r.cancel_requested::bigint AS cancel_requested, \
     r.fence, coalesce(l.heartbeat_at, r.heartbeat_at) AS heartbeat_at, l.until, \
     CASE r.kind WHEN 'run' THEN (SELECT e.seq FROM event AS e WHERE e.run = r.ord ORDER BY e.seq DESC LIMIT 1) END AS last_event";

/// Locks the records named in $1: runs first and each kind in the order of names, so that no two batches wait for each other.
pub const LOCK: &str =
    "SELECT count(*) FROM (SELECT FROM record AS r WHERE r.id = ANY($1::text[]) ORDER BY r.kind <> 'run', r.id FOR UPDATE) AS l";

/// Locks the records that hang on the runs in $1.
pub const LOCK_HANGING: &str = "SELECT count(*) FROM (SELECT FROM record AS r WHERE r.run = ANY($1::text[]) ORDER BY r.id FOR UPDATE) AS l";

/// Has whoever puts a record of a name in $1 wait for the end of this transaction, or waits for whoever does so already.
pub const RESERVE: &str = "INSERT INTO record (ord, id, kind, rev, live, ready, cancel_requested, fence, body) \
     SELECT nextval('record_order'), w.id, '', 0, 0, 0, 0, 0, '' FROM unnest($1::text[]) AS w (id) ORDER BY w.id ON CONFLICT (id) DO NOTHING";

/// Takes away what [`RESERVE`] put; those who wait go on waiting.
pub const UNRESERVE: &str = "DELETE FROM record WHERE id = ANY($1::text[]) AND kind = ''";

/// The present, a block of orders, and what is known of the records named in $2, with their places in it, and of those that hang on the
/// runs in $3: at least one row.
pub static LOAD: LazyLock<String> = LazyLock::new(|| {
    let present = present();
    format!(
        "WITH {present}, block AS MATERIALIZED (SELECT nextval('record_order') AS first) \
         SELECT p.at, b.first, f.* FROM present AS p CROSS JOIN block AS b LEFT JOIN ( \
           SELECT w.place - 1, r.id, {KNOWN} FROM unnest($2::text[]) WITH ORDINALITY AS w (id, place) \
           JOIN record AS r ON r.id = w.id LEFT JOIN lease AS l ON l.run = r.ord \
           UNION ALL \
           SELECT NULL, r.id, {KNOWN} FROM unnest($3::text[]) AS w (run) \
           JOIN record AS r ON r.run = w.run LEFT JOIN lease AS l ON l.run = r.ord) AS f ON true"
    )
});

/// The present, a block of orders, whether worker $2 has a claim under token $3 already, and else at most $4 ready runs that are due, of
/// the agents in $5, each with its own limit in $6 or null, longest due first: at least one row. First each agent's share of what is
/// longest due is found, then so many of its runs are taken as nobody else is at.
pub static CLAIMABLE: LazyLock<String> = LazyLock::new(|| {
    let present = present();
    let due = "r.agent = w.agent AND r.ready = 1 AND r.due <= (SELECT p.at FROM present AS p) ORDER BY r.due, r.ord";
    format!(
        "WITH {present}, block AS MATERIALIZED (SELECT nextval('record_order') AS first), \
         earlier AS MATERIALIZED (SELECT EXISTS (SELECT FROM lease AS l WHERE l.owner = $2 AND l.token = $3) AS found), \
         wanted AS MATERIALIZED ( \
           SELECT w.place, w.agent, greatest(0, least($4::bigint, w.most - CASE WHEN w.most IS NULL THEN 0 ELSE \
             (SELECT coalesce(sum(c.n), 0)::bigint FROM count AS c \
              WHERE c.scope = 'agent/' || w.agent AND c.status IN ('claimed', 'running', 'retrying')) END)) AS room \
           FROM unnest($5::text[], $6::bigint[]) WITH ORDINALITY AS w (agent, most, place)), \
         share AS MATERIALIZED ( \
           SELECT n.place, n.agent, count(*) AS room FROM ( \
             SELECT w.place, w.agent FROM wanted AS w CROSS JOIN LATERAL (SELECT r.due, r.ord FROM record AS r WHERE {due} LIMIT w.room) AS f \
             WHERE NOT (SELECT e.found FROM earlier AS e) ORDER BY f.due, f.ord LIMIT $4 + 0) AS n \
           GROUP BY n.place, n.agent), \
         taken AS MATERIALIZED ( \
           SELECT w.place, f.* FROM share AS w CROSS JOIN LATERAL (SELECT r.* FROM record AS r WHERE {due} LIMIT w.room FOR UPDATE SKIP LOCKED) AS f) \
         SELECT p.at, b.first, e.found, r.place - 1, r.id, r.body, \
           (SELECT 1 FROM record AS a WHERE a.run = substr(r.id, 5) AND a.kind = 'attempt' LIMIT 1) IS NOT NULL, {KNOWN} \
         FROM present AS p CROSS JOIN block AS b CROSS JOIN earlier AS e LEFT JOIN taken AS r ON true LEFT JOIN lease AS l ON l.run = r.ord \
         ORDER BY r.due, r.ord"
    )
});

/// The runs that were claimed under token $1 by worker $2: for each its last event, and the record.
pub static CLAIMED: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT (SELECT max(e.seq) FROM event AS e WHERE e.run = r.ord), {RECORD} \
         FROM lease AS l JOIN record AS r ON r.ord = l.run WHERE l.token = $1 AND l.owner = $2 ORDER BY r.ord"
    )
});

/// Renews the leases of the runs named in $2 with the fences in $3, of worker $4, that hold, for $5 microseconds from the present, which
/// is read behind the locks. A lease that somebody is writing is left out where the wish is not to wait. At least one row: the present,
/// the place of what was renewed, and whether a cancel was asked for.
fn renew(skip: &str) -> String {
    format!(
        "WITH locked AS MATERIALIZED ( \
           SELECT l.run, l.until, w.place, r.cancel_requested FROM unnest($2::text[], $3::bigint[]) WITH ORDINALITY AS w (id, fence, place) \
           JOIN record AS r ON r.id = w.id JOIN lease AS l ON l.run = r.ord \
           WHERE l.fence = w.fence AND l.owner = $4 ORDER BY l.run FOR NO KEY UPDATE OF l {skip}), \
         present AS MATERIALIZED (SELECT count(*), coalesce($1::bigint, {SERVER}) AS at FROM locked), \
         renewed AS ( \
           UPDATE lease AS l SET until = p.at + $5::bigint, heartbeat_at = p.at FROM locked AS k, present AS p \
           WHERE l.run = k.run AND k.until > p.at RETURNING k.place - 1 AS place, k.cancel_requested::bigint AS cancel_requested) \
         SELECT p.at, n.place, n.cancel_requested FROM present AS p LEFT JOIN renewed AS n ON true"
    )
}

/// [`renew`] without waiting.
pub static RENEW: LazyLock<String> = LazyLock::new(|| renew("SKIP LOCKED"));

/// [`renew`] behind whoever is writing.
pub static RENEW_WAITING: LazyLock<String> = LazyLock::new(|| renew(""));

/// The present less $3 as the due statements name it.
const BY_THEN: &str = "(SELECT p.at - $3::bigint FROM present AS p)";

/// The present as the due statements answer it.
const PRESENT: &str = "(SELECT p.at FROM present AS p), ";

/// A statement behind the present that it asks for.
fn timed(sql: &str) -> String {
    let present = present();
    format!("WITH {present} {sql}")
}

/// When the next ready run is due. One step an agent that has any, along the index that claims use.
pub static NEXT_READY: LazyLock<String> = LazyLock::new(|| {
    let agent = "SELECT r.agent FROM record AS r WHERE r.ready = 1";
    let due = format!("SELECT r.due FROM record AS r WHERE r.ready = 1 AND r.agent = w.agent AND r.due > {BY_THEN} ORDER BY r.due LIMIT 1");
    timed(&format!(
        "SELECT {PRESENT}(WITH RECURSIVE waiting (agent) AS ( \
           SELECT ({agent} ORDER BY r.agent LIMIT 1) \
           UNION ALL \
           SELECT ({agent} AND r.agent > w.agent ORDER BY r.agent LIMIT 1) FROM waiting AS w WHERE w.agent IS NOT NULL) \
         SELECT min(({due})) FROM waiting AS w)"
    ))
});

/// Leased runs whose lease has passed, and when the next one passes. A lease that is being renewed has not passed; the lock has a renewal
/// that comes later read the clock later, so that it finds the lease passed.
pub static EXPIRED_LEASES: LazyLock<String> = LazyLock::new(|| {
    let next = format!("SELECT min(until) FROM lease WHERE until > {BY_THEN}");
    let due = format!(
        "SELECT until AS due, run AS ord FROM lease WHERE until <= {BY_THEN} \
         ORDER BY until, run LIMIT $2 + 0 FOR SHARE SKIP LOCKED"
    );
    timed(&due::sql(PRESENT, &next, &due))
});

/// Schedules that are due, and when the next one is.
pub static DUE_SCHEDULES: LazyLock<String> = LazyLock::new(|| aged(Kind::Schedule));

/// Parked runs whose wait has expired, and when the next one's does.
pub static DUE_RUNS: LazyLock<String> = LazyLock::new(|| due_runs(&due::PARKED));

/// Records of a kind other than runs that were due, and when the next one is.
pub fn aged(kind: Kind) -> String {
    timed(&due::aged(kind, BY_THEN, PRESENT))
}

/// Runs with one of these statuses, other than ready ones, that were due, and when the next one is.
pub fn due_runs(statuses: &[Status]) -> String {
    timed(&due::runs(statuses, BY_THEN, PRESENT))
}

/// Runs leased by workers of daemon $4 other than $5. A worker's name begins with its daemon's and a dot, and the slash is the character
/// behind the dot.
pub static OLDER_INCARNATIONS: LazyLock<String> = LazyLock::new(|| {
    let older = "SELECT until AS due, run AS ord FROM lease \
         WHERE owner > $4::text || '.' AND owner < $4::text || '/' AND daemon = $4::text AND owner <> $5::text ORDER BY until, run LIMIT $2 + 0";
    timed(&due::sql(PRESENT, "NULL::bigint", older))
});

/// The records named in $1, with their places in it.
pub static GET: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT w.place - 1, {RECORD} FROM unnest($1::text[]) WITH ORDINALITY AS w (id, place) \
         JOIN record AS r ON r.id = w.id LEFT JOIN lease AS l ON l.run = r.ord"
    )
});

/// The counts of scope $1.
pub const COUNTS: &str = "SELECT status, sum(n)::bigint FROM count WHERE scope = $1 GROUP BY status HAVING sum(n) > 0";

/// The server's present.
pub static NOW: LazyLock<String> = LazyLock::new(|| format!("SELECT {SERVER}"));

/// Deletes the records in $1 with their events and leases: a name must be free again for a record that is deleted and put in one batch.
pub const DELETE: &str = "WITH events AS (DELETE FROM event WHERE run = ANY($1::bigint[])), \
     leases AS (DELETE FROM lease WHERE run IN (SELECT l.run FROM lease AS l WHERE l.run = ANY($1::bigint[]) ORDER BY l.run FOR UPDATE)) \
     DELETE FROM record WHERE ord = ANY($1::bigint[])";

/// Writes a batch: new records, records that change, events, leases that end, counts, leases that begin. Whoever writes leases or counts
/// takes them in the same order.
pub const WRITE: &str = "WITH inserted AS ( \
       INSERT INTO record (ord, rev, status, live, ready, due, cancel_requested, fence, heartbeat_at, change_id, body, task, agent, run, id, kind) \
       SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::smallint[], $5::smallint[], $6::bigint[], $7::smallint[], $8::bigint[], \
         $9::bigint[], $10::bytea[], $11::bytea[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[]) AS v \
         (ord, rev, status, live, ready, due, cancel_requested, fence, heartbeat_at, change_id, body, task, agent, run, id, kind) ORDER BY v.id), \
     updated AS ( \
       UPDATE record AS r SET rev = v.rev, status = v.status, live = v.live, ready = v.ready, due = v.due, \
         cancel_requested = v.cancel_requested, fence = v.fence, heartbeat_at = v.heartbeat_at, change_id = v.change_id, body = v.body, \
         task = v.task, agent = v.agent, run = v.run \
       FROM unnest($17::bigint[], $18::bigint[], $19::text[], $20::smallint[], $21::smallint[], $22::bigint[], $23::smallint[], $24::bigint[], \
         $25::bigint[], $26::bytea[], $27::bytea[], $28::text[], $29::text[], $30::text[]) AS v \
         (ord, rev, status, live, ready, due, cancel_requested, fence, heartbeat_at, change_id, body, task, agent, run) WHERE r.ord = v.ord), \
     appended AS (INSERT INTO event (run, seq, body) SELECT * FROM unnest($31::bigint[], $32::bigint[], $33::bytea[])), \
     unleased AS (DELETE FROM lease WHERE run IN (SELECT l.run FROM lease AS l WHERE l.run = ANY($34::bigint[]) ORDER BY l.run FOR UPDATE)), \
     counted AS ( \
       INSERT INTO count AS c (scope, status, part, n) SELECT v.scope, v.status, pg_backend_pid() % 16, v.n \
       FROM unnest($35::text[], $36::text[], $37::bigint[]) AS v (scope, status, n) ORDER BY v.scope, v.status \
       ON CONFLICT (scope, status, part) DO UPDATE SET n = c.n + excluded.n) \
     INSERT INTO lease (run, fence, owner, daemon, token, until, heartbeat_at) \
     SELECT v.run, v.fence, $40::text, $41::text, $42::bytea, $43::bigint, $44::bigint FROM unnest($38::bigint[], $39::bigint[]) AS v (run, fence) \
     ON CONFLICT (run) DO UPDATE SET fence = excluded.fence, owner = excluded.owner, daemon = excluded.daemon, token = excluded.token, \
       until = excluded.until, heartbeat_at = excluded.heartbeat_at";

/// The events of spans, each a run's place in $1, the number that they begin behind in $2 and the last one's in $3: the span's place, the
/// event's number and its body.
pub const SPANS: &str = "SELECT w.place - 1, e.seq, e.body FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) WITH ORDINALITY \
     AS w (run, after, last, place) JOIN event AS e ON e.run = w.run AND e.seq > w.after AND e.seq <= w.last ORDER BY w.place, e.seq";

/// Has orders to come lie above $1.
pub const ORDERS_ABOVE: &str = "SELECT setval('record_order', greatest($1, (SELECT last_value FROM record_order)))";

/// Writes leases.
pub const PUT_LEASES: &str = "INSERT INTO lease (run, fence, owner, daemon, token, until, heartbeat_at) \
     SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bytea[], $6::bigint[], $7::bigint[])";
