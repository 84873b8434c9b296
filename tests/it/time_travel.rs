//! What the summary said at any moment can be asked for again.

use serde_json::{Value, json};

use crate::support::job::{running, summary};
use crate::support::server::Server;

/// The member that says which moment was asked for differs, and nothing else.
fn without_as_of(mut summary: Value) -> Value {
    summary.as_object_mut().unwrap().remove("as_of");
    summary
}

#[tokio::test(flavor = "multi_thread")]
async fn as_of_a_position_equals_what_the_summary_said_there() {
    let server = Server::start(&[]).await;
    let id = running(&server, 3, 20).await;
    let mut said = Vec::new();
    for step in 1..=20_u64 {
        let report = json!([{ "request_id": format!("r{}", step % 3), "candidates_processed": step,
                              "vector_pass_done": step, "ransac_checked": step / 2 }]);
        server.post(&format!("/jobs/{id}/match-progress"), &report).await.expect(200);
        let found = json!([{ "match_id": format!("m{step}"), "product_id": "p0", "video_id": "v", "img_id": "p0-1",
                             "frame_id": format!("f{step}"), "score": (step as f64) / 21.0 }]);
        let answer = server.post(&format!("/jobs/{id}/matches"), &found).await.expect(200);
        let position = answer["position"].as_u64().unwrap().to_string();
        let live = server
            .send(
                reqwest::Method::GET,
                &format!("/jobs/{id}/matching/summary"),
                &[("x-min-position", position.as_str())],
                None,
            )
            .await
            .expect(200);
        said.push((position, live));
    }
    for (position, live) in said {
        let then = summary(&server, &id, &format!("?as_of={position}")).await;
        assert_eq!(without_as_of(then), without_as_of(live));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn before_its_creation_a_job_is_not_there() {
    let server = Server::start(&[]).await;
    let id = running(&server, 1, 1).await;
    server.get(&format!("/jobs/{id}/matching/summary?as_of=2020-01-01T00:00:00Z")).await.problem(404);
    server.get(&format!("/jobs/{id}/matching/summary?as_of=yesterday")).await.problem(400);
}
