//! Any one file of a stopped server's data folder is cut, emptied, removed or changed: the next start either gives the same
//! answers, or is refused with a message that names the file and a remedy.

use std::fs;
use std::path::{Path, PathBuf};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::folder::{contents, copy_folder, output_text, segments, stopped_server};
use crate::support::server::Server;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoil {
    Remove,
    Empty,
    Cut,
    /// Changes a bit at this part of the file, in percent.
    Flip(usize),
}

const SPOILS: [Spoil; 6] =
    [Spoil::Remove, Spoil::Empty, Spoil::Cut, Spoil::Flip(0), Spoil::Flip(37), Spoil::Flip(94)];

fn spoil(file: &Path, how: Spoil) {
    let mut bytes = fs::read(file).unwrap();
    match how {
        Spoil::Remove => return fs::remove_file(file).unwrap(),
        Spoil::Empty => bytes.clear(),
        Spoil::Cut => bytes.truncate(bytes.len() / 2),
        Spoil::Flip(percent) => {
            let at = bytes.len() * percent / 100;
            let Some(byte) = bytes.get_mut(at) else { return };
            *byte ^= 4;
        }
    }
    fs::write(file, bytes).unwrap();
}

/// The answer at the head of the log, as soon as there is one: a damaged read model is rebuilt first.
async fn read_at_head(server: &Server, path: &str, head: &str) -> Value {
    let headers = [("x-user", "ann"), ("x-min-position", head)];
    let mut response = server.send(Method::GET, path, &headers, None).await;
    while response.status == 503 {
        assert!(response.headers.contains_key("retry-after"), "{}", response.text);
        response = server.send(Method::GET, path, &headers, None).await;
    }
    response.expect(200)
}

/// What the server answers: to be the same after every start.
async fn answers(server: &Server) -> Vec<Value> {
    let head = server.get("/status").await.expect(200)["log"]["head"].clone();
    let at_head = head.to_string();
    let entry = read_at_head(server, "/v1/matchmaking/active", &at_head).await;
    let mut jobs = read_at_head(server, "/jobs?limit=500", &at_head).await;
    let jobs = jobs["items"].as_array_mut().unwrap();
    for job in &mut *jobs {
        // It contains times that pass.
        job.as_object_mut().unwrap().retain(|name, _| name != "attempts" && !name.ends_with("_seconds"));
    }
    let events = server.get("/audit/events?limit=500").await.text;
    vec![head, entry["entry"]["metadata"].clone(), json!(jobs), json!(events)]
}

