//! Many readers, and some who do not read.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::job::{phase, running};
use crate::support::server::Server;
use crate::support::{PATIENCE, setting};

const UPDATES: u64 = 300;

async fn subscribe(server: &Server, job: &str) -> TcpStream {
    let address = server.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /jobs/{job}/matching/stream HTTP/1.1\r\nhost: {address}\r\naccept: text/event-stream\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Reads until the text has come, and answers all that came.
async fn until_heard(stream: &mut TcpStream, text: &str) -> String {
    let mut heard = Vec::new();
    let listening = async {
        while !String::from_utf8_lossy(&heard).contains(text) {
            assert!(stream.read_buf(&mut heard).await.unwrap() > 0, "the stream ended");
        }
    };
    tokio::time::timeout(PATIENCE, listening).await.expect("never heard");
    String::from_utf8_lossy(&heard).into_owned()
}

fn resident_bytes(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_who_do_not_read_cost_little_and_slow_nobody() {
    let server = Server::start(&[]).await;
    let job = running(&server, 1, UPDATES as usize).await;
    let readers = setting("MATCHBOOK_TEST_READERS", 300);
    let mut deaf = Vec::new();
    for _ in 0..readers {
        deaf.push(subscribe(&server, &job).await);
    }
    let mut reader = subscribe(&server, &job).await;
    until_heard(&mut reader, "event: connected").await;
    let before = resident_bytes(&server);
    for n in 1..=UPDATES {
        let report = json!([{ "request_id": "r0", "candidates_processed": n, "vector_pass_done": n,
                              "ransac_checked": n }]);
        server.post(&format!("/jobs/{job}/match-progress"), &report).await.expect(200);
    }
    until_heard(&mut reader, &format!("\"candidates_processed\":{UPDATES}")).await;
    let grown = resident_bytes(&server).saturating_sub(before);
    assert!(grown < 200_000_000, "{grown} bytes for {readers} readers who do not read");
    phase(&server, &job, "completed").await;
    until_heard(&mut reader, "stream_ended").await;
    // Those who begin to read hear of the end as well.
    for stream in &mut deaf {
        let heard = until_heard(stream, "stream_ended").await;
        assert!(heard.contains("\"status\":\"completed\""));
    }
    server.get("/ready").await.expect(200);
    eprintln!("readers {readers}, updates {UPDATES}, grown by {grown} bytes to {}", resident_bytes(&server));
}
