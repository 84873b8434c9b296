use event_log_embedded::{FaultKind, SimDisk};
use serde_json::{Value, json};

use crate::support::{TestApp, TestResponse, a_match};

#[tokio::test]
async fn full_disk_refuses_commands_until_space_is_free() {
    let disk = SimDisk::new(1);
    let app = TestApp::on_disk(&disk).await;
    let job = app.job().await;
    disk.set_capacity(0);
    // The preallocated space is used up first.
    let refused = until(507, &app, |n| {
        let batch: Value = (n * 2_000..(n + 1) * 2_000).map(a_match).collect();
        (format!("{job}/matches"), batch)
    });
    let refused = refused.await;
    let items = |outcome: &str| {
        let parts = refused.body["parts"].as_array().into_iter().flatten();
        parts
            .filter(|part| part["outcome"] == outcome)
            .map(|part| part["items"].as_array().unwrap().len())
            .sum()
    };
    let (new, lost): (usize, usize) = (items("recorded"), items("not_recorded"));
    assert_eq!((app.count("MatchFound").await % 2_000, lost), (new, if new > 0 { 2_000 - new } else { 0 }));
    refused.clone().refused(507, "INSUFFICIENT_STORAGE");
    app.post("/jobs", &json!({})).await.refused(507, "INSUFFICIENT_STORAGE");
    disk.set_capacity(u64::MAX);
    until(201, &app, |_| ("/jobs".to_owned(), json!({}))).await.ok();
    app.stopped().await;
}

/// Sends one command after the other until a response has this status.
async fn until(status: u16, app: &TestApp, command: impl Fn(usize) -> (String, Value)) -> TestResponse {
    for n in 0..1_000_000 {
        let (path, body) = command(n);
        let response = app.post(path, &body).await;
        if response.status == status {
            return response;
        }
    }
    panic!("no response has the status {status}");
}

/// At whatever disk call the power fails: an acknowledged command is recorded, and a repeated one is recorded once.
#[tokio::test]
async fn command_repeated_after_a_power_cut_is_done_once() {
    for call in 1..=40 {
        let disk = SimDisk::new(call);
        let app = TestApp::on_disk(&disk).await;
        let job = app.job().await;
        let path = format!("{job}/matches");
        let batch: Value = (0..100).map(a_match).collect();
        disk.inject_fault(call, FaultKind::PowerCut);
        let first = app.call("POST", &path).key("k").body(&batch).send().await;
        app.stopped().await;
        disk.restart();
        let app = TestApp::on_disk(&disk).await;
        let again = app.call("POST", &path).key("k").body(&batch).send().await.ok();
        assert_eq!((&again["accepted"], &again["duplicates"]), (&json!(100), &json!(0)), "cut at {call}");
        if first.status == 200 {
            assert_eq!(first.body, again);
        } else {
            assert_eq!(first.status, 503, "{first:?}");
        }
        assert_eq!(app.count("MatchFound").await, 100, "cut at {call}");
        app.stopped().await;
    }
}

#[tokio::test]
async fn failed_write_or_sync_is_final_with_unknown_outcome() {
    let mut unknown = 0_usize;
    for call in 1..=12 {
        let disk = SimDisk::new(call);
        let app = TestApp::on_disk(&disk).await;
        disk.inject_fault(call, FaultKind::Error);
        let create = |key: &'static str| app.call("POST", "/jobs").key(key).body(&json!({})).send();
        let first = create("first").await;
        if first.status != 201 {
            // The log works ahead on a thread of its own. If that thread met the fault, the command was never tried.
            let was_tried = first.body["code"] == "OUTCOME_UNKNOWN";
            first.refused(503, if was_tried { "OUTCOME_UNKNOWN" } else { "UNAVAILABLE" });
            create("second").await.refused(503, "UNAVAILABLE");
            unknown += usize::from(was_tried);
        }
        app.stopped().await;
    }
    assert!(unknown > 0);
}
