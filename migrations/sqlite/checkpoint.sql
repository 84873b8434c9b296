-- How far the rows of this file are, and of which log. One row.
CREATE TABLE IF NOT EXISTS checkpoint (
    id          BIGINT PRIMARY KEY,
    revision    BIGINT NOT NULL,
    log_id      BLOB   NOT NULL,
    log_epoch   BIGINT NOT NULL,
    position    BIGINT NOT NULL,
    published   BIGINT NOT NULL
);
