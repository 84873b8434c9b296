//! The shutdown of a server with requests, streams and long polls in progress.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::support::job::running_job;
use crate::support::load::{Load, Outcome, count_effects};
use crate::support::server::Server;
use crate::support::{setting, wait_until};

const CALLERS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_waiters_in_order_and_loses_nothing() {
    let (mut acknowledged, mut unknown) = (0, 0);
    let stops = setting("MATCHBOOK_TEST_STOPS", 2);
    for name in (0..stops).map(|stop| if stop % 2 == 0 { "TERM" } else { "INT" }) {
        let mut server = Server::start(&[]).await;
        let job = running_job(&server, CALLERS, 100).await;
        let stream =
            server.http.get(format!("{}/jobs/{job}/matching/stream", server.url)).send().await.unwrap();
        let socket_url = format!("{}/jobs/{job}/matching/ws", server.url.replace("http", "ws"));
        let (mut socket, _) = tokio_tungstenite::connect_async(socket_url).await.unwrap();
        let claim = json!({ "kinds": ["video_analysis"], "worker_id": "w", "max": 1, "wait_ms": 30_000 });
        let claim = server.http.post(format!("{}/internal/work/claim", server.url)).json(&claim).send();
        let claim = tokio::spawn(claim);
        wait_until("the worker waits for work", async || {
            server.get("/internal/workers").await.expect(200)["items"] != json!([])
        })
        .await;
        let load = Load::start(&server, &job, CALLERS, 100, 3);
        wait_until("commands are acknowledged", async || load.acknowledged() > 50).await;

        let signalled = Instant::now();
        server.signal(name);
        assert_eq!(server.wait_for_exit(), Some(0), "{}", server.log());
        // The shutdown does not wait for the 30 s of the long poll.
        assert!(signalled.elapsed() < Duration::from_secs(25), "it took {:?}", signalled.elapsed());
        let claimed = claim.await.unwrap().unwrap();
        assert_eq!(claimed.status(), 200);
        assert_eq!(claimed.text().await.unwrap(), r#"{"items":[]}"#);
        stream.text().await.expect("the stream ends properly");
        let mut closed = false;
        while let Some(Ok(message)) = socket.next().await {
            closed |= matches!(message, Message::Close(Some(_)));
        }
        assert!(closed, "the WebSocket was closed without a close frame");

        server.restart().await;
        let outcomes = load.finish().await;
        let export = server.cli(&["events", "export", "--format=envelope"]).stdout;
        let log: Vec<_> = String::from_utf8(export)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let counts = count_effects(&log);
        for (effect, outcome) in &outcomes {
            *if *outcome == Outcome::Unknown { &mut unknown } else { &mut acknowledged } += 1;
            let times = counts.get(effect).copied().unwrap_or(0);
            assert!(times == 1 || (*outcome == Outcome::Unknown && times == 0), "{effect}: {times} times");
        }
    }
    eprintln!("stops {stops}, effects acknowledged {acknowledged}, unknown {unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn second_signal_does_not_wait_for_requests() {
    let mut server = Server::start(&["--shutdown-grace=1h"]).await;
    let address = server.url.strip_prefix("http://").unwrap();
    let mut slow = TcpStream::connect(address).await.unwrap();
    let head = format!("POST /jobs HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n");
    slow.write_all(format!("{head}expect: 100-continue\r\ncontent-length: 2\r\n\r\n").as_bytes())
        .await
        .unwrap();
    // The response "100 Continue" shows that the request is in progress.
    assert_ne!(slow.read(&mut [0; 100]).await.unwrap(), 0);
    server.signal("TERM");
    wait_until("the first signal is handled", async || server.log().contains("stopping on SIG")).await;
    server.signal("INT");
    assert_eq!(server.wait_for_exit(), Some(0), "{}", server.log());
}
