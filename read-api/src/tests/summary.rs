//! The matching summary: current, refreshed and historical.

use std::time::Duration;

use event_schemas::ids::JobId;
use event_schemas::job::Phase;
use event_schemas::stream::StreamId;
use insta::assert_snapshot;
use proptest::prelude::*;
use serde_json::Value;

use super::events::{
    cancelled, claimed, completed, created, failed, frames, images, job, phase, progress, registered,
    request_completed, requested,
};
use super::fixture::{ReadApiFixture, TestResponse, acme};

fn path(id: JobId) -> String {
    format!("/jobs/{id}/matching/summary")
}

async fn summary(fixture: &ReadApiFixture) -> TestResponse {
    fixture.get(&path(job(1))).await
}

#[tokio::test]
async fn new_job_is_pending() {
    let fixture = ReadApiFixture::open().await;
    fixture.job_event(job(1), created(job(1), "a")).await;
    assert_snapshot!(summary(&fixture).await.snapshot());
}

#[tokio::test]
async fn running_job_has_counts_scores_and_eta() {
    let fixture = ReadApiFixture::open().await;
    fixture.append(StreamId::worker(&acme(), &"worker-1".parse().unwrap()), &[registered(1)]).await;
    fixture.running_job(job(1)).await;
    assert_snapshot!(summary(&fixture).await.snapshot());
}

#[tokio::test]
async fn silent_job_is_stalled() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    fixture.clock.advance(Duration::from_secs(600));
    assert_snapshot!(summary(&fixture).await.snapshot());
}

#[tokio::test]
async fn completed_job_has_its_completion_time() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    fixture
        .append(StreamId::image_matching(job(1)), &[request_completed(1, 10), request_completed(2, 10)])
        .await;
    fixture.job_event(job(1), phase(Phase::Matching, Phase::Evidence)).await;
    fixture.job_event(job(1), completed()).await;
    assert_snapshot!(summary(&fixture).await.snapshot());
}

#[tokio::test]
async fn failed_job_has_its_error_as_blocker() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    fixture.job_event(job(1), failed()).await;
    assert_snapshot!(summary(&fixture).await.snapshot());
}

#[tokio::test]
async fn forced_refresh_equals_the_read_model() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    let live = summary(&fixture).await;
    let forced = fixture.get(&format!("{}?force_refresh=true", path(job(1)))).await;
    assert_eq!(forced.json(), live.json());
}

#[tokio::test]
async fn poll_gets_304_while_only_other_jobs_change() {
    let fixture = ReadApiFixture::open().await;
    fixture.job_event(job(1), created(job(1), "a")).await;
    let first = summary(&fixture).await;
    fixture.job_event(job(2), created(job(2), "b")).await;
    let tag = first.header("etag").to_owned();
    let again = fixture.get_with(&path(job(1)), &[("If-None-Match", &tag)]).await;
    assert_eq!((again.status, again.text.as_str()), (304, ""));
    fixture.job_event(job(1), phase(Phase::Queued, Phase::Collecting)).await;
    assert_eq!(fixture.get_with(&path(job(1)), &[("If-None-Match", &tag)]).await.status, 200);
}

#[tokio::test]
async fn as_of_instant_returns_the_state_of_that_time() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    let then = fixture.get(&format!("{}?as_of=2026-11-20T10:00:03.5Z", path(job(1)))).await.json();
    assert_eq!((&then["phase"], &then["candidates_total"]), (&"matching".into(), &20.into()));
    assert_eq!((&then["matches_found"], &then["queue_depth"]), (&0.into(), &0.into()));
    assert_eq!((&then["position"], &then["as_of"]), (&5.into(), &"2026-11-20T10:00:03.500000Z".into()));
}

#[tokio::test]
async fn as_of_instant_has_the_blockers_of_that_time() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    fixture.clock.advance(Duration::from_secs(600));
    let stalled = fixture.get(&format!("{}?as_of=2026-11-20T10:08:00Z", path(job(1)))).await.json();
    assert!(stalled["blockers"].to_string().contains("stalled: "), "{stalled}");
    let active = fixture.get(&format!("{}?as_of=2026-11-20T10:00:30Z", path(job(1)))).await.json();
    assert!(!active["blockers"].to_string().contains("stalled: "), "{active}");
}

