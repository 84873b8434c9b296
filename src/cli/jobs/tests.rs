use super::*;

#[test]
fn job_is_listed_on_one_line() {
    let job = json!({
        "id": "0198", "status": "running", "phase": "matching", "progress_percentage": 12.345,
        "kind": "product_video_matching", "created_at": "2026-11-20T10:00:00.000000Z", "name": null,
    });
    assert_eq!(
        line(&job),
        "0198  running   matching            12.3 %  product_video_matching  2026-11-20T10:00:00.000000Z  –"
    );
}

#[test]
fn details_contain_counts_blockers_error_and_remedy() {
    let job = json!({
        "id": "0198", "name": "shoes", "status": "failed", "phase": "failed", "attempt": 2, "progress_percentage": 50.0,
        "kind": "product_video_matching", "created_at": "T1", "started_at": "T2", "ended_at": null,
        "queue_seconds": 1.25, "run_seconds": 61.0,
        "counters": {
            "candidates_processed": 5, "candidates_total": 10, "matches_found": 3, "matches_with_evidence": 2,
        },
        "matching": { "queue_depth": 1, "blockers": ["failed: it failed"] },
        "error": { "code": "network_timeout", "user_message": "The network is slow.", "message": "timed out" },
        "retry_state": "exhausted", "retry": null,
    });
    insta::assert_snapshot!(details(&job), @r"
    job 0198: shoes
    product_video_matching, failed, in phase failed, attempt 2, 50.0 %
    created T1, started T2, ended –; waited 1.2 s for workers, worked 61.0 s
    5 of 10 candidates processed, 3 matches found, 2 with an evidence image; 1 match request is open
    blocked: failed: it failed
    error network_timeout: The network is slow.
      reported as: timed out
    retries: exhausted; retry it with `matchbook jobs retry 0198`
    ");
}
