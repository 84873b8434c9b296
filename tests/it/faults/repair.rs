//! `matchbook events repair`: it resumes after a kill at any point, and deletes nothing.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::folder::{
    contents, copy_folder, flip_bit, matchbook, output_text, segments, stopped_server,
};
use crate::support::server::program;

const VERIFY: &[&str] = &["events", "verify"];
const REPAIR: &[&str] = &["events", "repair", "--apply"];

#[tokio::test(flavor = "multi_thread")]
async fn repaired_folder_starts_and_keeps_every_byte() {
    let mut server = stopped_server().await;
    let events = server.data().join("events");
    flip_bit(&segments(&server.data())[1], 6_000);
    let before = contents(&events);
    let output = matchbook(REPAIR, &server.data());
    assert_eq!(output.status.code(), Some(0), "{}", output_text(&output));
    assert!(output_text(&output).contains("nothing was deleted"), "{}", output_text(&output));
    let after = contents(&events);
    for (path, bytes) in before.iter().filter(|(path, _)| !path.ends_with("lock")) {
        let kept = after.iter().any(|(there, now)| there.file_name() == path.file_name() && now == bytes);
        assert!(kept || path.ends_with("next.tmp"), "{} is missing", path.display());
    }
    assert_eq!(matchbook(VERIFY, &server.data()).status.code(), Some(0));
    let second = matchbook(REPAIR, &server.data());
    assert!(
        second.status.success() && output_text(&second).contains("nothing to repair"),
        "{}",
        output_text(&second)
    );

    server.restart().await;
    let status = server.get("/status").await.expect(200);
    assert_eq!(status["log"]["epoch"], 1);
    let jobs = server.get("/jobs?limit=500").await.expect(200);
    let report: Value =
        serde_json::from_slice(&fs::read(events.join("quarantine-1/report.json")).unwrap()).unwrap();
    let kept = jobs["items"].as_array().unwrap().len() as u64;
    assert_eq!(status["log"]["head"], report["kept"]);
    assert!(kept > 0 && kept < 20 && report["readable"].as_u64().unwrap() > 0, "{kept} of {report}");
    server.post("/jobs", &json!({ "name": "after the repair" })).await.expect(201);
}

/// Runs a repair that is killed at the nth call of a kind. Returns false if it ended before that call.
fn killed_at(call: &str, nth: u32, data: &Path) -> bool {
    let status = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("inject={call}:signal=KILL:when={nth}"))
        .arg(program())
        .args(REPAIR)
        .arg("--data")
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .expect("strace is installed by ./test");
    !status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_killed_at_any_call_is_completed_by_the_next() {
    let server = stopped_server().await;
    flip_bit(&segments(&server.data())[1], 6_000);
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    copy_folder(&server.data(), &whole);
    assert!(matchbook(REPAIR, &whole).status.success());
    let repaired = |data: &Path| {
        let files = contents(&data.join("events")).into_iter();
        let named = files.map(|(path, bytes)| (path.strip_prefix(data).unwrap().to_owned(), bytes));
        // The report contains the time of the repair.
        named
            .filter(|(path, _)| !path.ends_with("lock") && !path.ends_with("report.json"))
            .collect::<Vec<_>>()
    };
    let mut kills = 0;
    for call in ["rename", "fsync"] {
        for nth in 1.. {
            let data = folder.path().join(format!("{call}-{nth}"));
            copy_folder(&server.data(), &data);
            if !killed_at(call, nth, &data) {
                break;
            }
            kills += 1;
            let output = matchbook(REPAIR, &data);
            assert!(output.status.success(), "{call} {nth}: {}", output_text(&output));
            assert!(repaired(&data) == repaired(&whole), "{call} {nth}");
        }
    }
    assert!(kills > 10, "{kills}");
}
