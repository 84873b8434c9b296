-- One row for each job.
CREATE TABLE IF NOT EXISTS jobs (
    job_id     BLOB   PRIMARY KEY,
    tenant     TEXT   NOT NULL,
    kind       TEXT   NOT NULL,
    phase      TEXT   NOT NULL,
    status     TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    -- The name and the id in lower case.
    search     TEXT   NOT NULL,
    -- The job's history and counters, as JSON.
    overview   TEXT   NOT NULL,
    position   BIGINT NOT NULL
);

-- The last report on a part of a job, as JSON: the frames of a video, or the progress of a match request. So a repeated
-- report is counted once.
CREATE TABLE IF NOT EXISTS job_parts (
    job_id      BLOB NOT NULL,
    part        TEXT NOT NULL,
    last_report TEXT NOT NULL,
    PRIMARY KEY (job_id, part)
) WITHOUT ROWID;

-- The metadata, options and result of each job that ever had any, as JSON. Lists do not read them.
CREATE TABLE IF NOT EXISTS job_texts (
    job_id BLOB PRIMARY KEY,
    texts  TEXT NOT NULL
);

-- AFTER THE ROWS.
CREATE INDEX IF NOT EXISTS jobs_by_age ON jobs (tenant, created_at, job_id);
