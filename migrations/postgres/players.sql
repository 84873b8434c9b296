-- The rating of each player in each pool.
CREATE TABLE IF NOT EXISTS ratings (
    tenant     TEXT   NOT NULL,
    subject_id UUID   NOT NULL,
    -- Sorted by its bytes, as in SQLite.
    pool_key   TEXT   COLLATE "C" NOT NULL,
    -- The rating with its number of games, as JSON.
    view       TEXT   NOT NULL,
    position   BIGINT NOT NULL,
    PRIMARY KEY (tenant, subject_id, pool_key)
);

-- The players that each player blocks.
CREATE TABLE IF NOT EXISTS blocks (
    tenant     TEXT   NOT NULL,
    subject_id UUID   NOT NULL,
    blocked    UUID   NOT NULL,
    blocked_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, subject_id, blocked)
);
