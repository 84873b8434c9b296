-- One row for each cutout.
CREATE TABLE IF NOT EXISTS cutouts (
    tenant           TEXT   NOT NULL,
    cutout_id        BIGINT NOT NULL,
    -- 1 or 0.
    is_matched       BIGINT NOT NULL,
    product_id       TEXT,
    -- The model of its newest vector.
    model_id         TEXT,
    predicted_upc    TEXT,
    synced_at        BIGINT NOT NULL,
    -- The position of its first event.
    created_position BIGINT NOT NULL,
    -- The cutout, as JSON.
    view             TEXT   NOT NULL,
    position         BIGINT NOT NULL,
    PRIMARY KEY (tenant, cutout_id)
);

-- The deleted models, whose vectors do not count any more.
CREATE TABLE IF NOT EXISTS deleted_models (
    tenant   TEXT   NOT NULL,
    model_id TEXT   NOT NULL,
    -- The position of the deletion, as JSON.
    view     TEXT   NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (tenant, model_id)
);

-- AFTER THE ROWS.
CREATE INDEX IF NOT EXISTS cutouts_by_creation ON cutouts (tenant, created_position);
CREATE INDEX IF NOT EXISTS cutouts_by_code ON cutouts (tenant, predicted_upc, cutout_id);
CREATE INDEX IF NOT EXISTS cutouts_by_product ON cutouts (tenant, product_id, cutout_id);
-- Has all that the statistics need.
CREATE INDEX IF NOT EXISTS cutouts_by_state ON cutouts (tenant, is_matched, model_id, predicted_upc, synced_at);
