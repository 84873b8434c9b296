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
    -- The job's history and counts, as JSON.
    head       TEXT   NOT NULL,
    position   BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jobs_by_age ON jobs (tenant, created_at, job_id);

-- What was last said of a part of a job, as JSON: of a video its frames, of a match request how far it is. So what is
-- reported again is counted once.
CREATE TABLE IF NOT EXISTS job_parts (
    job_id BLOB NOT NULL,
    part   TEXT NOT NULL,
    known  TEXT NOT NULL,
    PRIMARY KEY (job_id, part)
) WITHOUT ROWID;
