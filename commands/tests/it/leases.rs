use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Bench, lease};

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
async fn a_request_is_worked_through_and_completed_once() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(1).await;
    let item = bench.claim("w", 1).await.remove(0);
    let reports = format!("{job}/match-progress");
    bench.post(&reports, &progress(&item, 4, false)).await.ok();
    bench.post(&reports, &progress(&item, 4, false)).await.ok();
    bench.post(&reports, &progress(&item, 2, false)).await.ok();
    let done = bench.post(&reports, &progress(&item, 10, true)).await.ok();
    assert_eq!(bench.post(&reports, &progress(&item, 10, true)).await.ok(), done);
    assert_eq!(
        (bench.count("MatchProgressReported").await, bench.count("MatchRequestCompleted").await),
        (1, 1)
    );
    // A heartbeat after the end is taken and means nothing; so is handing in once more.
    bench.rest().await;
    let kept = bench.post(path(&item, "heartbeat"), &json!({})).await.ok();
    assert_eq!(kept, json!({"lease_id": lease(&item)}));
    bench.post(path(&item, "complete"), &json!({})).await.ok();
    assert_eq!(bench.count("MatchRequestCompleted").await, 1);
}

#[tokio::test]
async fn handing_a_request_in_completes_it_with_its_totals_so_far() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(1).await;
    let item = bench.claim("w", 1).await.remove(0);
    bench.post(format!("{job}/match-progress"), &progress(&item, 4, false)).await.ok();
    bench.post(path(&item, "complete"), &json!({"result": null})).await.ok();
    let done = format!("{:?}", bench.events().await.pop().unwrap().event);
    assert!(done.contains("MatchRequestCompleted") && done.contains("candidates_processed: 4"), "{done}");
}

#[tokio::test]
async fn the_progress_of_a_request_goes_elsewhere_and_the_answer_says_where() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(1).await;
    let item = bench.claim("w", 1).await.remove(0);
    let body = json!({"stage": "matching", "fraction": 0.5});
    let refused = bench.post(path(&item, "progress"), &body).await.refused(409, "CONFLICT");
    assert!(refused["detail"].as_str().unwrap().contains(&format!("{job}/match-progress")), "{refused}");
}

#[tokio::test]
async fn a_lease_that_nobody_keeps_alive_runs_out_and_the_work_is_claimed_again() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(1).await;
    let first = bench.claim("killed", 1).await.remove(0);
    bench.post(format!("{job}/match-progress"), &progress(&first, 3, false)).await.ok();
    bench.pass(44).await;
    assert_eq!(bench.claim("other", 1).await.len(), 0);
    bench.pass(1).await;
    bench.until_count("MatchRequestLeaseExpired", 1).await;
    bench.rest().await;
    let second = bench.claim("other", 1).await.remove(0);
    assert_eq!(second["request_id"], first["request_id"]);
    assert_eq!(second["totals"]["candidates_processed"], 3);
    // Whatever comes under the lost lease is refused; the holder's reports count.
    let reports = format!("{job}/match-progress");
    let late = bench.post(&reports, &progress(&first, 9, false)).await;
    assert_eq!(late.fields(), ["body[0].lease_id"]);
    late.refused(409, "CONFLICT");
    bench.post(path(&first, "heartbeat"), &json!({})).await.refused(409, "CONFLICT");
    bench.post(path(&first, "complete"), &json!({})).await.refused(409, "CONFLICT");
    bench.post(path(&first, "fail"), &json!({"error": "x"})).await.refused(409, "CONFLICT");
    bench.post(&reports, &progress(&second, 10, true)).await.ok();
}

#[tokio::test]
async fn heartbeats_keep_a_lease_and_leave_no_events() {
    let bench = Bench::new().await;
    bench.job_with_requests(1).await;
    let item = bench.claim("w", 1).await.remove(0);
    let head = bench.head();
    for _ in 0..20 {
        bench.pass(40).await;
        let kept = bench.post(path(&item, "heartbeat"), &json!({})).await.ok();
        assert_eq!(kept["lease_id"], lease(&item));
    }
    assert_eq!(bench.head(), head);
    bench.pass(45).await;
    bench.until_count("MatchRequestLeaseExpired", 1).await;
}

#[tokio::test]
async fn a_report_keeps_its_lease_alive() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(1).await;
    let item = bench.claim("w", 1).await.remove(0);
    for processed in 1..=5 {
        bench.pass(40).await;
        bench.post(format!("{job}/match-progress"), &progress(&item, processed, false)).await.ok();
    }
    assert_eq!(bench.count("MatchRequestLeaseExpired").await, 0);
}

#[tokio::test]
async fn a_restart_grants_every_open_lease_one_full_term() {
    let bench = Bench::new().await;
    bench.job_with_requests(1).await;
    let item = bench.claim("w", 1).await.remove(0);
    bench.pass(40).await;
    let bench = bench.restarted().await;
    bench.pass(44).await;
    assert_eq!(bench.count("MatchRequestLeaseExpired").await, 0);
    bench.post(path(&item, "heartbeat"), &json!({})).await.ok();
    let bench = bench.restarted().await;
    bench.pass(45).await;
    bench.until_count("MatchRequestLeaseExpired", 1).await;
    bench.rest().await;
    assert_eq!(bench.count("MatchRequestLeaseExpired").await, 1);
}

