//! The summary: live, refreshed by force, and as it was.

use std::time::Duration;

use event_schemas::ids::JobId;
use event_schemas::job::Phase;
use event_schemas::stream::StreamId;
use insta::assert_snapshot;
use proptest::prelude::*;
use serde_json::Value;

use super::script::{
    cancelled, claimed, completed, created, failed, frames, images, job, phase, progress, registered,
    request_completed, requested,
};
use super::stage::{Answer, Stage, acme};

fn path(id: JobId) -> String {
    format!("/jobs/{id}/matching/summary")
}

async fn summary(stage: &Stage) -> Answer {
    stage.get(&path(job(1))).await
}

#[tokio::test]
async fn a_job_that_was_just_created_is_pending() {
    let stage = Stage::open().await;
    stage.job_event(job(1), created(job(1), "a")).await;
    assert_snapshot!(summary(&stage).await.whole());
}

#[tokio::test]
async fn a_running_job_tells_counts_scores_and_how_long_it_will_take() {
    let stage = Stage::open().await;
    stage.append(StreamId::worker(&acme(), &"worker-1".parse().unwrap()), &[registered(1)]).await;
    stage.running_job(job(1)).await;
    assert_snapshot!(summary(&stage).await.whole());
}

#[tokio::test]
async fn a_job_that_nobody_hears_of_is_stalled() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    stage.clock.advance(Duration::from_secs(600));
    assert_snapshot!(summary(&stage).await.whole());
}

#[tokio::test]
async fn a_completed_job_tells_when_matching_ended() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    stage.append(StreamId::matching(job(1)), &[request_completed(1, 10), request_completed(2, 10)]).await;
    stage.job_event(job(1), phase(Phase::Matching, Phase::Evidence)).await;
    stage.job_event(job(1), completed()).await;
    assert_snapshot!(summary(&stage).await.whole());
}

#[tokio::test]
async fn a_failed_job_tells_why_in_its_blockers() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    stage.job_event(job(1), failed()).await;
    assert_snapshot!(summary(&stage).await.whole());
}

#[tokio::test]
async fn a_forced_refresh_says_what_the_read_model_says() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    let live = summary(&stage).await;
    let forced = stage.get(&format!("{}?force_refresh=true", path(job(1)))).await;
    assert_eq!(forced.json(), live.json());
}

#[tokio::test]
async fn a_poll_costs_nothing_while_only_other_jobs_move() {
    let stage = Stage::open().await;
    stage.job_event(job(1), created(job(1), "a")).await;
    let first = summary(&stage).await;
    stage.job_event(job(2), created(job(2), "b")).await;
    let tag = first.header("etag").to_owned();
    let again = stage.get_with(&path(job(1)), &[("If-None-Match", &tag)]).await;
    assert_eq!((again.status, again.text.as_str()), (304, ""));
    stage.job_event(job(1), phase(Phase::Queued, Phase::Collecting)).await;
    assert_eq!(stage.get_with(&path(job(1)), &[("If-None-Match", &tag)]).await.status, 200);
}

#[tokio::test]
async fn an_instant_is_answered_with_what_was_known_then() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    let then = stage.get(&format!("{}?as_of=2026-11-20T10:00:03.5Z", path(job(1)))).await.json();
    assert_eq!((&then["phase"], &then["candidates_total"]), (&"matching".into(), &20.into()));
    assert_eq!((&then["matches_found"], &then["queue_depth"]), (&0.into(), &0.into()));
    assert_eq!((&then["position"], &then["as_of"]), (&5.into(), &"2026-11-20T10:00:03.500000Z".into()));
}

#[tokio::test]
async fn blockers_of_the_past_are_those_of_then() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    stage.clock.advance(Duration::from_secs(600));
    let stalled = stage.get(&format!("{}?as_of=2026-11-20T10:08:00Z", path(job(1)))).await.json();
    assert!(stalled["blockers"].to_string().contains("stalled: "), "{stalled}");
    let going = stage.get(&format!("{}?as_of=2026-11-20T10:00:30Z", path(job(1)))).await.json();
    assert!(!going["blockers"].to_string().contains("stalled: "), "{going}");
}

