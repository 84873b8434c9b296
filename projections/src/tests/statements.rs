//! That the database understands every statement, and another one would, too.

use crate::projection::Projection;
use crate::sql::{Db, prepare};
use crate::{
    challenge, checkpoint, found_match, job, match_record, matching_summary, player, queue, retry, worker,
};

/// Every statement there is, by the tables that it needs.
fn statements() -> Vec<(&'static str, Vec<String>)> {
    let of = |statements: &[&str]| statements.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut matches = of(&[
        found_match::ATTACH,
        found_match::SCORES,
        found_match::LIST_SCORE_DESC,
        found_match::LIST_SCORE_ASC,
        found_match::LIST_NEWEST,
        found_match::LIST_OLDEST,
    ]);
    matches.extend_from_slice(found_match::INSERT.texts());
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
    let match_records =
        of(&[match_record::UPSERT, match_record::ONE, match_record::LIST, match_record::LIST_ALL]);
    let players =
        of(&[player::UPSERT, player::ONE, player::RATINGS, player::BLOCK, player::UNBLOCK, player::BLOCKS]);
    vec![
        (challenge::ChallengeRows::DDL, challenges),
        (match_record::MatchRecordRows::DDL, match_records),
        (player::PlayerRows::DDL, players),
        (checkpoint::DDL, of(&[checkpoint::READ, checkpoint::WRITE, checkpoint::WRITE_SEEN])),
        (job::JobRows::DDL, of(&[job::UPSERT, job::UPSERT_PART, job::ONE, job::PART, job::LIST])),
        (worker::WorkerRows::DDL, of(&[worker::UPSERT, worker::ONE, worker::LIST])),
        (queue::QueueRows::DDL, queues),
        (retry::RetryRows::DDL, retries),
        (found_match::FoundMatches::DDL, matches),
        (matching_summary::Summaries::DDL, summaries),
    ]
}

#[tokio::test]
async fn the_database_understands_every_statement() {
    let folder = tempfile::tempdir().unwrap();
    for (number, (ddl, statements)) in statements().into_iter().enumerate() {
        let db = Db::open(&folder.path().join(number.to_string()), &[ddl]).await.unwrap();
        for statement in statements {
            prepare(&db, statement.clone()).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
    }
}

/// What one database takes and the other refuses, or understands differently.
const FORBIDDEN: [&str; 8] =
    ["?", "NOW()", "ANY(", "UNNEST", "FOR UPDATE", "OR REPLACE", "OR IGNORE", "ROWID"];

#[test]
fn no_statement_is_of_one_database_only() {
    for statement in statements().into_iter().flat_map(|(_, statements)| statements) {
        let text = statement.to_uppercase();
        for word in FORBIDDEN {
            assert!(!text.contains(word), "{word} in {statement}");
        }
        let is_sum_cast = !text.contains("SUM(") || text.contains("CAST(SUM(");
        assert!(is_sum_cast, "a sum without a cast in {statement}");
    }
}
