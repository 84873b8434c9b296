use super::*;

const ID: &str = "018f0000-0000-7000-8000-000000000001";
const AT: &str = "2026-11-20T10:00:00.000000Z";

/// A job with these members, as the server sends it. A later server may send more than this program knows.
fn job(members: &serde_json::Value) -> JobView {
    let counters = json!({
        "product_images": 2, "video_frames": 5, "candidates_total": 10, "candidates_processed": 5, "vector_pass_total": 10,
        "vector_pass_done": 5, "ransac_checked": 3, "match_requests": 2, "match_requests_completed": 1,
        "match_requests_failed": 1, "matches_found": 3, "matches_with_evidence": 2, "later": 1,
    });
    let mut job = json!({
        "id": ID, "job_id": ID, "kind": "product_video_matching", "name": null, "phase": "matching", "status": "running",
        "attempt": 1, "progress_percentage": 12.345, "created_at": AT, "started_at": AT, "ended_at": null,
        "last_event_at": AT, "queue_seconds": 1.25, "run_seconds": 61.0, "attempts": [], "counters": counters,
        "matching": null, "error": null, "retry_state": null, "retry": null, "later": { "more": 1 },
    });
    job.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    serde_json::from_value(job).unwrap()
}

#[test]
fn job_is_listed_on_one_line() {
    assert_eq!(
        line(&job(&json!({}))),
        format!("{ID}  running   matching            12.3 %  product_video_matching  {AT}  –")
    );
}

#[test]
fn members_that_may_be_missing_are_printed_as_received() {
    assert!(json!(job(&json!({}))).get("result").is_none());
    for members in [json!({ "result": null }), json!({ "result": { "items": [1] }, "metadata": { "a": 1 } })]
    {
        let printed = json!(job(&members));
        for (name, value) in members.as_object().unwrap() {
            assert_eq!(printed.get(name), Some(value));
        }
    }
}

#[test]
fn details_contain_counts_blockers_error_and_remedy() {
    let job = job(&json!({
        "name": "shoes", "status": "failed", "phase": "failed", "attempt": 2, "progress_percentage": 50.0,
        "matching": {
            "avg_score": null, "p90_score": null, "queue_depth": 1, "eta_seconds": null, "blockers": ["failed: it failed"],
        },
        "error": {
            "code": "network_timeout", "category": "network", "service": null, "message": "timed out",
            "user_message": "The network is slow.", "suggested_actions": [], "retryable": true,
            "retry_after_seconds": null, "support_reference": "r",
        },
        "retry_state": "maximum_attempts",
    }));
    insta::assert_snapshot!(details(&job), @r"
    job 018f0000-0000-7000-8000-000000000001: shoes
    product_video_matching, failed, in phase failed, attempt 2, 50.0 %
    created 2026-11-20T10:00:00.000000Z, started 2026-11-20T10:00:00.000000Z, ended –; waited 1.2 s for workers, worked 61.0 s
    5 of 10 candidates processed, 3 matches found, 2 with an evidence image; 1 match request is open
    blocked: failed: it failed
    error network_timeout: The network is slow.
      reported as: timed out
    retries: maximum_attempts; retry it with `matchbook jobs retry 018f0000-0000-7000-8000-000000000001`
    ");
}
