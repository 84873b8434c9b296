-- One row for each challenge.
CREATE TABLE IF NOT EXISTS challenges (
    challenge_id UUID   NOT NULL PRIMARY KEY,
    tenant       TEXT   NOT NULL,
    -- The subjects of its players.
    challenger   UUID   NOT NULL,
    challenged   UUID   NOT NULL,
    status       TEXT   NOT NULL,
    -- The time at which it expires if no further event occurs.
    lapses_at    BIGINT,
    created_at   BIGINT NOT NULL,
    -- The challenge, as JSON; its message stays sealed.
    view         TEXT   NOT NULL,
    position     BIGINT NOT NULL
);

-- AFTER THE ROWS.
CREATE INDEX IF NOT EXISTS challenges_incoming ON challenges (tenant, challenged, created_at, challenge_id);
CREATE INDEX IF NOT EXISTS challenges_outgoing ON challenges (tenant, challenger, created_at, challenge_id);
