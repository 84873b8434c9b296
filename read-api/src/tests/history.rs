//! A job's events and its course.

use std::time::Duration;

use event_schemas::job::Phase;
use event_schemas::stream::StreamId;
use insta::assert_snapshot;
use proptest::prelude::*;
use serde_json::Value;

use super::script::{completed, created, failed, found, job, match_id, phase};
use super::stage::Stage;

fn positions(page: &Value) -> Vec<u64> {
    page["items"].as_array().unwrap().iter().map(|event| event["position"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn events_are_told_with_all_that_is_known_about_them() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    let answer = stage.get(&format!("/jobs/{}/events?limit=2", job(1))).await.json();
    assert_snapshot!(format!("{:#}", answer["items"]));
}

#[tokio::test]
async fn events_of_all_streams_come_in_the_order_of_the_log() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    stage.running_job(job(2)).await;
    let answer = stage.get(&format!("/jobs/{}/events", job(1))).await.json();
    assert_eq!(positions(&answer), (1..=12).collect::<Vec<u64>>());
    assert_eq!(answer["next_cursor"], Value::Null);
}

#[tokio::test]
async fn a_jobs_course_is_told_by_phases_attempts_and_errors() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    stage.job_event(job(1), failed()).await;
    stage.clock.advance(Duration::from_secs(30));
    stage.job_event(job(1), phase(Phase::Failed, Phase::Queued)).await;
    stage.job_event(job(1), phase(Phase::Queued, Phase::Matching)).await;
    stage.job_event(job(1), phase(Phase::Matching, Phase::Evidence)).await;
    stage.job_event(job(1), completed()).await;
    assert_snapshot!(stage.get(&format!("/jobs/{}/timeline", job(1))).await.whole());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the sizes of the pages, and wherever the events are, all come once and in order.
    #[test]
    fn pages_of_events_have_no_gap_and_no_repeat(
        matches in prop::collection::vec(0_u32..40, 0..150),
        limit in 1_usize..60,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stage = Stage::open().await;
            let id = job(1);
            stage.job_event(id, created(id, "a")).await;
            for n in &matches {
                stage.append(StreamId::matches(id, &match_id(*n)), &[found(*n, 0.5, None)]).await;
            }
            let mut seen = Vec::new();
            let mut path = format!("/jobs/{id}/events?limit={limit}");
            loop {
                let page = stage.get(&path).await.json();
                seen.extend(positions(&page));
                let Some(cursor) = page["next_cursor"].as_str() else { break };
                path = format!("/jobs/{id}/events?limit={limit}&cursor={cursor}");
            }
            prop_assert_eq!(seen, (1..=1 + matches.len() as u64).collect::<Vec<u64>>());
            Ok(())
        })?;
    }
}
