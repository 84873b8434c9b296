//! Many subscribers that do not read their streams.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::job::{running_job, set_phase};
use crate::support::server::Server;
use crate::support::{TIMEOUT, setting};

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

/// Reads until the text has arrived, and returns everything received.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut received = Vec::new();
    let listening = async {
        while !String::from_utf8_lossy(&received).contains(text) {
            assert!(stream.read_buf(&mut received).await.unwrap() > 0, "the stream ended");
        }
    };
    tokio::time::timeout(TIMEOUT, listening).await.expect("the text arrives in time");
    String::from_utf8_lossy(&received).into_owned()
}

fn resident_bytes(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// The CPU time of the server so far, in hundredths of a second.
fn cpu_ticks(server: &Server) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_subscribers_cost_little_and_delay_no_others() {
    let server = Server::start(&[]).await;
    let job = running_job(&server, 1, UPDATES as usize).await;
    let count = setting("MATCHBOOK_TEST_READERS", 300);
    let mut stalled = Vec::new();
    for _ in 0..count {
        stalled.push(subscribe(&server, &job).await);
    }
    let mut subscriber = subscribe(&server, &job).await;
    read_until(&mut subscriber, "event: connected").await;
    let (before, cpu_before) = (resident_bytes(&server), cpu_ticks(&server));
    for n in 1..=UPDATES {
        let report = json!([{ "request_id": "r0", "candidates_processed": n, "vector_pass_done": n,
                              "ransac_checked": n }]);
        server.post(&format!("/jobs/{job}/match-progress"), &report).await.expect(200);
    }
    read_until(&mut subscriber, &format!("\"candidates_processed\":{UPDATES}")).await;
    let cpu = cpu_ticks(&server) - cpu_before;
    let grown = resident_bytes(&server).saturating_sub(before);
    assert!(grown < 200_000_000, "{grown} bytes for {count} stalled subscribers");
    set_phase(&server, &job, "completed").await;
    read_until(&mut subscriber, "stream_ended").await;
    // The stalled subscribers receive the end as well, once they read.
    for stream in &mut stalled {
        let received = read_until(stream, "stream_ended").await;
        assert!(received.contains("\"status\":\"completed\""));
    }
    server.get("/ready").await.expect(200);
    eprintln!(
        "subscribers {count}, updates {UPDATES}, CPU {cpu}0 ms, grown by {grown} bytes to {}",
        resident_bytes(&server)
    );
}
