//! The list of jobs, one job, and its image matches.

use event_schemas::job::Phase;
use event_schemas::stream::StreamId;
use insta::assert_snapshot;
use serde_json::Value;

use super::events::{cancelled, created, failed, job, phase, request_completed};
use super::fixture::ReadApiFixture;

fn ids(answer: &Value) -> Vec<u64> {
    let items = answer["items"].as_array().unwrap();
    items.iter().map(|item| u64::from_str_radix(&item["id"].as_str().unwrap()[24..], 16).unwrap()).collect()
}

fn match_ids(answer: &Value) -> Vec<&str> {
    answer["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn running_job_has_counters() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    assert_snapshot!(fixture.get(&format!("/jobs/{}", job(1))).await.snapshot());
}

#[tokio::test]
async fn completed_request_is_not_counted_twice() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    fixture.matching_event(job(1), request_completed(1, 10)).await;
    let counters = &fixture.get(&format!("/jobs/{}", job(1))).await.json()["counters"];
    assert_eq!(
        (&counters["candidates_processed"], &counters["match_requests_completed"]),
        (&10.into(), &1.into())
    );
}

#[tokio::test]
async fn failed_job_has_its_error() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    fixture.job_event(job(1), failed()).await;
    let answer = fixture.get(&format!("/jobs/{}", job(1))).await.json();
    assert_eq!(answer["status"], "failed");
    assert_snapshot!(format!("{:#}", answer["error"]));
}

#[tokio::test]
async fn list_is_newest_first_and_filtered() {
    let fixture = ReadApiFixture::open().await;
    for n in 1..=3 {
        fixture.job_event(job(n), created(job(n), &format!("Job {n}"))).await;
    }
    fixture.job_event(job(2), phase(Phase::Queued, Phase::Matching)).await;
    fixture.job_event(job(3), cancelled()).await;
    for (query, expected) in [
        ("", vec![3, 2, 1]),
        ("?status=running", vec![2]),
        ("?status=cancelled", vec![3]),
        ("?phase=matching", vec![2]),
        ("?kind=product_video_matching", vec![3, 2, 1]),
        ("?kind=video_analysis", vec![]),
        ("?q=JOB%203", vec![3]),
        ("?q=", vec![3, 2, 1]),
        ("?q=%25", vec![]),
        ("?since=2026-11-20T10:00:01Z", vec![3, 2]),
    ] {
        assert_eq!(ids(&fixture.get(&format!("/jobs{query}")).await.json()), expected, "{query}");
    }
}

#[tokio::test]
async fn lists_leave_out_the_data_of_callers() {
    let fixture = ReadApiFixture::open().await;
    fixture.job_event(job(1), created(job(1), "a")).await;
    let member = |answer: &Value, name: &str| answer.get(name).cloned();
    let one = fixture.get(&format!("/jobs/{}", job(1))).await.json();
    assert_eq!(member(&one, "metadata"), Some(serde_json::json!({"customer": 7})));
    assert_eq!(member(&one, "result"), Some(Value::Null));
    let listed = &fixture.get("/jobs").await.json()["items"][0];
    assert_eq!((member(listed, "metadata"), member(listed, "result")), (None, None));
}

#[tokio::test]
async fn list_pages_have_no_gap_or_duplicate() {
    let fixture = ReadApiFixture::open().await;
    for n in 1..=5 {
        fixture.job_event(job(n), created(job(n), "a")).await;
    }
    let mut seen = Vec::new();
    let mut path = "/jobs?limit=2".to_owned();
    loop {
        let page = fixture.get(&path).await.json();
        seen.extend(ids(&page));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/jobs?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, [5, 4, 3, 2, 1]);
}

#[tokio::test]
async fn unchanged_response_gets_304() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    for path in ["/jobs".to_owned(), format!("/jobs/{}/matches", job(1)), format!("/jobs/{}/events", job(1))]
    {
        let first = fixture.get(&path).await;
        assert_eq!(first.status, 200);
        let again = fixture.get_with(&path, &[("If-None-Match", first.header("etag"))]).await;
        assert_eq!((again.status, again.text.as_str()), (304, ""), "{path}");
    }
}

#[tokio::test]
async fn retried_job_has_no_failed_blocker_despite_clock_skew() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    fixture.ahead.set(std::time::Duration::from_secs(60));
    fixture.job_event(job(1), failed()).await;
    fixture.ahead.set(std::time::Duration::ZERO);
    let blockers = async || fixture.get("/jobs").await.json()["items"][0]["matching"]["blockers"].to_string();
    assert!(blockers().await.contains("failed: "));
    fixture.job_event(job(1), phase(Phase::Failed, Phase::Queued)).await;
    assert!(!blockers().await.contains("failed: "));
}

