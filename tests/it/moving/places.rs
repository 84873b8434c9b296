//! A log that moves from a folder to the EventStoreDB protocol and back.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{command, done, killed, matchbook, refused, served, text};
use crate::support::answers::{answers, exported};
use crate::support::folder::contents;
use crate::support::load::Dice;
use crate::support::server::{Server, free_port};
use crate::support::setting;

fn embedded(folder: &Path) -> String {
    format!("embedded:{}", folder.display())
}

fn moved(from: &str, to: &str) -> Value {
    let output = matchbook(&["events", "migrate", "--from", from, "--to", to, "--json"]);
    serde_json::from_str(&done(&output)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_comes_back_from_a_cluster_as_it_went_there() {
    let kills = setting("MATCHBOOK_TEST_MOVE_KILLS", 6);
    let (mut server, job) = served(300, &[]).await;
    let (log, said) = (exported(&server), answers(&server, &job).await);
    assert_eq!(server.terminate(), Some(0));
    let place = server.folder.path().to_owned();
    let events = server.data().join("events");
    let before = contents(&events);

    let port = free_port();
    let listen = format!("--esdb-listen=127.0.0.1:{port}");
    let cluster = Server::start(&[&listen, "--esdb-trusted-users=mover:secret"]).await;
    let there = format!("esdb://mover:secret@127.0.0.1:{port}?tls=false");
    let here = embedded(&events);
    let arguments = ["events", "migrate", "--from", &here, "--to", &there];
    killed(|| command(&arguments), kills, 900_000, &mut Dice(4));
    let went = moved(&here, &there);
    assert_eq!(went["same"], true);
    assert_eq!(went["source"]["events"], log.len());
    assert_eq!(contents(&events), before, "the source was changed");
    let again = moved(&here, &there);
    assert_eq!((again["added"].as_u64(), &again["target"]), (Some(0), &went["target"]));

    let back = embedded(&place.join("back"));
    let came = moved(&there, &back);
    assert_eq!(came["target"], went["source"]);
    drop(cluster);

    fs::rename(&events, place.join("before")).unwrap();
    fs::rename(place.join("back"), &events).unwrap();
    done(&matchbook(&["events", "verify", "--all", "--data", text(&events)]));
    server.restart().await;
    assert_eq!(exported(&server), log);
    assert_eq!(answers(&server, &job).await, said);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_between_folders_goes_on_after_kills_and_tells_what_it_cannot_do() {
    let kills = setting("MATCHBOOK_TEST_MOVE_KILLS", 8);
    let (mut server, _) = served(2_000, &["--segment-bytes=200000"]).await;
    assert_eq!(server.terminate(), Some(0));
    let place = server.folder.path().to_owned();
    let at = |name: &str| place.join(name);
    let (from, to) = (embedded(&server.data()), embedded(&at("to")));
    let arguments = ["events", "migrate", "--from", &from, "--to", &to];
    killed(|| command(&arguments), kills, 120_000, &mut Dice(6));
    let went = moved(&from, &to);
    assert_eq!((&went["same"], &went["source"]), (&Value::from(true), &went["target"]));
    let lines = |folder: &Path| done(&matchbook(&["events", "export", "--data", text(folder)]));
    assert!(lines(&server.data()) == lines(&at("to")));

    // A target that has gone its own way, and places where there is no log.
    let other = served(3, &[]).await.0;
    let held = embedded(&other.data());
    let unreachable = "esdb://127.0.0.1:1?tls=false".to_owned();
    for (from, to, code, part) in [
        (&from, &held, 75, "in use by process"),
        (&embedded(&at("nowhere")), &embedded(&at("new")), 2, "holds no event log"),
        (&from, &unreachable, 69, "127.0.0.1:1"),
        (&unreachable, &embedded(&at("new")), 69, "127.0.0.1:1"),
        (&held, &to, 2, "name an empty log"),
    ] {
        let (exit, said) = refused(&matchbook(&["events", "migrate", "--from", from, "--to", to]));
        assert_eq!(exit, Some(code), "{said}");
        assert!(said.contains(part), "no `{part}` in {said}");
        assert!(!at("new").exists());
    }
    assert!(lines(&server.data()) == lines(&at("to")), "a refused move changed the target");
}
