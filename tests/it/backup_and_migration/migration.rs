//! Migration of a log from a folder to the EventStoreDB protocol and back, and between folders.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{command, failed, kill_repeatedly, matchbook, server_with_matches, succeeded, text};
use crate::support::folder::contents;
use crate::support::load::SeededRng;
use crate::support::server::{Server, free_port};
use crate::support::server_state::{exported_events, read_model_responses};
use crate::support::setting;

fn embedded(folder: &Path) -> String {
    format!("embedded:{}", folder.display())
}

fn migrate(from: &str, to: &str) -> Value {
    let output = matchbook(&["events", "migrate", "--from", from, "--to", to, "--json"]);
    serde_json::from_str(&succeeded(&output)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn migration_to_a_cluster_and_back_preserves_the_log() {
    let kills = setting("MATCHBOOK_TEST_MOVE_KILLS", 6);
    let (mut server, job) = server_with_matches(300, &[]).await;
    let (log, responses) = (exported_events(&server), read_model_responses(&server, &job).await);
    assert_eq!(server.terminate(), Some(0));
    let root = server.folder.path().to_owned();
    let events = server.data().join("events");
    let before = contents(&events);

    let port = free_port();
    let listen = format!("--esdb-listen=127.0.0.1:{port}");
    let cluster = Server::start(&[&listen, "--esdb-trusted-users=mover:secret"]).await;
    let there = format!("esdb://mover:secret@127.0.0.1:{port}?tls=false");
    let here = embedded(&events);
    let arguments = ["events", "migrate", "--from", &here, "--to", &there];
    kill_repeatedly(|| command(&arguments), kills, 900_000, &mut SeededRng(4));
    let outbound = migrate(&here, &there);
    assert_eq!(outbound["same"], true);
    assert_eq!(outbound["source"]["events"], log.len());
    assert_eq!(contents(&events), before, "the source was changed");
    let again = migrate(&here, &there);
    assert_eq!((again["added"].as_u64(), &again["target"]), (Some(0), &outbound["target"]));

    let back = embedded(&root.join("back"));
    let inbound = migrate(&there, &back);
    assert_eq!(inbound["target"], outbound["source"]);
    drop(cluster);

    fs::rename(&events, root.join("before")).unwrap();
    fs::rename(root.join("back"), &events).unwrap();
    succeeded(&matchbook(&["events", "verify", "--all", "--data", text(&events)]));
    server.restart().await;
    assert_eq!(exported_events(&server), log);
    assert_eq!(read_model_responses(&server, &job).await, responses);
}

#[tokio::test(flavor = "multi_thread")]
async fn folder_migration_resumes_after_kills() {
    let kills = setting("MATCHBOOK_TEST_MOVE_KILLS", 8);
    let (mut server, _) = server_with_matches(2_000, &["--segment-bytes=200000"]).await;
    assert_eq!(server.terminate(), Some(0));
    let root = server.folder.path().to_owned();
    let at = |name: &str| root.join(name);
    let (from, to) = (embedded(&server.data()), embedded(&at("to")));
    let arguments = ["events", "migrate", "--from", &from, "--to", &to];
    kill_repeatedly(|| command(&arguments), kills, 120_000, &mut SeededRng(6));
    let report = migrate(&from, &to);
    assert_eq!((&report["same"], &report["source"]), (&Value::from(true), &report["target"]));
    let lines = |folder: &Path| succeeded(&matchbook(&["events", "export", "--data", text(folder)]));
    assert!(lines(&server.data()) == lines(&at("to")));

    // Targets that have diverged or are in use, and sources without a log.
    let other = server_with_matches(3, &[]).await.0;
    let held = embedded(&other.data());
    let unreachable = "esdb://127.0.0.1:1?tls=false".to_owned();
    for (from, to, code, part) in [
        (&from, &held, 75, "in use by process"),
        (&embedded(&at("nowhere")), &embedded(&at("new")), 2, "holds no event log"),
        (&from, &unreachable, 69, "127.0.0.1:1"),
        (&unreachable, &embedded(&at("new")), 69, "127.0.0.1:1"),
        (&held, &to, 2, "name an empty log"),
    ] {
        let (exit, message) = failed(&matchbook(&["events", "migrate", "--from", from, "--to", to]));
        assert_eq!(exit, Some(code), "{message}");
        assert!(message.contains(part), "no `{part}` in {message}");
        assert!(!at("new").exists());
    }
    assert!(lines(&server.data()) == lines(&at("to")), "a refused move changed the target");
}
