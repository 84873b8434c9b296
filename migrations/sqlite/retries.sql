-- The failures of a tenant by error class, with their retries and outcomes.
CREATE TABLE IF NOT EXISTS retries (
    tenant        TEXT   NOT NULL,
    code          TEXT   NOT NULL,
    -- The class with its counts, as JSON.
    class         TEXT   NOT NULL,
    position      BIGINT NOT NULL,
    PRIMARY KEY (tenant, code)
);

-- The jobs that have failed and not ended since, each with its last error.
CREATE TABLE IF NOT EXISTS retried_jobs (
    job_id        BLOB   NOT NULL PRIMARY KEY,
    code          TEXT   NOT NULL
) WITHOUT ROWID;
