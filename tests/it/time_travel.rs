//! Summaries as of a past position or instant.

use serde_json::{Value, json};

use crate::support::job::{running_job, summary};
use crate::support::server::Server;

/// A summary without `as_of`, the only member in which a past summary may differ.
fn without_as_of(mut summary: Value) -> Value {
    summary.as_object_mut().unwrap().remove("as_of");
    summary
}

#[tokio::test(flavor = "multi_thread")]
async fn as_of_position_equals_the_live_summary_at_that_time() {
    let server = Server::start(&[]).await;
    let id = running_job(&server, 3, 20).await;
    let mut live_summaries = Vec::new();
    for step in 1..=20_u64 {
        let report = json!([{ "request_id": format!("r{}", step % 3), "candidates_processed": step,
                              "vector_pass_done": step, "ransac_checked": step / 2 }]);
        server.post(&format!("/jobs/{id}/match-progress"), &report).await.expect(200);
        let found = json!([{ "match_id": format!("m{step}"), "product_id": "p0", "video_id": "v", "img_id": "p0-1",
                             "frame_id": format!("f{step}"), "score": (step as f64) / 21.0 }]);
        let response = server.post(&format!("/jobs/{id}/matches"), &found).await.expect(200);
        let position = response["position"].as_u64().unwrap().to_string();
        let live = server
            .send(
                reqwest::Method::GET,
                &format!("/jobs/{id}/matching/summary"),
                &[("x-min-position", position.as_str())],
                None,
            )
            .await
            .expect(200);
        live_summaries.push((position, live));
    }
    for (position, live) in live_summaries {
        let then = summary(&server, &id, &format!("?as_of={position}")).await;
        assert_eq!(without_estimate(then), without_estimate(live));
    }
}

/// An estimate also depends on the instant of the read, which is later than the event's.
fn without_estimate(summary: Value) -> Value {
    let mut summary = without_as_of(summary);
    summary.as_object_mut().unwrap().retain(|member, _| !member.starts_with("eta"));
    summary
}

#[tokio::test(flavor = "multi_thread")]
async fn job_is_not_found_before_its_creation() {
    let server = Server::start(&[]).await;
    let id = running_job(&server, 1, 1).await;
    server.get(&format!("/jobs/{id}/matching/summary?as_of=2020-01-01T00:00:00Z")).await.problem(404);
    server.get(&format!("/jobs/{id}/matching/summary?as_of=yesterday")).await.problem(400);
}
