use std::collections::BTreeSet;
use std::time::Duration;

use event_log::{EventLog, Expected};
use event_schemas::envelope::{EventType, NewEvent};
use event_schemas::ids::{EventId, Revision};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{TestApp, lease, request};

#[tokio::test]
async fn claimed_request_contains_its_images_and_frames() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(1).await;
    let body = json!({"worker_id": "w", "kinds": ["match_request"]});
    let mut claimed = app.post("/internal/work/claim", &body).await.ok();
    assert_eq!(claimed["position"], app.head());
    let item = claimed["items"][0].take();
    let lease_id = lease(&item);
    assert_eq!(
        item,
        json!({
            "lease_id": lease_id,
            "lease_until": "2026-11-20T10:00:45.000000Z", "heartbeat_seconds": 15.0,
            "kind": "match_request",
            "job_id": job.trim_start_matches("/jobs/"),
            "attempt": 1,
            "request_id": "r0",
            "product_id": "hedge",
            "video_id": "garden",
            "candidates": 10,
            "images": [{"img_id": "i1", "url": "file:i1"}],
            "frames": [{"frame_id": "f1", "timestamp_ms": 40}],
            "frame_count": 1,
            "totals": {"candidates_processed": 0, "vector_pass_done": 0, "ransac_checked": 0},
        })
    );
}

#[tokio::test]
async fn job_of_another_kind_is_claimed_as_a_whole() {
    let app = TestApp::new().await;
    let job =
        app.post("/jobs", &json!({"kind": "extract_products", "name": "n", "metadata": {"a": 1}})).await.ok();
    app.run_ready_tasks().await;
    let body = json!({"worker_id": "w", "kinds": ["match_request", "extract_products"]});
    let claimed = app.post("/internal/work/claim", &body).await.ok();
    let item = &claimed["items"][0];
    assert_eq!((&item["kind"], &item["job_id"]), (&json!("extract_products"), &job["id"]));
    assert_eq!((&item["name"], &item["metadata"]), (&json!("n"), &json!({"a": 1})));
    assert_eq!(item.get("request_id"), None);
    let path = format!("/internal/work/{}", lease(item));
    let progress = json!({"stage": "processing", "fraction": 0.5});
    app.post(format!("{path}/progress"), &progress).await.ok();
    let done = app.post(format!("{path}/complete"), &json!({"result": {"items": 3}})).await.ok();
    assert_eq!(app.post(format!("{path}/complete"), &json!({"result": {"items": 3}})).await.ok(), done);
    assert_eq!(app.count("JobCompleted").await, 1);
    app.post(format!("{path}/progress"), &progress).await.refused(409, "CONFLICT");
}

#[tokio::test]
async fn failed_whole_job_is_classified_and_retried() {
    let app = TestApp::new().await;
    let job = app.post("/jobs", &json!({"kind": "model_training"})).await.ok();
    app.run_ready_tasks().await;
    let claim = json!({"worker_id": "w", "kinds": ["model_training"]});
    let claimed = app.post("/internal/work/claim", &claim).await.ok();
    let path = format!("/internal/work/{}", lease(&claimed["items"][0]));
    app.post(format!("{path}/fail"), &json!({"error": "Permission denied: /models", "exit_code": 1}))
        .await
        .ok();
    let failed = app.events().await.pop().unwrap();
    assert!(format!("{:?}", failed.event).contains("PermissionDenied"), "{failed:?}");
    app.run_ready_tasks().await;
    assert_eq!(app.post("/internal/work/claim", &claim).await.ok()["items"], json!([]));
    app.post(format!("/jobs/{}/retry", job["id"].as_str().unwrap()), &json!({})).await.ok();
    app.run_ready_tasks().await;
    let again = app.post("/internal/work/claim", &claim).await.ok();
    assert_eq!(again["items"][0]["attempt"], 2);
}

#[tokio::test]
async fn oldest_work_of_all_kinds_is_claimed_first() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(2).await;
    app.clock.advance(Duration::from_secs(1));
    app.post("/jobs", &json!({"kind": "extract_cutouts"})).await.ok();
    app.clock.advance(Duration::from_secs(1));
    app.post(format!("{job}/match-requests"), &json!([request("late")])).await.ok();
    app.run_ready_tasks().await;
    let body = json!({"worker_id": "w", "kinds": ["extract_cutouts", "match_request"], "max": 10});
    let claimed = app.post("/internal/work/claim", &body).await.ok();
    let order: Vec<&Value> =
        claimed["items"].as_array().unwrap().iter().map(|item| &item["request_id"]).collect();
    assert_eq!(order, [&json!("r0"), &json!("r1"), &Value::Null, &json!("late")]);
}

#[tokio::test]
async fn twenty_workers_claim_each_request_exactly_once() {
    let app = TestApp::new().await;
    app.job_with_requests(100).await;
    app.run_ready_tasks().await;
    let workers = (0..20).map(|n| {
        let app = &app;
        async move {
            let mut got = Vec::new();
            loop {
                let items = app.claim(&format!("w{n}"), 1 + n % 3).await;
                if items.is_empty() {
                    return got;
                }
                got.extend(items.into_iter().map(|item| item["request_id"].as_str().unwrap().to_owned()));
            }
        }
    });
    let claimed: Vec<String> = join_all(workers).await.into_iter().flatten().collect();
    assert_eq!(claimed.len(), 100);
    assert_eq!(claimed.into_iter().collect::<BTreeSet<_>>().len(), 100);
    assert_eq!(app.count("MatchRequestClaimed").await, 100);
}

