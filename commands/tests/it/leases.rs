use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{TestApp, lease};

fn path(item: &Value, action: &str) -> String {
    format!("/internal/work/{}/{action}", lease(item))
}

fn progress(item: &Value, processed: u64, completed: bool) -> Value {
    json!([{
        "request_id": item["request_id"], "lease_id": lease(item), "candidates_processed": processed,
        "vector_pass_done": processed, "ransac_checked": 0, "completed": completed,
    }])
}

#[tokio::test]
async fn request_is_completed_once() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(1).await;
    let item = app.claim("w", 1).await.remove(0);
    let reports = format!("{job}/match-progress");
    app.post(&reports, &progress(&item, 4, false)).await.ok();
    app.post(&reports, &progress(&item, 4, false)).await.ok();
    app.post(&reports, &progress(&item, 2, false)).await.ok();
    let done = app.post(&reports, &progress(&item, 10, true)).await.ok();
    assert_eq!(app.post(&reports, &progress(&item, 10, true)).await.ok(), done);
    assert_eq!((app.count("MatchProgressReported").await, app.count("MatchRequestCompleted").await), (1, 1));
    // A heartbeat after the end is accepted without effect, and so is a second completion.
    app.run_ready_tasks().await;
    let kept = app.post(path(&item, "heartbeat"), &json!({})).await.ok();
    assert_eq!(kept, json!({"lease_id": lease(&item)}));
    app.post(path(&item, "complete"), &json!({})).await.ok();
    assert_eq!(app.count("MatchRequestCompleted").await, 1);
}

#[tokio::test]
async fn completing_a_request_uses_its_totals_so_far() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(1).await;
    let item = app.claim("w", 1).await.remove(0);
    app.post(format!("{job}/match-progress"), &progress(&item, 4, false)).await.ok();
    app.post(path(&item, "complete"), &json!({"result": null})).await.ok();
    let done = format!("{:?}", app.events().await.pop().unwrap().event);
    assert!(done.contains("MatchRequestCompleted") && done.contains("candidates_processed: 4"), "{done}");
}

#[tokio::test]
async fn request_progress_is_redirected_by_the_error() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(1).await;
    let item = app.claim("w", 1).await.remove(0);
    let body = json!({"stage": "matching", "fraction": 0.5});
    let refused = app.post(path(&item, "progress"), &body).await.refused(409, "CONFLICT");
    assert!(refused["detail"].as_str().unwrap().contains(&format!("{job}/match-progress")), "{refused}");
}

#[tokio::test]
async fn lease_without_heartbeat_expires_and_work_is_ready() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(1).await;
    let first = app.claim("killed", 1).await.remove(0);
    app.post(format!("{job}/match-progress"), &progress(&first, 3, false)).await.ok();
    app.advance(44).await;
    assert_eq!(app.claim("other", 1).await.len(), 0);
    app.advance(1).await;
    app.until_count("MatchRequestLeaseExpired", 1).await;
    app.run_ready_tasks().await;
    let second = app.claim("other", 1).await.remove(0);
    assert_eq!(second["request_id"], first["request_id"]);
    assert_eq!(second["totals"]["candidates_processed"], 3);
    // Every report under the lost lease is refused; the new holder's reports count.
    let reports = format!("{job}/match-progress");
    let late = app.post(&reports, &progress(&first, 9, false)).await;
    assert_eq!(late.fields(), ["body[0].lease_id"]);
    late.refused(409, "CONFLICT");
    app.post(path(&first, "heartbeat"), &json!({})).await.refused(409, "CONFLICT");
    app.post(path(&first, "complete"), &json!({})).await.refused(409, "CONFLICT");
    app.post(path(&first, "fail"), &json!({"error": "x"})).await.refused(409, "CONFLICT");
    app.post(&reports, &progress(&second, 10, true)).await.ok();
}

#[tokio::test]
async fn heartbeats_extend_a_lease_without_events() {
    let app = TestApp::new().await;
    app.job_with_requests(1).await;
    let item = app.claim("w", 1).await.remove(0);
    let head = app.head();
    for _ in 0..20 {
        app.advance(40).await;
        let kept = app.post(path(&item, "heartbeat"), &json!({})).await.ok();
        assert_eq!(kept["lease_id"], lease(&item));
    }
    assert_eq!(app.head(), head);
    app.advance(45).await;
    app.until_count("MatchRequestLeaseExpired", 1).await;
}

#[tokio::test]
async fn report_extends_its_lease() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(1).await;
    let item = app.claim("w", 1).await.remove(0);
    for processed in 1..=5 {
        app.advance(40).await;
        app.post(format!("{job}/match-progress"), &progress(&item, processed, false)).await.ok();
    }
    assert_eq!(app.count("MatchRequestLeaseExpired").await, 0);
}

