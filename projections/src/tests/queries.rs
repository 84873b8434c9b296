//! Lists and single views.

use std::collections::BTreeSet;

use domain::job::history::Status;
use event_schemas::ids::{Position, Score};
use event_schemas::job::Phase;
use event_schemas::stream::StreamId;
use event_schemas::worker::WorkerEnd;

use super::history::{
    self, History, completed, exited, frames, images, job, match_id, progress, registered, requested,
    returned, tenant, worker,
};
use super::test_store::TestStore;
use super::{open, reach};
use crate::image_match::{ImageMatchFilter, ImageMatchOrder};
use crate::job::JobFilter;
use crate::worker::WorkerPresence;

#[tokio::test]
async fn job_view_has_counters() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    history.job_created(job(1), Some("Hedges")).await;
    history.append(StreamId::image_matching(job(1)), &[images("hedge", 0, 3), frames("clip", 33)]).await;
    history
        .append(StreamId::image_matching(job(1)), &[requested(1, 99), progress(1, 40), progress(1, 30)])
        .await;
    history.phase(job(1), Phase::Queued, Phase::Matching).await;
    history.found(job(1), 1, 0.5).await;
    let evidence = history::attached(1, "evidence/1.jpg", false);
    let position = history.append(StreamId::image_match(job(1), &match_id(1)), &[evidence]).await;
    reach(&models, position).await;
    let (view, at) = models.jobs().get(&tenant(), job(1)).await.unwrap().unwrap();
    assert!(at >= position);
    assert_eq!(view.status, Status::Running);
    assert_eq!(view.counters.candidates_total, 99);
    assert_eq!(view.counters.candidates_processed, 40);
    assert_eq!((view.counters.matches_found, view.counters.matches_with_evidence), (1, 1));
    assert!(view.started_at > Some(view.created_at) && view.ended_at.is_none());
    let other = "other".parse().unwrap();
    assert!(models.jobs().get(&other, job(1)).await.unwrap().is_none());
}

/// PostgreSQL stores no U+0000, and no caller may stop a read model with it.
#[tokio::test]
async fn texts_with_nul_are_stored_by_both_databases() {
    for store in [TestStore::sqlite(), TestStore::postgres()] {
        let history = History::new();
        let models = open(&store, &history).await;
        history.job_created(job(1), Some("hedge\0row")).await;
        history.found(job(1), 1, 0.5).await;
        let evidence = history::attached(1, "evidence\0/1.jpg", false);
        let position = history.append(StreamId::image_match(job(1), &match_id(1)), &[evidence]).await;
        reach(&models, position).await;
        let filter = JobFilter { search: Some("hedge".to_owned()), ..JobFilter::default() };
        let page = models.jobs().list(&tenant(), &filter, None, 10).await.unwrap();
        assert!(page.items[0].name.as_ref().unwrap().ends_with("row"));
        let filter = JobFilter { search: Some("x\0y".to_owned()), ..JobFilter::default() };
        assert!(models.jobs().list(&tenant(), &filter, None, 10).await.unwrap().items.is_empty());
    }
}

#[tokio::test]
async fn jobs_are_filtered_by_status_phase_age_and_name() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    history.job_created(job(1), Some("Grüne HECKE")).await;
    let between = history.clock.now();
    history.job_created(job(2), Some("100% _rosen_")).await;
    let position = history.append(StreamId::job(job(2)), &[completed(Phase::Queued)]).await;
    reach(&models, position).await;
    let found = async |filter: JobFilter| {
        let page = models.jobs().list(&tenant(), &filter, None, 10).await.unwrap();
        page.items.into_iter().map(|view| view.job_id).collect::<Vec<_>>()
    };
    assert_eq!(found(JobFilter::default()).await, [job(2), job(1)]);
    let status = Some(Status::Completed);
    assert_eq!(found(JobFilter { status, ..JobFilter::default() }).await, [job(2)]);
    assert_eq!(found(JobFilter { phase: Some(Phase::Queued), ..JobFilter::default() }).await, [job(1)]);
    assert_eq!(found(JobFilter { since: Some(between), ..JobFilter::default() }).await, [job(2)]);
    for (search, expected) in [("grüne h", job(1)), ("0% _R", job(2)), ("00000001", job(1))] {
        let search = Some(search.to_owned());
        assert_eq!(found(JobFilter { search, ..JobFilter::default() }).await, [expected]);
    }
    let search = Some("100x".to_owned());
    assert!(found(JobFilter { search, ..JobFilter::default() }).await.is_empty());
}