/// A stopped server with jobs of a few segments and a player, and its answers.
async fn filled() -> (Server, Vec<Value>) {
    let mut server = stopped_server().await;
    server.restart().await;
    let body = json!({ "pool_key": "blitz", "rating": 1000, "metadata": { "hat": "red" } }).to_string();
    server.send(Method::POST, "/v1/matchmaking/queue", &[("x-user", "ann")], Some(body)).await.expect(201);
    let before = answers(&server).await;
    assert_eq!(server.terminate(), Some(0), "{}", server.log());
    (server, before)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_spoiled_file_is_healed_or_refused_by_name() {
    let (mut server, before) = filled().await;
    let kept = tempfile::tempdir().unwrap();
    copy_folder(&server.data(), kept.path());
    let files: Vec<PathBuf> = contents(kept.path()).into_keys().collect();
    assert!(files.len() > 10, "{files:?}");
    let mut refused = 0;
    for (file, how) in files.iter().flat_map(|file| SPOILS.map(|how| (file, how))) {
        let name = file.strip_prefix(kept.path()).unwrap();
        fs::remove_dir_all(server.data()).unwrap();
        copy_folder(kept.path(), &server.data());
        spoil(&server.data().join(name), how);
        let logged = server.log().len();
        if server.try_restart().await {
            let now = answers(&server).await;
            let (now_events, now_others) = now.split_last().unwrap();
            let (events, others) = before.split_last().unwrap();
            assert_eq!(now_others, others, "{} after {how:?}", name.display());
            // Opening reads the newest segment only; of the others, a damaged event is refused when it is read.
            let log = &server.log()[logged..];
            let is_refused = now_events.as_str().unwrap().contains("\"status\":500")
                && log.contains(&format!("{} at byte", name.file_name().unwrap().display()));
            assert!(now_events == events || is_refused, "{} after {how:?}: {log}", name.display());
            server.terminate();
        } else {
            refused += 1;
            server.kill();
            let message = &server.log()[logged..];
            let file_name = name.file_name().unwrap().to_str().unwrap();
            let is_named = message.contains(file_name) || how == Spoil::Remove || message.contains(".head");
            assert!(is_named, "{} after {how:?}: {message}", name.display());
            let remedies = ["backup", "repair", "remove"];
            assert!(remedies.iter().any(|remedy| message.contains(remedy)), "{message}");
        }
    }
    assert!(refused > 5, "only {refused} starts were refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_end_of_the_log_is_refused_until_repaired_or_restored() {
    let mut server = stopped_server().await;
    server.restart().await;
    // The last second before a kill counts as well.
    server.post("/jobs", &json!({ "name": "the last job" })).await.expect(201);
    let head = server.get("/status").await.expect(200)["log"]["head"].as_u64().unwrap();
    let backup = server.folder.path().join("backup");
    let to = backup.display().to_string();
    assert!(server.cli(&["events", "backup", "--to", &to]).status.success());
    server.kill();
    let kept = tempfile::tempdir().unwrap();
    copy_folder(&server.data(), kept.path());
    let lost: [fn(&Path); 4] = [
        |data| fs::remove_file(segments(data).last().unwrap()).unwrap(),
        |data| spoil(segments(data).last().unwrap(), Spoil::Empty),
        // The second half of a segment may be empty.
        |data| {
            let newest = fs::OpenOptions::new().write(true).open(segments(data).last().unwrap()).unwrap();
            newest.set_len(5_000).unwrap();
        },
        |data| fs::remove_dir_all(data.join("events")).unwrap(),
    ];
    for (n, lose) in lost.into_iter().enumerate() {
        fs::remove_dir_all(server.data()).unwrap();
        copy_folder(kept.path(), &server.data());
        lose(&server.data());
        let (code, message) = server.start_refused();
        assert_eq!(code, Some(65), "{n}: {message}");
        let verified = server.cli(&["events", "verify"]);
        assert_eq!(verified.status.code(), Some(65), "{n}: {}", output_text(&verified));
        if n != 1 {
            // An emptied segment is named itself.
            let acknowledged = format!("up to position {head} were acknowledged");
            assert!(message.contains(&acknowledged) && message.contains("restore"), "{n}: {message}");
            assert!(output_text(&verified).contains(&acknowledged), "{n}: {}", output_text(&verified));
        }
        if n == 0 {
            let repaired = server.cli(&["events", "repair", "--apply"]);
            assert!(repaired.status.success(), "{}", output_text(&repaired));
            server.restart().await;
            let now = server.get("/status").await.expect(200);
            assert!(now["log"]["head"].as_u64().unwrap() < head && now["log"]["epoch"].as_u64().unwrap() > 0);
            assert_eq!(server.terminate(), Some(0), "{}", server.log());
        }
    }
    let restored = server.cli(&["events", "restore", "--from", &to]);
    assert!(restored.status.success(), "{}", output_text(&restored));
    server.restart().await;
    assert_eq!(server.get("/status").await.expect(200)["log"]["head"], head);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_vault_is_refused_until_it_is_accepted() {
    let (mut server, _) = filled().await;
    let vault = server.data().join("vault.sqlite");
    let kept = fs::read(&vault).unwrap();
    let other = Server::start(&[]).await;
    let body = json!({ "pool_key": "blitz", "rating": 1000 }).to_string();
    other.send(Method::POST, "/v1/matchmaking/queue", &[("x-user", "eve")], Some(body)).await.expect(201);
    let foreign = fs::read(other.data().join("vault.sqlite")).unwrap();
    for (what, content) in
        [("removed", None), ("emptied", Some(Vec::new())), ("of another server", Some(foreign))]
    {
        match &content {
            None => fs::remove_file(&vault).unwrap(),
            Some(bytes) => fs::write(&vault, bytes).unwrap(),
        }
        let (code, message) = server.start_refused();
        assert_eq!(code, Some(65), "{what}: {message}");
        for part in ["vault.sqlite", "backup", "--accept-lost-vault"] {
            assert!(message.contains(part), "{what}: no {part} in {message}");
        }
        assert_eq!(vault.exists(), content.is_some(), "{what}: nothing was changed");
    }
    fs::remove_file(&vault).unwrap();
    server.restart_with(&["--accept-lost-vault"]).await;
    assert!(server.log().contains("knows none of the subjects"), "{}", server.log());
    assert_eq!(server.terminate(), Some(0), "{}", server.log());
    fs::write(&vault, kept).unwrap();
    server.restart().await;
}