#[tokio::test]
async fn a_clock_that_was_an_hour_ahead_before_the_restart_lengthens_no_lease() {
    let bench = Bench::new().await;
    bench.job_with_requests(1).await;
    bench.claim("w", 1).await;
    let an_hour_earlier = bench.clock.now().before(Duration::from_secs(3600));
    bench.clock.set(an_hour_earlier);
    let bench = bench.restarted().await;
    bench.pass(45).await;
    bench.until_count("WorkerLost", 1).await;
    bench.until_count("MatchRequestLeaseExpired", 1).await;
    bench.rest().await;
    assert_eq!(bench.claim("other", 1).await.len(), 1);
}

#[tokio::test]
async fn a_lease_that_ran_out_while_the_server_was_down_is_ended_once_after_it_is_back() {
    let bench = Bench::new().await;
    bench.job_with_requests(1).await;
    bench.claim("w", 1).await;
    let bench = bench.restarted().await.restarted().await;
    bench.pass(46).await;
    bench.until_count("MatchRequestLeaseExpired", 1).await;
    let bench = bench.restarted().await;
    bench.pass(100).await;
    assert_eq!(bench.count("MatchRequestLeaseExpired").await, 1);
}

#[tokio::test]
async fn a_lease_that_never_was_is_not_found() {
    let bench = Bench::new().await;
    for id in ["018f0000-0000-7000-8000-000000000001", "x"] {
        for (action, body) in [
            ("heartbeat", json!({})),
            ("progress", json!({"stage": "processing", "fraction": 0})),
            ("complete", json!({})),
            ("fail", json!({"error": "x"})),
        ] {
            bench.post(format!("/internal/work/{id}/{action}"), &body).await.refused(404, "NOT_FOUND");
        }
    }
}

#[tokio::test]
async fn a_request_that_fails_is_tried_again_or_waits_for_its_job_as_the_error_says() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(1).await;
    let item = bench.claim("w", 1).await.remove(0);
    bench.post(path(&item, "fail"), &json!({"error": "connection refused"})).await.ok();
    bench.rest().await;
    let again = bench.claim("w", 1).await.remove(0);
    assert_eq!(again["attempt"], 2);
    bench.post(path(&again, "fail"), &json!({"error": "video is private"})).await.ok();
    bench.rest().await;
    assert_eq!(bench.claim("w", 1).await.len(), 0);
    // The job is led to its failure, and tried again: then so is the request.
    bench.put(format!("{job}/phase"), &json!({"phase": "failed"})).await.ok();
    bench.post(format!("{job}/retry"), &json!({})).await.ok();
    bench.until_count("MatchRequestRetried", 1).await;
    bench.rest().await;
    assert_eq!(bench.claim("w", 1).await.len(), 1);
    assert_eq!(bench.count("MatchRequestRetried").await, 1);
}

#[tokio::test]
async fn a_job_that_ends_takes_its_leases_with_it_and_no_event_comes_after() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(2).await;
    let items = bench.claim("w", 2).await;
    bench.post(format!("{job}/cancel"), &json!({})).await.ok();
    bench.rest().await;
    bench.post(path(&items[0], "heartbeat"), &json!({})).await.refused(409, "CONFLICT");
    bench.post(path(&items[0], "complete"), &json!({})).await.refused(409, "CONFLICT");
    bench
        .post(format!("{job}/match-progress"), &progress(&items[1], 1, false))
        .await
        .refused(409, "CONFLICT");
    let of_job = bench.events().await.len();
    bench.pass(44).await;
    assert_eq!(bench.events().await.len(), of_job);
    bench.pass(1).await;
    bench.until_count("WorkerLost", 1).await;
    bench.rest().await;
    assert_eq!(bench.events().await.len(), of_job + 1);
}

#[tokio::test]
async fn a_lease_stands_still_while_its_job_has_failed_and_goes_on_when_it_is_tried_again() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(1).await;
    let item = bench.claim("w", 1).await.remove(0);
    bench.put(format!("{job}/phase"), &json!({"phase": "failed"})).await.ok();
    bench.rest().await;
    bench.post(path(&item, "heartbeat"), &json!({})).await.refused(409, "CONFLICT");
    for _ in 0..4 {
        bench.pass(30).await;
        bench.post("/internal/workers/w/heartbeat", &json!({})).await.ok();
    }
    assert_eq!(bench.count("MatchRequestLeaseExpired").await, 0);
    bench.post(format!("{job}/retry"), &json!({})).await.ok();
    bench.rest().await;
    bench.post(path(&item, "heartbeat"), &json!({})).await.ok();
    bench.post(format!("{job}/match-progress"), &progress(&item, 1, false)).await.ok();
}
