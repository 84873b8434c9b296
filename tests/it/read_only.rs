//! A server that only reads, beside the one that writes, over one log and one database.

use std::time::Duration;

use reqwest::{Method, StatusCode};
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
    let refused = reader.post("/jobs", &json!({ "name": "three" })).await.problem(503);
    assert!(refused["detail"].as_str().unwrap().contains("the server that writes"), "{refused}");
    reader.post("/v1/matchmaking/queue", &json!({ "pool_key": "blitz" })).await.problem(503);
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

/// The name of a job that was created, once the server reflects it.
async fn created_name(server: &Server, created: &Value) -> Value {
    let path = format!("/jobs/{}", created["id"].as_str().unwrap());
    get_at(server, &path, &created["position"]).await["name"].clone()
}

/// Creates a job on the server that offers commands at present. One whose response took too long may be created later.
async fn accepts_commands(server: &Server) -> bool {
    let post = server.http.post(format!("{}/jobs", server.url)).json(&json!({ "name": "one" }));
    // A server that changes its role may close the connection, and one that is stopped does not respond.
    let sent = post.timeout(Duration::from_secs(2)).send().await;
    sent.is_ok_and(|response| response.status() == StatusCode::CREATED)
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_stands_by_takes_over_from_a_failed_one() {
    let (cluster, database) = (Cluster::start(), postgres::database());
    let [log, store] = [format!("--event-log={}", cluster.url()), format!("--read-store={}", database.url())];
    let mut one = Server::start(&[&log, &store, "--standby"]).await;
    let job = running_job(&one, 2, 100).await;
    set_phase(&one, &job, "completed").await;
    let other = Server::start(&[&log, &store, "--standby"]).await;
    let created = one.post("/jobs", &json!({ "name": "before" })).await.expect(201);
    assert_eq!(created_name(&other, &created).await, "before");
    other.post("/jobs", &json!({ "name": "two" })).await.problem(503);

    // It is stopped and keeps its connections.
    one.signal("STOP");
    wait_until("the other server offers commands", async || accepts_commands(&other).await).await;
    let created = other.post("/jobs", &json!({ "name": "after" })).await.expect(201);
    assert_eq!(created_name(&other, &created).await, "after");

    // When it continues, it stands by.
    one.signal("CONT");
    wait_until("the former holder stands by", async || {
        one.log().contains("another server has the writer lease: this one stands by")
    })
    .await;
    wait_until("the former holder answers", async || {
        let ready = one.http.get(format!("{}/ready", one.url)).timeout(Duration::from_secs(2)).send().await;
        ready.is_ok_and(|response| response.status().is_success())
    })
    .await;
    assert_eq!(created_name(&one, &created).await, "after");
    one.post("/jobs", &json!({ "name": "three" })).await.problem(503);
    assert_eq!(read_model_responses(&one, &job).await, read_model_responses(&other, &job).await);

    // It takes over from one that was killed, too.
    drop(other);
    wait_until("the first server offers commands", async || accepts_commands(&one).await).await;
    assert_eq!(one.terminate(), Some(0), "{}", one.log());
}

#[test]
fn sharing_needs_a_log_and_a_database_of_others() {
    let folder = tempfile::tempdir().unwrap();
    for (flags, named) in [
        (&["--read-only"][..], &["--event-log", "--read-store"][..]),
        (&["--standby"], &["--event-log", "--read-store"]),
        (&["--read-only", "--standby"], &["never takes over"]),
    ] {
        let refused = std::process::Command::new(crate::support::server::program())
            .args(["serve", "--listen=127.0.0.1:0"])
            .args(flags)
            .arg(format!("--data={}", folder.path().display()))
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let message = String::from_utf8(refused.stderr).unwrap();
        assert!(named.iter().all(|part| message.contains(part)), "{message}");
    }
}
