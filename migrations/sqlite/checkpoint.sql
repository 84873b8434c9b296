-- How far the rows of this file are, and of which log. One row.
CREATE TABLE IF NOT EXISTS checkpoint (
    id          BIGINT PRIMARY KEY,
    revision    BIGINT NOT NULL,
    log_id      BLOB   NOT NULL,
    log_epoch   BIGINT NOT NULL,
    position    BIGINT NOT NULL,
    published   BIGINT NOT NULL
);

-- The last event that the rows took in, so that a log with another one there is noticed. One row, or none yet.
CREATE TABLE IF NOT EXISTS checkpoint_event (
    id          BIGINT PRIMARY KEY,
    position    BIGINT NOT NULL,
    event_id    BLOB   NOT NULL
);
