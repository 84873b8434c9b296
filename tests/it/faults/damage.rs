//! Folders that are not as the server left them.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::support::folder::{copy_folder, flip};
use crate::support::server::Server;

const JOBS: usize = 20;

/// A server that has written a few segments and was stopped.
async fn stopped() -> Server {
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

/// All files of the log but its lock, with what is in them.
fn contents(server: &Server) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(server.data().join("events")).unwrap().map(|entry| entry.unwrap());
    let named =
        entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()));
    named.filter(|(name, _)| name != "lock").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_refused_by_name_and_nothing_is_changed() {
    let mut server = stopped().await;
    let last = segments(&server).pop().unwrap();
    flip(&last, 6_000);
    let before = contents(&server);
    let (code, said) = server.refused();
    assert_eq!(code, Some(65), "{said}");
    for part in [last.file_name().unwrap().to_str().unwrap(), "at byte", "position", "backup"] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    assert!(contents(&server) == before, "the log was changed");
    flip(&last, 6_000);
    server.restart().await;
    assert_eq!(names(&server).await.len(), JOBS);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_later_is_named_in_the_answers_on_readiness() {
    let mut server = stopped().await;
    // Of the sealed segments a start reads the ends alone.
    flip(&segments(&server)[0], 6_000);
    server.spawn_under(&[]);
    crate::support::until("it says what is damaged", async || {
        let answer = server.http.get(format!("{}/ready", server.url)).send().await;
        let Ok(answer) = answer else { return false };
        answer.status() == 503
            && answer.text().await.unwrap().contains("00000000000000000001.segment at byte")
    })
    .await;
    assert_eq!(names(&server).await.len(), JOBS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_a_crash_cut_short_is_cut_off_and_said() {
    let mut server = stopped().await;
    server.restart().await;
    let whole = names(&server).await;
    // After a kill nothing says on the disk that the last write is durable: it may have been cut short anywhere.
    let before = fs::read(segments(&server).pop().unwrap()).unwrap();
    create(&server, "last").await;
    server.kill();
    let last = segments(&server).pop().unwrap();
    let mut bytes = fs::read(&last).unwrap();
    let end = (0..bytes.len()).rev().find(|at| bytes[*at] != before.get(*at).copied().unwrap_or(0)).unwrap();
    bytes[end - 100..=end].fill(0);
    fs::write(&last, bytes).unwrap();
    server.restart().await;
    assert_eq!(names(&server).await, whole);
    assert!(server.log().contains("cut off a write"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_to_be_used_is_told_from_one_that_is_damaged() {
    let mut server = stopped().await;
    let file = server.data().join("events/log.json");
    let sound = fs::read_to_string(&file).unwrap();
    let mut newer: Value = serde_json::from_str(&sound).unwrap();
    newer["format"] = json!(99);
    fs::write(&file, newer.to_string()).unwrap();
    let (code, said) = server.refused();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("format 99") && said.contains("newer version"), "{said}");
    fs::write(&file, sound).unwrap();

    let events = server.data().join("events");
    fs::rename(&events, server.data().join("kept")).unwrap();
    fs::create_dir(&events).unwrap();
    fs::write(events.join("holiday.jpg"), "sun").unwrap();
    let (code, said) = server.refused();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("holiday.jpg"), "{said}");
    assert_eq!(fs::read_dir(&events).unwrap().count(), 1, "something was put beside it");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_never_have_one_folder() {
    let server = Server::start(&[]).await;
    let folder = format!("--data={}", server.data().display());
    let second = server.cli(&["serve", "--listen=127.0.0.1:0", &folder]);
    assert_eq!(second.status.code(), Some(75));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains(&format!("process {}", server.pid())), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn read_models_that_are_gone_damaged_or_of_another_time_are_made_again() {
    let mut server = stopped().await;
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
    server.restart().await;
    assert_eq!(names(&server).await, all);
    assert!(server.log().contains("restored from a backup"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_is_gone_is_said_and_one_that_is_damaged_refused() {
    let mut server = stopped().await;
    let vault = server.data().join("vault.sqlite");
    fs::remove_file(&vault).unwrap();
    server.restart().await;
    assert_eq!(names(&server).await.len(), JOBS);
    create(&server, "by a stranger").await;
    assert!(server.log().contains("the vault is gone"), "{}", server.log());
    server.kill();
    fs::write(&vault, [7; 9_000]).unwrap();
    let (code, said) = server.refused();
    assert_eq!(code, Some(65), "{said}");
    assert!(said.contains("vault.sqlite") && said.contains("backup"), "{said}");
}
