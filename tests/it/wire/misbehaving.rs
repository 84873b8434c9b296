//! The flag by which tests of clients make the program misbehave.

use eventstore::{AppendToStreamOptions, Client, Error, EventData};

use super::serving;
use crate::support::server::Server;
use crate::support::until;

async fn append(client: &Client) -> Result<(), Error> {
    let event = EventData::json("Happened", &serde_json::json!({})).unwrap();
    client.append_to_stream("a", &AppendToStreamOptions::default(), event).await.map(drop)
}

/// Puts the fault into the file, and waits until the program has taken it on.
async fn tell(server: &Server, file: &std::path::Path, fault: &str) {
    let taken_on = || server.log().matches("behaves as a test wants it to").count();
    let before = taken_on();
    std::fs::write(file, fault).unwrap();
    server.signal("USR1");
    until("the fault is taken on", async || taken_on() > before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_takes_on_the_fault_that_a_test_asks_for_and_lets_go_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fault");
    let (server, port) = serving(&[&format!("--esdb-faults={}", file.display())]).await;
    let client = Client::new(format!("esdb://127.0.0.1:{port}?tls=false").parse().unwrap()).unwrap();
    append(&client).await.unwrap();
    tell(&server, &file, "not-leader elsewhere:2113\n").await;
    let refused = append(&client).await.unwrap_err();
    assert!(
        matches!(&refused, Error::NotLeaderException(leader) if leader.host == "elsewhere"),
        "{refused:?}"
    );
    tell(&server, &file, "unavailable").await;
    assert!(append(&client).await.is_err());
    tell(&server, &file, "").await;
    // The client may have looked for the leader elsewhere.
    let client = Client::new(format!("esdb://127.0.0.1:{port}?tls=false").parse().unwrap()).unwrap();
    append(&client).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_does_not_serve_others_without_passwords() {
    let server = Server::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let data = format!("--data={}", folder.path().display());
    let refused = server.cli(&["serve", "--listen=127.0.0.1:0", "--esdb-listen=0.0.0.0:0", &data]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("MATCHBOOK_ESDB_USERS"), "{said}");
}
