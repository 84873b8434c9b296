//! Servers with their log in another process, as on a cluster.

use std::time::Duration;

use serde_json::{Value, json};

use crate::faults::kills::{
    assert_log_is_consistent, assert_rebuild_gives_same_answers, assert_recorded_once,
    assert_summary_is_exact,
};
use crate::support::cluster::Cluster;
use crate::support::job::{running_job, set_phase};
use crate::support::load::{Load, SeededRng};
use crate::support::server::Server;
use crate::support::server_state::exported_events;
use crate::support::{setting, wait_until};

const CALLERS: usize = 4;
const FRAMES: usize = 500;

async fn server_on(cluster: &Cluster) -> Server {
    Server::start(&[&format!("--event-log={}", cluster.url())]).await
}

async fn names(server: &Server) -> Vec<Value> {
    let jobs = server.get("/jobs").await.expect(200);
    jobs["items"].as_array().unwrap().iter().map(|job| job["name"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_events_are_in_the_log_once_after_kills() {
    let (kills, seed) = (setting("MATCHBOOK_TEST_KILLS", 3), setting("MATCHBOOK_TEST_SEED", 11));
    let mut cluster = Cluster::start();
    let server = server_on(&cluster).await;
    let pid = server.pid();
    let job = running_job(&server, CALLERS, FRAMES).await;
    let load = Load::start(&server, &job, CALLERS, FRAMES, seed);
    let mut rng = SeededRng(seed);
    for _ in 0..kills {
        let enough = load.acknowledged() + 1 + rng.below(40);
        wait_until("commands are acknowledged", async || load.acknowledged() >= enough).await;
        tokio::time::sleep(Duration::from_micros(rng.below(30_000))).await;
        cluster.kill();
        tokio::time::sleep(Duration::from_millis(rng.below(300))).await;
        cluster.restart();
    }
    let enough = load.acknowledged() + 1;
    wait_until("commands are acknowledged again", async || load.acknowledged() >= enough).await;
    let (acknowledged, resent) = (load.acknowledged(), load.resent());
    let outcomes = load.finish().await;
    wait_until("it is ready again", async || server.get("/ready").await.status == 200).await;
    set_phase(&server, &job, "completed").await;
    assert_eq!(server.pid(), pid, "it reconnected without a restart");

    let log = exported_events(&server);
    assert_log_is_consistent(&log, true);
    assert_recorded_once(&outcomes, &log);
    assert_summary_is_exact(&server, &job).await;
    assert_rebuild_gives_same_answers(&server, &job).await;
    eprintln!(
        "kills {kills}, seed {seed}, acknowledged {acknowledged}, sent again {resent}, events {}",
        log.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn server_reports_a_lost_log_serves_reads_and_reconnects() {
    let mut cluster = Cluster::start();
    let url = format!("{}&defaultDeadline=700", cluster.url());
    let server = Server::start(&[&format!("--event-log={url}")]).await;
    server.post("/jobs", &json!({ "name": "before" })).await.expect(201);
    wait_until("it is shown", async || names(&server).await.len() == 1).await;
    cluster.kill();
    wait_until("it is not ready", async || server.get("/ready").await.status == 503).await;
    let ready = server.get("/ready").await.text;
    assert!(ready.contains("event_log") && ready.contains("connecting is retried automatically"), "{ready}");
    assert_eq!(names(&server).await, ["before"]);
    let refused = server.post("/jobs", &json!({ "name": "meanwhile" })).await;
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    refused.problem(503);
    cluster.restart();
    wait_until("it is ready again", async || server.get("/ready").await.status == 200).await;
    server.post("/jobs", &json!({ "name": "after" })).await.expect(201);
    wait_until("both are shown", async || names(&server).await == ["after", "before"]).await;
    let log = server.log();
    assert!(
        log.contains("lost the connection to the cluster")
            && !log.contains("p@ssword")
            && !log.contains("p%40ssword")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn server_started_before_its_log_waits_for_it() {
    let mut cluster = Cluster::start();
    cluster.kill();
    let url = format!("--event-log={}", cluster.url());
    let late = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.restart();
    };
    let starting = [url.as_str()];
    let (server, ()) = tokio::join!(Server::start(&starting), late);
    assert!(server.log().contains("waiting for the cluster"), "{}", server.log());
    server.post("/jobs", &json!({ "name": "a job" })).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_on_one_log_agree() {
    let cluster = Cluster::start();
    let (one, other) = (server_on(&cluster).await, server_on(&cluster).await);
    one.post("/jobs", &json!({ "name": "of one" })).await.expect(201);
    let answer = other.post("/jobs", &json!({ "name": "of the other" })).await.expect(201);
    for server in [&one, &other] {
        wait_until("both are shown", async || names(server).await == ["of the other", "of one"]).await;
        let status = server.get("/status").await.expect(200);
        assert!(status["log"]["location"].as_str().unwrap().starts_with("esdb://127.0.0.1:"), "{status}");
        assert!(status["log"]["head"].as_u64() >= answer["position"].as_u64());
    }
    let identities =
        [&one, &other].map(async |server| server.get("/status").await.expect(200)["log"]["id"].clone());
    let [one, other] = identities;
    assert_eq!(one.await, other.await);
}

#[tokio::test(flavor = "multi_thread")]
async fn second_server_on_a_data_folder_is_refused() {
    let cluster = Cluster::start();
    let server = server_on(&cluster).await;
    let folder = format!("--data={}", server.data().display());
    let log = format!("--event-log={}", cluster.url());
    let second = server.cli(&["serve", "--listen=127.0.0.1:0", &folder, &log]);
    assert_eq!(second.status.code(), Some(75), "{second:?}");
    let message = String::from_utf8(second.stderr).unwrap();
    assert!(message.contains(&format!("process {}", server.pid())), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_url_is_refused_with_a_remedy_and_no_password() {
    let server = Server::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let data = format!("--data={}", folder.path().display());
    for (url, word) in [
        ("esdb://ann:canary@", "esdb://HOST:2113"),
        ("esdb://ann:canary@db:port", "esdb://HOST:2113"),
        ("esdb:ann:canary@db", "esdb://"),
        ("esdb://ann:canary@db?tlsCaFile=/nonexistent/ca.pem", "/nonexistent/ca.pem"),
    ] {
        let refused = server
            .command(&["serve", "--listen=127.0.0.1:0", &data])
            .env("MATCHBOOK_EVENT_LOG", url)
            .output()
            .unwrap();
        let message = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{message}");
        assert!(message.contains(word), "{message}");
        assert!(!message.contains("canary"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_fail_the_start() {
    let cluster = Cluster::start();
    // Waits until the cluster listens.
    drop(server_on(&cluster).await);
    let folder = tempfile::tempdir().unwrap();
    let data = format!("--data={}", folder.path().display());
    let log = format!("--event-log={}", cluster.url().replace("p%40ssword", "canary"));
    let refused = std::process::Command::new(env!("CARGO_BIN_EXE_matchbook"))
        .args(["serve", "--listen=127.0.0.1:0", &data, &log])
        .output()
        .unwrap();
    let message = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{message}");
    assert!(message.contains("refuses the user") && !message.contains("canary"), "{message}");
}
