-- One row for each merchandising rule.
CREATE TABLE IF NOT EXISTS merchandising_rules (
    tenant   TEXT   NOT NULL,
    -- Sorted by its bytes, as in SQLite.
    rule_id  TEXT   COLLATE "C" NOT NULL,
    -- The rule, as JSON.
    view     TEXT   NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (tenant, rule_id)
);