#[tokio::test]
async fn claim_returns_as_much_work_as_fits_in_a_response() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(0).await;
    let frames: Value = (0..40_000).map(|n| json!({"frame_id": format!("f{n}")})).collect();
    let video = json!([{"video_id": "long", "frames": frames}]);
    app.post(format!("{job}/videos"), &video).await.ok();
    let requests: Value = (0..5)
        .map(|n| json!({"request_id": format!("r{n}"), "product_id": "hedge", "video_id": "long", "candidates": 1}))
        .collect();
    app.post(format!("{job}/match-requests"), &requests).await.ok();
    app.run_ready_tasks().await;
    let claimed = app.claim("w", 100).await;
    assert_eq!(claimed.len(), 3);
    let others = app.claim("other", 100).await;
    let order: Vec<&Value> = claimed.iter().chain(&others).map(|item| &item["request_id"]).collect();
    assert_eq!(order, ["r0", "r1", "r2", "r3", "r4"]);
}

#[tokio::test]
async fn waiting_worker_is_woken_by_new_work() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(0).await;
    let body = json!({"worker_id": "w", "kinds": ["match_request"], "wait_ms": 30_000});
    let (claimed, ()) = tokio::join!(app.post("/internal/work/claim", &body), async {
        app.run_ready_tasks().await;
        app.post(format!("{job}/match-requests"), &json!([request("new")])).await.ok();
    });
    assert_eq!(claimed.ok()["items"][0]["request_id"], "new");
}

#[tokio::test]
async fn waiting_claim_times_out_empty() {
    let app = TestApp::new().await;
    let body = json!({"worker_id": "w", "kinds": ["match_request"], "wait_ms": 2_000});
    let (claimed, ()) = tokio::join!(app.post("/internal/work/claim", &body), async {
        app.run_ready_tasks().await;
        app.advance(2).await;
    });
    assert_eq!(claimed.ok(), json!({"items": []}));
}

#[tokio::test]
async fn new_request_wakes_one_of_many_waiting_workers() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(0).await;
    let claims = (0..20).map(|n| {
        let body = json!({"worker_id": format!("w{n}"), "kinds": ["match_request"], "wait_ms": 30_000});
        let app = &app;
        async move { app.post("/internal/work/claim", &body).await.ok() }
    });
    let (claimed, ()) = tokio::join!(join_all(claims), async {
        app.run_ready_tasks().await;
        app.post(format!("{job}/match-requests"), &json!([request("one")])).await.ok();
        app.run_ready_tasks().await;
        assert_eq!(app.count("MatchRequestClaimed").await, 1);
        app.advance(30).await;
    });
    let got = claimed.iter().filter(|claimed| claimed["items"] != json!([])).count();
    assert_eq!(got, 1);
}

#[tokio::test]
async fn disconnected_waiting_worker_takes_no_work() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(0).await;
    let body = json!({"worker_id": "gone", "kinds": ["match_request"], "wait_ms": 30_000});
    {
        let waiting = app.post("/internal/work/claim", &body);
        tokio::pin!(waiting);
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("there is no work yet"),
            () = app.run_ready_tasks() => {}
        }
        // The connection breaks while work arrives.
    }
    app.post(format!("{job}/match-requests"), &json!([request("one")])).await.ok();
    app.run_ready_tasks().await;
    assert_eq!(app.claim("here", 1).await.len(), 1);
}

#[tokio::test]
async fn malformed_claim_is_refused_with_its_field() {
    let app = TestApp::new().await;
    for (body, field) in [
        (json!({"kinds": ["match_request"]}), "worker_id"),
        (json!({"worker_id": "w", "kinds": []}), "kinds"),
        (json!({"worker_id": "w", "kinds": ["juggling"]}), "kinds[0]"),
        (json!({"worker_id": "w", "kinds": ["match_request"], "max": 0}), "max"),
        (json!({"worker_id": "w", "kinds": ["match_request"], "wait_ms": 30_001}), "wait_ms"),
    ] {
        let response = app.post("/internal/work/claim", &body).await;
        assert_eq!(response.fields(), [field], "{response:?}");
        response.refused(400, "INVALID_REQUEST");
    }
}

#[tokio::test]
async fn shutdown_cancels_waiting_claims() {
    let app = TestApp::new().await;
    let body = json!({"worker_id": "w", "kinds": ["match_request"], "wait_ms": 30_000});
    let (claimed, ()) = tokio::join!(app.post("/internal/work/claim", &body), async {
        app.run_ready_tasks().await;
        app.commands.shutdown().await;
    });
    assert_eq!(claimed.ok()["items"], json!([]));
    app.post("/internal/work/claim", &body).await.refused(503, "UNAVAILABLE");
}

#[tokio::test]
async fn unknown_event_stops_claims_with_a_reason() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(1).await;
    let stream = format!("job-{}", job.trim_start_matches("/jobs/")).parse().unwrap();
    let known = app.log.read_stream(&stream, Revision(0), 1).await.unwrap().remove(0);
    let unknown = NewEvent {
        id: EventId(uuid::Uuid::from_u128(1)),
        event_type: EventType::new("JobPutOnIce"),
        format: known.format,
        metadata: known.metadata,
        data: known.data,
    };
    app.log.append(&stream, Expected::Any, vec![unknown]).await.unwrap();
    app.run_ready_tasks().await;
    let readiness = format!("{:?}", app.commands.status().readiness);
    assert!(readiness.contains("JobPutOnIce"), "{readiness}");
    assert!(!app.commands.is_ready());
    let body = json!({"worker_id": "w", "kinds": ["match_request"]});
    app.post("/internal/work/claim", &body).await.refused(503, "UNAVAILABLE");
    // Commands that need neither the board nor that stream still work.
    app.post("/jobs", &json!({})).await.ok();
}
