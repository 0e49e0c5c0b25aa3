-- All kinds of records share one table; each way of finding them has its own index, and pages run along `ord`.
CREATE TABLE record (
    ord INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    rev INTEGER NOT NULL,
    change_id BLOB,
    task TEXT,
    agent TEXT,
    run TEXT,
    status TEXT,
    live INTEGER NOT NULL,
    ready INTEGER NOT NULL,
    due INTEGER,
    cancel_requested INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    heartbeat_at INTEGER,
    body BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX record_id ON record (id);
CREATE INDEX record_kind ON record (kind);
CREATE INDEX record_task ON record (task, kind) WHERE task IS NOT NULL;
CREATE INDEX record_task_status ON record (task, status) WHERE status IS NOT NULL;
CREATE INDEX record_agent_tasks ON record (agent) WHERE kind = 'task';
CREATE INDEX record_agent_live ON record (agent) WHERE live = 1;
CREATE INDEX record_run ON record (run, kind) WHERE run IS NOT NULL;
CREATE INDEX record_status ON record (status) WHERE status IS NOT NULL;
CREATE INDEX record_ready ON record (agent, due) WHERE ready = 1;
CREATE INDEX record_due ON record (kind, due) WHERE due IS NOT NULL AND ready = 0;

-- A run that is leased has a row here, and no other run; a renewal writes nothing else.
CREATE TABLE lease (
    run INTEGER PRIMARY KEY,
    owner TEXT NOT NULL,
    daemon TEXT NOT NULL,
    until INTEGER NOT NULL,
    heartbeat_at INTEGER NOT NULL,
    token BLOB NOT NULL
) STRICT;

CREATE INDEX lease_until ON lease (until);
CREATE INDEX lease_owner ON lease (owner, token);

CREATE TABLE event (
    run INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE count (
    scope TEXT NOT NULL,
    status TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (scope, status)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER record_deleted AFTER DELETE ON record WHEN old.kind = 'run' BEGIN
    DELETE FROM event WHERE run = old.ord;
    DELETE FROM lease WHERE run = old.ord;
END;
