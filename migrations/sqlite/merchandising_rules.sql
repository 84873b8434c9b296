-- One row for each merchandising rule.
CREATE TABLE IF NOT EXISTS merchandising_rules (
    tenant   TEXT   NOT NULL,
    rule_id  TEXT   NOT NULL,
    -- The rule, as JSON.
    view     TEXT   NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (tenant, rule_id)
);
