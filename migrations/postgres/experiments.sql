-- One row for each list of products that was served for an experiment.
CREATE TABLE IF NOT EXISTS experiment_lists (
    tenant  TEXT NOT NULL,
    list_id UUID NOT NULL,
    -- Its products, and what the user did with them, as JSON.
    view    TEXT NOT NULL,
    PRIMARY KEY (tenant, list_id)
);

-- The sums for each slot of each variant. The variant '' is that of products on which all variants agreed.
CREATE TABLE IF NOT EXISTS experiment_slots (
    tenant     TEXT   NOT NULL,
    experiment TEXT   COLLATE "C" NOT NULL,
    variant    TEXT   COLLATE "C" NOT NULL,
    -- -1 for the sums over whole lists.
    slot       BIGINT NOT NULL,
    view       TEXT   NOT NULL,
    PRIMARY KEY (tenant, experiment, variant, slot)
);
