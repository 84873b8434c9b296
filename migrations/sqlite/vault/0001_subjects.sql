-- Who the subjects in the log are. Erasing a person clears user_id and key and keeps the row, so that the subject can
-- still be told to have been erased, and not to be unknown.
CREATE TABLE subjects (
    subject_id BLOB NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    user_id TEXT,
    key BLOB,
    created_at INTEGER NOT NULL,
    erased_at INTEGER,
    CHECK ((user_id IS NULL) = (erased_at IS NOT NULL)),
    CHECK ((key IS NULL) = (erased_at IS NOT NULL)),
    UNIQUE (tenant, user_id)
) STRICT;
