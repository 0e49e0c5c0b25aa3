-- All kinds of records share one table; each way of finding them has its own index, and pages run along `ord`. Names are compared by
-- their bytes, whatever the order of the database.
CREATE TABLE record (
    ord bigint PRIMARY KEY,
    id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    rev bigint NOT NULL,
    change_id bytea,
    task text COLLATE "C",
    agent text COLLATE "C",
    run text COLLATE "C",
    status text COLLATE "C",
    live smallint NOT NULL,
    ready smallint NOT NULL,
    due bigint,
    cancel_requested smallint NOT NULL,
    fence bigint NOT NULL,
    heartbeat_at bigint,
    body bytea NOT NULL
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

CREATE UNIQUE INDEX record_id ON record (id);
CREATE INDEX record_kind ON record (kind, ord);
CREATE INDEX record_task ON record (task, kind, ord) WHERE task IS NOT NULL;
CREATE INDEX record_task_status ON record (task, status, ord) WHERE status IS NOT NULL;
CREATE INDEX record_agent_tasks ON record (agent, ord) WHERE kind = 'task';
CREATE INDEX record_agent_live ON record (agent, ord) WHERE live = 1;
CREATE INDEX record_run ON record (run, kind, ord) WHERE run IS NOT NULL;
CREATE INDEX record_status ON record (status, ord) WHERE status IS NOT NULL;
CREATE INDEX record_ready ON record (agent, due, ord) WHERE ready = 1;
CREATE INDEX record_due ON record (kind, due, ord) WHERE due IS NOT NULL AND status IS NULL;
CREATE INDEX record_run_due ON record (status, due, ord) WHERE status IS NOT NULL AND ready = 0 AND due IS NOT NULL;

-- A batch takes a block of orders: what it puts first lies in one.
CREATE SEQUENCE record_order INCREMENT BY 65536 MINVALUE 0 START 0 MAXVALUE 4611686018427322368;

-- A run that is leased has a row here, and no other run. A renewal writes `until` and `heartbeat_at` alone, and no index has them, so
-- that it is one small write; whoever looks for leases that have passed looks through those that there are.
CREATE TABLE lease (
    run bigint PRIMARY KEY,
    fence bigint NOT NULL,
    owner text COLLATE "C" NOT NULL,
    daemon text COLLATE "C" NOT NULL,
    token bytea NOT NULL,
    until bigint NOT NULL,
    heartbeat_at bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX lease_owner ON lease (owner, token);

CREATE TABLE event (
    run bigint NOT NULL,
    seq bigint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (run, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- A count is the sum of its parts, so that those who count at the same time do not wait for each other.
CREATE TABLE count (
    scope text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    part smallint NOT NULL,
    n bigint NOT NULL,
    PRIMARY KEY (scope, status, part)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
