//! Follows a queue entry until it ends, by server-sent events or by polling.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::{Method, StatusCode};

use crate::api::Caller;

const POLL_EVERY: Duration = Duration::from_secs(2);
/// The time for which a call to an unreachable server is retried.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);
/// A stream without events and heartbeats for this time is reopened.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// The longest line of the stream.
const EVENT_BYTES_MAX: usize = 64 * 1024;
/// The most 404 responses for an entry: a read model may be behind.
const NOT_FOUND_MAX: u32 = 5;

/// The way in which a player follows its queue entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowMode {
    Stream,
    Poll,
}

/// The end of a queue entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryOutcome {
    Matched,
    Cancelled,
    Expired,
    /// The entry does not exist.
    Unknown,
}

/// Waits until an entry ends.
pub async fn wait_for_outcome(caller: &Caller, id: &str, follow_mode: FollowMode) -> EntryOutcome {
    let mut not_found = 0;
    loop {
        if follow_mode == FollowMode::Stream {
            // The entry is read after the stream, however it ended.
            follow_stream(caller, id).await;
        }
        match caller.send(Method::GET, &format!("/v1/matchmaking/queue/{id}"), None, RETRY_TIMEOUT).await {
            Ok(answer) if answer.status == StatusCode::NOT_FOUND => {
                not_found += 1;
                if not_found > NOT_FOUND_MAX {
                    return EntryOutcome::Unknown;
                }
            }
            Ok(answer) => match answer.text("/status") {
                Some("matched") => return EntryOutcome::Matched,
                Some("cancelled") => return EntryOutcome::Cancelled,
                Some("expired") => return EntryOutcome::Expired,
                _ => {}
            },
            Err(error) => tracing::debug!(user = caller.user(), %error, "the server is unreachable"),
        }
        let pause = if follow_mode == FollowMode::Poll { POLL_EVERY } else { PAUSE };
        tokio::time::sleep(pause).await;
    }
}

/// Reads the stream of an entry until the entry or the stream ends.
async fn follow_stream(caller: &Caller, id: &str) {
    let request = caller.request(Method::GET, &format!("/v1/matchmaking/queue/{id}/stream"));
    let Ok(response) = request.header("accept", "text/event-stream").send().await else { return };
    if response.status() != StatusCode::OK {
        return;
    }
    let (mut body, mut events) = (response.bytes_stream(), Events::default());
    while let Ok(Some(Ok(bytes))) = tokio::time::timeout(SILENCE_MAX, body.next()).await {
        for name in events.read(&bytes) {
            tracing::debug!(user = caller.user(), event = name, "event received");
            if matches!(name.as_str(), "matched" | "cancelled" | "expired" | "stream_ended") {
                return;
            }
        }
    }
}

/// Parses the names of events from chunks of a stream. Their data is not needed, because the entry itself is read.
#[derive(Debug, Default)]
struct Events {
    line: Vec<u8>,
}

impl Events {
    fn read(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' | b'\r' => {
                    if let Some(name) = self.line.strip_prefix(b"event:") {
                        names.push(String::from_utf8_lossy(name).trim().to_owned());
                    }
                    self.line.clear();
                }
                byte if self.line.len() < EVENT_BYTES_MAX => self.line.push(*byte),
                _ => {}
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_names_are_parsed_from_chunks_of_any_size() {
        let stream = b": hello\nevent: connected\ndata: {}\n\nevent: searching\nid: 7\ndata: {\"a\": 1}\n\nevent: matched\n";
        for size in 1..stream.len() {
            let mut events = Events::default();
            let names: Vec<String> = stream.chunks(size).flat_map(|piece| events.read(piece)).collect();
            assert_eq!(names, ["connected", "searching", "matched"], "in chunks of {size}");
        }
    }
}
