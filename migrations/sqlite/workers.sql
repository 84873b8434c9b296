-- One row for each worker that ever registered.
CREATE TABLE IF NOT EXISTS workers (
    tenant        TEXT   NOT NULL,
    worker_id     TEXT   NOT NULL,
    -- The worker with its history, as JSON.
    worker        TEXT   NOT NULL,
    position      BIGINT NOT NULL,
    PRIMARY KEY (tenant, worker_id)
);
