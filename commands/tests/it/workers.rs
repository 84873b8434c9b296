use serde_json::json;

use crate::support::{TestApp, lease};

#[tokio::test]
async fn worker_registers_again_only_with_new_facts() {
    let app = TestApp::new().await;
    let body = json!({"kinds": ["video_analysis", "match_request", "match_request"], "version": "1"});
    let known = app.put("/internal/workers/w", &body).await.ok();
    assert_eq!(known["kinds"], json!(["match_request", "video_analysis"]));
    assert_eq!(app.put("/internal/workers/w", &body).await.ok(), known);
    assert_eq!(app.head(), 1);
    app.put("/internal/workers/w", &json!({"kinds": ["match_request"], "version": "2"})).await.ok();
    assert_eq!(app.count("WorkerRegistered").await, 2);
}

#[tokio::test]
async fn claim_registers_only_an_unknown_worker() {
    let app = TestApp::new().await;
    app.claim("w", 1).await;
    app.claim("w", 1).await;
    assert_eq!(app.count("WorkerRegistered").await, 1);
    let known = json!({"kinds": ["match_request", "model_training"], "version": "1"});
    app.put("/internal/workers/v", &known).await.ok();
    app.claim("v", 1).await;
    assert_eq!(app.count("WorkerRegistered").await, 2);
}

#[tokio::test]
async fn heartbeat_of_an_unknown_worker_is_not_found() {
    let app = TestApp::new().await;
    app.post("/internal/workers/w/heartbeat", &json!({})).await.refused(404, "NOT_FOUND");
    app.post("/internal/workers/w/exit", &json!({})).await.refused(404, "NOT_FOUND");
    app.put("/internal/workers/w", &json!({"kinds": []})).await.refused(400, "INVALID_REQUEST");
}

#[tokio::test]
async fn silent_worker_is_lost_once_and_returns_on_heartbeat() {
    let app = TestApp::new().await;
    app.claim("w", 1).await;
    app.run_ready_tasks().await;
    app.advance(44).await;
    app.post("/internal/workers/w/heartbeat", &json!({})).await.ok();
    app.advance(44).await;
    assert_eq!(app.count("WorkerLost").await, 0);
    app.advance(1).await;
    app.until_count("WorkerLost", 1).await;
    app.advance(100).await;
    assert_eq!(app.count("WorkerLost").await, 1);
    app.post("/internal/workers/w/heartbeat", &json!({})).await.ok();
    assert_eq!(app.count("WorkerReturned").await, 1);
    app.run_ready_tasks().await;
    app.advance(45).await;
    app.until_count("WorkerLost", 2).await;
}

#[tokio::test]
async fn worker_is_lost_once_across_restarts() {
    let app = TestApp::new().await;
    app.claim("w", 1).await;
    let app = app.restarted().await;
    app.advance(45).await;
    app.until_count("WorkerLost", 1).await;
    let app = app.restarted().await;
    app.advance(100).await;
    assert_eq!(app.count("WorkerLost").await, 1);
}

#[tokio::test]
async fn work_of_an_exited_worker_is_ready_at_once() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(3).await;
    let held = app.claim("killed", 2).await;
    app.run_ready_tasks().await;
    let gone = app.post("/internal/workers/killed/exit", &json!({"exit_code": 137})).await.ok();
    assert_eq!(gone["end"], "out_of_memory");
    app.until_count("JobWorkerLost", 1).await;
    app.run_ready_tasks().await;
    assert_eq!(app.count("MatchRequestLeaseExpired").await, 0);
    let again = app.claim("other", 3).await;
    assert_eq!(again[0]["request_id"], held[0]["request_id"]);
    assert_eq!(again.len(), 3);
    let late = json!([{
        "request_id": "r0", "lease_id": lease(&held[0]), "candidates_processed": 1, "vector_pass_done": 1,
        "ransac_checked": 1,
    }]);
    app.post(format!("{job}/match-progress"), &late).await.refused(409, "CONFLICT");
}

#[tokio::test]
async fn each_job_records_its_workers_end_once() {
    let app = TestApp::new().await;
    app.job_with_requests(1).await;
    app.job_with_requests(1).await;
    app.post("/jobs", &json!({"kind": "extract_cutouts"})).await.ok();
    app.run_ready_tasks().await;
    let all = json!({"worker_id": "w", "kinds": ["match_request", "extract_cutouts"], "max": 10});
    assert_eq!(app.post("/internal/work/claim", &all).await.ok()["items"].as_array().unwrap().len(), 3);
    app.run_ready_tasks().await;
    let exit = json!({"exit_code": 1, "reason": "segmentation fault"});
    let gone = app.post("/internal/workers/w/exit", &exit).await.ok();
    assert_eq!(app.post("/internal/workers/w/exit", &exit).await.ok(), gone);
    app.until_count("JobWorkerLost", 2).await;
    app.until_count("JobLeaseExpired", 1).await;
    let app = app.restarted().await;
    app.advance(100).await;
    let counts = app.counts().await;
    assert_eq!((counts["WorkerExited"], counts["JobWorkerLost"], counts["JobLeaseExpired"]), (1, 2, 1));
    assert_eq!(counts.get("MatchRequestLeaseExpired"), None);
}

