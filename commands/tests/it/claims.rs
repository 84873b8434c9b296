use std::collections::BTreeSet;
use std::time::Duration;

use event_log::{EventLog, Expected};
use event_schemas::envelope::{EventType, NewEvent};
use event_schemas::ids::{EventId, Revision};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Bench, lease, request};

#[tokio::test]
async fn a_claimed_request_comes_with_all_that_is_needed_to_work_on_it() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(1).await;
    let body = json!({"worker_id": "w", "kinds": ["match_request"]});
    let mut claimed = bench.post("/internal/work/claim", &body).await.ok();
    assert_eq!(claimed["position"], bench.head());
    let item = claimed["items"][0].take();
    let lease_id = lease(&item);
    assert_eq!(
        item,
        json!({
            "lease_id": lease_id,
            "lease_until": "2026-11-20T10:00:45.000000Z",
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
async fn a_job_of_another_kind_is_claimed_as_a_whole() {
    let bench = Bench::new().await;
    let job = bench
        .post("/jobs", &json!({"kind": "extract_products", "name": "n", "metadata": {"a": 1}}))
        .await
        .ok();
    bench.rest().await;
    let body = json!({"worker_id": "w", "kinds": ["match_request", "extract_products"]});
    let claimed = bench.post("/internal/work/claim", &body).await.ok();
    let item = &claimed["items"][0];
    assert_eq!((&item["kind"], &item["job_id"]), (&json!("extract_products"), &job["id"]));
    assert_eq!((&item["name"], &item["metadata"]), (&json!("n"), &json!({"a": 1})));
    assert_eq!(item.get("request_id"), None);
    let path = format!("/internal/work/{}", lease(item));
    let progress = json!({"stage": "processing", "fraction": 0.5});
    bench.post(format!("{path}/progress"), &progress).await.ok();
    let done = bench.post(format!("{path}/complete"), &json!({"result": {"items": 3}})).await.ok();
    assert_eq!(bench.post(format!("{path}/complete"), &json!({"result": {"items": 3}})).await.ok(), done);
    assert_eq!(bench.count("JobCompleted").await, 1);
    bench.post(format!("{path}/progress"), &progress).await.refused(409, "CONFLICT");
}

#[tokio::test]
async fn a_failed_job_of_another_kind_is_classified_and_can_be_tried_again() {
    let bench = Bench::new().await;
    let job = bench.post("/jobs", &json!({"kind": "model_training"})).await.ok();
    bench.rest().await;
    let claim = json!({"worker_id": "w", "kinds": ["model_training"]});
    let claimed = bench.post("/internal/work/claim", &claim).await.ok();
    let path = format!("/internal/work/{}", lease(&claimed["items"][0]));
    bench
        .post(format!("{path}/fail"), &json!({"error": "Permission denied: /models", "exit_code": 1}))
        .await
        .ok();
    let failed = bench.events().await.pop().unwrap();
    assert!(format!("{:?}", failed.event).contains("PermissionDenied"), "{failed:?}");
    bench.rest().await;
    assert_eq!(bench.post("/internal/work/claim", &claim).await.ok()["items"], json!([]));
    bench.post(format!("/jobs/{}/retry", job["id"].as_str().unwrap()), &json!({})).await.ok();
    bench.rest().await;
    let again = bench.post("/internal/work/claim", &claim).await.ok();
    assert_eq!(again["items"][0]["attempt"], 2);
}

#[tokio::test]
async fn the_longest_waiting_work_goes_first_over_all_asked_kinds() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(2).await;
    bench.clock.advance(Duration::from_secs(1));
    bench.post("/jobs", &json!({"kind": "extract_cutouts"})).await.ok();
    bench.clock.advance(Duration::from_secs(1));
    bench.post(format!("{job}/match-requests"), &json!([request("late")])).await.ok();
    bench.rest().await;
    let body = json!({"worker_id": "w", "kinds": ["extract_cutouts", "match_request"], "max": 10});
    let claimed = bench.post("/internal/work/claim", &body).await.ok();
    let order: Vec<&Value> =
        claimed["items"].as_array().unwrap().iter().map(|item| &item["request_id"]).collect();
    assert_eq!(order, [&json!("r0"), &json!("r1"), &Value::Null, &json!("late")]);
}

#[tokio::test]
async fn twenty_workers_claim_a_hundred_requests_each_exactly_once() {
    let bench = Bench::new().await;
    bench.job_with_requests(100).await;
    bench.rest().await;
    let workers = (0..20).map(|n| {
        let bench = &bench;
        async move {
            let mut got = Vec::new();
            loop {
                let items = bench.claim(&format!("w{n}"), 1 + n % 3).await;
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
    assert_eq!(bench.count("MatchRequestClaimed").await, 100);
}

#[tokio::test]
async fn a_claim_of_much_work_on_a_long_video_gets_as_much_as_fits_into_an_answer() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(0).await;
    let frames: Value = (0..40_000).map(|n| json!({"frame_id": format!("f{n}")})).collect();
    let video = json!([{"video_id": "long", "frames": frames}]);
    bench.post(format!("{job}/videos"), &video).await.ok();
    let requests: Value = (0..5)
        .map(|n| json!({"request_id": format!("r{n}"), "product_id": "hedge", "video_id": "long", "candidates": 1}))
        .collect();
    bench.post(format!("{job}/match-requests"), &requests).await.ok();
    bench.rest().await;
    let claimed = bench.claim("w", 100).await;
    assert_eq!(claimed.len(), 3);
    let others = bench.claim("other", 100).await;
    let order: Vec<&Value> = claimed.iter().chain(&others).map(|item| &item["request_id"]).collect();
    assert_eq!(order, ["r0", "r1", "r2", "r3", "r4"]);
}

#[tokio::test]
async fn a_waiting_worker_is_woken_by_new_work() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(0).await;
    let body = json!({"worker_id": "w", "kinds": ["match_request"], "wait_ms": 30_000});
    let (claimed, ()) = tokio::join!(bench.post("/internal/work/claim", &body), async {
        bench.rest().await;
        bench.post(format!("{job}/match-requests"), &json!([request("new")])).await.ok();
    });
    assert_eq!(claimed.ok()["items"][0]["request_id"], "new");
}

#[tokio::test]
async fn who_waits_in_vain_gets_an_empty_answer_when_the_wait_is_over() {
    let bench = Bench::new().await;
    let body = json!({"worker_id": "w", "kinds": ["match_request"], "wait_ms": 2_000});
    let (claimed, ()) = tokio::join!(bench.post("/internal/work/claim", &body), async {
        bench.rest().await;
        bench.pass(2).await;
    });
    assert_eq!(claimed.ok(), json!({"items": []}));
}

#[tokio::test]
async fn one_new_request_wakes_one_of_many_waiting_workers() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(0).await;
    let claims = (0..20).map(|n| {
        let body = json!({"worker_id": format!("w{n}"), "kinds": ["match_request"], "wait_ms": 30_000});
        let bench = &bench;
        async move { bench.post("/internal/work/claim", &body).await.ok() }
    });
    let (claimed, ()) = tokio::join!(join_all(claims), async {
        bench.rest().await;
        bench.post(format!("{job}/match-requests"), &json!([request("one")])).await.ok();
        bench.rest().await;
        assert_eq!(bench.count("MatchRequestClaimed").await, 1);
        bench.pass(30).await;
    });
    let got = claimed.iter().filter(|claimed| claimed["items"] != json!([])).count();
    assert_eq!(got, 1);
}

#[tokio::test]
async fn a_worker_that_goes_away_while_it_waits_takes_no_work_with_it() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(0).await;
    let body = json!({"worker_id": "gone", "kinds": ["match_request"], "wait_ms": 30_000});
    {
        let waiting = bench.post("/internal/work/claim", &body);
        tokio::pin!(waiting);
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("there is no work yet"),
            () = bench.rest() => {}
        }
        // The connection breaks while work arrives.
    }
    bench.post(format!("{job}/match-requests"), &json!([request("one")])).await.ok();
    bench.rest().await;
    assert_eq!(bench.claim("here", 1).await.len(), 1);
}

#[tokio::test]
async fn what_cannot_be_claimed_is_refused() {
    let bench = Bench::new().await;
    for (body, field) in [
        (json!({"kinds": ["match_request"]}), "worker_id"),
        (json!({"worker_id": "w", "kinds": []}), "kinds"),
        (json!({"worker_id": "w", "kinds": ["juggling"]}), "kinds[0]"),
        (json!({"worker_id": "w", "kinds": ["match_request"], "max": 0}), "max"),
        (json!({"worker_id": "w", "kinds": ["match_request"], "wait_ms": 30_001}), "wait_ms"),
    ] {
        let answer = bench.post("/internal/work/claim", &body).await;
        assert_eq!(answer.fields(), [field], "{answer:?}");
        answer.refused(400, "INVALID_REQUEST");
    }
}

#[tokio::test]
async fn those_who_wait_are_sent_home_when_the_server_stops() {
    let bench = Bench::new().await;
    let body = json!({"worker_id": "w", "kinds": ["match_request"], "wait_ms": 30_000});
    let (claimed, ()) = tokio::join!(bench.post("/internal/work/claim", &body), async {
        bench.rest().await;
        bench.commands.shutdown().await;
    });
    assert_eq!(claimed.ok()["items"], json!([]));
    bench.post("/internal/work/claim", &body).await.refused(503, "UNAVAILABLE");
}

#[tokio::test]
async fn an_event_that_this_version_does_not_know_stops_the_handing_out_of_work_and_says_so() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(1).await;
    let stream = format!("job-{}", job.trim_start_matches("/jobs/")).parse().unwrap();
    let known = bench.log.read_stream(&stream, Revision(0), 1).await.unwrap().remove(0);
    let unknown = NewEvent {
        id: EventId(uuid::Uuid::from_u128(1)),
        event_type: EventType::new("JobPutOnIce"),
        format: known.format,
        metadata: known.metadata,
        data: known.data,
    };
    bench.log.append(&stream, Expected::Any, vec![unknown]).await.unwrap();
    bench.rest().await;
    let readiness = format!("{:?}", bench.commands.status().readiness);
    assert!(readiness.contains("JobPutOnIce"), "{readiness}");
    assert!(!bench.commands.is_ready());
    let body = json!({"worker_id": "w", "kinds": ["match_request"]});
    bench.post("/internal/work/claim", &body).await.refused(503, "UNAVAILABLE");
    // What needs neither the board nor that stream goes on.
    bench.post("/jobs", &json!({})).await.ok();
}
