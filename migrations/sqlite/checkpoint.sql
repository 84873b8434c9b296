-- The checkpoint of this file: the position of its rows, and the log that they were built from. One row, because each
-- transaction writes it.
CREATE TABLE IF NOT EXISTS projection_checkpoint (
    id                  INTEGER PRIMARY KEY,
    revision            BIGINT NOT NULL,
    log_id              BLOB   NOT NULL,
    log_epoch           BIGINT NOT NULL,
    position            BIGINT NOT NULL,
    published           BIGINT NOT NULL,
    -- The last event that the rows reflect, to detect a log with a different event at that position. None before the
    -- first event.
    last_event_position BIGINT,
    last_event_id       BLOB
);
