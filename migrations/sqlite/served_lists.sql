-- One row for each list of products that was served to a user.
CREATE TABLE IF NOT EXISTS served_lists (
    tenant   TEXT   NOT NULL,
    list_id  BLOB   NOT NULL,
    -- Of the event with the list.
    position BIGINT NOT NULL,
    PRIMARY KEY (tenant, list_id)
) WITHOUT ROWID;
