-- The fold of each job's events, as JSON.
CREATE TABLE IF NOT EXISTS summaries (
    job_id   UUID   PRIMARY KEY,
    tenant   TEXT   NOT NULL,
    -- The number of folded events.
    events   BIGINT NOT NULL,
    position BIGINT NOT NULL,
    fold     TEXT   NOT NULL
);

-- The fold of the events of each tenant's workers, as JSON.
CREATE TABLE IF NOT EXISTS presences (
    tenant TEXT PRIMARY KEY,
    fold   TEXT NOT NULL
);

-- Folds of jobs at earlier positions. They can be deleted at any time: historical queries then replay from the start.
CREATE TABLE IF NOT EXISTS snapshots (
    job_id   UUID   NOT NULL,
    position BIGINT NOT NULL,
    events   BIGINT NOT NULL,
    fold     TEXT   NOT NULL,
    PRIMARY KEY (job_id, position)
);
