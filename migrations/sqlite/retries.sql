-- What became of a tenant's failures, class by class.
CREATE TABLE IF NOT EXISTS retries (
    tenant        TEXT   NOT NULL,
    code          TEXT   NOT NULL,
    -- The class with its counts, as JSON.
    class         TEXT   NOT NULL,
    position      BIGINT NOT NULL,
    PRIMARY KEY (tenant, code)
) WITHOUT ROWID;

-- The jobs that failed and have not come to an end since, each with the error that it failed of last.
CREATE TABLE IF NOT EXISTS retried_jobs (
    job_id        BLOB   NOT NULL PRIMARY KEY,
    code          TEXT   NOT NULL
) WITHOUT ROWID;
