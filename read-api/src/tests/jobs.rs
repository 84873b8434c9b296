//! The list of jobs, one job, and its matches.

use event_schemas::job::Phase;
use event_schemas::stream::StreamId;
use insta::assert_snapshot;
use serde_json::Value;

use super::script::{cancelled, created, failed, job, phase, request_completed};
use super::stage::Stage;

fn ids(answer: &Value) -> Vec<u64> {
    let items = answer["items"].as_array().unwrap();
    items.iter().map(|item| u64::from_str_radix(&item["id"].as_str().unwrap()[24..], 16).unwrap()).collect()
}

fn match_ids(answer: &Value) -> Vec<&str> {
    answer["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_running_job_is_shown_with_its_counters() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    assert_snapshot!(stage.get(&format!("/jobs/{}", job(1))).await.whole());
}

#[tokio::test]
async fn a_completed_request_counts_once_on_top_of_its_progress() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    stage.matching_event(job(1), request_completed(1, 10)).await;
    let counters = &stage.get(&format!("/jobs/{}", job(1))).await.json()["counters"];
    assert_eq!(
        (&counters["candidates_processed"], &counters["match_requests_completed"]),
        (&10.into(), &1.into())
    );
}

#[tokio::test]
async fn a_failed_job_says_why() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    stage.job_event(job(1), failed()).await;
    let answer = stage.get(&format!("/jobs/{}", job(1))).await.json();
    assert_eq!(answer["status"], "failed");
    assert_snapshot!(format!("{:#}", answer["error"]));
}

#[tokio::test]
async fn the_list_is_the_newest_first_and_is_filtered() {
    let stage = Stage::open().await;
    for n in 1..=3 {
        stage.job_event(job(n), created(job(n), &format!("Job {n}"))).await;
    }
    stage.job_event(job(2), phase(Phase::Queued, Phase::Matching)).await;
    stage.job_event(job(3), cancelled()).await;
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
        assert_eq!(ids(&stage.get(&format!("/jobs{query}")).await.json()), expected, "{query}");
    }
}

#[tokio::test]
async fn the_list_is_read_page_by_page_without_a_gap_or_a_repeat() {
    let stage = Stage::open().await;
    for n in 1..=5 {
        stage.job_event(job(n), created(job(n), "a")).await;
    }
    let mut seen = Vec::new();
    let mut path = "/jobs?limit=2".to_owned();
    loop {
        let page = stage.get(&path).await.json();
        seen.extend(ids(&page));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/jobs?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, [5, 4, 3, 2, 1]);
}

#[tokio::test]
async fn an_unchanged_answer_is_not_sent_again() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    for path in ["/jobs".to_owned(), format!("/jobs/{}/matches", job(1)), format!("/jobs/{}/events", job(1))]
    {
        let first = stage.get(&path).await;
        assert_eq!(first.status, 200);
        let again = stage.get_with(&path, &[("If-None-Match", first.header("etag"))]).await;
        assert_eq!((again.status, again.text.as_str()), (304, ""), "{path}");
    }
}

#[tokio::test]
async fn a_retried_job_shows_no_failure_in_the_list_although_its_worker_said_that_it_failed_later() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    stage.ahead.set(std::time::Duration::from_secs(60));
    stage.job_event(job(1), failed()).await;
    stage.ahead.set(std::time::Duration::ZERO);
    let blockers = async || stage.get("/jobs").await.json()["items"][0]["matching"]["blockers"].to_string();
    assert!(blockers().await.contains("failed: "));
    stage.job_event(job(1), phase(Phase::Failed, Phase::Queued)).await;
    assert!(!blockers().await.contains("failed: "));
}

#[tokio::test]
async fn time_that_passes_without_an_event_is_no_new_answer() {
    let stage = Stage::open().await;
    stage.job_event(job(1), created(job(1), "waiting")).await;
    stage.running_job(job(2)).await;
    let of = |n, rest: &str| format!("/jobs/{}{rest}", job(n));
    for path in ["/jobs".to_owned(), of(1, ""), of(2, ""), of(1, "/timeline"), of(2, "/timeline")] {
        let first = stage.get(&path).await;
        assert_eq!(first.status, 200);
        stage.clock.advance(std::time::Duration::from_secs(2));
        let again = stage.get_with(&path, &[("If-None-Match", first.header("etag"))]).await;
        assert_eq!(again.status, 304, "{path}");
    }
}

#[tokio::test]
async fn matches_are_the_best_first_and_are_filtered() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
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
        let answer = stage.get(&format!("{path}{query}")).await;
        assert_eq!(match_ids(&answer.json()), expected, "{query}");
    }
    assert_snapshot!(stage.get(&format!("{path}?limit=1")).await.json()["items"][0].to_string());
}

#[tokio::test]
async fn matches_are_read_page_by_page_while_more_are_found() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    let path = format!("/jobs/{}/matches?limit=2&order=oldest", job(1));
    let first = stage.get(&path).await.json();
    stage.found(job(1), 4, 0.99, None).await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = stage.get(&format!("{path}&cursor={cursor}")).await.json();
    assert_eq!(
        (match_ids(&first), match_ids(&second)),
        (vec!["match-1", "match-2"], vec!["match-3", "match-4"])
    );
}

#[tokio::test]
async fn what_is_not_the_callers_is_not_there() {
    let stage = Stage::open().await;
    stage.append_for(&"other".parse().unwrap(), StreamId::job(job(1)), &[created(job(1), "theirs")]).await;
    for path in ["", "/matches", "/timeline", "/events"] {
        let answer = stage.get(&format!("/jobs/{}{path}", job(1))).await;
        assert_eq!(answer.status, 404, "{path}");
        let theirs = stage.get_with(&format!("/jobs/{}{path}", job(1)), &[("X-Tenant", "other")]).await;
        assert_eq!(theirs.status, 200, "{path}");
    }
    assert_eq!(ids(&stage.get("/jobs").await.json()), Vec::<u64>::new());
}

#[tokio::test]
async fn what_cannot_be_read_is_a_problem_that_helps() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    let unknown = stage.get(&format!("/jobs/{}", job(9))).await;
    assert_snapshot!("unknown_job", unknown.whole());
    assert_snapshot!("no_uuid", stage.get("/jobs/seven").await.whole());
    assert_snapshot!("bad_cursor", stage.get("/jobs?cursor=abc").await.whole());
    assert_snapshot!("bad_status", stage.get("/jobs?status=sleeping").await.whole());
    let matches = format!("/jobs/{}/matches", job(1));
    assert_snapshot!("bad_score", stage.get(&format!("{matches}?min_score=2")).await.whole());
}

#[tokio::test]
async fn a_position_that_is_not_reached_in_time_is_told_with_when_to_try_again() {
    let stage = Stage::open().await;
    stage.running_job(job(1)).await;
    for path in ["/jobs".to_owned(), format!("/jobs/{}/events", job(1))] {
        let answer = stage.client.get(path).header("X-Min-Position", "999").send().await;
        answer.assert_status(poem::http::StatusCode::SERVICE_UNAVAILABLE);
        answer.assert_header("retry-after", "1");
    }
}
