//! The flag `--esdb-faults`, by which tests of clients make the server simulate faults.

use eventstore::{AppendToStreamOptions, Client, Error, EventData};

use super::serving;
use crate::support::server::Server;
use crate::support::wait_until;

async fn append(client: &Client) -> Result<(), Error> {
    let event = EventData::json("Happened", &serde_json::json!({})).unwrap();
    client.append_to_stream("a", &AppendToStreamOptions::default(), event).await.map(drop)
}

/// Writes the fault to the file, and waits until the server simulates it.
async fn simulate(server: &Server, file: &std::path::Path, fault: &str) {
    let changes = || server.log().matches("injects a fault for a test").count();
    let before = changes();
    std::fs::write(file, fault).unwrap();
    server.signal("USR1");
    wait_until("the fault is simulated", async || changes() > before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_from_the_file_is_simulated_until_it_is_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fault");
    let (server, port) = serving(&[&format!("--esdb-faults={}", file.display())]).await;
    let client = Client::new(format!("esdb://127.0.0.1:{port}?tls=false").parse().unwrap()).unwrap();
    append(&client).await.unwrap();
    simulate(&server, &file, "not-leader elsewhere:2113\n").await;
    let refused = append(&client).await.unwrap_err();
    assert!(
        matches!(&refused, Error::NotLeaderException(leader) if leader.host == "elsewhere"),
        "{refused:?}"
    );
    simulate(&server, &file, "unavailable").await;
    assert!(append(&client).await.is_err());
    simulate(&server, &file, "").await;
    // The old client may have switched to the named leader.
    let client = Client::new(format!("esdb://127.0.0.1:{port}?tls=false").parse().unwrap()).unwrap();
    append(&client).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn serving_other_hosts_requires_passwords() {
    let server = Server::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let data = format!("--data={}", folder.path().display());
    let refused = server.cli(&["serve", "--listen=127.0.0.1:0", "--esdb-listen=0.0.0.0:0", &data]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains("MATCHBOOK_ESDB_USERS"), "{message}");
}
