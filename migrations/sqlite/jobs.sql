-- One row for each job.
CREATE TABLE IF NOT EXISTS jobs (
    job_id     BLOB   PRIMARY KEY,
    tenant     TEXT   NOT NULL,
    kind       TEXT   NOT NULL,
    phase      TEXT   NOT NULL,
    status     TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    -- Name and id in small letters.
    search     TEXT   NOT NULL,
    -- The job as it is shown, as JSON.
    view       TEXT   NOT NULL,
    position   BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jobs_by_age ON jobs (tenant, created_at, job_id);

-- What is known so far of a part of a job: of a video its frames, of a match request its processed candidates. The sums
-- are in the job's row; these are kept so that what is reported again is counted once.
CREATE TABLE IF NOT EXISTS job_parts (
    job_id BLOB   NOT NULL,
    part   TEXT   NOT NULL,
    amount BIGINT NOT NULL,
    PRIMARY KEY (job_id, part)
) WITHOUT ROWID;
