//! Exports and imports: an export has the same bytes however it is made, and an imported log equals its source.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{command, failed, kill_repeatedly, matchbook, server_with_matches, succeeded, text};
use crate::support::folder::contents;
use crate::support::job::summary;
use crate::support::load::SeededRng;
use crate::support::server::Server;
use crate::support::server_state::{exported_events, read_model_responses};
use crate::support::setting;

fn head(file: &Path) -> u64 {
    let text = fs::read_to_string(file).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    last["sequence"].as_str().unwrap().parse().unwrap()
}

/// Checks the required attributes of CloudEvents and the rules for attribute names.
fn assert_cloud_events(file: &Path) {
    for line in fs::read_to_string(file).unwrap().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let attributes = event.as_object().unwrap();
        assert_eq!(event["specversion"], "1.0");
        for required in ["id", "source", "type", "time", "sequence", "recordedtime", "tenantid"] {
            assert!(!event[required].as_str().unwrap().is_empty(), "no {required} in {line}");
        }
        for name in attributes.keys().filter(|name| *name != "data_base64") {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn export_is_identical_from_server_folder_and_after_kills() {
    let kills = setting("MATCHBOOK_TEST_MOVE_KILLS", 10);
    let (mut server, _) = server_with_matches(2_000, &["--segment-bytes=200000"]).await;
    let root = server.folder.path().to_owned();
    let (whole, killed_file, folder) = (root.join("whole"), root.join("killed"), root.join("folder"));
    succeeded(&server.cli(&["events", "export", "--output", text(&whole)]));
    assert_cloud_events(&whole);
    let bytes = fs::read(&whole).unwrap();
    let arguments = ["events", "export", "--output", text(&killed_file)];
    kill_repeatedly(|| server.command(&arguments), kills, 60_000, &mut SeededRng(3));
    succeeded(&server.cli(&arguments));
    assert!(fs::read(&killed_file).unwrap() == bytes, "the export that was killed differs");

    // The export of the running server's folder, and of the stopped server's after the file was truncated anywhere.
    let data = server.data();
    assert!(succeeded(&matchbook(&["events", "export", "--data", text(&data)])).into_bytes() == bytes);
    assert_eq!(server.terminate(), Some(0));
    for tear in [0, 1, 100, bytes.len() / 2, bytes.len() - 1, bytes.len()] {
        fs::write(&folder, &bytes[..tear]).unwrap();
        succeeded(&matchbook(&["events", "export", "--data", text(&data), "-o", text(&folder)]));
        assert!(fs::read(&folder).unwrap() == bytes, "differs after a tear at byte {tear}");
    }
    let part = succeeded(&matchbook(&["events", "export", "--data", text(&data), "--from=5", "--to=9"]));
    let lines: Vec<&str> = std::str::from_utf8(&bytes).unwrap().lines().collect();
    assert_eq!(part.lines().collect::<Vec<_>>(), lines[5..9]);
}

#[tokio::test(flavor = "multi_thread")]
async fn imported_log_gives_the_same_answers_at_every_instant() {
    let kills = setting("MATCHBOOK_TEST_MOVE_KILLS", 10);
    let (mut server, job) = server_with_matches(2_000, &[]).await;
    let root = server.folder.path().to_owned();
    let (file, again) = (root.join("events.ndjson"), root.join("again.ndjson"));
    succeeded(&server.cli(&["events", "export", "--output", text(&file)]));
    let (log, responses) = (exported_events(&server), read_model_responses(&server, &job).await);
    let instants: Vec<&str> =
        log.iter().step_by(97).map(|event| event["recorded_at"].as_str().unwrap()).collect();
    let mut then = Vec::new();
    for at in &instants {
        then.push(summary(&server, &job, &format!("?as_of={at}")).await);
    }
    assert_eq!(server.terminate(), Some(0));

    // Import into the same place, so that only the log of the server differs.
    let events = server.data().join("events");
    fs::rename(&events, root.join("before")).unwrap();
    fs::rename(events.with_extension("head"), root.join("before.head")).unwrap();
    let url = format!("embedded:{}", events.display());
    let arguments = ["events", "import", text(&file), "--to", &url];
    kill_repeatedly(|| command(&arguments), kills, 120_000, &mut SeededRng(9));
    let imported = succeeded(&matchbook(&arguments));
    assert!(imported.contains("existed already"), "{imported}");
    let report: Value =
        serde_json::from_str(&succeeded(&matchbook(&[&arguments[..], &["--json"]].concat()))).unwrap();
    assert_eq!((report["added"].as_u64(), report["found"].as_u64()), (Some(0), Some(log.len() as u64)));
    succeeded(&matchbook(&["events", "verify", "--all", "--data", text(&events)]));
    succeeded(&matchbook(&["events", "export", "--data", text(&events), "-o", text(&again)]));
    assert!(fs::read(&again).unwrap() == fs::read(&file).unwrap(), "the imported log has other lines");

    server.restart().await;
    assert_eq!(exported_events(&server), log);
    assert_eq!(read_model_responses(&server, &job).await, responses);
    for (at, then) in instants.iter().zip(then) {
        assert_eq!(summary(&server, &job, &format!("?as_of={at}")).await, then, "as of {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn later_export_appends_to_the_file_and_import_to_the_log() {
    let (server, _) = server_with_matches(50, &[]).await;
    let root = server.folder.path().to_owned();
    let (file, part) = (root.join("events.ndjson"), root.join("part.ndjson"));
    let url = format!("embedded:{}", root.join("copy").display());
    succeeded(&server.cli(&["events", "export", "-o", text(&file)]));
    succeeded(&matchbook(&["events", "import", text(&file), "--to", &url]));
    let first = head(&file);
    server.post("/jobs", &serde_json::json!({ "name": "later" })).await.expect(201);
    succeeded(&server.cli(&["events", "export", "-o", text(&file)]));
    assert!(head(&file) > first);
    succeeded(&server.cli(&["events", "export", "--from", &first.to_string(), "-o", text(&part)]));
    succeeded(&matchbook(&["events", "import", text(&part), "--to", &url]));
    let copied = succeeded(&matchbook(&["events", "export", "--data", text(&root.join("copy"))]));
    assert_eq!(copied, fs::read_to_string(&file).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_lines_are_named_and_change_nothing() {
    let (mut server, _) = server_with_matches(50, &[]).await;
    let root = server.folder.path().to_owned();
    let at = |name: &str| root.join(name);
    succeeded(&server.cli(&["events", "export", "-o", text(&at("good"))]));
    let held = format!("embedded:{}", server.data().display());
    let (code, message) = failed(&matchbook(&["events", "import", text(&at("good")), "--to", &held]));
    assert_eq!(code, Some(75), "{message}");
    assert!(message.contains(&format!("process {}", server.pid())), "{message}");
    assert_eq!(server.terminate(), Some(0));

    let good = fs::read_to_string(at("good")).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    let without = |n: usize| {
        lines.iter().enumerate().filter(|(at, _)| *at != n).map(|(_, line)| format!("{line}\n")).collect()
    };
    fs::write(at("cut"), &good[..good.len() - 20]).unwrap();
    fs::write(at("broken"), good.replacen("\"specversion\"", "\"speckversion\"", 1)).unwrap();
    fs::write(at("second"), good.replacen("\n{\"specversion\":\"1.0\"", "\n{\"specversion\":\"9.0\"", 1))
        .unwrap();
    fs::write(at("photo"), [0xff, 0xd8, 0xff, 0xe0, 0, 7, 7]).unwrap();
    let gap: String = without(1);
    fs::write(at("gap"), gap).unwrap();
    fs::write(at("changed"), good.replacen("\"a job\"", "\"b job\"", 1)).unwrap();
    let before = contents(&root);
    let (new, same) =
        (format!("embedded:{}", at("new").display()), format!("embedded:{}", server.data().display()));
    for (file, to, code, parts) in [
        ("nowhere", &new, 2, ["nowhere", "name an exported file"]),
        ("broken", &new, 65, ["line 1 of", "speckversion"]),
        ("photo", &new, 65, ["line 1 of", "it is incomplete"]),
        ("changed", &same, 2, ["already holds other events", "name an empty log"]),
        ("good", &"nonsense:there".to_owned(), 2, ["embedded:FOLDER", "--to <URL>"]),
        (
            "good",
            &"esdb://127.0.0.1:1?tls=false".to_owned(),
            69,
            ["127.0.0.1:1", "check that the cluster runs"],
        ),
    ] {
        let output = matchbook(&["events", "import", text(&at(file)), "--to", to]);
        let (exit, _) = failed(&output);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(exit, Some(code), "{file}: {message}");
        for part in parts {
            assert!(message.contains(part), "no `{part}` in the message about {file}: {message}");
        }
        let mut after = contents(&root);
        // The lock file names the process that held it last.
        after.insert(server.data().join("events/lock"), before[&server.data().join("events/lock")].clone());
        assert!(after == before, "{file} changed something");
    }
    // The log contains exactly the lines before the bad one; with a corrected file the import continues.
    for (file, part) in [("second", "line 2 of"), ("cut", "export again"), ("gap", "revision")] {
        let to = format!("embedded:{}", at(&format!("{file}-log")).display());
        let (code, message) = failed(&matchbook(&["events", "import", text(&at(file)), "--to", &to]));
        assert_eq!(code, Some(65), "{message}");
        assert!(message.contains(part), "{message}");
        succeeded(&matchbook(&["events", "import", text(&at("good")), "--to", &to]));
        let log = at(&format!("{file}-log"));
        assert_eq!(succeeded(&matchbook(&["events", "export", "--data", text(&log)])), good);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn export_refuses_a_file_it_cannot_continue() {
    let (server, _) = server_with_matches(10, &[]).await;
    let other = Server::start(&[]).await;
    let root = server.folder.path().to_owned();
    let at = |name: &str| root.join(name);
    succeeded(&server.cli(&["events", "export", "-o", text(&at("exported"))]));
    fs::write(at("photo"), [0xff, 0xd8, 0xff, 0xe0, 0, 7, 7]).unwrap();
    fs::write(at("text"), "to do:\nnothing\n").unwrap();
    fs::write(at("json"), "{\"a\":1}\n").unwrap();
    let before = contents(&root);
    for (server, file, part) in [
        (&server, "photo", "something else than exported events"),
        (&server, "text", "something else than exported events"),
        (&server, "json", "something else than exported events"),
        (&other, "exported", "choose a new file"),
    ] {
        let (code, message) = failed(&server.cli(&["events", "export", "-o", text(&at(file))]));
        assert_eq!(code, Some(2), "{message}");
        assert!(message.contains(part), "{message}");
        for name in ["photo", "text", "json", "exported"] {
            assert!(
                fs::read(at(name)).unwrap() == before[&at(name)],
                "{name} was changed by an export to {file}"
            );
        }
    }
    let (code, message) = failed(&matchbook(&["events", "export", "--url=http://127.0.0.1:1"]));
    assert_eq!(code, Some(69), "{message}");
    assert!(message.contains("start the server with"), "{message}");
    let (code, message) = failed(&matchbook(&["events", "export", "--data", text(&at("nowhere"))]));
    assert_eq!(code, Some(2), "{message}");
}
