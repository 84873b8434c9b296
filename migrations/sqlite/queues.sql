-- Every queue entry that ever was. Those that are open wait, or are taken for a match whose game is being made: they are
-- what the fold in memory begins with after a restart.
CREATE TABLE IF NOT EXISTS queue_entries (
    entry_id  BLOB    NOT NULL PRIMARY KEY,
    tenant    TEXT    NOT NULL,
    is_open   INTEGER NOT NULL,
    -- The entry as it is, or as it ended, as JSON.
    entry     TEXT    NOT NULL
);
CREATE INDEX IF NOT EXISTS queue_entries_open ON queue_entries (is_open) WHERE is_open = 1;

-- Every pool that was ever configured or waited in.
CREATE TABLE IF NOT EXISTS pools (
    tenant    TEXT    NOT NULL,
    pool_key  TEXT    NOT NULL,
    -- Its settings, its latest matches, and how its entries ended, as JSON.
    pool      TEXT    NOT NULL,
    PRIMARY KEY (tenant, pool_key)
);

-- Who blocks whom.
CREATE TABLE IF NOT EXISTS blocks (
    subject   BLOB    NOT NULL,
    blocked   BLOB    NOT NULL,
    PRIMARY KEY (subject, blocked)
);

-- Matches of which it is not decided yet whether a game comes.
CREATE TABLE IF NOT EXISTS proposed_matches (
    match_id  BLOB    NOT NULL PRIMARY KEY,
    tenant    TEXT    NOT NULL,
    -- The proposal, as JSON.
    proposed  TEXT    NOT NULL
);