#[tokio::test]
async fn lease_end_names_the_workers_loss_as_cause() {
    let app = TestApp::new().await;
    app.job_with_requests(1).await;
    let item = app.claim("w", 1).await.remove(0);
    app.run_ready_tasks().await;
    app.advance(44).await;
    // A heartbeat extends the lease, and counts for the worker, too. Then both are silent.
    app.post(format!("/internal/work/{}/heartbeat", lease(&item)), &json!({})).await.ok();
    app.advance(45).await;
    app.until_count("WorkerLost", 1).await;
    app.run_ready_tasks().await;
    let events = app.events().await;
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
async fn waiting_claim_keeps_its_worker_present() {
    let app = TestApp::with_term(6).await;
    let body = json!({"worker_id": "w", "kinds": ["match_request"], "wait_ms": 20_000});
    let (claimed, ()) = tokio::join!(app.post("/internal/work/claim", &body), async {
        app.run_ready_tasks().await;
        for _ in 0..20 {
            app.advance(1).await;
        }
    });
    assert_eq!(claimed.ok()["items"], json!([]));
    assert_eq!(app.count("WorkerLost").await, 0);
    for _ in 0..6 {
        app.advance(1).await;
    }
    app.until_count("WorkerLost", 1).await;
}

/// The position of the last event of the type.
async fn last_position(app: &TestApp, event_type: &str) -> u64 {
    let events = app.events().await;
    let last = events.iter().rev().find(|envelope| envelope.event.event_type().as_str() == event_type);
    last.unwrap_or_else(|| panic!("there is no {event_type}")).position.0
}

#[tokio::test]
async fn position_of_an_exit_covers_the_ends_of_its_leases() {
    for key in [None, Some("k")] {
        let app = TestApp::new().await;
        app.job_with_requests(1).await;
        app.job_with_requests(1).await;
        app.post("/jobs", &json!({"kind": "extract_cutouts"})).await.ok();
        app.run_ready_tasks().await;
        let all = json!({"worker_id": "w", "kinds": ["match_request", "extract_cutouts"], "max": 10});
        assert_eq!(app.post("/internal/work/claim", &all).await.ok()["items"].as_array().unwrap().len(), 3);
        let exit = async || {
            let call = app.call("POST", "/internal/workers/w/exit").body(&json!({"exit_code": 137}));
            let call = if let Some(key) = key { call.key(key) } else { call };
            call.send().await.ok()
        };
        let gone = exit().await;
        let position = gone["position"].as_u64().unwrap();
        for event_type in ["JobWorkerLost", "JobLeaseExpired"] {
            assert!(position >= last_position(&app, event_type).await, "{event_type}");
        }
        assert_eq!(exit().await, gone);
        assert_eq!((app.count("JobWorkerLost").await, app.count("JobLeaseExpired").await), (2, 1));
    }
}

#[tokio::test]
async fn worker_that_registers_again_gets_its_own_work_back() {
    let app = TestApp::new().await;
    app.job_with_requests(2).await;
    let kinds = json!({"kinds": ["match_request"]});
    app.put("/internal/workers/w", &kinds).await.ok();
    let held = app.claim("w", 2).await;
    app.run_ready_tasks().await;
    let registered = app.put("/internal/workers/w", &kinds).await.ok();
    assert!(registered["position"].as_u64().unwrap() >= last_position(&app, "JobWorkerLost").await);
    let again = app.claim("w", 2).await;
    assert_eq!((again.len(), &again[0]["request_id"]), (2, &held[0]["request_id"]));
    // The same request once more, as after a lost response, does not end the new leases.
    let app = app.restarted().await;
    for _ in 0..2 {
        app.call("PUT", "/internal/workers/v").key("k").body(&kinds).send().await.ok();
        app.claim("v", 1).await;
    }
    assert_eq!(app.count("WorkerExited").await, 1);
}

#[tokio::test]
async fn polling_worker_was_seen_at_its_last_poll() {
    let app = TestApp::new().await;
    app.claim("w", 1).await;
    app.run_ready_tasks().await;
    app.advance(40).await;
    app.claim("w", 1).await;
    let (tenant, worker) = ("default".parse().unwrap(), "w".parse().unwrap());
    assert_eq!(app.commands.last_seen(&tenant, &worker), Some(app.clock.now()));
    assert_eq!(app.commands.last_seen(&"other".parse().unwrap(), &worker), None);
}
