-- The checkpoint of this file: the position of its rows, and the log that they were built from. One row.
CREATE TABLE IF NOT EXISTS checkpoint (
    id          BIGINT PRIMARY KEY,
    revision    BIGINT NOT NULL,
    log_id      UUID   NOT NULL,
    log_epoch   BIGINT NOT NULL,
    position    BIGINT NOT NULL,
    published   BIGINT NOT NULL
);

-- The last event that the rows reflect, to detect a log with a different event at that position. One row, or none
-- before the first event.
CREATE TABLE IF NOT EXISTS checkpoint_event (
    id          BIGINT PRIMARY KEY,
    position    BIGINT NOT NULL,
    event_id    UUID   NOT NULL
);
