//! Checks that every statement is valid and portable.

use crate::projection::Projection;
use crate::sql::{Db, prepare};
use crate::{
    challenge, checkpoint, game_match, image_match, job, matching_summary, player, queue, retry, worker,
};

/// All statements, by the DDL of their tables.
fn statements() -> Vec<(&'static str, Vec<String>)> {
    let of = |statements: &[&str]| statements.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut matches = of(&[
        image_match::ATTACH,
        image_match::SCORES,
        image_match::LIST_SCORE_DESC,
        image_match::LIST_SCORE_ASC,
        image_match::LIST_NEWEST,
        image_match::LIST_OLDEST,
    ]);
    matches.extend_from_slice(image_match::INSERT.texts());
    let summaries = of(&[
        matching_summary::UPSERT,
        matching_summary::ONE,
        matching_summary::UPSERT_PRESENCE,
        matching_summary::PRESENCES,
        matching_summary::SNAPSHOT,
        matching_summary::SNAPSHOT_BEFORE,
        matching_summary::DROP_SNAPSHOTS,
    ]);
    let mut queues = of(&[
        queue::ONE,
        queue::OPEN,
        queue::UPSERT_POOL,
        queue::POOLS,
        queue::BLOCK,
        queue::UNBLOCK,
        queue::BLOCKS,
        queue::PROPOSE,
        queue::DECIDE,
        queue::PROPOSED,
    ]);
    queues.extend_from_slice(queue::UPSERT.texts());
    let retries =
        of(&[retry::UPSERT, retry::ONE, retry::LIST, retry::UPSERT_JOB, retry::DROP_JOB, retry::JOB]);
    let challenges = of(&[challenge::UPSERT, challenge::ONE, challenge::INCOMING, challenge::OUTGOING]);
    let game_matches = of(&[game_match::UPSERT, game_match::ONE, game_match::LIST, game_match::LIST_ALL]);
    let players =
        of(&[player::UPSERT, player::ONE, player::RATINGS, player::BLOCK, player::UNBLOCK, player::BLOCKS]);
    vec![
        (challenge::ChallengeRows::DDL, challenges),
        (game_match::GameMatchRows::DDL, game_matches),
        (player::PlayerRows::DDL, players),
        (checkpoint::DDL, of(&[checkpoint::READ, checkpoint::WRITE, checkpoint::WRITE_LAST_EVENT])),
        (job::JobRows::DDL, of(&[job::UPSERT, job::UPSERT_PART, job::ONE, job::PART, job::LIST])),
        (worker::WorkerRows::DDL, of(&[worker::UPSERT, worker::ONE, worker::LIST])),
        (queue::QueueRows::DDL, queues),
        (retry::RetryRows::DDL, retries),
        (image_match::ImageMatchRows::DDL, matches),
        (matching_summary::SummaryRows::DDL, summaries),
    ]
}

#[tokio::test]
async fn database_prepares_every_statement() {
    let folder = tempfile::tempdir().unwrap();
    for (number, (ddl, statements)) in statements().into_iter().enumerate() {
        let db = Db::open(&folder.path().join(number.to_string()), &[ddl]).await.unwrap();
        for statement in statements {
            prepare(&db, statement.clone()).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
    }
}

/// Syntax that SQLite and PostgreSQL do not share, or interpret differently.
const FORBIDDEN: [&str; 8] =
    ["?", "NOW()", "ANY(", "UNNEST", "FOR UPDATE", "OR REPLACE", "OR IGNORE", "ROWID"];

#[test]
fn statements_use_only_portable_sql() {
    for statement in statements().into_iter().flat_map(|(_, statements)| statements) {
        let text = statement.to_uppercase();
        for word in FORBIDDEN {
            assert!(!text.contains(word), "{word} in {statement}");
        }
        let is_sum_cast = !text.contains("SUM(") || text.contains("CAST(SUM(");
        assert!(is_sum_cast, "a sum without a cast in {statement}");
    }
}
