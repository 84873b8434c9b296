//! A folder that is not to be used: a clear message that names the way out, the right exit code, and no byte changed.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::folder::{contents, copy_folder, flip, matchbook, said, segments, stopped};
use crate::support::server::Server;

const SERVE: &[&str] = &["serve", "--listen=127.0.0.1:0"];
const VERIFY: &[&str] = &["events", "verify"];
const PLAN: &[&str] = &["events", "repair"];
const REPAIR: &[&str] = &["events", "repair", "--apply"];

/// What is done to a folder, and how each command that must refuse it answers.
struct Case {
    name: &'static str,
    spoil: fn(&Path),
    answers: &'static [(&'static [&'static str], i32, &'static [&'static str])],
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
        spoil: |data| flip(segments(data).last().unwrap(), 6_000),
        answers: &[
            (SERVE, 65, &[".segment at byte", "position", "backup", "matchbook events repair"]),
            (VERIFY, 65, &[".segment at byte", "position", "backup", "matchbook events repair"]),
            (PLAN, 65, &["would stay", "quarantine-1", "backup", "--apply"]),
        ],
    },
    Case {
        name: "a damaged record in the first segment",
        spoil: |data| flip(&segments(data)[0], 6_000),
        answers: &[
            (VERIFY, 65, &["00000000000000000001.segment at byte", "matchbook events repair"]),
            (PLAN, 65, &["would stay", "would be moved", "can be read", "--apply"]),
        ],
    },
    Case {
        name: "a segment that is gone",
        spoil: |data| fs::remove_file(&segments(data)[1]).unwrap(),
        answers: &[
            (SERVE, 65, &["the file is missing", "backup", "matchbook events repair"]),
            (VERIFY, 65, &["the file is missing", "backup"]),
            (PLAN, 65, &["the file is missing", "unreadable: positions"]),
        ],
    },
    Case {
        name: "a log.json that is no JSON",
        spoil: |data| fs::write(data.join("events/log.json"), "{").unwrap(),
        answers: &[
            (SERVE, 65, &["log.json", "backup"]),
            (VERIFY, 65, &["log.json"]),
            (PLAN, 65, &["would be made anew: log.json"]),
        ],
    },
    Case {
        name: "an index file with a changed bit",
        spoil: |data| flip(&segments(data)[0].with_extension("index"), 100),
        answers: &[(VERIFY, 65, &["index", "repair --apply"]), (PLAN, 65, &["would be made anew", ".index"])],
    },
    Case {
        name: "a newer format",
        spoil: |data| change_log_file(data, |log| log["format"] = json!(99)),
        answers: &[
            (SERVE, 2, &["format 99", "newer version of matchbook"]),
            (VERIFY, 2, &["format 99", "newer version of matchbook"]),
            (PLAN, 2, &["format 99", "newer version of matchbook"]),
            (REPAIR, 2, &["format 99", "newer version of matchbook"]),
        ],
    },
    Case {
        name: "a folder of something else",
        spoil: |data| {
            fs::remove_dir_all(data.join("events")).unwrap();
            fs::create_dir(data.join("events")).unwrap();
            fs::write(data.join("events/holiday.jpg"), "sun").unwrap();
        },
        answers: &[
            (SERVE, 2, &["holiday.jpg", "empty folder"]),
            (VERIFY, 2, &["no event log", "data folder"]),
            (PLAN, 2, &["no event log", "data folder"]),
            (REPAIR, 2, &["no event log", "data folder"]),
        ],
    },
    Case {
        name: "an empty folder",
        spoil: |data| {
            fs::remove_dir_all(data.join("events")).unwrap();
            fs::create_dir(data.join("events")).unwrap();
        },
        answers: &[
            (VERIFY, 2, &["no event log"]),
            (PLAN, 2, &["no event log"]),
            (REPAIR, 2, &["no event log"]),
        ],
    },
    Case {
        name: "nothing that says which log it is",
        spoil: |data| {
            fs::remove_file(data.join("events/log.json")).unwrap();
            for segment in segments(data) {
                flip(&segment, 20);
            }
        },
        answers: &[
            (SERVE, 65, &["log.json", "missing", "backup"]),
            (PLAN, 65, &["which log it is", "backup"]),
            (REPAIR, 65, &["which log it is", "backup"]),
        ],
    },
    Case {
        name: "a repair that broke off",
        spoil: |data| fs::write(data.join("events/repair.json"), "{}").unwrap(),
        answers: &[
            (SERVE, 65, &["repair", "begun and not ended", "repair --apply"]),
            (VERIFY, 65, &["begun and not ended", "repair --apply"]),
        ],
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_used_is_refused_with_a_way_out_and_no_byte_of_it_is_changed() {
    let server = stopped().await;
    let folder = tempfile::tempdir().unwrap();
    for (n, case) in CASES.iter().enumerate() {
        let data = folder.path().join(n.to_string());
        copy_folder(&server.data(), &data);
        (case.spoil)(&data);
        for (command, code, words) in case.answers {
            let mut before = contents(&data);
            let output = matchbook(command, &data);
            let said = said(&output);
            assert_eq!(output.status.code(), Some(*code), "{}: {command:?}: {said}", case.name);
            for word in *words {
                assert!(said.contains(word), "{}: {command:?}: no `{word}` in {said}", case.name);
            }
            let mut after = contents(&data);
            // A start says in the lock's file which process has it, once it has found a log of its own format.
            if [SERVE, REPAIR].contains(command) && before.contains_key(&data.join("events/lock")) {
                before.remove(&data.join("events/lock"));
                after.remove(&data.join("events/lock"));
            }
            assert!(after == before, "{}: {command:?} changed something", case.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_another_process_holds_is_left_alone() {
    let server = Server::start(&[]).await;
    server.post("/jobs", &json!({ "name": "a job" })).await.expect(201);
    let events = server.data().join("events");
    let before = contents(&events);
    for command in [SERVE, VERIFY, PLAN, REPAIR] {
        let output = matchbook(command, &server.data());
        let said = said(&output);
        assert_eq!(output.status.code(), Some(75), "{command:?}: {said}");
        assert!(
            said.contains(&format!("process {}", server.pid())) && said.contains("stop that process"),
            "{said}"
        );
        assert!(contents(&events) == before, "{command:?} changed something");
    }
}
