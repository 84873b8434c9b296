//! A job goes on through the death of the server and of its workers.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

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
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "the job stands still: {}",
            summary(server, id, "").await
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_survives_the_kills_of_its_server_and_its_workers() {
    let mut server = Server::start(&["--lease-term=3s"]).await;
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
