//! The summary from memory, from a replay and from a manual fold.

use std::sync::Arc;

use domain::image_matching::blockers::Thresholds;
use domain::image_matching::summary::JobFold;
use domain::worker::presence::Presence;
use event_log::{EventLog, Filter};
use event_schemas::ids::Position;
use event_schemas::job::Phase;
use event_schemas::stream::StreamId;

use super::history::{
    self, History, completed, frames, images, job, progress, registered, requested, tenant, worker,
};
use super::test_store::TestStore;
use super::{open, reach};
use crate::matching_summary::{ChangeScope, FoldedJob, ScoresFrom, Snapshots, UpTo};

/// The expected fold: every event of the log, applied one by one.
pub(super) async fn manual_fold(
    history: &History,
    id: event_schemas::ids::JobId,
    upto: Position,
) -> FoldedJob {
    let page = history.log().read_all(Position::START, &Filter::All, usize::MAX).await.unwrap();
    let (mut fold, mut presence) = (JobFold::default(), Presence::default());
    for event in page.events.iter().filter(|event| event.position <= upto) {
        let Ok(envelope) = event.decode() else { continue };
        if envelope.stream.job_id() == Some(id) {
            fold.apply(&envelope);
        }
        if envelope.metadata.tenant == tenant() {
            presence.apply(&envelope);
        }
    }
    FoldedJob { fold: Arc::new(fold), presence: Arc::new(presence), position: upto }
}

async fn running_job(history: &History) -> Position {
    history.job_created(job(1), Some("Hedges")).await;
    history.append(StreamId::worker(&tenant(), &worker(1)), &[registered(1)]).await;
    history.append(StreamId::image_matching(job(1)), &[images("hedge", 0, 3), frames("clip", 33)]).await;
    history.append(StreamId::image_matching(job(1)), &[requested(1, 99)]).await;
    history.phase(job(1), Phase::Queued, Phase::Matching).await;
    history.append(StreamId::image_matching(job(1)), &[progress(1, 40)]).await;
    history.found(job(1), 1, 0.5).await;
    history.found(job(1), 2, 0.75).await
}

#[tokio::test]
async fn live_summary_reflects_awaited_position() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    let position = running_job(&history).await;
    reach(&models, position).await;
    let summaries = models.matching_summary();
    let folded = summaries.summary(&tenant(), job(1)).await.unwrap().unwrap();
    assert_eq!(folded, manual_fold(&history, job(1), position).await);
    let now = history.clock.now();
    let summary = summaries
        .summarise(job(1), &folded, now, &Thresholds::default(), ScoresFrom::ReadModel)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((summary.candidates_total, summary.candidates_processed, summary.matches_found), (99, 40, 2));
    assert_eq!((summary.avg_score, summary.queue_depth), (Some(0.63), 1));
    assert_eq!(summaries.summary(&"other".parse().unwrap(), job(1)).await.unwrap(), None);
    assert_eq!(summaries.summary(&tenant(), job(2)).await.unwrap(), None);
}

#[tokio::test]
async fn historical_summary_equals_summary_of_that_time() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    let summaries = models.matching_summary();
    let thresholds = Thresholds::default();
    let mut summaries_then = Vec::new();
    history.job_created(job(1), None).await;
    for n in 1..30 {
        let instant = history.clock.now();
        let position = if n == 5 {
            history.phase(job(1), Phase::Queued, Phase::Matching).await
        } else if n == 20 {
            history.append(StreamId::job(job(1)), &[completed(Phase::Matching)]).await
        } else {
            history.found(job(1), n, f64::from(n) / 40.0).await
        };
        reach(&models, position).await;
        let folded = summaries.summary(&tenant(), job(1)).await.unwrap().unwrap();
        let from = ScoresFrom::ReadModel;
        summaries_then.push((
            position,
            instant,
            summaries.summarise(job(1), &folded, instant, &thresholds, from).await.unwrap(),
        ));
    }
    for (position, instant, then) in summaries_then {
        for upto in [UpTo::Position(position), UpTo::Instant(instant)] {
            let replayed = summaries.replay(&tenant(), job(1), upto, Snapshots::Use).await.unwrap().unwrap();
            assert_eq!((replayed.folded.position, replayed.instant), (position, instant));
            let again = summaries
                .summarise(job(1), &replayed.folded, replayed.instant, &thresholds, ScoresFrom::Log)
                .await
                .unwrap();
            assert_eq!(again, then, "{upto:?}");
        }
    }
    let before = UpTo::Position(Position::START);
    assert_eq!(summaries.replay(&tenant(), job(1), before, Snapshots::Use).await.unwrap(), None);
}

