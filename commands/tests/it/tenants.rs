use serde_json::json;

use crate::support::{Bench, a_match, lease, request};

#[tokio::test]
async fn another_tenants_things_are_not_there_in_the_same_words_as_things_that_never_were() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(1).await;
    bench.post(format!("{job}/matches"), &json!([a_match(1)])).await.ok();
    let item = bench.claim("w", 1).await.remove(0);
    let head = bench.head();
    let (lease, missing) = (lease(&item), "018f0000-0000-7000-8000-000000000001");
    let job_id = job.trim_start_matches("/jobs/");
    for (method, path, body) in [
        ("PUT", "/jobs/{job}/phase", json!({"phase": "evidence"})),
        ("POST", "/jobs/{job}/products", json!([{"product_id": "p", "images": [{"img_id": "i"}]}])),
        ("POST", "/jobs/{job}/videos", json!([{"video_id": "v", "frame_count": 1}])),
        ("POST", "/jobs/{job}/match-requests", json!([request("x")])),
        ("POST", "/jobs/{job}/match-progress", json!([])),
        ("POST", "/jobs/{job}/matches", json!([a_match(2)])),
        ("PUT", "/jobs/{job}/matches/m1/evidence", json!({"evidence_path": "a"})),
        ("POST", "/jobs/{job}/cancel", json!({})),
        ("POST", "/jobs/{job}/retry", json!({})),
        ("POST", "/internal/work/{lease}/heartbeat", json!({})),
        ("POST", "/internal/work/{lease}/progress", json!({"stage": "processing", "fraction": 0})),
        ("POST", "/internal/work/{lease}/complete", json!({})),
        ("POST", "/internal/work/{lease}/fail", json!({"error": "x"})),
        ("POST", "/internal/workers/w/heartbeat", json!({})),
        ("POST", "/internal/workers/w/exit", json!({})),
    ] {
        let theirs = path.replace("{job}", job_id).replace("{lease}", lease);
        let nobodys = path.replace("{job}", missing).replace("{lease}", missing).replace("/w/", "/nobody/");
        let refused = bench.call(method, &theirs).tenant("other").body(&body).send().await;
        let unknown = bench.call(method, &nobodys).tenant("other").body(&body).send().await;
        assert_eq!(
            refused.body["detail"].as_str().map(|d| d.replace("worker w", "worker nobody")),
            unknown.body["detail"].as_str().map(str::to_owned)
        );
        refused.refused(404, "NOT_FOUND");
    }
    assert_eq!(bench.head(), head);
}

#[tokio::test]
async fn work_of_another_tenant_is_never_claimed() {
    let bench = Bench::new().await;
    bench.job_with_requests(1).await;
    let body = json!({"worker_id": "w", "kinds": ["match_request"]});
    let claimed = bench.call("POST", "/internal/work/claim").tenant("other").body(&body).send().await.ok();
    assert_eq!(claimed["items"], json!([]));
    assert_eq!(bench.claim("w", 1).await.len(), 1);
}

#[tokio::test]
async fn the_id_of_another_tenants_job_cannot_be_taken() {
    let bench = Bench::new().await;
    let body = json!({"job_id": "018f0000-0000-7000-8000-000000000001"});
    bench.post("/jobs", &body).await.ok();
    bench.call("POST", "/jobs").tenant("other").body(&body).send().await.refused(409, "CONFLICT");
}
