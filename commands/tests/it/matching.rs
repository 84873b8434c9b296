use serde_json::{Value, json};

use crate::support::{Bench, request};

#[tokio::test]
async fn a_batch_that_is_sent_twice_records_once() {
    let bench = Bench::new().await;
    let job = bench.job().await;
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
        let first = bench.post(format!("{job}/{route}"), &body).await.ok();
        assert_eq!(first, json!({"accepted": 2, "position": bench.head()}));
        assert_eq!(bench.post(format!("{job}/{route}"), &body).await.ok(), first);
    }
    let counts = bench.counts().await;
    assert_eq!(
        (counts["ProductImagesRegistered"], counts["VideoFramesRegistered"], counts["MatchRequested"]),
        (1, 2, 2)
    );
}

#[tokio::test]
async fn ten_thousand_requests_are_issued_in_one_batch() {
    let bench = Bench::new().await;
    let path = format!("{}/match-requests", bench.job().await);
    let all: Value = (0..10_000).map(|n| request(&format!("r{n}"))).collect();
    let first = bench.call("POST", &path).key("k").body(&all).send().await.ok();
    assert_eq!(first["accepted"], 10_000);
    let bench = bench.restarted().await;
    assert_eq!(bench.call("POST", &path).key("k").body(&all).send().await.ok(), first);
    assert_eq!(bench.count("MatchRequested").await, 10_000);
}

#[tokio::test]
async fn a_product_with_more_images_than_fit_into_one_event_is_registered() {
    let bench = Bench::new().await;
    let path = format!("{}/products", bench.job().await);
    let url = "x".repeat(2_000);
    let images: Value = (0..2_000).map(|n| json!({"img_id": format!("i{n}"), "url": url})).collect();
    bench.post(&path, &json!([{"product_id": "large", "images": images}])).await.ok();
    assert!(bench.count("ProductImagesRegistered").await > 1);
}

#[tokio::test]
async fn a_batch_with_one_item_that_is_refused_is_refused_as_a_whole_and_names_it() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(1).await;
    let head = bench.head();
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
        let answer = bench.post(format!("{job}/{route}"), &body).await;
        assert_eq!(answer.fields().first().map(String::as_str), Some(field), "{answer:?}");
        answer.refused(status, code);
    }
    assert_eq!(bench.head(), head);
}

#[tokio::test]
async fn progress_without_a_lease_counts_while_nobody_holds_one() {
    let bench = Bench::new().await;
    let job = bench.job_with_requests(1).await;
    let progress =
        json!([{"request_id": "r0", "candidates_processed": 1, "vector_pass_done": 1, "ransac_checked": 1}]);
    bench.post(format!("{job}/match-progress"), &progress).await.ok();
    bench.claim("w", 1).await;
    bench.post(format!("{job}/match-progress"), &progress).await.refused(409, "CONFLICT");
}
