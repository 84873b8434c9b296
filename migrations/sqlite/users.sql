-- One row for each user with an interaction.
CREATE TABLE IF NOT EXISTS users (
    tenant     TEXT   NOT NULL,
    subject_id BLOB   NOT NULL,
    -- The number of interactions, and the latest session, as JSON.
    view       TEXT   NOT NULL,
    position   BIGINT NOT NULL,
    PRIMARY KEY (tenant, subject_id)
) WITHOUT ROWID;

-- The interest of each user in each product.
CREATE TABLE IF NOT EXISTS user_products (
    tenant      TEXT   NOT NULL,
    subject_id  BLOB   NOT NULL,
    product_id  TEXT   NOT NULL,
    -- The number of the latest session with an interaction.
    session     BIGINT NOT NULL,
    -- By this number, products are ordered by their weight in the long-term profile.
    weight_rank DOUBLE PRECISION NOT NULL,
    -- The sums of the weights, as JSON.
    view        TEXT   NOT NULL,
    position    BIGINT NOT NULL,
    PRIMARY KEY (tenant, subject_id, product_id)
) WITHOUT ROWID;

-- AFTER THE ROWS.
CREATE INDEX IF NOT EXISTS user_products_by_weight ON user_products (tenant, subject_id, weight_rank, product_id);
CREATE INDEX IF NOT EXISTS user_products_by_session ON user_products (tenant, subject_id, session, position);
