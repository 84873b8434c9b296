//! A server over an embedded log, with the `eventstore` crate as its client.

use std::time::Duration;

use event_schemas::ids::Position;
use event_schemas::time::Timestamp;
use eventstore::{Client, ClientSettings, EventData};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::{Access, Right, Server, Settings};
use event_log::EventLog;
use event_log::clock::Clock;
use event_log_embedded as embedded;
use event_log_embedded::EmbeddedLog;

mod access_and_faults;
mod appending;
mod deleting;
mod following;
mod hostile_clients;
mod random_messages;
mod reading;

const START: Timestamp = Timestamp::from_micros(1_800_000_000_123_456);

/// A log and its server, without authentication.
struct ServerFixture {
    log: EmbeddedLog,
    clock: Clock,
    server: Server,
    _folder: TempDir,
}

impl ServerFixture {
    async fn new() -> Self {
        Self::with(settings()).await
    }

    async fn with(settings: Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log_settings =
            embedded::Settings { reserve_bytes: 0, ..embedded::Settings::new(folder.path().join("events")) };
        let clock = Clock::manual(START);
        let (log, _) = EmbeddedLog::open(&log_settings, clock.clone()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::start(listener, log.clone(), clock.clone(), settings).unwrap();
        Self { log, clock, server, _folder: folder }
    }

    fn client(&self) -> Client {
        let address = self.server.address();
        client(&format!("esdb://{address}?tls=false"))
    }

    fn head(&self) -> Position {
        *self.log.head().borrow()
    }
}

fn client(url: &str) -> Client {
    let settings: ClientSettings = url.parse().unwrap();
    Client::new(settings).unwrap()
}

/// Settings by which anonymous clients may append to clients' streams.
fn settings() -> Settings {
    let access = Access { users: Vec::new(), anonymous: Some(Right::Clients) };
    Settings { access, ..Settings::default() }
}

fn event(number: u128) -> EventData {
    let data = serde_json::json!({ "number": number.to_string() });
    EventData::json("Happened", &data).unwrap().id(uuid::Uuid::from_u128(number))
}

fn events(numbers: std::ops::Range<u128>) -> Vec<EventData> {
    numbers.map(event).collect()
}

/// Waits for a future; panics after 20 seconds.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("it did not complete within 20 seconds")
}
