//! The live fold, the replay, the manual fold and the lists agree at every position.

use std::sync::Arc;

use domain::image_matching::summary::JobFold;
use event_log::{EventLog, Filter};
use event_schemas::ids::Position;
use event_schemas::stream::StreamId;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::history::{self, History, job, match_id, tenant};
use super::recovery::World;
use super::summary::manual_fold;
use super::test_store::{TestStore, cases};
use super::{open, reach};
use crate::matching_summary::{SNAPSHOT_EVENTS, Snapshots, UpTo};

async fn agree(actions: &[(u8, u8, u8)]) -> Result<(), TestCaseError> {
    let (store, history, mut world) = (TestStore::new(), History::new(), World::default());
    let models = open(&store, &history).await;
    let summaries = models.matching_summary();
    let id = job(1);
    let mut live = Vec::new();
    for (action, of, n) in actions {
        world.act(&history, *action, *of, *n).await;
        reach(&models, history.head()).await;
        let current = summaries.summary(&tenant(), id).await.unwrap();
        live.push((history.head(), current));
    }
    for (position, current) in live {
        let replayed =
            summaries.replay(&tenant(), id, UpTo::Position(position), Snapshots::Use).await.unwrap();
        prop_assert_eq!(replayed.map(|replayed| replayed.folded), current.clone());
        if let Some(current) = current {
            prop_assert_eq!(current, manual_fold(&history, id, position).await);
        }
    }
    for of in 1..4 {
        let Some(current) = summaries.summary(&tenant(), job(of)).await.unwrap() else { continue };
        let (view, _) = models.jobs().get(&tenant(), job(of)).await.unwrap().unwrap();
        let of_fold = domain::job::view::view(&current.fold, history.clock.now()).unwrap();
        prop_assert_eq!(view, of_fold);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(24), ..ProptestConfig::default() })]

    #[test]
    fn live_fold_replay_and_manual_fold_agree_at_every_position(
        actions in proptest::collection::vec((0..11_u8, 1..4_u8, 0..6_u8), 1..50),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(agree(&actions))?;
    }
}

/// A job with enough matches for two snapshots.
async fn large_job() -> History {
    let history = History::new();
    history.job_created(job(1), None).await;
    let shard = StreamId::image_match(job(1), &match_id(0));
    let matches = u32::try_from(2 * SNAPSHOT_EVENTS + 1000).unwrap();
    let all: Vec<u32> = (0..matches).collect();
    for chunk in all.chunks(2000) {
        let events: Vec<_> =
            chunk.iter().map(|n| history::found(*n, f64::from(*n % 997) / 997.0, None)).collect();
        history.append(shard.clone(), &events).await;
    }
    history
}

#[tokio::test]
async fn replay_with_snapshots_equals_full_replay() {
    let (store, history) = (TestStore::new(), large_job().await);
    let models = open(&store, &history).await;
    reach(&models, history.head()).await;
    models.shutdown().await;
    let models = open(&store, &history).await;
    reach(&models, history.head()).await;
    let summaries = models.matching_summary();
    for position in [SNAPSHOT_EVENTS - 1, SNAPSHOT_EVENTS, SNAPSHOT_EVENTS + 1, history.head().0] {
        let upto = UpTo::Position(Position(position));
        let quick = summaries.replay(&tenant(), job(1), upto, Snapshots::Use).await.unwrap().unwrap();
        let full = summaries.replay(&tenant(), job(1), upto, Snapshots::Ignore).await.unwrap().unwrap();
        assert_eq!(quick, full);
    }
    let current = summaries.summary(&tenant(), job(1)).await.unwrap().unwrap();
    assert_eq!(current.fold.scores.count(), 2 * SNAPSHOT_EVENTS + 1000);
    // An invalid snapshot is ignored.
    let generation = summaries.slot.live().unwrap();
    generation.db.run("UPDATE snapshots SET fold = '{}' WHERE position < 60000").await.unwrap();
    generation.db.run("UPDATE snapshots SET position = position + 1 WHERE position > 60000").await.unwrap();
    for position in [SNAPSHOT_EVENTS + 1, history.head().0] {
        let upto = UpTo::Position(Position(position));
        let replayed = summaries.replay(&tenant(), job(1), upto, Snapshots::Use).await.unwrap().unwrap();
        let expected = folded_up_to(&history, Position(position)).await;
        assert_eq!(*replayed.folded.fold, *expected);
    }
}

async fn folded_up_to(history: &History, upto: Position) -> Arc<JobFold> {
    let page = history.log().read_all(Position::START, &Filter::All, usize::MAX).await.unwrap();
    let mut fold = JobFold::default();
    for event in page.events.iter().filter(|event| event.position <= upto) {
        fold.apply(&event.decode().unwrap());
    }
    Arc::new(fold)
}

#[tokio::test]
async fn evicted_jobs_are_reloaded_from_their_rows() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    let jobs = 400;
    for n in 1..=jobs {
        history.job_created(job(n), None).await;
        history.found(job(n), 1, 0.5).await;
    }
    for n in 1..=jobs {
        history.found(job(n), 2, 0.75).await;
        // Enough time passes for previous changes to be stored, so that jobs can be evicted.
        reach(&models, history.head()).await;
    }
    for n in 1..=jobs {
        let current = models.matching_summary().summary(&tenant(), job(n)).await.unwrap().unwrap();
        assert_eq!((current.fold.scores.count(), current.position), (2, history.head()), "{n}");
    }
    let generation = models.matching_summary().slot.live().unwrap();
    let in_memory = (1..=jobs).filter(|n| generation.view.read().unwrap().contains(job(*n))).count();
    assert!(in_memory <= 128, "{in_memory}");
}
