-- Whose the store is: whoever opens it to write takes the next epoch, and one that finds another's there writes nothing any more.
CREATE TABLE owner (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL
) STRICT;

INSERT INTO owner (one, epoch) VALUES (1, 0);
