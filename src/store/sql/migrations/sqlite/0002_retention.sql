-- Whatever has a time is found by it: runs by status, so that those that ended lie apart from those that wait, the rest by kind.
DROP INDEX record_due;

-- A run that ended has kept its time in its body alone, as a skip range has.
UPDATE record SET due = CAST(coalesce(unixepoch(CAST(body AS TEXT) ->> 'finished_at', 'subsec'), unixepoch()) * 1000000 AS INTEGER)
    WHERE kind = 'run' AND live = 0;
UPDATE record SET due = CAST(coalesce(unixepoch(CAST(body AS TEXT) ->> 'at', 'subsec'), unixepoch()) * 1000000 AS INTEGER)
    WHERE kind = 'skip_range';

CREATE INDEX record_due ON record (kind, due) WHERE due IS NOT NULL AND status IS NULL;
CREATE INDEX record_run_due ON record (status, due) WHERE status IS NOT NULL AND ready = 0 AND due IS NOT NULL;