#[tokio::test]
async fn match_pages_stay_stable_while_matches_are_found() {
    for order in [
        ImageMatchOrder::ScoreDesc,
        ImageMatchOrder::ScoreAsc,
        ImageMatchOrder::Newest,
        ImageMatchOrder::Oldest,
    ] {
        let (store, history) = (TestStore::new(), History::new());
        let models = open(&store, &history).await;
        history.job_created(job(1), None).await;
        for n in 0..50 {
            // Many matches have the same score.
            history.found(job(1), n, f64::from(n % 5) / 5.0).await;
        }
        reach(&models, history.head()).await;
        let (mut seen, mut after) = (Vec::new(), None);
        for round in 0.. {
            let page = models
                .image_matches()
                .list(job(1), &ImageMatchFilter::default(), order, after, 7)
                .await
                .unwrap();
            seen.extend(page.items.into_iter().map(|found| (found.score, found.position, found.match_id)));
            after = page.next;
            if after.is_none() {
                break;
            }
            // Each round adds matches before and after the cursor; five rounds are enough.
            if round < 5 {
                history.found(job(1), 100 + round, 1.0).await;
                history.found(job(1), 200 + round, 0.0).await;
                reach(&models, history.head()).await;
            }
        }
        let ids: BTreeSet<_> = seen.iter().map(|(_, _, id)| id.clone()).collect();
        assert_eq!(ids.len(), seen.len(), "{order:?}: one was shown twice");
        assert!((0..50).all(|n| ids.contains(&match_id(n))), "{order:?}: one was not shown");
        let is_sorted =
            seen.is_sorted_by(|(score, position, _), (next_score, next_position, _)| match order {
                ImageMatchOrder::ScoreDesc => (score, position) > (next_score, next_position),
                ImageMatchOrder::ScoreAsc => (score, position) < (next_score, next_position),
                ImageMatchOrder::Newest => position > next_position,
                ImageMatchOrder::Oldest => position < next_position,
            });
        assert!(is_sorted, "{order:?}");
    }
}

#[tokio::test]
async fn matches_are_filtered_by_score_evidence_and_product() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    history.job_created(job(1), None).await;
    for n in 0..10 {
        history.found(job(1), n, f64::from(n) / 10.0).await;
    }
    let evidence = [history::attached(3, "evidence/3.jpg", false)];
    let position = history.append(StreamId::image_match(job(1), &match_id(3)), &evidence).await;
    reach(&models, position).await;
    let count = async |filter: ImageMatchFilter| {
        let page = models
            .image_matches()
            .list(job(1), &filter, ImageMatchOrder::ScoreDesc, None, 100)
            .await
            .unwrap();
        page.items.len()
    };
    let all = ImageMatchFilter::default();
    assert_eq!(count(all.clone()).await, 10);
    assert_eq!(count(ImageMatchFilter { min_score: Some(Score::new(0.7).unwrap()), ..all.clone() }).await, 3);
    assert_eq!(count(ImageMatchFilter { has_evidence: Some(true), ..all.clone() }).await, 1);
    assert_eq!(count(ImageMatchFilter { has_evidence: Some(false), ..all.clone() }).await, 9);
    assert_eq!(
        count(ImageMatchFilter { product_id: Some("hedge".parse().unwrap()), ..all.clone() }).await,
        10
    );
    assert_eq!(count(ImageMatchFilter { product_id: Some("rose".parse().unwrap()), ..all }).await, 0);
    let scores = models.image_matches().scores_in(job(1), 0.2..=0.5, Position(5)).await.unwrap();
    assert_eq!(scores, [0.2, 0.3], "only what was found at or before the position counts");
}

#[tokio::test]
async fn job_pages_stay_stable_while_jobs_are_created() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    for n in 0..30 {
        history.job_created(job(n), None).await;
    }
    reach(&models, history.head()).await;
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = models.jobs().list(&tenant(), &JobFilter::default(), after, 4).await.unwrap();
        seen.extend(page.items.into_iter().map(|view| view.job_id));
        after = page.next;
        if after.is_none() {
            break;
        }
        history.job_created(job(100 + seen.len() as u128), None).await;
        reach(&models, history.head()).await;
    }
    assert_eq!(seen, (0..30).rev().map(job).collect::<Vec<_>>());
}

#[tokio::test]
async fn worker_view_shows_last_end() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    let stream = StreamId::worker(&tenant(), &worker(1));
    let since = history.clock.now();
    history.append(stream.clone(), &[registered(1)]).await;
    let ended = history.clock.now();
    history.append(stream.clone(), &[exited(1, WorkerEnd::OutOfMemory)]).await;
    reach(&models, history.head()).await;
    let view = models.workers().get(&tenant(), &worker(1)).await.unwrap().unwrap();
    assert_eq!((view.presence, view.since), (WorkerPresence::OutOfMemory, ended));
    let last_end = view.last_end.unwrap();
    assert_eq!((last_end.end, last_end.exit_code), (WorkerEnd::OutOfMemory, Some(137)));
    history.append(stream, &[returned(1)]).await;
    for n in 2..6 {
        history.append(StreamId::worker(&tenant(), &worker(n)), &[registered(n)]).await;
    }
    reach(&models, history.head()).await;
    let first = models.workers().list(&tenant(), None, 3).await.unwrap();
    let rest = models.workers().list(&tenant(), first.next.as_ref(), 3).await.unwrap();
    assert_eq!((first.items.len(), rest.items.len(), rest.next), (3, 2, None));
    let back = &first.items[0];
    assert_eq!((back.presence, back.returns, back.registered_at), (WorkerPresence::Present, 1, since));
    assert!(models.workers().list(&"other".parse().unwrap(), None, 3).await.unwrap().items.is_empty());
}
