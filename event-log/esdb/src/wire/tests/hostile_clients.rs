//! Clients that take connections and do not use them.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{ServerFixture, events, settings, soon};
use crate::wire::Settings;
use crate::wire::connection::state::REPLACE_PAUSE;

const CONNECTIONS_MAX: usize = 8;

async fn connect(fixture: &ServerFixture, sent: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(fixture.server.address()).await.unwrap();
    stream.write_all(sent).await.unwrap();
    stream
}

/// Waits until the server has closed the connection.
async fn closed(stream: &mut TcpStream) {
    let mut bytes = [0; 1024];
    // It may end with a reset, and sends its settings before.
    while let Ok(1..) = stream.read(&mut bytes).await {}
}

#[tokio::test]
async fn idle_connections_shut_no_client_out() {
    let fixture = ServerFixture::with(Settings { connections_max: CONNECTIONS_MAX, ..settings() }).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut idle = Vec::new();
    for sent in [&preface[..0], &preface[..10], &preface[..], b"GET / HTTP/1.1\r\n"] {
        for _ in 0..2 * CONNECTIONS_MAX {
            idle.push(connect(&fixture, sent).await);
        }
        let client = fixture.client();
        soon(client.append_to_stream("a", &eventstore::AppendToStreamOptions::default(), events(1..2)))
            .await
            .unwrap();
    }
    assert!(fixture.server.connections().open() <= CONNECTIONS_MAX);
    // The earliest were closed for the later ones.
    soon(closed(&mut idle[0])).await;
}

#[tokio::test(start_paused = true)]
async fn new_connection_waits_when_all_slots_are_taken() {
    let fixture = ServerFixture::with(Settings { connections_max: CONNECTIONS_MAX, ..settings() }).await;
    let started = tokio::time::Instant::now();
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS_MAX + 20 {
        let mut stream = connect(&fixture, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        // The server's settings.
        stream.read_u8().await.unwrap();
        open.push(stream);
    }
    assert!(started.elapsed() >= 20 * REPLACE_PAUSE, "{:?}", started.elapsed());
}

#[tokio::test]
async fn connection_in_use_is_not_closed_for_another() {
    let fixture = ServerFixture::with(Settings { connections_max: CONNECTIONS_MAX, ..settings() }).await;
    let client = fixture.client();
    let options = eventstore::SubscribeToAllOptions::default();
    let mut following = client.subscribe_to_all(&options).await;
    let mut idle = Vec::new();
    for _ in 0..4 * CONNECTIONS_MAX {
        idle.push(connect(&fixture, b"").await);
    }
    soon(client.append_to_stream("a", &eventstore::AppendToStreamOptions::default(), events(1..2)))
        .await
        .unwrap();
    let event = soon(following.next()).await.unwrap();
    assert_eq!(event.get_original_event().stream_id, "a");
}

#[tokio::test]
async fn connection_without_a_call_is_closed_in_time() {
    let settings = Settings { call_timeout: Duration::from_millis(50), ..settings() };
    let fixture = ServerFixture::with(settings).await;
    for sent in [&b""[..], b"PRI * HTTP", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = connect(&fixture, sent).await;
        soon(closed(&mut stream)).await;
    }
}