#[tokio::test]
async fn invalid_as_of_gets_a_helpful_problem() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    let get_as_of = async |as_of: &str| fixture.get(&format!("{}?as_of={as_of}", path(job(1)))).await;
    assert_snapshot!("bad_as_of", get_as_of("yesterday").await.snapshot());
    assert_snapshot!("as_of_beyond_the_head", get_as_of("999").await.snapshot());
    assert_snapshot!("as_of_in_the_future", get_as_of("2026-11-21T10:00:00Z").await.snapshot());
    assert_snapshot!("as_of_before_the_job", get_as_of("0").await.snapshot());
}

#[tokio::test]
async fn unknown_or_foreign_job_gets_404() {
    let fixture = ReadApiFixture::open().await;
    fixture.append_for(&"other".parse().unwrap(), StreamId::job(job(1)), &[created(job(1), "theirs")]).await;
    for query in ["", "?force_refresh=true", "?as_of=1"] {
        for id in [job(1), job(2)] {
            assert_eq!(fixture.get(&format!("{}{query}", path(id))).await.status, 404, "{id}{query}");
        }
    }
    assert_eq!(fixture.get("/jobs/seven/matching/summary").await.status, 404);
}

#[tokio::test]
async fn list_has_summary_previews() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    let preview = |answer: Value| answer["items"][0]["matching"].clone();
    let running = preview(fixture.get("/jobs").await.json());
    assert_eq!((&running["p90_score"], &running["queue_depth"]), (&0.87.into(), &2.into()));
    fixture.job_event(job(1), cancelled()).await;
    let ended = preview(fixture.get("/jobs").await.json());
    assert_eq!((&ended["p90_score"], &ended["eta_seconds"]), (&0.87.into(), &Value::Null));
    // The second response comes from the cache.
    assert_eq!(preview(fixture.get("/jobs").await.json()), ended);
}

/// Appends an event of a job.
async fn append_step(fixture: &ReadApiFixture, step: u8, n: u32) {
    let id = job(1);
    match step % 8 {
        0 => fixture.match_found(id, n, f64::from(n % 101) / 100.0, None).await,
        1 => fixture.match_found(id, n, f64::from(n % 7) / 7.0, Some("evidence")).await,
        2 => fixture.matching_event(id, requested(n % 5, 10)).await,
        3 => fixture.matching_event(id, claimed(n % 5, n % 2, fixture.clock.now())).await,
        4 => fixture.matching_event(id, progress(n % 5, u64::from(n % 11))).await,
        5 => fixture.matching_event(id, request_completed(n % 5, 10)).await,
        6 => fixture.append(StreamId::image_matching(id), &[images(n % 3), frames(u64::from(n))]).await,
        _ => {
            let stream = StreamId::worker(&acme(), &format!("worker-{}", n % 2).parse().unwrap());
            fixture.append(stream, &[registered(n % 2)]).await
        }
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// The summary as of a position is exactly the one returned when the log was at that position.
    #[test]
    fn summary_as_of_a_position_equals_the_live_one_then(
        steps in prop::collection::vec((any::<u8>(), 0_u32..200, 0_u64..400), 1..25),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fixture = ReadApiFixture::open().await;
            fixture.pace.set(Duration::ZERO);
            fixture.job_event(job(1), created(job(1), "a")).await;
            fixture.job_event(job(1), phase(Phase::Queued, Phase::Matching)).await;
            let mut responses = Vec::new();
            for (step, n, seconds) in steps {
                append_step(&fixture, step, n).await;
                responses.push((fixture.head(), summary(&fixture).await.json()));
                fixture.clock.advance(Duration::from_secs(seconds));
            }
            for (position, live) in responses {
                let then = fixture.get(&format!("{}?as_of={position}", path(job(1)))).await.json();
                prop_assert_eq!(then, live);
            }
            let forced = fixture.get(&format!("{}?force_refresh=true", path(job(1)))).await.json();
            prop_assert_eq!(forced, summary(&fixture).await.json());
            Ok(())
        })?;
    }
}
