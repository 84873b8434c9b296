//! A server that is asked to stop, while everyone is busy.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::support::job::running;
use crate::support::load::{Load, Outcome, traces};
use crate::support::server::Server;
use crate::support::{setting, until};

const CALLERS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_asked_to_stop_leaves_nobody_waiting_and_nothing_undone() {
    let (mut acknowledged, mut unknown) = (0, 0);
    let stops = setting("MATCHBOOK_TEST_STOPS", 2);
    for name in (0..stops).map(|turn| if turn % 2 == 0 { "TERM" } else { "INT" }) {
        let mut server = Server::start(&[]).await;
        let job = running(&server, CALLERS, 100).await;
        let stream =
            server.http.get(format!("{}/jobs/{job}/matching/stream", server.url)).send().await.unwrap();
        let socket_url = format!("{}/jobs/{job}/matching/ws", server.url.replace("http", "ws"));
        let (mut socket, _) = tokio_tungstenite::connect_async(socket_url).await.unwrap();
        let claim = json!({ "kinds": ["video_analysis"], "worker_id": "w", "max": 1, "wait_ms": 30_000 });
        let claim = server.http.post(format!("{}/internal/work/claim", server.url)).json(&claim).send();
        let claim = tokio::spawn(claim);
        until("the worker waits for work", async || {
            server.get("/internal/workers").await.expect(200)["items"] != json!([])
        })
        .await;
        let load = Load::start(&server, &job, CALLERS, 100, 3);
        until("commands are acknowledged", async || load.acknowledged() > 50).await;

        let asked = Instant::now();
        server.signal(name);
        assert_eq!(server.ended(), Some(0), "{}", server.log());
        // It does not wait for the 30 s of the long poll.
        assert!(asked.elapsed() < Duration::from_secs(25), "it took {:?}", asked.elapsed());
        let nothing = claim.await.unwrap().unwrap();
        assert_eq!(nothing.status(), 200);
        assert_eq!(nothing.text().await.unwrap(), r#"{"items":[]}"#);
        stream.text().await.expect("the stream ends in order");
        let mut said_goodbye = false;
        while let Some(Ok(message)) = socket.next().await {
            said_goodbye |= matches!(message, Message::Close(Some(_)));
        }
        assert!(said_goodbye, "the socket was not closed in order");

        server.restart().await;
        let outcomes = load.finish().await;
        let export = server.cli(&["events", "export", "--format=envelope"]).stdout;
        let log: Vec<_> = String::from_utf8(export)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let seen = traces(&log);
        for (trace, outcome) in &outcomes {
            *if *outcome == Outcome::Unknown { &mut unknown } else { &mut acknowledged } += 1;
            let times = seen.get(trace).copied().unwrap_or(0);
            assert!(times == 1 || (*outcome == Outcome::Unknown && times == 0), "{trace}: {times} times");
        }
    }
    eprintln!("stops {stops}, things acknowledged {acknowledged}, unknown {unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_twice_does_not_wait_for_others() {
    let mut server = Server::start(&["--shutdown-grace=1h"]).await;
    let address = server.url.strip_prefix("http://").unwrap();
    let mut slow = TcpStream::connect(address).await.unwrap();
    let head = format!("POST /jobs HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n");
    slow.write_all(format!("{head}expect: 100-continue\r\ncontent-length: 2\r\n\r\n").as_bytes())
        .await
        .unwrap();
    // Asked to go on, it knows that its request is under way.
    assert_ne!(slow.read(&mut [0; 100]).await.unwrap(), 0);
    server.signal("TERM");
    until("it has heard", async || server.log().contains("asked to stop")).await;
    server.signal("INT");
    assert_eq!(server.ended(), Some(0), "{}", server.log());
}
