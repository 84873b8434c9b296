use serde_json::{Value, json};

use crate::support::{TestApp, request};

#[tokio::test]
async fn repeated_batch_records_once() {
    let app = TestApp::new().await;
    let job = app.job().await;
    let videos = json!([
        {"video_id": "a", "frames": [{"frame_id": "f0"}, {"frame_id": "f1", "timestamp_ms": 40}]},
        {"video_id": "b", "frame_count": 100},
    ]);
    for (route, body) in [
        (
            "products",
            json!([{"product_id": 123, "images": [{"img_id": "i"}]}, {"product_id": "b", "images": []}]),
        ),
        ("videos", videos),
        ("match-requests", json!([request("r1"), request("r2")])),
    ] {
        let first = app.post(format!("{job}/{route}"), &body).await.ok();
        assert_eq!(first, json!({"accepted": 2, "position": app.head()}));
        assert_eq!(app.post(format!("{job}/{route}"), &body).await.ok(), first);
    }
    let counts = app.counts().await;
    assert_eq!(
        (counts["ProductImagesRegistered"], counts["VideoFramesRegistered"], counts["MatchRequested"]),
        (1, 2, 2)
    );
}

#[tokio::test]
async fn ten_thousand_requests_fit_in_one_batch() {
    let app = TestApp::new().await;
    let path = format!("{}/match-requests", app.job().await);
    let all: Value = (0..10_000).map(|n| request(&format!("r{n}"))).collect();
    let first = app.call("POST", &path).key("k").body(&all).send().await.ok();
    assert_eq!(first["accepted"], 10_000);
    let app = app.restarted().await;
    assert_eq!(app.call("POST", &path).key("k").body(&all).send().await.ok(), first);
    assert_eq!(app.count("MatchRequested").await, 10_000);
}

#[tokio::test]
async fn product_with_more_images_than_one_event_is_registered() {
    let app = TestApp::new().await;
    let path = format!("{}/products", app.job().await);
    let url = "x".repeat(2_000);
    let images: Value = (0..2_000).map(|n| json!({"img_id": format!("i{n}"), "url": url})).collect();
    app.post(&path, &json!([{"product_id": "large", "images": images}])).await.ok();
    assert!(app.count("ProductImagesRegistered").await > 1);
}

#[tokio::test]
async fn refused_item_refuses_the_batch_and_is_named() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(1).await;
    let head = app.head();
    let mut other = request("r0");
    other["candidates"] = 11.into();
    let progress = |candidates: u64| {
        json!([
            {"request_id": "r0", "candidates_processed": 1, "vector_pass_done": 1, "ransac_checked": 1},
            {"request_id": "r0", "candidates_processed": 1, "vector_pass_done": candidates, "ransac_checked": 1},
        ])
    };
    let unknown =
        json!([{"request_id": "x", "candidates_processed": 0, "vector_pass_done": 0, "ransac_checked": 0}]);
    for (route, body, status, code, field) in [
        ("match-requests", json!([request("new"), other]), 409, "CONFLICT", "body[1].request_id"),
        ("match-progress", progress(11), 422, "UNPROCESSABLE", "body[1].vector_pass_done"),
        ("match-progress", unknown, 404, "NOT_FOUND", "body[0].request_id"),
        ("videos", json!([{"video_id": "garden", "frame_count": 9}]), 409, "CONFLICT", "body[0].frame_count"),
        ("videos", json!([{"video_id": "v"}]), 400, "INVALID_REQUEST", "body[0].frames"),
        (
            "videos",
            json!([{"video_id": "v", "frames": [], "frame_count": 1}]),
            422,
            "UNPROCESSABLE",
            "body[0].frames",
        ),
        (
            "products",
            json!([{"product_id": "p", "images": [{"url": "u"}]}]),
            400,
            "INVALID_REQUEST",
            "body[0].images[0].img_id",
        ),
        ("match-requests", json!([{"request_id": "x"}]), 400, "INVALID_REQUEST", "body[0].product_id"),
    ] {
        let response = app.post(format!("{job}/{route}"), &body).await;
        assert_eq!(response.fields().first().map(String::as_str), Some(field), "{response:?}");
        response.refused(status, code);
    }
    assert_eq!(app.head(), head);
}

#[tokio::test]
async fn progress_without_a_lease_counts_while_none_is_open() {
    let app = TestApp::new().await;
    let job = app.job_with_requests(1).await;
    let progress =
        json!([{"request_id": "r0", "candidates_processed": 1, "vector_pass_done": 1, "ransac_checked": 1}]);
    app.post(format!("{job}/match-progress"), &progress).await.ok();
    app.claim("w", 1).await;
    app.post(format!("{job}/match-progress"), &progress).await.refused(409, "CONFLICT");
}
