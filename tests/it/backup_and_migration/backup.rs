//! Backups of a running server, and servers that use a restored backup.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{failed, kill_repeatedly, text};
use crate::support::folder::{contents, copy_folder};
use crate::support::job::{running_job, set_phase};
use crate::support::load::{Load, SeededRng};
use crate::support::server::Server;
use crate::support::server_state::{exported_events, read_model_responses};
use crate::support::{setting, wait_until};

const CALLERS: usize = 6;
const FRAMES: usize = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn backup_under_load_restores_to_the_same_events() {
    let kills = setting("MATCHBOOK_TEST_BACKUP_KILLS", 6);
    let mut server = Server::start(&["--segment-bytes=200000"]).await;
    let job = running_job(&server, CALLERS, FRAMES).await;
    let load = Load::start(&server, &job, CALLERS, FRAMES, 5);
    let backup = server.folder.path().join("backup");
    let mut rng = SeededRng(5);
    for _ in 0..kills {
        let enough = load.acknowledged() + 40;
        wait_until("commands are acknowledged", async || load.acknowledged() >= enough).await;
        // Killed at any moment, also before the first complete backup.
        let mut copying = server
            .command(&["events", "backup", "--to", text(&backup)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_micros(rng.below(25_000))).await;
        copying.kill().unwrap();
        copying.wait().unwrap();
        let before = server.get("/status").await.expect(200)["log"]["head"].as_u64().unwrap();
        let made = server.cli(&["events", "backup", "--to", text(&backup), "--json"]);
        assert!(made.status.success(), "{made:?}");
        let made: Value = serde_json::from_slice(&made.stdout).unwrap();
        assert!(made["head"].as_u64().unwrap() >= before, "{made} after {before}");
        assert_eq!(made["vault"], "not included");
    }
    load.finish().await;
    set_phase(&server, &job, "completed").await;
    let made = server.cli(&["events", "backup", "--to", text(&backup)]);
    let hint = String::from_utf8(made.stdout).unwrap();
    assert!(hint.contains("matchbook vault backup"), "{hint}");
    let names = server.folder.path().join("names.sqlite");
    assert!(server.cli(&["vault", "backup", "--to", text(&names)]).status.success());
    let (log, responses) = (exported_events(&server), read_model_responses(&server, &job).await);
    let epoch = server.get("/status").await.expect(200)["log"]["epoch"].as_u64().unwrap();
    // An event after the backup is lost with the server's log, while its read models still contain it.
    server.post("/jobs", &json!({ "name": "too late" })).await.expect(201);
    assert_eq!(server.terminate(), Some(0), "{}", server.log());

    let check = server.cli(&["events", "restore", "--check", "--from", text(&backup)]);
    assert!(check.status.success(), "{check:?}");
    let (code, message) = failed(&server.cli(&["events", "restore", "--from", text(&backup)]));
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("empty folder"), "{message}");
    fs::remove_dir_all(server.data().join("events")).unwrap();
    let vault = server.data().join("vault.sqlite");
    // Otherwise the vault is in the database of the read models, and the file is moved there again.
    let is_in_file = vault.exists();
    if is_in_file {
        fs::remove_file(&vault).unwrap();
    }
    let events = server.data().join("events");
    for _ in 0..kills {
        kill_repeatedly(
            || server.command(&["events", "restore", "--from", text(&backup)]),
            1,
            80_000,
            &mut rng,
        );
        // Restoring is atomic: if the folder exists, it is complete.
        if events.exists() {
            assert!(server.cli(&["events", "verify"]).status.success());
            fs::remove_dir_all(&events).unwrap();
        }
    }
    let restored = server.cli(&["events", "restore", "--from", text(&backup)]);
    assert!(restored.status.success(), "{restored:?}");
    let restored = String::from_utf8(restored.stdout).unwrap();
    assert_eq!(restored.contains("the vault is missing"), is_in_file, "{restored}");
    fs::rename(&names, &vault).unwrap();
    let verified = server.cli(&["events", "verify"]);
    assert!(verified.status.success(), "{verified:?}");
    server.restart().await;
    assert!(server.get("/status").await.expect(200)["log"]["epoch"].as_u64().unwrap() > epoch);
    assert_eq!(exported_events(&server), log);
    assert_eq!(read_model_responses(&server, &job).await, responses);
    assert!(server.log().contains("built from epoch"), "{}", server.log());
    server.post("/jobs", &json!({ "name": "after the restore" })).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn read_models_are_rebuilt_when_the_log_has_diverged() {
    let mut server = Server::start(&[]).await;
    let create = async |server: &Server, name: &str| {
        server.post("/jobs", &json!({ "name": name })).await.expect(201);
    };
    create(&server, "kept").await;
    assert_eq!(server.terminate(), Some(0));
    let (events, read) = (server.data().join("events"), server.data().join("read"));
    let (earlier, later) = (server.folder.path().join("earlier"), server.folder.path().join("later"));
    let head = server.data().join("events.head");
    copy_folder(&events, &earlier);
    let earlier_head = fs::read(&head).unwrap();
    server.restart().await;
    create(&server, "lost with the folder").await;
    assert_eq!(server.terminate(), Some(0));
    fs::rename(&read, &later).unwrap();
    fs::remove_dir_all(&events).unwrap();
    fs::rename(&earlier, &events).unwrap();
    fs::write(&head, earlier_head).unwrap();
    server.restart().await;
    for name in ["one", "two", "three"] {
        create(&server, name).await;
    }
    assert_eq!(server.terminate(), Some(0));
    // The read models have the log's id, its epoch and a position below its head, but other events.
    fs::remove_dir_all(&read).unwrap();
    fs::rename(&later, &read).unwrap();
    server.restart().await;
    let head = server.get("/status").await.expect(200)["log"]["head"].to_string();
    let jobs =
        server.send(Method::GET, "/jobs", &[("x-min-position", head.as_str())], None).await.expect(200);
    let names: Vec<&str> =
        jobs["items"].as_array().unwrap().iter().map(|job| job["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["three", "two", "one", "kept"]);
    assert!(server.log().contains("has diverged"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_backup_or_restore_is_refused_without_changes() {
    let mut server = Server::start(&[]).await;
    running_job(&server, 1, 1).await;
    let root = server.folder.path().to_owned();
    let at = |name: &str| root.join(name);
    assert!(server.cli(&["events", "backup", "--to", text(&at("backup"))]).status.success());
    assert_eq!(server.terminate(), Some(0));

    let events = server.data().join("events");
    fs::create_dir(at("photos")).unwrap();
    fs::write(at("photos/holiday.jpg"), "sun").unwrap();
    let copy = |from: &Path, to: &str| {
        fs::create_dir(at(to)).unwrap();
        for (path, bytes) in contents(from) {
            fs::write(at(to).join(path.file_name().unwrap()), bytes).unwrap();
        }
    };
    copy(&events, "damaged");
    let segment = "damaged/00000000000000000001.segment";
    let mut bytes = fs::read(at(segment)).unwrap();
    bytes[4_200] ^= 1;
    fs::write(at(segment), bytes).unwrap();
    copy(&events, "newer");
    let newer = fs::read_to_string(at("newer/log.json")).unwrap().replace("\"format\": 1", "\"format\": 99");
    fs::write(at("newer/log.json"), newer).unwrap();
    copy(&at("backup"), "other");
    let manifest = fs::read_to_string(at("other/backup.json")).unwrap();
    fs::write(at("other/backup.json"), manifest.replace("\"sha256\": \"", "\"sha256\": \"0")).unwrap();
    copy(&at("backup"), "short");
    fs::remove_file(contents(&at("short")).keys().find(|path| text(path).ends_with(".copy")).unwrap())
        .unwrap();

    let before = contents(&root);
    let (data, new) = (text(&root.join("data")).to_owned(), text(&at("new")).to_owned());
    let path = |name: &str| text(&at(name)).to_owned();
    let backup = |from: String, to: String| {
        vec!["backup".to_owned(), "--data".to_owned(), from, "--to".to_owned(), to]
    };
    let restore = |from: String, to: String| {
        vec!["restore".to_owned(), "--from".to_owned(), from, "--data".to_owned(), to]
    };
    for (arguments, code, parts) in [
        (backup(path("nowhere"), new.clone()), 2, ["holds no event log", "name the data folder"]),
        (backup(path("photos"), new.clone()), 2, ["holds no event log", "name the data folder"]),
        (backup(path("newer"), new.clone()), 2, ["format 99", "newer version"]),
        (backup(path("damaged"), new.clone()), 65, ["00000000000000000001.segment at byte", "from a backup"]),
        (backup(data.clone(), path("photos")), 2, ["holiday.jpg", "empty folder"]),
        (backup(data.clone(), format!("{data}/events/backup")), 2, ["lies within", "outside"]),
        (restore(path("nowhere"), new.clone()), 2, ["holds no backup", "name the folder"]),
        (restore(path("photos"), new.clone()), 2, ["holds no backup", "name the folder"]),
        (restore(path("backup"), data.clone()), 2, ["log.json", "empty folder"]),
        (restore(path("other"), new.clone()), 65, ["SHA-256", "another copy"]),
        (restore(path("short"), new.clone()), 65, [".copy", "another copy"]),
    ] {
        let mut words = vec!["events"];
        words.extend(arguments.iter().map(String::as_str));
        let (exit, message) = failed(&server.cli(&words));
        assert_eq!(exit, Some(code), "{words:?}: {message}");
        for part in parts {
            // The message names any of the folder's files, which have no order.
            let named = message.contains(part) || part == "log.json" && message.contains("holds other files");
            assert!(named, "no `{part}` in the message of {words:?}: {message}");
        }
        assert!(contents(&root) == before && !at("new").exists(), "{words:?} changed something");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_refuses_to_start_on_a_backup() {
    let mut server = Server::start(&[]).await;
    running_job(&server, 1, 1).await;
    let backup = server.folder.path().join("backup");
    assert!(server.cli(&["events", "backup", "--to", text(&backup)]).status.success());
    server.terminate();
    let events = format!("embedded:{}", backup.display());
    for arguments in [vec!["--data", text(&backup)], vec!["--event-log", &events]] {
        let (code, message) =
            failed(&server.cli(&[&["serve", "--listen=127.0.0.1:0"], &arguments[..]].concat()));
        assert_eq!(code, Some(2), "{message}");
        assert!(message.contains("is a backup") && message.contains("events restore"), "{message}");
    }
}
