-- How far the erasures in the event log have been carried out here. A vault from a backup does not know this, so the server
-- repeats those that the backup is older than.
CREATE TABLE erasures (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    log_id BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    position INTEGER NOT NULL
) STRICT;
