//! A server that only reads, beside the one that writes, over one log and one database.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::job::{running_job, set_phase};
use crate::support::postgres;
use crate::support::server::Server;
use crate::support::server_state::{projection, read_model_responses, rebuild};
use crate::support::wait_until;

/// Gets a response of a server that reflects the position.
async fn get_at(server: &Server, path: &str, position: &Value) -> Value {
    let position = position.to_string();
    server.send(Method::GET, path, &[("x-min-position", position.as_str())], None).await.expect(200)
}

#[tokio::test(flavor = "multi_thread")]
async fn second_server_reads_what_the_first_writes() {
    let (cluster, database) = (Cluster::start(), postgres::database());
    let [log, store] = [format!("--event-log={}", cluster.url()), format!("--read-store={}", database.url())];
    let mut writer = Server::start(&[&log, &store]).await;
    let mut reader = Server::start(&[&log, &store, "--read-only"]).await;
    let job = running_job(&writer, 2, 100).await;
    // Its run time no longer changes.
    set_phase(&writer, &job, "completed").await;
    let created = writer.post("/jobs", &json!({ "name": "one" })).await.expect(201);
    let jobs = get_at(&reader, "/jobs", &created["position"]).await;
    assert_eq!(jobs["items"][0]["name"], "one");
    assert_eq!(read_model_responses(&reader, &job).await, read_model_responses(&writer, &job).await);

    // It follows a rebuild, and the old generation is removed.
    for name in ["jobs", "queues", "matching_summary"] {
        rebuild(&writer, name).await;
        let number = projection(&writer, name).await["generation"].clone();
        wait_until("the reader follows the new generation", async || {
            projection(&reader, name).await["generation"] == number
        })
        .await;
    }
    let created = writer.post("/jobs", &json!({ "name": "two" })).await.expect(201);
    assert_eq!(get_at(&reader, "/jobs", &created["position"]).await["items"][0]["name"], "two");

    // It offers no commands.
    reader.post("/jobs", &json!({ "name": "three" })).await.problem(405);
    reader.post("/internal/projections/jobs/rebuild", &json!({})).await.problem(409);
    let document = reader.get("/openapi.json").await.expect(200);
    assert!(document["paths"]["/jobs"].get("post").is_none());
    assert!(document["paths"]["/jobs"].get("get").is_some());

    // It needs no writer to answer, nor to stop.
    writer.kill();
    assert_eq!(get_at(&reader, "/jobs", &created["position"]).await["items"][0]["name"], "two");
    assert_eq!(reader.terminate(), Some(0), "{}", reader.log());
    writer.restart().await;
    assert_eq!(get_at(&writer, "/jobs", &created["position"]).await["items"][0]["name"], "two");
}

#[test]
fn reading_only_needs_a_log_and_a_database_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let refused = std::process::Command::new(crate::support::server::program())
        .args(["serve", "--listen=127.0.0.1:0", "--read-only"])
        .arg(format!("--data={}", folder.path().display()))
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(message.contains("--event-log") && message.contains("--read-store"), "{message}");
}
