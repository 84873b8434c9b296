//! Workers that die while they hold a lease.

use serde_json::{Value, json};

use crate::support::job::{assert_summary_matches_events, events, running_job, set_phase, summary};
use crate::support::server::Server;
use crate::support::wait_until;

async fn claim(server: &Server, worker: &str) -> Option<Value> {
    let body = json!({ "kinds": ["match_request"], "worker_id": worker, "max": 1, "wait_ms": 0 });
    let claimed = server.post("/internal/work/claim", &body).await.expect(200);
    claimed["items"].as_array().unwrap().first().cloned()
}

async fn blockers(server: &Server, job: &str) -> Vec<String> {
    let shown = summary(server, job, "").await;
    shown["blockers"].as_array().unwrap().iter().map(|blocker| blocker.as_str().unwrap().to_owned()).collect()
}

async fn is_lost(server: &Server, job: &str) -> bool {
    blockers(server, job).await.iter().any(|blocker| blocker.starts_with("worker_lost"))
}

#[tokio::test(flavor = "multi_thread")]
async fn work_of_a_dead_worker_is_done_once_by_another() {
    let server = Server::start(&["--lease-term=5s"]).await;
    let job = running_job(&server, 1, 10).await;
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
        wait_until("the worker is reported as lost", async || is_lost(&server, &job).await).await;
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
    set_phase(&server, &job, "completed").await;
    let shown = summary(&server, &job, "").await;
    assert_eq!((&shown["candidates_processed"], &shown["matches_found"]), (&json!(10), &json!(1)));
    let all = events(&server, &job).await;
    assert_summary_matches_events(&shown, &all);
    // A lease and its worker time out at once, and either can be recorded first.
    let ended = |event: &Value| match event["type"].as_str() {
        Some("MatchRequestLeaseExpired") => 1,
        Some("JobWorkerLost") => event["data"]["lease_ids"].as_array().map_or(0, Vec::len),
        _ => 0,
    };
    assert_eq!(all.iter().map(ended).sum::<usize>(), 3);
}
