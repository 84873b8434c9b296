//! Jobs continue after the server and its workers were killed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::TIMEOUT;
use crate::support::job::{assert_summary_matches_events, events, set_phase, summary};
use crate::support::server::{Server, WorkerProcess};

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

/// Waits until at least this many candidates are processed.
async fn until_processed(server: &Server, id: &str, candidates: u64) {
    let start = Instant::now();
    while processed(server, id).await < candidates {
        assert!(start.elapsed() < TIMEOUT, "the job makes no progress: {}", summary(server, id, "").await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn job_completes_after_kills_of_server_and_workers() {
    let mut server = Server::start(&["--lease-term=6s"]).await;
    let media = media(server.folder.path());
    let made = server.cli(&["demo", "--no-wait", "--json", "--media", media.to_str().unwrap()]);
    assert!(made.status.success(), "{made:?}");
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let id = made["job_id"].as_str().unwrap().to_owned();

    let slow = ["--pace-ms=20"];
    let (first, _second) = (
        WorkerProcess::matcher(&server, "a", &media, &slow),
        WorkerProcess::matcher(&server, "b", &media, &slow),
    );
    until_processed(&server, &id, 5).await;
    server.kill();
    server.restart().await;
    until_processed(&server, &id, 15).await;
    first.kill();
    let _third = WorkerProcess::matcher(&server, "c", &media, &slow);
    until_processed(&server, &id, 25).await;
    server.kill();
    server.restart().await;
    until_processed(&server, &id, 60).await;
    while summary(&server, &id, "").await["queue_depth"] != json!(0) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    set_phase(&server, &id, "evidence").await;
    set_phase(&server, &id, "completed").await;

    let shown = summary(&server, &id, "").await;
    assert_eq!(shown["status"], "completed");
    assert_eq!(shown["candidates_total"], 60);
    assert_eq!(shown["candidates_processed"], 60);
    assert_eq!(shown, summary(&server, &id, "?force_refresh=true").await);
    let all = events(&server, &id).await;
    assert_summary_matches_events(&shown, &all);
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
async fn terminated_server_exits_cleanly_and_restarts_unchanged() {
    let mut server = Server::start(&[]).await;
    let id = crate::support::job::running_job(&server, 2, 3).await;
    let before = summary(&server, &id, "").await;
    assert_eq!(server.terminate(), Some(0), "{}", server.log());
    server.restart().await;
    assert_eq!(summary(&server, &id, "").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_reports_the_first_damaged_byte() {
    let mut server = Server::start(&[]).await;
    crate::support::job::running_job(&server, 2, 3).await;
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
    let (code, [report, _]) = verify(&["--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((code, &report["damages"]), (Some(0), &json!([])));
    assert!(report["events"].as_u64().unwrap() > 5);

    let segment = data.join("events/00000000000000000001.segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4096 + 60] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let (code, [_, message]) = verify(&[]);
    assert_eq!(code, Some(65), "{message}");
    for part in ["00000000000000000001.segment at byte 4096", "position 1", "backup"] {
        assert!(message.contains(part), "{message}");
    }
}
