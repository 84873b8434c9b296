-- The users behind the subjects in the log. Erasing a user clears user_id and key and keeps the row, so that an erased
-- subject can be distinguished from an unknown one.
CREATE TABLE subjects (
    subject_id UUID NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    user_id TEXT,
    key BYTEA,
    created_at BIGINT NOT NULL,
    erased_at BIGINT,
    CHECK ((user_id IS NULL) = (erased_at IS NOT NULL)),
    CHECK ((key IS NULL) = (erased_at IS NOT NULL)),
    UNIQUE (tenant, user_id)
);
