//! Data folders that were damaged or changed while the server was stopped.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::support::folder::{copy_folder, flip_bit};
use crate::support::server::Server;

const JOBS: usize = 20;

/// A stopped server that has written a few segments.
async fn stopped_server() -> Server {
    let mut server = Server::start(&["--segment-bytes=60000"]).await;
    for n in 0..JOBS {
        create(&server, &format!("job-{n:02}")).await;
    }
    assert_eq!(server.terminate(), Some(0), "{}", server.log());
    server
}

async fn create(server: &Server, name: &str) {
    let body = json!({ "name": name, "metadata": { "text": "x".repeat(8_000) } });
    server.post("/jobs", &body).await.expect(201);
}

async fn names(server: &Server) -> Vec<String> {
    let jobs = server.get("/jobs?limit=500").await.expect(200);
    let mut names: Vec<String> = jobs["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["name"].as_str().unwrap().to_owned())
        .collect();
    names.sort_unstable();
    names
}

fn segments(server: &Server) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(server.data().join("events")).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|of| of == "segment")).collect();
    segments.sort_unstable();
    segments
}

/// The content of all files of the log except its lock.
fn contents(server: &Server) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(server.data().join("events")).unwrap().map(|entry| entry.unwrap());
    let named =
        entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()));
    named.filter(|(name, _)| name != "lock").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_record_is_named_and_nothing_is_changed() {
    let mut server = stopped_server().await;
    let last = segments(&server).pop().unwrap();
    flip_bit(&last, 6_000);
    let before = contents(&server);
    let (code, message) = server.start_refused();
    assert_eq!(code, Some(65), "{message}");
    for part in [last.file_name().unwrap().to_str().unwrap(), "at byte", "position", "backup"] {
        assert!(message.contains(part), "no {part} in {message}");
    }
    assert!(contents(&server) == before, "the log was changed");
    flip_bit(&last, 6_000);
    server.restart().await;
    assert_eq!(names(&server).await.len(), JOBS);
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_names_damage_found_after_the_start() {
    let mut server = stopped_server().await;
    // Opening reads only the ends of the sealed segments. Without snapshots, the folds of the write side read all events.
    flip_bit(&segments(&server)[0], 6_000);
    fs::remove_dir_all(server.data().join("snapshots")).unwrap();
    server.spawn_under(&[]);
    crate::support::wait_until("readiness names the damage", async || {
        let response = server.http.get(format!("{}/ready", server.url)).send().await;
        let Ok(response) = response else { return false };
        response.status() == 503
            && response.text().await.unwrap().contains("00000000000000000001.segment at byte")
    })
    .await;
    assert_eq!(names(&server).await.len(), JOBS);
}

#[tokio::test(flavor = "multi_thread")]
async fn torn_write_is_truncated_and_logged() {
    let mut server = stopped_server().await;
    server.restart().await;
    let whole = names(&server).await;
    // A write that was in progress at the kill: a part of a group after the last one.
    server.kill();
    let last = segments(&server).pop().unwrap();
    let mut bytes = fs::read(&last).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap().next_multiple_of(8);
    bytes[end + 8..end + 100].fill(7);
    fs::write(&last, bytes).unwrap();
    server.restart().await;
    assert_eq!(names(&server).await, whole);
    assert!(server.log().contains("truncated a write"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_folder_is_distinguished_from_a_damaged_one() {
    let mut server = stopped_server().await;
    let file = server.data().join("events/log.json");
    let sound = fs::read_to_string(&file).unwrap();
    let mut newer: Value = serde_json::from_str(&sound).unwrap();
    newer["format"] = json!(99);
    fs::write(&file, newer.to_string()).unwrap();
    let (code, message) = server.start_refused();
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("format 99") && message.contains("newer version"), "{message}");
    fs::write(&file, sound).unwrap();

    let events = server.data().join("events");
    fs::rename(&events, server.data().join("kept")).unwrap();
    fs::create_dir(&events).unwrap();
    fs::write(events.join("holiday.jpg"), "sun").unwrap();
    let (code, message) = server.start_refused();
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("holiday.jpg"), "{message}");
    assert_eq!(fs::read_dir(&events).unwrap().count(), 1, "files were added to the folder");
}

#[tokio::test(flavor = "multi_thread")]
async fn second_process_on_a_data_folder_is_refused() {
    let server = Server::start(&[]).await;
    let folder = format!("--data={}", server.data().display());
    let second = server.cli(&["serve", "--listen=127.0.0.1:0", &folder]);
    assert_eq!(second.status.code(), Some(75));
    let message = String::from_utf8(second.stderr).unwrap();
    assert!(message.contains(&format!("process {}", server.pid())), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_damaged_or_stale_read_models_are_rebuilt() {
    let mut server = stopped_server().await;
    let (read, events) = (server.data().join("read"), server.data().join("events"));
    fs::remove_file(read.join("jobs.1.sqlite")).unwrap();
    fs::write(read.join("matches.1.sqlite"), [7; 9_000]).unwrap();
    server.restart().await;
    let all = names(&server).await;
    assert_eq!(all.len(), JOBS);

    server.kill();
    let backup = server.data().join("backup");
    copy_folder(&events, &backup);
    server.restart().await;
    create(&server, "after the backup").await;
    assert_eq!(server.terminate(), Some(0), "{}", server.log());
    fs::remove_dir_all(&events).unwrap();
    fs::rename(&backup, &events).unwrap();
    let (code, message) = server.start_refused();
    assert_eq!(code, Some(65), "{message}");
    // The copy becomes the log again in an epoch of its own.
    assert!(server.cli(&["events", "repair", "--apply"]).status.success());
    server.restart().await;
    assert_eq!(names(&server).await, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_vault_is_refused() {
    let mut server = stopped_server().await;
    let vault = server.data().join("vault.sqlite");
    fs::write(&vault, [7; 9_000]).unwrap();
    let (code, message) = server.start_refused();
    assert_eq!(code, Some(65), "{message}");
    assert!(message.contains("vault.sqlite") && message.contains("backup"), "{message}");
}