#[tokio::test]
async fn passing_time_alone_does_not_change_the_etag() {
    let fixture = ReadApiFixture::open().await;
    fixture.job_event(job(1), created(job(1), "waiting")).await;
    fixture.running_job(job(2)).await;
    let of = |n, rest: &str| format!("/jobs/{}{rest}", job(n));
    for path in ["/jobs".to_owned(), of(1, ""), of(2, ""), of(1, "/timeline"), of(2, "/timeline")] {
        let first = fixture.get(&path).await;
        assert_eq!(first.status, 200);
        fixture.clock.advance(std::time::Duration::from_secs(2));
        let again = fixture.get_with(&path, &[("If-None-Match", first.header("etag"))]).await;
        assert_eq!(again.status, 304, "{path}");
    }
}

#[tokio::test]
async fn image_matches_are_best_first_and_filtered() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    let path = format!("/jobs/{}/matches", job(1));
    for (query, expected) in [
        ("", vec!["match-1", "match-2", "match-3"]),
        ("?order=score_asc", vec!["match-3", "match-2", "match-1"]),
        ("?order=oldest", vec!["match-1", "match-2", "match-3"]),
        ("?min_score=0.75", vec!["match-1", "match-2"]),
        ("?has_evidence=true", vec!["match-1"]),
        ("?has_evidence=false", vec!["match-2", "match-3"]),
        ("?product_id=hedge", vec!["match-1", "match-2", "match-3"]),
        ("?product_id=other", vec![]),
    ] {
        let answer = fixture.get(&format!("{path}{query}")).await;
        assert_eq!(match_ids(&answer.json()), expected, "{query}");
    }
    assert_snapshot!(fixture.get(&format!("{path}?limit=1")).await.json()["items"][0].to_string());
}

#[tokio::test]
async fn image_matches_are_paged_while_more_are_found() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    let path = format!("/jobs/{}/matches?limit=2&order=oldest", job(1));
    let first = fixture.get(&path).await.json();
    fixture.match_found(job(1), 4, 0.99, None).await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = fixture.get(&format!("{path}&cursor={cursor}")).await.json();
    assert_eq!(
        (match_ids(&first), match_ids(&second)),
        (vec!["match-1", "match-2"], vec!["match-3", "match-4"])
    );
}

#[tokio::test]
async fn jobs_of_other_tenants_get_404() {
    let fixture = ReadApiFixture::open().await;
    fixture.append_for(&"other".parse().unwrap(), StreamId::job(job(1)), &[created(job(1), "theirs")]).await;
    for path in ["", "/matches", "/timeline", "/events"] {
        let answer = fixture.get(&format!("/jobs/{}{path}", job(1))).await;
        assert_eq!(answer.status, 404, "{path}");
        let theirs = fixture.get_with(&format!("/jobs/{}{path}", job(1)), &[("X-Tenant", "other")]).await;
        assert_eq!(theirs.status, 200, "{path}");
    }
    assert_eq!(ids(&fixture.get("/jobs").await.json()), Vec::<u64>::new());
}

#[tokio::test]
async fn invalid_reads_get_helpful_problems() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    let unknown = fixture.get(&format!("/jobs/{}", job(9))).await;
    assert_snapshot!("unknown_job", unknown.snapshot());
    assert_snapshot!("no_uuid", fixture.get("/jobs/seven").await.snapshot());
    assert_snapshot!("bad_cursor", fixture.get("/jobs?cursor=abc").await.snapshot());
    assert_snapshot!("bad_status", fixture.get("/jobs?status=sleeping").await.snapshot());
    let matches = format!("/jobs/{}/matches", job(1));
    assert_snapshot!("bad_score", fixture.get(&format!("{matches}?min_score=2")).await.snapshot());
}

#[tokio::test]
async fn unreached_min_position_gets_503_with_retry_after() {
    let fixture = ReadApiFixture::open().await;
    fixture.running_job(job(1)).await;
    for path in ["/jobs".to_owned(), format!("/jobs/{}/events", job(1))] {
        let answer = fixture.client.get(path).header("X-Min-Position", "999").send().await;
        answer.assert_status(poem::http::StatusCode::SERVICE_UNAVAILABLE);
        answer.assert_header("retry-after", "1");
    }
}
