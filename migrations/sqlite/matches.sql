-- One row for each image match, in the order of the log.
CREATE TABLE IF NOT EXISTS matches (
    position      INTEGER PRIMARY KEY,
    job_id        BLOB   NOT NULL,
    match_id      TEXT   NOT NULL,
    product_id    TEXT   NOT NULL,
    video_id      TEXT   NOT NULL,
    img_id        TEXT   NOT NULL,
    frame_id      TEXT   NOT NULL,
    score         DOUBLE PRECISION NOT NULL,
    evidence_path TEXT,
    occurred_at   BIGINT NOT NULL
);

-- While the rows are not complete: the evidence of stored matches, which cannot be found without the indexes.
CREATE TABLE IF NOT EXISTS attached (
    job_id        BLOB   NOT NULL,
    match_id      TEXT   NOT NULL,
    evidence_path TEXT   NOT NULL,
    position      BIGINT NOT NULL,
    PRIMARY KEY (job_id, match_id)
) WITHOUT ROWID;

-- AFTER THE ROWS.
CREATE UNIQUE INDEX IF NOT EXISTS matches_by_id ON matches (job_id, match_id);
-- SQLite appends the position automatically: it is the row id.
CREATE INDEX IF NOT EXISTS matches_by_score ON matches (job_id, score);
CREATE INDEX IF NOT EXISTS matches_by_position ON matches (job_id);
UPDATE matches SET evidence_path = attached.evidence_path FROM attached
    WHERE matches.job_id = attached.job_id AND matches.match_id = attached.match_id
    AND matches.position < attached.position;
DELETE FROM attached;

-- FOR DUPLICATES.
-- The first report of an id counts.
CREATE INDEX IF NOT EXISTS matches_with_duplicates ON matches (job_id, match_id, position);
DELETE FROM matches WHERE EXISTS (SELECT 1 FROM matches AS earlier WHERE earlier.job_id = matches.job_id
    AND earlier.match_id = matches.match_id AND earlier.position < matches.position);
DROP INDEX matches_with_duplicates;
