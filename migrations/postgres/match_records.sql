-- One row for each game match.
CREATE TABLE IF NOT EXISTS match_records (
    match_id   UUID   NOT NULL PRIMARY KEY,
    tenant     TEXT   NOT NULL,
    -- The subjects of its players.
    first      UUID   NOT NULL,
    second     UUID   NOT NULL,
    status     TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    -- The match with its players, as JSON.
    view       TEXT   NOT NULL,
    position   BIGINT NOT NULL
);

-- AFTER THE ROWS.
CREATE INDEX IF NOT EXISTS match_records_by_first ON match_records (tenant, first, created_at, match_id);
CREATE INDEX IF NOT EXISTS match_records_by_second ON match_records (tenant, second, created_at, match_id);
CREATE INDEX IF NOT EXISTS match_records_by_time ON match_records (tenant, created_at, match_id);
