-- One row for each image match, in the order of the log.
CREATE TABLE IF NOT EXISTS matches (
    position      BIGINT PRIMARY KEY,
    job_id        UUID   NOT NULL,
    match_id      TEXT   NOT NULL,
    product_id    TEXT   NOT NULL,
    video_id      TEXT   NOT NULL,
    img_id        TEXT   NOT NULL,
    frame_id      TEXT   NOT NULL,
    score         DOUBLE PRECISION NOT NULL,
    evidence_path TEXT,
    occurred_at   BIGINT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS matches_by_id ON matches (job_id, match_id);
CREATE INDEX IF NOT EXISTS matches_by_score ON matches (job_id, score, position);
CREATE INDEX IF NOT EXISTS matches_by_position ON matches (job_id, position);
