//! What lists and single answers say.

use event_schemas::job::Phase;
use event_schemas::stream::StreamId;

use super::history::{self, History, completed, frames, images, job, match_id, progress, requested, tenant};
use super::{open, reach};
use crate::job::JobFilter;
use domain::job::history::Status;

#[tokio::test]
async fn a_job_is_shown_with_what_was_counted() {
    let (folder, history) = (tempfile::tempdir().unwrap(), History::new());
    let models = open(&folder, &history).await;
    history.job_created(job(1), Some("Hedges")).await;
    history.append(StreamId::matching(job(1)), &[images("hedge", 0, 3), frames("clip", 33)]).await;
    history.append(StreamId::matching(job(1)), &[requested(1, 99), progress(1, 40), progress(1, 30)]).await;
    history.phase(job(1), Phase::Queued, Phase::Matching).await;
    history.found(job(1), 1, 0.5).await;
    let evidence = history::attached(1, "evidence/1.jpg", false);
    let position = history.append(StreamId::matches(job(1), &match_id(1)), &[evidence]).await;
    reach(&models, position).await;
    let (view, at) = models.jobs().get(&tenant(), job(1)).await.unwrap().unwrap();
    assert!(at >= position);
    assert_eq!(view.status, Status::Running);
    assert_eq!(view.counters.candidates_total(), 99);
    assert_eq!(view.counters.candidates_processed, 40);
    assert_eq!((view.counters.matches_found, view.counters.matches_with_evidence), (1, 1));
    assert!(view.started_at > Some(view.created_at) && view.ended_at.is_none());
    let other = "other".parse().unwrap();
    assert!(models.jobs().get(&other, job(1)).await.unwrap().is_none());
}

#[tokio::test]
async fn jobs_are_found_by_status_phase_age_and_part_of_their_name() {
    let (folder, history) = (tempfile::tempdir().unwrap(), History::new());
    let models = open(&folder, &history).await;
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