#[tokio::test]
async fn restart_grants_open_leases_a_full_term() {
    let app = TestApp::new().await;
    app.job_with_requests(1).await;
    let item = app.claim("w", 1).await.remove(0);
    app.advance(40).await;
    let app = app.restarted().await;
    app.advance(44).await;
    assert_eq!(app.count("MatchRequestLeaseExpired").await, 0);
    app.post(path(&item, "heartbeat"), &json!({})).await.ok();
    let app = app.restarted().await;
    app.advance(45).await;
    app.until_count("MatchRequestLeaseExpired", 1).await;
    app.run_ready_tasks().await;
    assert_eq!(app.count("MatchRequestLeaseExpired").await, 1);
}

#[tokio::test]
async fn clock_set_back_at_restart_extends_no_lease() {
    let app = TestApp::new().await;
    app.job_with_requests(1).await;
    app.claim("w", 1).await;
    let an_hour_earlier = app.clock.now().before(Duration::from_secs(3600));
    app.clock.set(an_hour_earlier);
    let app = app.restarted().await;
    app.advance(45).await;
    app.until_count("WorkerLost", 1).await;
    app.until_count("MatchRequestLeaseExpired", 1).await;
    app.run_ready_tasks().await;
    assert_eq!(app.claim("other", 1).await.len(), 1);
}

#[tokio::test]
async fn lease_expired_during_downtime_ends_once() {
    let app = TestApp::new().await;
    app.job_with_requests(1).await;
    app.claim("w", 1).await;
    let app = app.restarted().await.restarted().await;
    app.advance(46).await;
    app.until_count("MatchRequestLeaseExpired", 1).await;
    let app = app.restarted().await;
    app.advance(100).await;
    assert_eq!(app.count("MatchRequestLeaseExpired").await, 1);
}

#[tokio::test]
async fn unknown_lease_is_not_found() {
    let app = TestApp::new().await;
    for id in ["018f0000-0000-7000-8000-000000000001", "x"] {
        for (action, body) in [
            ("heartbeat", json!({})),
            ("progress", json!({"stage": "processing", "fraction": 0})),
            ("complete", json!({})),
            ("fail", json!({"error": "x"})),
        ] {
            app.post(format!("/internal/work/{id}/{action}"), &body).await.refused(404, "NOT_FOUND");
        }
    }
}

#[tokio::test]
async fn failed_request_is_retried_or_waits_for_its_job() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(1).await;
    let item = app.claim("w", 1).await.remove(0);
    app.post(path(&item, "fail"), &json!({"error": "connection refused"})).await.ok();
    app.run_ready_tasks().await;
    let again = app.claim("w", 1).await.remove(0);
    assert_eq!(again["attempt"], 2);
    app.post(path(&again, "fail"), &json!({"error": "video is private"})).await.ok();
    app.run_ready_tasks().await;
    assert_eq!(app.claim("w", 1).await.len(), 0);
    // The job fails and is retried, which retries the request, too.
    app.put(format!("{job}/phase"), &json!({"phase": "failed"})).await.ok();
    app.post(format!("{job}/retry"), &json!({})).await.ok();
    app.until_count("MatchRequestRetried", 1).await;
    app.run_ready_tasks().await;
    assert_eq!(app.claim("w", 1).await.len(), 1);
    assert_eq!(app.count("MatchRequestRetried").await, 1);
}

#[tokio::test]
async fn ended_job_ends_its_leases_without_more_events() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(2).await;
    let items = app.claim("w", 2).await;
    app.post(format!("{job}/cancel"), &json!({})).await.ok();
    app.run_ready_tasks().await;
    app.post(path(&items[0], "heartbeat"), &json!({})).await.refused(409, "CONFLICT");
    app.post(path(&items[0], "complete"), &json!({})).await.refused(409, "CONFLICT");
    app.post(format!("{job}/match-progress"), &progress(&items[1], 1, false)).await.refused(409, "CONFLICT");
    let of_job = app.events().await.len();
    app.advance(44).await;
    assert_eq!(app.events().await.len(), of_job);
    app.advance(1).await;
    app.until_count("WorkerLost", 1).await;
    app.run_ready_tasks().await;
    assert_eq!(app.events().await.len(), of_job + 1);
}

#[tokio::test]
async fn lease_is_suspended_until_its_failed_job_is_retried() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(1).await;
    let item = app.claim("w", 1).await.remove(0);
    app.put(format!("{job}/phase"), &json!({"phase": "failed"})).await.ok();
    app.run_ready_tasks().await;
    app.post(path(&item, "heartbeat"), &json!({})).await.refused(409, "CONFLICT");
    for _ in 0..4 {
        app.advance(30).await;
        app.post("/internal/workers/w/heartbeat", &json!({})).await.ok();
    }
    assert_eq!(app.count("MatchRequestLeaseExpired").await, 0);
    app.post(format!("{job}/retry"), &json!({})).await.ok();
    app.run_ready_tasks().await;
    app.post(path(&item, "heartbeat"), &json!({})).await.ok();
    app.post(format!("{job}/match-progress"), &progress(&item, 1, false)).await.ok();
}
