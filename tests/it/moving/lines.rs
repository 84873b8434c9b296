//! Exports and imports: lines that are the same whoever writes them, and logs that are the same as those they came from.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{command, done, killed, matchbook, refused, served, text};
use crate::support::answers::{answers, exported};
use crate::support::folder::contents;
use crate::support::job::summary;
use crate::support::load::Dice;
use crate::support::server::Server;
use crate::support::setting;

fn head(file: &Path) -> u64 {
    let text = fs::read_to_string(file).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    last["sequence"].as_str().unwrap().parse().unwrap()
}

/// What every CloudEvent must have, and names that its rules allow.
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
async fn an_export_is_the_same_bytes_from_a_server_a_folder_and_after_any_number_of_kills() {
    let kills = setting("MATCHBOOK_TEST_MOVE_KILLS", 10);
    let (mut server, _) = served(2_000, &["--segment-bytes=200000"]).await;
    let place = server.folder.path().to_owned();
    let (whole, killed_file, folder) = (place.join("whole"), place.join("killed"), place.join("folder"));
    done(&server.cli(&["events", "export", "--output", text(&whole)]));
    assert_cloud_events(&whole);
    let bytes = fs::read(&whole).unwrap();
    let arguments = ["events", "export", "--output", text(&killed_file)];
    killed(|| server.command(&arguments), kills, 60_000, &mut Dice(3));
    done(&server.cli(&arguments));
    assert!(fs::read(&killed_file).unwrap() == bytes, "the export that was killed differs");

    // Of the running server's folder, and of the stopped one's; after a tear in any place.
    let data = server.data();
    assert!(done(&matchbook(&["events", "export", "--data", text(&data)])).into_bytes() == bytes);
    assert_eq!(server.terminate(), Some(0));
    for tear in [0, 1, 100, bytes.len() / 2, bytes.len() - 1, bytes.len()] {
        fs::write(&folder, &bytes[..tear]).unwrap();
        done(&matchbook(&["events", "export", "--data", text(&data), "-o", text(&folder)]));
        assert!(fs::read(&folder).unwrap() == bytes, "differs after a tear at byte {tear}");
    }
    let part = done(&matchbook(&["events", "export", "--data", text(&data), "--from=5", "--to=9"]));
    let lines: Vec<&str> = std::str::from_utf8(&bytes).unwrap().lines().collect();
    assert_eq!(part.lines().collect::<Vec<_>>(), lines[5..9]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_log_gives_the_answers_of_the_one_it_came_from_at_every_instant() {
    let kills = setting("MATCHBOOK_TEST_MOVE_KILLS", 10);
    let (mut server, job) = served(2_000, &[]).await;
    let place = server.folder.path().to_owned();
    let (file, again) = (place.join("events.ndjson"), place.join("again.ndjson"));
    done(&server.cli(&["events", "export", "--output", text(&file)]));
    let (log, said) = (exported(&server), answers(&server, &job).await);
    let instants: Vec<&str> =
        log.iter().step_by(97).map(|event| event["recorded_at"].as_str().unwrap()).collect();
    let mut then = Vec::new();
    for at in &instants {
        then.push(summary(&server, &job, &format!("?as_of={at}")).await);
    }
    assert_eq!(server.terminate(), Some(0));

    // Into the same place, so that the server is the same but for its log.
    let events = server.data().join("events");
    fs::rename(&events, place.join("before")).unwrap();
    let url = format!("embedded:{}", events.display());
    let arguments = ["events", "import", text(&file), "--to", &url];
    killed(|| command(&arguments), kills, 120_000, &mut Dice(9));
    let imported = done(&matchbook(&arguments));
    assert!(imported.contains("were there before"), "{imported}");
    let report: Value =
        serde_json::from_str(&done(&matchbook(&[&arguments[..], &["--json"]].concat()))).unwrap();
    assert_eq!((report["added"].as_u64(), report["found"].as_u64()), (Some(0), Some(log.len() as u64)));
    done(&matchbook(&["events", "verify", "--all", "--data", text(&events)]));
    done(&matchbook(&["events", "export", "--data", text(&events), "-o", text(&again)]));
    assert!(fs::read(&again).unwrap() == fs::read(&file).unwrap(), "the imported log has other lines");

    server.restart().await;
    assert_eq!(exported(&server), log);
    assert_eq!(answers(&server, &job).await, said);
    for (at, then) in instants.iter().zip(then) {
        assert_eq!(summary(&server, &job, &format!("?as_of={at}")).await, then, "as of {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_export_adds_to_the_file_and_a_later_import_to_the_log() {
    let (server, _) = served(50, &[]).await;
    let place = server.folder.path().to_owned();
    let (file, part) = (place.join("events.ndjson"), place.join("part.ndjson"));
    let url = format!("embedded:{}", place.join("copy").display());
    done(&server.cli(&["events", "export", "-o", text(&file)]));
    done(&matchbook(&["events", "import", text(&file), "--to", &url]));
    let first = head(&file);
    server.post("/jobs", &serde_json::json!({ "name": "later" })).await.expect(201);
    done(&server.cli(&["events", "export", "-o", text(&file)]));
    assert!(head(&file) > first);
    done(&server.cli(&["events", "export", "--from", &first.to_string(), "-o", text(&part)]));
    done(&matchbook(&["events", "import", text(&part), "--to", &url]));
    let copied = done(&matchbook(&["events", "export", "--data", text(&place.join("copy"))]));
    assert_eq!(copied, fs::read_to_string(&file).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_cannot_be_taken_are_named_and_nothing_is_changed() {
    let (mut server, _) = served(50, &[]).await;
    let place = server.folder.path().to_owned();
    let at = |name: &str| place.join(name);
    done(&server.cli(&["events", "export", "-o", text(&at("good"))]));
    let held = format!("embedded:{}", server.data().display());
    let (code, said) = refused(&matchbook(&["events", "import", text(&at("good")), "--to", &held]));
    assert_eq!(code, Some(75), "{said}");
    assert!(said.contains(&format!("process {}", server.pid())), "{said}");
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
    let before = contents(&place);
    let (new, same) =
        (format!("embedded:{}", at("new").display()), format!("embedded:{}", server.data().display()));
    for (file, to, code, parts) in [
        ("nowhere", &new, 2, ["nowhere", "name a file"]),
        ("broken", &new, 65, ["line 1 of", "speckversion"]),
        ("photo", &new, 65, ["line 1 of", "cut short"]),
        ("changed", &same, 2, ["already holds other events", "name an empty log"]),
        ("good", &"nonsense:there".to_owned(), 2, ["embedded:FOLDER", "--to <URL>"]),
        ("good", &"esdb://127.0.0.1:1?tls=false".to_owned(), 69, ["127.0.0.1:1", "look whether"]),
    ] {
        let output = matchbook(&["events", "import", text(&at(file)), "--to", to]);
        let (exit, _) = refused(&output);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(exit, Some(code), "{file}: {said}");
        for part in parts {
            assert!(said.contains(part), "no `{part}` in what {file} brought: {said}");
        }
        let mut after = contents(&place);
        // A lock says by whom it was held last.
        after.insert(server.data().join("events/lock"), before[&server.data().join("events/lock")].clone());
        assert!(after == before, "{file} changed something");
    }
    // What came before the bad line is in the log, and nothing else: with the line put right it goes on.
    for (file, part) in [("second", "line 2 of"), ("cut", "export again"), ("gap", "revision")] {
        let to = format!("embedded:{}", at(&format!("{file}-log")).display());
        let (code, said) = refused(&matchbook(&["events", "import", text(&at(file)), "--to", &to]));
        assert_eq!(code, Some(65), "{said}");
        assert!(said.contains(part), "{said}");
        done(&matchbook(&["events", "import", text(&at("good")), "--to", &to]));
        let log = at(&format!("{file}-log"));
        assert_eq!(done(&matchbook(&["events", "export", "--data", text(&log)])), good);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_leaves_a_file_alone_that_it_cannot_go_on_with() {
    let (server, _) = served(10, &[]).await;
    let other = Server::start(&[]).await;
    let place = server.folder.path().to_owned();
    let at = |name: &str| place.join(name);
    done(&server.cli(&["events", "export", "-o", text(&at("exported"))]));
    fs::write(at("photo"), [0xff, 0xd8, 0xff, 0xe0, 0, 7, 7]).unwrap();
    fs::write(at("text"), "to do:\nnothing\n").unwrap();
    fs::write(at("json"), "{\"a\":1}\n").unwrap();
    let before = contents(&place);
    for (server, file, part) in [
        (&server, "photo", "something else than exported events"),
        (&server, "text", "something else than exported events"),
        (&server, "json", "something else than exported events"),
        (&other, "exported", "name a new file"),
    ] {
        let (code, said) = refused(&server.cli(&["events", "export", "-o", text(&at(file))]));
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(part), "{said}");
        for name in ["photo", "text", "json", "exported"] {
            assert!(
                fs::read(at(name)).unwrap() == before[&at(name)],
                "{name} was changed by an export to {file}"
            );
        }
    }
    let (code, said) = refused(&matchbook(&["events", "export", "--url=http://127.0.0.1:1"]));
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("is the server running?"), "{said}");
    let (code, said) = refused(&matchbook(&["events", "export", "--data", text(&at("nowhere"))]));
    assert_eq!(code, Some(2), "{said}");
}
