//! Workers that die in the middle of their work.

use serde_json::{Value, json};

use crate::support::job::{assert_adds_up, events, phase, running, summary};
use crate::support::server::Server;
use crate::support::until;

async fn claim(server: &Server, worker: &str) -> Option<Value> {
    let body = json!({ "kinds": ["match_request"], "worker_id": worker, "max": 1, "wait_ms": 0 });
    let claimed = server.post("/internal/work/claim", &body).await.expect(200);
    claimed["items"].as_array().unwrap().first().cloned()
}

async fn blockers(server: &Server, job: &str) -> Vec<String> {
    let said = summary(server, job, "").await;
    said["blockers"].as_array().unwrap().iter().map(|blocker| blocker.as_str().unwrap().to_owned()).collect()
}

async fn is_lost(server: &Server, job: &str) -> bool {
    blockers(server, job).await.iter().any(|blocker| blocker.starts_with("worker_lost"))
}

#[tokio::test(flavor = "multi_thread")]
async fn work_of_a_worker_that_died_is_done_by_another_and_counted_once() {
    let server = Server::start(&["--lease-term=5s"]).await;
    let job = running(&server, 1, 10).await;
    for worker in ["ann", "bob", "cid"] {
        let mut item = None;
        while item.is_none() {
            item = claim(&server, worker).await;
        }
        let lease = item.unwrap()["lease_id"].clone();
        assert!(!is_lost(&server, &job).await, "{worker} is there");
        let report = json!([{ "request_id": "r0", "lease_id": lease, "candidates_processed": 4,
                              "vector_pass_done": 4, "ransac_checked": 4 }]);
        server.post(&format!("/jobs/{job}/match-progress"), &report).await.expect(200);
        let found = json!([{ "match_id": "m", "product_id": "p0", "video_id": "v", "img_id": "p0-1",
                             "frame_id": "f1", "score": 0.5 }]);
        server.post(&format!("/jobs/{job}/matches"), &found).await.expect(200);
        // And is never heard of again.
        until("the worker is missed", async || is_lost(&server, &job).await).await;
        let late = server.post(&format!("/jobs/{job}/match-progress"), &report).await;
        late.problem(409);
    }
    let mut item = None;
    while item.is_none() {
        item = claim(&server, "dan").await;
    }
    let done = json!([{ "request_id": "r0", "lease_id": item.unwrap()["lease_id"], "candidates_processed": 10,
                        "vector_pass_done": 10, "ransac_checked": 10, "completed": true }]);
    server.post(&format!("/jobs/{job}/match-progress"), &done).await.expect(200);
    assert!(!is_lost(&server, &job).await);
    phase(&server, &job, "completed").await;
    let said = summary(&server, &job, "").await;
    assert_eq!((&said["candidates_processed"], &said["matches_found"]), (&json!(10), &json!(1)));
    let all = events(&server, &job).await;
    assert_adds_up(&said, &all);
    assert_eq!(all.iter().filter(|event| event["type"] == "MatchRequestLeaseExpired").count(), 3);
}
