//! A server whose log is in another process, as on a cluster.

use std::time::Duration;

use serde_json::{Value, json};

use crate::faults::kills::{
    assert_a_clean_rebuild_answers_the_same, assert_answers_add_up, assert_once, assert_sound,
};
use crate::support::answers::exported;
use crate::support::cluster::Cluster;
use crate::support::job::{phase, running};
use crate::support::load::{Dice, Load};
use crate::support::server::Server;
use crate::support::{setting, until};

const CALLERS: usize = 4;
const FRAMES: usize = 500;

async fn on(cluster: &Cluster) -> Server {
    Server::start(&[&format!("--event-log={}", cluster.url())]).await
}

async fn names(server: &Server) -> Vec<Value> {
    let jobs = server.get("/jobs").await.expect(200);
    jobs["items"].as_array().unwrap().iter().map(|job| job["name"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_in_the_log_once_however_often_the_process_that_has_it_is_killed() {
    let (kills, seed) = (setting("MATCHBOOK_TEST_KILLS", 3), setting("MATCHBOOK_TEST_SEED", 11));
    let mut cluster = Cluster::start();
    let server = on(&cluster).await;
    let pid = server.pid();
    let job = running(&server, CALLERS, FRAMES).await;
    let load = Load::start(&server, &job, CALLERS, FRAMES, seed);
    let mut dice = Dice(seed);
    for _ in 0..kills {
        let enough = load.acknowledged() + 1 + dice.below(40);
        until("commands are acknowledged", async || load.acknowledged() >= enough).await;
        tokio::time::sleep(Duration::from_micros(dice.below(30_000))).await;
        cluster.kill();
        tokio::time::sleep(Duration::from_millis(dice.below(300))).await;
        cluster.restart();
    }
    let enough = load.acknowledged() + 1;
    until("commands are acknowledged again", async || load.acknowledged() >= enough).await;
    let (acknowledged, resent) = (load.acknowledged(), load.resent());
    let outcomes = load.finish().await;
    until("it is ready again", async || server.get("/ready").await.status == 200).await;
    phase(&server, &job, "completed").await;
    assert_eq!(server.pid(), pid, "it came back by itself");

    let log = exported(&server);
    assert_sound(&log, true);
    assert_once(&outcomes, &log);
    assert_answers_add_up(&server, &job).await;
    assert_a_clean_rebuild_answers_the_same(&server, &job).await;
    eprintln!(
        "kills {kills}, seed {seed}, acknowledged {acknowledged}, sent again {resent}, events {}",
        log.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn while_its_log_is_away_a_server_says_so_answers_what_it_can_and_comes_back_by_itself() {
    let mut cluster = Cluster::start();
    let url = format!("{}&defaultDeadline=700", cluster.url());
    let server = Server::start(&[&format!("--event-log={url}")]).await;
    server.post("/jobs", &json!({ "name": "before" })).await.expect(201);
    until("it is shown", async || names(&server).await.len() == 1).await;
    cluster.kill();
    until("it is not ready", async || server.get("/ready").await.status == 503).await;
    let ready = server.get("/ready").await.text;
    assert!(ready.contains("event_log") && ready.contains("tried again by itself"), "{ready}");
    assert_eq!(names(&server).await, ["before"]);
    let refused = server.post("/jobs", &json!({ "name": "meanwhile" })).await;
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    refused.problem(503);
    cluster.restart();
    until("it is ready again", async || server.get("/ready").await.status == 200).await;
    server.post("/jobs", &json!({ "name": "after" })).await.expect(201);
    until("both are shown", async || names(&server).await == ["after", "before"]).await;
    let said = server.log();
    assert!(said.contains("lost the cluster") && !said.contains("p@ssword") && !said.contains("p%40ssword"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_started_before_its_log_waits_for_it() {
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
async fn servers_on_one_log_see_the_same() {
    let cluster = Cluster::start();
    let (one, other) = (on(&cluster).await, on(&cluster).await);
    one.post("/jobs", &json!({ "name": "of one" })).await.expect(201);
    let answer = other.post("/jobs", &json!({ "name": "of the other" })).await.expect(201);
    for server in [&one, &other] {
        until("both are shown", async || names(server).await == ["of the other", "of one"]).await;
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
async fn a_data_folder_belongs_to_one_server_wherever_its_log_is() {
    let cluster = Cluster::start();
    let server = on(&cluster).await;
    let folder = format!("--data={}", server.data().display());
    let log = format!("--event-log={}", cluster.url());
    let second = server.cli(&["serve", "--listen=127.0.0.1:0", &folder, &log]);
    assert_eq!(second.status.code(), Some(75), "{second:?}");
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains(&format!("process {}", server.pid())), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_leads_nowhere_is_refused_with_the_way_out_and_without_the_password() {
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
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(said.contains(word), "{said}");
        assert!(!said.contains("canary"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_append_is_told_so_at_the_start() {
    let cluster = Cluster::start();
    // Once it listens.
    drop(on(&cluster).await);
    let folder = tempfile::tempdir().unwrap();
    let data = format!("--data={}", folder.path().display());
    let log = format!("--event-log={}", cluster.url().replace("p%40ssword", "canary"));
    let refused = std::process::Command::new(env!("CARGO_BIN_EXE_matchbook"))
        .args(["serve", "--listen=127.0.0.1:0", &data, &log])
        .output()
        .unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("refuses the user") && !said.contains("canary"), "{said}");
}
