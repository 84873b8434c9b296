use serde_json::json;

use crate::support::{TestApp, a_match, lease, request};

#[tokio::test]
async fn another_tenants_resources_are_404_like_unknown_ones() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(1).await;
    app.post(format!("{job}/matches"), &json!([a_match(1)])).await.ok();
    let item = app.claim("w", 1).await.remove(0);
    let head = app.head();
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
        let known_path = path.replace("{job}", job_id).replace("{lease}", lease);
        let unknown_path =
            path.replace("{job}", missing).replace("{lease}", missing).replace("/w/", "/unknown/");
        let refused = app.call(method, &known_path).tenant("other").body(&body).send().await;
        let unknown = app.call(method, &unknown_path).tenant("other").body(&body).send().await;
        assert_eq!(
            refused.body["detail"].as_str().map(|d| d.replace("worker w", "worker unknown")),
            unknown.body["detail"].as_str().map(str::to_owned)
        );
        refused.refused(404, "NOT_FOUND");
    }
    assert_eq!(app.head(), head);
}

#[tokio::test]
async fn work_of_another_tenant_is_never_claimed() {
    let app = TestApp::new().await;
    app.job_with_requests(1).await;
    let body = json!({"worker_id": "w", "kinds": ["match_request"]});
    let claimed = app.call("POST", "/internal/work/claim").tenant("other").body(&body).send().await.ok();
    assert_eq!(claimed["items"], json!([]));
    assert_eq!(app.claim("w", 1).await.len(), 1);
}

#[tokio::test]
async fn job_id_of_another_tenant_is_a_conflict() {
    let app = TestApp::new().await;
    let body = json!({"job_id": "018f0000-0000-7000-8000-000000000001"});
    app.post("/jobs", &body).await.ok();
    app.call("POST", "/jobs").tenant("other").body(&body).send().await.refused(409, "CONFLICT");
}
