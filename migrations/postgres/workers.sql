-- One row for each worker that ever registered.
CREATE TABLE IF NOT EXISTS workers (
    tenant        TEXT   NOT NULL,
    -- Sorted by its bytes, as in SQLite.
    worker_id     TEXT   COLLATE "C" NOT NULL,
    -- The worker with its history, as JSON.
    worker        TEXT   NOT NULL,
    position      BIGINT NOT NULL,
    PRIMARY KEY (tenant, worker_id)
);
