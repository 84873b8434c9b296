//! Read models that are damaged below a running server.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use serde_json::{Value, json};

use crate::support::server::Server;
use crate::support::wait_until;

/// A server that has just opened its read models, so that their pages are in files and in no cache; and a job.
async fn restarted() -> (Server, String) {
    let mut server = Server::start(&[]).await;
    let job = server.post("/jobs", &json!({ "name": "the only job" })).await.expect(201);
    assert_eq!(server.terminate(), Some(0), "{}", server.log());
    server.restart().await;
    (server, job["id"].as_str().unwrap().to_owned())
}

/// Changes a byte in each page of a read model's file.
fn spoil(server: &Server, name: &str) {
    let path = server.data().join(format!("read/{name}.1.sqlite"));
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    for page in 0..file.metadata().unwrap().len() / 4096 {
        let mut byte = [0];
        file.read_exact_at(&mut byte, page * 4096 + 2_000).unwrap();
        file.write_all_at(&[byte[0] ^ 1], page * 4096 + 2_000).unwrap();
    }
}

async fn damage_count(server: &Server, name: &str) -> u64 {
    let metrics = server.get("/metrics").await.text;
    let line = format!("matchbook_read_model_damage_total{{projection=\"{name}\"}} ");
    let value = metrics.lines().find_map(|metric| metric.strip_prefix(line.as_str())).unwrap();
    value.parse().unwrap()
}

async fn state(server: &Server, name: &str) -> Value {
    let list = server.get("/internal/projections").await.expect(200);
    let mut items = list["items"].as_array().unwrap().iter();
    items.find(|item| item["name"] == name).unwrap()["state"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_rows_are_read_from_the_log_until_rebuilt() {
    let (server, job) = restarted().await;
    spoil(&server, "jobs");
    spoil(&server, "matching_summary");
    assert_eq!(damage_count(&server, "jobs").await, 0);
    // Neither a changed value nor an error.
    let read = server.get(&format!("/jobs/{job}")).await.expect(200);
    assert_eq!(read["name"], "the only job");
    let summary = server.get(&format!("/jobs/{job}/matching/summary")).await.expect(200);
    assert_eq!(summary["phase"], "queued");
    for name in ["jobs", "matching_summary"] {
        wait_until("the damage is counted", async || damage_count(&server, name).await == 1).await;
        wait_until("the read model is rebuilt", async || state(&server, name).await == "live").await;
        assert!(server.log().contains("a read model is damaged"), "{}", server.log());
    }
    let list = async || server.get("/jobs").await;
    wait_until("the list is back", async || list().await.status == 200).await;
    assert_eq!(list().await.expect(200)["items"][0]["name"], "the only job");
    assert_eq!(damage_count(&server, "jobs").await, 1);
    server.get("/ready").await.expect(200);
}