#[tokio::test]
async fn subscriber_is_notified_of_each_changed_job() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    let mut changes = models.matching_summary().changes();
    let created = history.job_created(job(1), None).await;
    let changed = changes.recv().await.unwrap();
    assert_eq!((changed.scope, changed.position >= created), (ChangeScope::Job(job(1)), true));
    let folded = models.matching_summary().summary(&tenant(), job(1)).await.unwrap().unwrap();
    assert!(folded.position >= changed.position);
    history.append(StreamId::worker(&tenant(), &worker(1)), &[registered(1)]).await;
    assert_eq!(changes.recv().await.unwrap().scope, ChangeScope::Workers(tenant()));
}

#[tokio::test]
async fn forced_refresh_of_intact_summary_repairs_nothing() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    let position = running_job(&history).await;
    let replayed = models.matching_summary().refresh(&tenant(), job(1)).await.unwrap().unwrap();
    assert_eq!(replayed.folded, manual_fold(&history, job(1), position).await);
    assert_eq!(models.matching_summary().repair(job(1)).await, Some(false));
}

#[tokio::test]
async fn forced_refresh_repairs_corrupt_fold() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    let position = running_job(&history).await;
    reach(&models, position).await;
    // The server itself cannot corrupt a fold, so the test does.
    let generation = models.matching_summary().slot.live().unwrap();
    let unrecorded = history::found(9, 1.0, None);
    generation.view.write().unwrap().corrupt(job(1), &unrecorded);
    let expected = manual_fold(&history, job(1), position).await;
    assert_ne!(models.matching_summary().summary(&tenant(), job(1)).await.unwrap().unwrap(), expected);
    let replayed = models.matching_summary().refresh(&tenant(), job(1)).await.unwrap().unwrap();
    assert_eq!(replayed.folded, expected);
    assert_eq!(models.matching_summary().summary(&tenant(), job(1)).await.unwrap().unwrap(), expected);
    models.shutdown().await;
    let reopened = open(&store, &history).await;
    assert_eq!(reopened.matching_summary().summary(&tenant(), job(1)).await.unwrap().unwrap(), expected);
}

#[tokio::test]
async fn ambiguous_percentile_is_resolved_by_exact_scores() {
    let (store, history) = (TestStore::new(), History::new());
    history.job_created(job(1), None).await;
    // There are so many scores that the fold only counts them, and the percentile is among those within 1/65536 of
    // 0.945: the 4,499th and 4,500th of 7,500 scores that rise evenly from 0.944995 to 0.945005.
    let edge = |n: u32| 0.944_995 + f64::from(n) * 1e-5 / 7500.0;
    let scores: Vec<f64> = (0..22_500).map(|_| 0.1).chain((0..7500).map(edge)).collect();
    for (start, chunk) in (0_u32..).step_by(2500).zip(scores.chunks(2500)) {
        let events: Vec<_> = (start..).zip(chunk).map(|(n, score)| history::found(n, *score, None)).collect();
        history.append(StreamId::image_match(job(1), &history::match_id(0)), &events).await;
    }
    let models = open(&store, &history).await;
    reach(&models, history.head()).await;
    let summaries = models.matching_summary();
    let folded = summaries.summary(&tenant(), job(1)).await.unwrap().unwrap();
    assert!(matches!(folded.fold.scores.p90(), domain::image_matching::percentile::Percentile::Ambiguous(_)));
    // A later match must not count at this position.
    history
        .append(StreamId::image_match(job(1), &history::match_id(0)), &[history::found(99_999, 0.945, None)])
        .await;
    reach(&models, history.head()).await;
    for from in [ScoresFrom::ReadModel, ScoresFrom::Log] {
        let now = history.clock.now();
        let summary =
            summaries.summarise(job(1), &folded, now, &Thresholds::default(), from).await.unwrap().unwrap();
        assert_eq!(summary.p90_score, Some(0.95), "{from:?}");
    }
}
