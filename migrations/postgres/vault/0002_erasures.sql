-- How far the erasures in the event log have been carried out here. A vault from a backup does not know this, so the server
-- repeats those that the backup is older than.
CREATE TABLE erasures (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    log_id UUID NOT NULL,
    epoch BIGINT NOT NULL,
    position BIGINT NOT NULL
);
