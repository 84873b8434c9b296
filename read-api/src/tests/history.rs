//! A job's events and its timeline.

use std::time::Duration;

use event_schemas::job::Phase;
use event_schemas::stream::StreamId;
use insta::assert_snapshot;
use proptest::prelude::*;
use serde_json::Value;

use super::events::{completed, created, failed, job, match_found, match_id, phase};
use super::fixture::ReadApiFixture;

fn positions(page: &Value) -> Vec<u64> {
    page["items"].as_array().unwrap().iter().map(|event| event["position"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn events_have_their_metadata() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    let answer = fixture.get(&format!("/jobs/{}/events?limit=2", job(1))).await.json();
    assert_snapshot!(format!("{:#}", answer["items"]));
}

#[tokio::test]
async fn events_of_all_streams_are_in_log_order() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    fixture.running_job(job(2)).await;
    let answer = fixture.get(&format!("/jobs/{}/events", job(1))).await.json();
    assert_eq!(positions(&answer), (1..=12).collect::<Vec<u64>>());
    assert_eq!(answer["next_cursor"], Value::Null);
}

#[tokio::test]
async fn timeline_has_phases_attempts_and_errors() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    fixture.job_event(job(1), failed()).await;
    fixture.clock.advance(Duration::from_secs(30));
    fixture.job_event(job(1), phase(Phase::Failed, Phase::Queued)).await;
    fixture.job_event(job(1), phase(Phase::Queued, Phase::Matching)).await;
    fixture.job_event(job(1), phase(Phase::Matching, Phase::Evidence)).await;
    fixture.job_event(job(1), completed()).await;
    assert_snapshot!(fixture.get(&format!("/jobs/{}/timeline", job(1))).await.snapshot());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Every event is returned once and in order, for any page size and distribution over streams.
    #[test]
    fn event_pages_have_no_gap_or_duplicate(
        matches in prop::collection::vec(0_u32..40, 0..150),
        limit in 1_usize..60,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fixture = ReadApiFixture::open().await;
            let id = job(1);
            fixture.job_event(id, created(id, "a")).await;
            for n in &matches {
                fixture.append(StreamId::image_match(id, &match_id(*n)), &[match_found(*n, 0.5, None)]).await;
            }
            let mut seen = Vec::new();
            let mut path = format!("/jobs/{id}/events?limit={limit}");
            loop {
                let page = fixture.get(&path).await.json();
                seen.extend(positions(&page));
                let Some(cursor) = page["next_cursor"].as_str() else { break };
                path = format!("/jobs/{id}/events?limit={limit}&cursor={cursor}");
            }
            prop_assert_eq!(seen, (1..=1 + matches.len() as u64).collect::<Vec<u64>>());
            Ok(())
        })?;
    }
}
