//! A job goes on through the death of the server and of its workers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::support::job::{assert_adds_up, events, phase, summary};
use crate::support::server::{Server, Worker};

/// A folder with a few of the example's products and frames: enough work to be interrupted.
fn media(folder: &Path) -> PathBuf {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/matching");
    let media = folder.join("media");
    let products = ["hedge-1", "hedge-2", "yellow-bush-1", "not-there-coffee-1", "not-there-rocket-1"];
    for (kind, names) in [
        ("products", products.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()),
        ("frames", (0..12).map(|n| format!("f{:03}", n * 4)).collect()),
    ] {
        std::fs::create_dir_all(media.join(kind)).unwrap();
        for name in names {
            let file = format!("{kind}/{name}.jpg");
            std::fs::copy(data.join(&file), media.join(&file)).unwrap();
        }
    }
    media
}

async fn processed(server: &Server, id: &str) -> u64 {
    summary(server, id, "").await["candidates_processed"].as_u64().unwrap()
}

/// Waits until at least so many candidates are processed.
async fn until_processed(server: &Server, id: &str, candidates: u64) {
    let start = Instant::now();
    while processed(server, id).await < candidates {
        assert!(start.elapsed() < PATIENCE, "the job stands still: {}", summary(server, id, "").await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_survives_the_kills_of_its_server_and_its_workers() {
    let mut server = Server::start(&["--lease-term=6s"]).await;
    let media = media(server.folder.path());
    let made = server.cli(&["demo", "--no-wait", "--json", "--media", media.to_str().unwrap()]);
    assert!(made.status.success(), "{made:?}");
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let id = made["job_id"].as_str().unwrap().to_owned();

    let slow = ["--pace-ms=20"];
    let (first, _second) =
        (Worker::start(&server, "a", &media, &slow), Worker::start(&server, "b", &media, &slow));
    until_processed(&server, &id, 5).await;
    server.kill();
    server.restart().await;
    until_processed(&server, &id, 15).await;
    first.kill();
    let _third = Worker::start(&server, "c", &media, &slow);
    until_processed(&server, &id, 25).await;
    server.kill();
    server.restart().await;
    until_processed(&server, &id, 60).await;
    while summary(&server, &id, "").await["queue_depth"] != json!(0) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    phase(&server, &id, "evidence").await;
    phase(&server, &id, "completed").await;

    let said = summary(&server, &id, "").await;
    assert_eq!(said["status"], "completed");
    assert_eq!(said["candidates_total"], 60);
    assert_eq!(said["candidates_processed"], 60);
    assert_eq!(said, summary(&server, &id, "?force_refresh=true").await);
    let all = events(&server, &id).await;
    assert_adds_up(&said, &all);
    let mut ids: Vec<&str> = all
        .iter()
        .filter(|event| event["type"] == "MatchFound")
        .map(|event| event["data"]["match_id"].as_str().unwrap())
        .collect();
    let found = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), found, "a match was recorded twice");
    assert!(ids.iter().filter(|id| id.starts_with("hedge-1")).count() >= 11, "{ids:?}");
    assert!(!ids.iter().any(|id| id.starts_with("not-there")), "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_server_ends_cleanly_and_comes_back_with_everything() {
    let mut server = Server::start(&[]).await;
    let id = crate::support::job::running(&server, 2, 3).await;
    let before = summary(&server, &id, "").await;
    assert_eq!(server.terminate(), Some(0), "{}", server.log());
    server.restart().await;
    assert_eq!(summary(&server, &id, "").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn verifying_a_stopped_server_s_log_names_the_first_byte_that_is_not_as_it_was() {
    let mut server = Server::start(&[]).await;
    crate::support::job::running(&server, 2, 3).await;
    let data = server.folder.path().join("data");
    let verify = |arguments: &[&str]| {
        let verified = Command::new(env!("CARGO_BIN_EXE_matchbook"))
            .args(["events", "verify", "--data"])
            .arg(&data)
            .args(arguments)
            .output()
            .unwrap();
        (
            verified.status.code(),
            [verified.stdout, verified.stderr].map(|text| String::from_utf8(text).unwrap()),
        )
    };
    assert_eq!(verify(&[]).0, Some(75), "the running server holds it");
    assert_eq!(server.terminate(), Some(0), "{}", server.log());
    let (code, [said, _]) = verify(&["--json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &said["damages"]), (Some(0), &json!([])));
    assert!(said["events"].as_u64().unwrap() > 5);

    let segment = data.join("events/00000000000000000001.segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4096 + 60] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let (code, [_, said]) = verify(&[]);
    assert_eq!(code, Some(65), "{said}");
    for part in ["00000000000000000001.segment at byte 4096", "position 1", "backup"] {
        assert!(said.contains(part), "{said}");
    }
}
