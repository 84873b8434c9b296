//! Matching jobs, created over HTTP like those of any client.

use serde_json::{Value, json};

use super::server::Server;

/// A job in `matching`, with `products` of one image each, `frames` frames and a request for each product.
pub(crate) async fn running_job(server: &Server, products: usize, frames: usize) -> String {
    let created = server.post("/jobs", &json!({ "name": "a job" })).await.expect(201);
    let id = created["job_id"].as_str().unwrap().to_owned();
    let images: Vec<Value> = (0..products)
        .map(|n| json!({ "product_id": format!("p{n}"), "images": [{ "img_id": format!("p{n}-1") }] }))
        .collect();
    server.post(&format!("/jobs/{id}/products"), &images.into()).await.expect(200);
    let listed: Vec<Value> = (0..frames).map(|n| json!({ "frame_id": format!("f{n}") })).collect();
    let videos = json!([{ "video_id": "v", "frames": listed }]);
    server.post(&format!("/jobs/{id}/videos"), &videos).await.expect(200);
    set_phase(server, &id, "matching").await;
    let requests: Vec<Value> = (0..products)
        .map(|n| {
            json!({ "request_id": format!("r{n}"), "product_id": format!("p{n}"), "video_id": "v",
                    "candidates": frames })
        })
        .collect();
    server.post(&format!("/jobs/{id}/match-requests"), &requests.into()).await.expect(200);
    id
}

pub(crate) async fn set_phase(server: &Server, id: &str, phase: &str) -> Value {
    server.put(&format!("/jobs/{id}/phase"), &json!({ "phase": phase })).await.expect(200)
}

/// The summary, once it reflects all events in the log.
pub(crate) async fn summary(server: &Server, id: &str, query: &str) -> Value {
    server.get_at_head(&format!("/jobs/{id}/matching/summary{query}")).await
}

/// Every event of the job, by paging through the API.
pub(crate) async fn events(server: &Server, id: &str) -> Vec<Value> {
    let mut events = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = server.get(&format!("/jobs/{id}/events?limit=500{cursor}")).await.expect(200);
        events.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return events,
        }
    }
}

/// The figures of the summary, by plain arithmetic over the job's events without any code of the server.
pub(crate) fn expected_summary(events: &[Value]) -> Value {
    use std::collections::{BTreeMap, BTreeSet};
    let of_type = |name: &'static str| {
        events.iter().filter(move |event| event["type"] == name).map(|event| &event["data"])
    };
    let images: BTreeSet<String> = of_type("ProductImagesRegistered")
        .flat_map(|data| {
            data["images"]
                .as_array()
                .unwrap()
                .iter()
                .map(move |image| format!("{} {}", data["product_id"], image["img_id"]))
        })
        .collect();
    let frames: BTreeSet<String> = of_type("VideoFramesRegistered")
        .flat_map(|data| {
            let listed = data["frames"]["listed"].as_array().unwrap();
            listed.iter().map(move |frame| format!("{} {}", data["video_id"], frame["frame_id"]))
        })
        .collect();
    let mut totals: BTreeMap<String, [u64; 3]> = BTreeMap::new();
    for event in events {
        if matches!(event["type"].as_str(), Some("MatchProgressReported" | "MatchRequestCompleted")) {
            let data = &event["data"];
            let total = totals.entry(data["request_id"].to_string()).or_default();
            for (n, member) in
                ["candidates_processed", "vector_pass_done", "ransac_checked"].iter().enumerate()
            {
                total[n] = total[n].max(data[member].as_u64().unwrap());
            }
        }
    }
    let sum = |n: usize| totals.values().map(|total| total[n]).sum::<u64>();
    let mut scores: Vec<f64> = of_type("MatchFound").map(|data| data["score"].as_f64().unwrap()).collect();
    scores.sort_by(f64::total_cmp);
    let with_evidence: BTreeSet<String> = of_type("MatchFound")
        .filter(|data| data["evidence_path"].is_string())
        .chain(of_type("MatchEvidenceAttached"))
        .map(|data| data["match_id"].to_string())
        .collect();
    let p90 = scores.len().checked_sub(1).map(|last| {
        let rank = 0.9 * last as f64;
        let (low, high) = (scores[rank.floor() as usize], scores[rank.ceil() as usize]);
        low + (rank - rank.floor()) * (high - low)
    });
    let mean = (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64);
    let requested = of_type("MatchRequested").count();
    let completed = of_type("MatchRequestCompleted").count();
    json!({
        "candidates_total": images.len() * frames.len(),
        "candidates_processed": sum(0),
        "vector_pass_total": of_type("MatchRequested").map(|data| data["candidates"].as_u64().unwrap()).sum::<u64>(),
        "vector_pass_done": sum(1),
        "ransac_checked": sum(2),
        "matches_found": scores.len(),
        "matches_with_evidence": with_evidence.len(),
        "avg_score": mean.map(two_decimals),
        "p90_score": p90.map(two_decimals),
        "queue_depth": requested - completed,
    })
}

fn two_decimals(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Asserts that the figures of a summary are those of the events.
#[track_caller]
pub(crate) fn assert_summary_matches_events(summary: &Value, events: &[Value]) {
    for (member, value) in expected_summary(events).as_object().unwrap() {
        match (value.as_f64(), summary[member].as_f64()) {
            (Some(expected), Some(actual)) => {
                assert!((expected - actual).abs() < 1e-9, "{member}: {actual}, not {expected}");
            }
            (expected, actual) => assert_eq!(expected, actual, "{member}"),
        }
    }
}
