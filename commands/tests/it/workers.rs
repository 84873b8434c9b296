use serde_json::json;

use crate::support::{Bench, lease};

#[tokio::test]
async fn a_worker_registers_once_and_again_when_it_says_something_new() {
    let bench = Bench::new().await;
    let body = json!({"kinds": ["video_analysis", "match_request", "match_request"], "version": "1"});
    let known = bench.put("/internal/workers/w", &body).await.ok();
    assert_eq!(known["kinds"], json!(["match_request", "video_analysis"]));
    assert_eq!(bench.put("/internal/workers/w", &body).await.ok(), known);
    assert_eq!(bench.head(), 1);
    bench.put("/internal/workers/w", &json!({"kinds": ["match_request"], "version": "2"})).await.ok();
    assert_eq!(bench.count("WorkerRegistered").await, 2);
}

#[tokio::test]
async fn a_claim_registers_its_worker_and_says_nothing_new_of_one_that_is_known() {
    let bench = Bench::new().await;
    bench.claim("w", 1).await;
    bench.claim("w", 1).await;
    assert_eq!(bench.count("WorkerRegistered").await, 1);
    let known = json!({"kinds": ["match_request", "model_training"], "version": "1"});
    bench.put("/internal/workers/v", &known).await.ok();
    bench.claim("v", 1).await;
    assert_eq!(bench.count("WorkerRegistered").await, 2);
}

#[tokio::test]
async fn an_unknown_worker_has_no_heartbeat() {
    let bench = Bench::new().await;
    bench.post("/internal/workers/w/heartbeat", &json!({})).await.refused(404, "NOT_FOUND");
    bench.post("/internal/workers/w/exit", &json!({})).await.refused(404, "NOT_FOUND");
    bench.put("/internal/workers/w", &json!({"kinds": []})).await.refused(400, "INVALID_REQUEST");
}

#[tokio::test]
async fn a_silent_worker_is_lost_once_and_returns_when_it_is_heard_again() {
    let bench = Bench::new().await;
    bench.claim("w", 1).await;
    bench.rest().await;
    bench.pass(44).await;
    bench.post("/internal/workers/w/heartbeat", &json!({})).await.ok();
    bench.pass(44).await;
    assert_eq!(bench.count("WorkerLost").await, 0);
    bench.pass(1).await;
    bench.until_count("WorkerLost", 1).await;
    bench.pass(100).await;
    assert_eq!(bench.count("WorkerLost").await, 1);
    bench.post("/internal/workers/w/heartbeat", &json!({})).await.ok();
    assert_eq!(bench.count("WorkerReturned").await, 1);
    bench.rest().await;
    bench.pass(45).await;
    bench.until_count("WorkerLost", 2).await;
}

#[tokio::test]
async fn a_worker_is_lost_once_although_the_server_restarts() {
    let bench = Bench::new().await;
    bench.claim("w", 1).await;
    let bench = bench.restarted().await;
    bench.pass(45).await;
    bench.until_count("WorkerLost", 1).await;
    let bench = bench.restarted().await;
    bench.pass(100).await;
    assert_eq!(bench.count("WorkerLost").await, 1);
}

#[tokio::test]
async fn what_a_killed_worker_had_waits_for_another_at_once() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(3).await;
    let held = bench.claim("killed", 2).await;
    bench.rest().await;
    let gone = bench.post("/internal/workers/killed/exit", &json!({"exit_code": 137})).await.ok();
    assert_eq!(gone["end"], "out_of_memory");
    bench.until_count("JobWorkerLost", 1).await;
    bench.rest().await;
    assert_eq!(bench.count("MatchRequestLeaseExpired").await, 0);
    let again = bench.claim("other", 3).await;
    assert_eq!(again[0]["request_id"], held[0]["request_id"]);
    assert_eq!(again.len(), 3);
    let late = json!([{
        "request_id": "r0", "lease_id": lease(&held[0]), "candidates_processed": 1, "vector_pass_done": 1,
        "ransac_checked": 1,
    }]);
    bench.post(format!("{job}/match-progress"), &late).await.refused(409, "CONFLICT");
}

#[tokio::test]
async fn each_job_is_told_of_its_workers_end_once() {
    let bench = Bench::new().await;
    bench.job_with_requests(1).await;
    bench.job_with_requests(1).await;
    bench.post("/jobs", &json!({"kind": "extract_cutouts"})).await.ok();
    bench.rest().await;
    let all = json!({"worker_id": "w", "kinds": ["match_request", "extract_cutouts"], "max": 10});
    assert_eq!(bench.post("/internal/work/claim", &all).await.ok()["items"].as_array().unwrap().len(), 3);
    bench.rest().await;
    let exit = json!({"exit_code": 1, "reason": "segmentation fault"});
    let gone = bench.post("/internal/workers/w/exit", &exit).await.ok();
    assert_eq!(bench.post("/internal/workers/w/exit", &exit).await.ok(), gone);
    bench.until_count("JobWorkerLost", 2).await;
    bench.until_count("JobLeaseExpired", 1).await;
    let bench = bench.restarted().await;
    bench.pass(100).await;
    let counts = bench.counts().await;
    assert_eq!((counts["WorkerExited"], counts["JobWorkerLost"], counts["JobLeaseExpired"]), (1, 2, 1));
    assert_eq!(counts.get("MatchRequestLeaseExpired"), None);
}

#[tokio::test]
async fn what_a_lost_worker_leaves_behind_is_caused_by_its_loss() {
    let bench = Bench::new().await;
    bench.job_with_requests(1).await;
    let item = bench.claim("w", 1).await.remove(0);
    bench.rest().await;
    bench.pass(44).await;
    // The lease is kept alive by somebody; the worker itself by that, too. Then both fall silent.
    bench.post(format!("/internal/work/{}/heartbeat", lease(&item)), &json!({})).await.ok();
    bench.pass(45).await;
    bench.until_count("WorkerLost", 1).await;
    bench.rest().await;
    let events = bench.events().await;
    let ended: Vec<_> = events
        .iter()
        .filter(|envelope| {
            matches!(envelope.event.event_type().as_str(), "JobWorkerLost" | "MatchRequestLeaseExpired")
        })
        .collect();
    assert_eq!(ended.len(), 1, "the lease ends one way or the other");
    assert!(events.iter().any(|cause| cause.id.0 == ended[0].metadata.causation_id));
    assert!(ended[0].metadata.actor.to_string().starts_with("system:"));
}

#[tokio::test]
async fn a_worker_that_waits_for_work_longer_than_a_term_is_there_all_the_time() {
    let bench = Bench::with_term(6).await;
    let body = json!({"worker_id": "w", "kinds": ["match_request"], "wait_ms": 20_000});
    let (claimed, ()) = tokio::join!(bench.post("/internal/work/claim", &body), async {
        bench.rest().await;
        for _ in 0..20 {
            bench.pass(1).await;
        }
    });
    assert_eq!(claimed.ok()["items"], json!([]));
    assert_eq!(bench.count("WorkerLost").await, 0);
    for _ in 0..6 {
        bench.pass(1).await;
    }
    bench.until_count("WorkerLost", 1).await;
}
