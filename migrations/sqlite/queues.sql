-- All queue entries. An open entry waits, or its player is reserved for a match whose game is being created. After a
-- restart the fold in memory is restored from the open ones.
CREATE TABLE IF NOT EXISTS queue_entries (
    entry_id  BLOB    NOT NULL PRIMARY KEY,
    tenant    TEXT    NOT NULL,
    is_open   INTEGER NOT NULL,
    -- The entry in its current or last state, as JSON.
    entry     TEXT    NOT NULL
);

-- All pools that were ever configured or joined.
CREATE TABLE IF NOT EXISTS pools (
    tenant    TEXT    NOT NULL,
    pool_key  TEXT    NOT NULL,
    -- Its settings, its recent matches, and the numbers of its ended entries, as JSON.
    pool      TEXT    NOT NULL,
    PRIMARY KEY (tenant, pool_key)
);

-- The players that each player blocks.
CREATE TABLE IF NOT EXISTS blocks (
    subject   BLOB    NOT NULL,
    blocked   BLOB    NOT NULL,
    PRIMARY KEY (subject, blocked)
);

-- The proposed matches that are neither confirmed nor abandoned.
CREATE TABLE IF NOT EXISTS proposed_matches (
    match_id  BLOB    NOT NULL PRIMARY KEY,
    tenant    TEXT    NOT NULL,
    -- The proposal, as JSON.
    proposed  TEXT    NOT NULL
);

-- AFTER THE ROWS.
CREATE INDEX IF NOT EXISTS queue_entries_open ON queue_entries (is_open) WHERE is_open = 1;
