-- One row for each product of a catalogue.
CREATE TABLE IF NOT EXISTS products (
    tenant      TEXT   NOT NULL,
    -- Sorted by its bytes, as in SQLite.
    product_id  TEXT   COLLATE "C" NOT NULL,
    category_id TEXT,
    brand_id    TEXT,
    merchant_id TEXT,
    -- 1 or 0.
    in_stock    BIGINT NOT NULL,
    is_active   BIGINT NOT NULL,
    -- In ten-thousandths.
    price       BIGINT,
    -- The name, the brand and the id in lower case.
    search      TEXT   NOT NULL,
    -- The product, as JSON.
    view        TEXT   NOT NULL,
    position    BIGINT NOT NULL,
    PRIMARY KEY (tenant, product_id)
);

-- The popularity of each product with an interaction, in the catalogue or not.
CREATE TABLE IF NOT EXISTS product_popularity (
    tenant      TEXT   NOT NULL,
    -- Sorted by its bytes, as in SQLite.
    product_id  TEXT   COLLATE "C" NOT NULL,
    -- By this number, products are ordered by their popularity on any day.
    weight_rank DOUBLE PRECISION NOT NULL,
    -- The weights of each day, as JSON.
    popularity  TEXT   NOT NULL,
    position    BIGINT NOT NULL,
    PRIMARY KEY (tenant, product_id)
);

-- AFTER THE ROWS.
CREATE INDEX IF NOT EXISTS products_by_popularity ON product_popularity (tenant, weight_rank, product_id);
CREATE INDEX IF NOT EXISTS products_by_category ON products (tenant, category_id, product_id);
CREATE INDEX IF NOT EXISTS products_by_brand ON products (tenant, brand_id, product_id);
CREATE INDEX IF NOT EXISTS products_by_merchant ON products (tenant, merchant_id, product_id);