#[tokio::test]
async fn a_moment_that_nobody_can_speak_of_is_a_problem_that_helps() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    let ask = async |as_of: &str| stage.get(&format!("{}?as_of={as_of}", path(job(1)))).await;
    assert_snapshot!("bad_as_of", ask("yesterday").await.whole());
    assert_snapshot!("as_of_beyond_the_head", ask("999").await.whole());
    assert_snapshot!("as_of_in_the_future", ask("2026-11-21T10:00:00Z").await.whole());
    assert_snapshot!("as_of_before_the_job", ask("0").await.whole());
}

#[tokio::test]
async fn no_summary_is_told_of_what_is_not_there_or_not_the_callers() {
    let stage = Stage::open().await;
    stage.append_for(&"other".parse().unwrap(), StreamId::job(job(1)), &[created(job(1), "theirs")]).await;
    for query in ["", "?force_refresh=true", "?as_of=1"] {
        for id in [job(1), job(2)] {
            assert_eq!(stage.get(&format!("{}{query}", path(id))).await.status, 404, "{id}{query}");
        }
    }
    assert_eq!(stage.get("/jobs/seven/matching/summary").await.status, 404);
}

#[tokio::test]
async fn lists_show_the_summary_at_a_glance() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    let glance = |answer: Value| answer["items"][0]["matching"].clone();
    let running = glance(stage.get("/jobs").await.json());
    assert_eq!((&running["p90_score"], &running["queue_depth"]), (&0.87.into(), &2.into()));
    stage.job_event(job(1), cancelled()).await;
    let ended = glance(stage.get("/jobs").await.json());
    assert_eq!((&ended["p90_score"], &ended["eta_seconds"]), (&0.87.into(), &Value::Null));
    // The second time it comes from what was kept.
    assert_eq!(glance(stage.get("/jobs").await.json()), ended);
}

/// Something that happens to a job.
async fn happen(stage: &Stage, step: u8, n: u32) {
    let id = job(1);
    match step % 8 {
        0 => stage.found(id, n, f64::from(n % 101) / 100.0, None).await,
        1 => stage.found(id, n, f64::from(n % 7) / 7.0, Some("evidence")).await,
        2 => stage.matching_event(id, requested(n % 5, 10)).await,
        3 => stage.matching_event(id, claimed(n % 5, n % 2, stage.clock.now())).await,
        4 => stage.matching_event(id, progress(n % 5, u64::from(n % 11))).await,
        5 => stage.matching_event(id, request_completed(n % 5, 10)).await,
        6 => stage.append(StreamId::matching(id), &[images(n % 3), frames(u64::from(n))]).await,
        _ => {
            let stream = StreamId::worker(&acme(), &format!("worker-{}", n % 2).parse().unwrap());
            stage.append(stream, &[registered(n % 2)]).await
        }
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// To the digit: what was answered while the log was at a position is answered for that position for ever.
    #[test]
    fn the_summary_as_of_a_position_is_what_was_answered_live_then(
        steps in prop::collection::vec((any::<u8>(), 0_u32..200, 0_u64..400), 1..25),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stage = Stage::open().await;
            stage.pace.set(Duration::ZERO);
            stage.job_event(job(1), created(job(1), "a")).await;
            stage.job_event(job(1), phase(Phase::Queued, Phase::Matching)).await;
            let mut answered = Vec::new();
            for (step, n, seconds) in steps {
                happen(&stage, step, n).await;
                answered.push((stage.head(), summary(&stage).await.json()));
                stage.clock.advance(Duration::from_secs(seconds));
            }
            for (position, live) in answered {
                let then = stage.get(&format!("{}?as_of={position}", path(job(1)))).await.json();
                prop_assert_eq!(then, live);
            }
            let forced = stage.get(&format!("{}?force_refresh=true", path(job(1)))).await.json();
            prop_assert_eq!(forced, summary(&stage).await.json());
            Ok(())
        })?;
    }
}
