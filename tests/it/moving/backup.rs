//! Backups while the server works, and servers over restored ones.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{killed, refused, text};
use crate::support::answers::{answers, exported};
use crate::support::folder::{contents, copy_folder};
use crate::support::job::{phase, running};
use crate::support::load::{Dice, Load};
use crate::support::server::Server;
use crate::support::{setting, until};

const CALLERS: usize = 6;
const FRAMES: usize = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_over_a_backup_made_under_load_goes_on_from_there() {
    let kills = setting("MATCHBOOK_TEST_BACKUP_KILLS", 6);
    let mut server = Server::start(&["--segment-bytes=200000"]).await;
    let job = running(&server, CALLERS, FRAMES).await;
    let load = Load::start(&server, &job, CALLERS, FRAMES, 5);
    let backup = server.folder.path().join("backup");
    let mut dice = Dice(5);
    for _ in 0..kills {
        let enough = load.acknowledged() + 40;
        until("commands are acknowledged", async || load.acknowledged() >= enough).await;
        // Broken off at any moment, the first of all included.
        let mut copying = server
            .command(&["events", "backup", "--to", text(&backup)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_micros(dice.below(25_000))).await;
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
    phase(&server, &job, "completed").await;
    let made = server.cli(&["events", "backup", "--to", text(&backup)]);
    let said = String::from_utf8(made.stdout).unwrap();
    assert!(said.contains("matchbook vault backup"), "{said}");
    let names = server.folder.path().join("names.sqlite");
    assert!(server.cli(&["vault", "backup", "--to", text(&names)]).status.success());
    let (log, said) = (exported(&server), answers(&server, &job).await);
    let epoch = server.get("/status").await.expect(200)["log"]["epoch"].as_u64().unwrap();
    // What comes after the backup is lost with the server's events, but not with its read models.
    server.post("/jobs", &json!({ "name": "too late" })).await.expect(201);
    assert_eq!(server.terminate(), Some(0), "{}", server.log());

    let check = server.cli(&["events", "restore", "--check", "--from", text(&backup)]);
    assert!(check.status.success(), "{check:?}");
    let (code, why) = refused(&server.cli(&["events", "restore", "--from", text(&backup)]));
    assert_eq!(code, Some(2), "{why}");
    assert!(why.contains("empty folder"), "{why}");
    fs::remove_dir_all(server.data().join("events")).unwrap();
    fs::remove_file(server.data().join("vault.sqlite")).unwrap();
    let events = server.data().join("events");
    for _ in 0..kills {
        killed(|| server.command(&["events", "restore", "--from", text(&backup)]), 1, 80_000, &mut dice);
        // All of it or nothing: one that came to its end just before is a log.
        if events.exists() {
            assert!(server.cli(&["events", "verify"]).status.success());
            fs::remove_dir_all(&events).unwrap();
        }
    }
    let restored = server.cli(&["events", "restore", "--from", text(&backup)]);
    assert!(restored.status.success(), "{restored:?}");
    let restored = String::from_utf8(restored.stdout).unwrap();
    assert!(restored.contains("no names of people are here"), "{restored}");
    fs::rename(&names, server.data().join("vault.sqlite")).unwrap();
    let verified = server.cli(&["events", "verify"]);
    assert!(verified.status.success(), "{verified:?}");
    server.restart().await;
    assert!(server.get("/status").await.expect(200)["log"]["epoch"].as_u64().unwrap() > epoch);
    assert_eq!(exported(&server), log);
    assert_eq!(answers(&server, &job).await, said);
    assert!(server.log().contains("made from epoch"), "{}", server.log());
    server.post("/jobs", &json!({ "name": "after the restore" })).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn read_models_of_a_log_that_was_put_back_by_hand_and_went_on_differently_are_made_again() {
    let mut server = Server::start(&[]).await;
    let create = async |server: &Server, name: &str| {
        server.post("/jobs", &json!({ "name": name })).await.expect(201);
    };
    create(&server, "kept").await;
    assert_eq!(server.terminate(), Some(0));
    let (events, read) = (server.data().join("events"), server.data().join("read"));
    let (earlier, later) = (server.folder.path().join("earlier"), server.folder.path().join("later"));
    copy_folder(&events, &earlier);
    server.restart().await;
    create(&server, "lost with the folder").await;
    assert_eq!(server.terminate(), Some(0));
    fs::rename(&read, &later).unwrap();
    fs::remove_dir_all(&events).unwrap();
    fs::rename(&earlier, &events).unwrap();
    server.restart().await;
    for name in ["one", "two", "three"] {
        create(&server, name).await;
    }
    assert_eq!(server.terminate(), Some(0));
    // The same log, the same epoch, and no further than its head; but of another course.
    fs::remove_dir_all(&read).unwrap();
    fs::rename(&later, &read).unwrap();
    server.restart().await;
    let head = server.get("/status").await.expect(200)["log"]["head"].to_string();
    let jobs =
        server.send(Method::GET, "/jobs", &[("x-min-position", head.as_str())], None).await.expect(200);
    let names: Vec<&str> =
        jobs["items"].as_array().unwrap().iter().map(|job| job["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["three", "two", "one", "kept"]);
    assert!(server.log().contains("went on differently"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_backed_up_or_restored_is_told_with_the_way_out_and_changes_nothing() {
    let mut server = Server::start(&[]).await;
    running(&server, 1, 1).await;
    let place = server.folder.path().to_owned();
    let at = |name: &str| place.join(name);
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

    let before = contents(&place);
    let (data, new) = (text(&place.join("data")).to_owned(), text(&at("new")).to_owned());
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
        let (exit, said) = refused(&server.cli(&words));
        assert_eq!(exit, Some(code), "{words:?}: {said}");
        for part in parts {
            // A folder's files have no order.
            let holds = said.contains(part) || part == "log.json" && said.contains("holds other files");
            assert!(holds, "no `{part}` in what {words:?} said: {said}");
        }
        assert!(contents(&place) == before && !at("new").exists(), "{words:?} changed something");
    }
}
