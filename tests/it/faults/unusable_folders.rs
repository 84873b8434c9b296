//! Unusable data folders: a clear message with the remedy, the right exit code, and no changed byte.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::folder::{
    contents, copy_folder, flip_bit, matchbook, output_text, segments, stopped_server,
};
use crate::support::server::Server;

const SERVE: &[&str] = &["serve", "--listen=127.0.0.1:0"];
const VERIFY: &[&str] = &["events", "verify"];
const PLAN: &[&str] = &["events", "repair"];
const REPAIR: &[&str] = &["events", "repair", "--apply"];

/// A way to spoil a folder, and for each command that must refuse it the exit code and words of the message.
struct Case {
    name: &'static str,
    spoil: fn(&Path),
    expected: &'static [(&'static [&'static str], i32, &'static [&'static str])],
}

fn change_log_file(data: &Path, change: impl FnOnce(&mut Value)) {
    let file = data.join("events/log.json");
    let mut log: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    change(&mut log);
    fs::write(file, log.to_string()).unwrap();
}

const CASES: &[Case] = &[
    Case {
        name: "a damaged record in the last segment",
        spoil: |data| flip_bit(segments(data).last().unwrap(), 6_000),
        expected: &[
            (SERVE, 65, &[".segment at byte", "position", "backup", "matchbook events repair"]),
            (VERIFY, 65, &[".segment at byte", "position", "backup", "matchbook events repair"]),
            (PLAN, 65, &["would be kept", "quarantine-1", "backup", "--apply"]),
        ],
    },
    Case {
        name: "a damaged record in the first segment",
        spoil: |data| flip_bit(&segments(data)[0], 6_000),
        expected: &[
            (VERIFY, 65, &["00000000000000000001.segment at byte", "matchbook events repair"]),
            (PLAN, 65, &["would be kept", "would be moved", "are readable", "--apply"]),
        ],
    },
    Case {
        name: "a missing segment",
        spoil: |data| fs::remove_file(&segments(data)[1]).unwrap(),
        expected: &[
            (SERVE, 65, &["the file is missing", "backup", "matchbook events repair"]),
            (VERIFY, 65, &["the file is missing", "backup"]),
            (PLAN, 65, &["the file is missing", "unreadable: positions"]),
        ],
    },
    Case {
        name: "a log.json that is not valid JSON",
        spoil: |data| fs::write(data.join("events/log.json"), "{").unwrap(),
        expected: &[
            (SERVE, 65, &["log.json", "backup"]),
            (VERIFY, 65, &["log.json"]),
            (PLAN, 65, &["would be rebuilt: log.json"]),
        ],
    },
    Case {
        name: "an index file with a changed bit",
        spoil: |data| flip_bit(&segments(data)[0].with_extension("index"), 100),
        expected: &[(VERIFY, 65, &["index", "repair --apply"]), (PLAN, 65, &["would be rebuilt", ".index"])],
    },
    Case {
        name: "a newer format",
        spoil: |data| change_log_file(data, |log| log["format"] = json!(99)),
        expected: &[
            (SERVE, 2, &["format 99", "newer version of matchbook"]),
            (VERIFY, 2, &["format 99", "newer version of matchbook"]),
            (PLAN, 2, &["format 99", "newer version of matchbook"]),
            (REPAIR, 2, &["format 99", "newer version of matchbook"]),
        ],
    },
    Case {
        name: "a folder with other files",
        spoil: |data| {
            fs::remove_dir_all(data.join("events")).unwrap();
            fs::create_dir(data.join("events")).unwrap();
            fs::write(data.join("events/holiday.jpg"), "sun").unwrap();
        },
        expected: &[
            (SERVE, 2, &["holiday.jpg", "empty folder"]),
            (VERIFY, 65, &["the log is missing", "events.head", "events restore"]),
            (PLAN, 65, &["the log is missing", "events.head", "events restore"]),
            (REPAIR, 2, &["no event log", "data folder"]),
        ],
    },
    Case {
        name: "an empty folder",
        spoil: |data| {
            fs::remove_dir_all(data.join("events")).unwrap();
            fs::create_dir(data.join("events")).unwrap();
        },
        expected: &[
            (SERVE, 65, &["the log is missing", "events.head", "events restore"]),
            (VERIFY, 65, &["the log is missing", "events.head", "events restore"]),
            (PLAN, 65, &["the log is missing", "events.head", "events restore"]),
            (REPAIR, 65, &["the log is missing", "events.head", "events restore"]),
        ],
    },
    Case {
        name: "no file that identifies the log",
        spoil: |data| {
            fs::remove_file(data.join("events/log.json")).unwrap();
            for segment in segments(data) {
                flip_bit(&segment, 20);
            }
        },
        expected: &[
            (SERVE, 65, &["log.json", "missing", "backup"]),
            (PLAN, 65, &["identity of the log", "backup"]),
            (REPAIR, 65, &["identity of the log", "backup"]),
        ],
    },
    Case {
        name: "an unfinished repair",
        spoil: |data| fs::write(data.join("events/repair.json"), "{}").unwrap(),
        expected: &[
            (SERVE, 65, &["repair", "started and not finished", "repair --apply"]),
            (VERIFY, 65, &["started and not finished", "repair --apply"]),
        ],
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn unusable_folder_is_refused_unchanged_with_a_remedy() {
    let server = stopped_server().await;
    let folder = tempfile::tempdir().unwrap();
    for (n, case) in CASES.iter().enumerate() {
        let data = folder.path().join(n.to_string());
        copy_folder(&server.data(), &data);
        (case.spoil)(&data);
        for (command, code, words) in case.expected {
            let mut before = contents(&data);
            let output = matchbook(command, &data);
            let text = output_text(&output);
            assert_eq!(output.status.code(), Some(*code), "{}: {command:?}: {text}", case.name);
            for word in *words {
                assert!(text.contains(word), "{}: {command:?}: no `{word}` in {text}", case.name);
            }
            let mut after = contents(&data);
            // A process that finds a log of its own format writes its id to the lock file.
            if [SERVE, REPAIR].contains(command) && before.contains_key(&data.join("events/lock")) {
                before.remove(&data.join("events/lock"));
                after.remove(&data.join("events/lock"));
            }
            assert!(after == before, "{}: {command:?} changed something", case.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folder_locked_by_another_process_is_not_changed() {
    let server = Server::start(&[]).await;
    server.post("/jobs", &json!({ "name": "a job" })).await.expect(201);
    let events = server.data().join("events");
    let before = contents(&events);
    for command in [SERVE, VERIFY, PLAN, REPAIR] {
        let output = matchbook(command, &server.data());
        let text = output_text(&output);
        assert_eq!(output.status.code(), Some(75), "{command:?}: {text}");
        assert!(
            text.contains(&format!("process {}", server.pid())) && text.contains("stop that process"),
            "{text}"
        );
        assert!(contents(&events) == before, "{command:?} changed something");
    }
}
