//! Waiting for what becomes of a queue entry: pushed as server-sent events, or asked for again and again.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::{Method, StatusCode};

use crate::api::Caller;

const POLL_EVERY: Duration = Duration::from_secs(2);
/// A server that is away is waited for so long at a time.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);
/// A stream that says nothing for so long, not even that it is alive, is opened anew.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// An event of the stream is never longer.
const EVENT_BYTES_MAX: usize = 64 * 1024;
/// An entry that was just made may not be there yet for those who read.
const UNKNOWN_MAX: u32 = 5;

/// How a player learns what becomes of their entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    Stream,
    Poll,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Matched,
    Cancelled,
    Expired,
    /// The server does not know it.
    Unknown,
}

/// Waits until an entry is over, however long.
pub async fn fate(caller: &Caller, id: &str, follows: Follows) -> Fate {
    let mut unknown = 0;
    loop {
        if follows == Follows::Stream {
            // However the stream ends, the entry says how it stands.
            told(caller, id).await;
        }
        match caller.ask(Method::GET, &format!("/v1/matchmaking/queue/{id}"), None, PATIENCE).await {
            Ok(answer) if answer.status == StatusCode::NOT_FOUND => {
                unknown += 1;
                if unknown > UNKNOWN_MAX {
                    return Fate::Unknown;
                }
            }
            Ok(answer) => match answer.text("/status") {
                Some("matched") => return Fate::Matched,
                Some("cancelled") => return Fate::Cancelled,
                Some("expired") => return Fate::Expired,
                _ => {}
            },
            Err(away) => tracing::debug!(user = caller.user(), %away, "the server is away"),
        }
        let pause = if follows == Follows::Poll { POLL_EVERY } else { PAUSE };
        tokio::time::sleep(pause).await;
    }
}

/// Reads the stream of an entry until it says that the entry is over, ends or breaks.
async fn told(caller: &Caller, id: &str) {
    let request = caller.request(Method::GET, &format!("/v1/matchmaking/queue/{id}/stream"));
    let Ok(response) = request.header("accept", "text/event-stream").send().await else { return };
    if response.status() != StatusCode::OK {
        return;
    }
    let (mut body, mut events) = (response.bytes_stream(), Events::default());
    while let Ok(Some(Ok(bytes))) = tokio::time::timeout(SILENCE_MAX, body.next()).await {
        for name in events.read(&bytes) {
            tracing::debug!(user = caller.user(), event = name, "told");
            if matches!(name.as_str(), "matched" | "cancelled" | "expired" | "stream_ended") {
                return;
            }
        }
    }
}

/// The names of events out of pieces of a stream. What they hold is not needed: the entry itself is read.
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
    fn the_names_of_events_are_read_however_the_stream_is_cut() {
        let stream = b": hello\nevent: connected\ndata: {}\n\nevent: searching\nid: 7\ndata: {\"a\": 1}\n\nevent: matched\n";
        for size in 1..stream.len() {
            let mut events = Events::default();
            let names: Vec<String> = stream.chunks(size).flat_map(|piece| events.read(piece)).collect();
            assert_eq!(names, ["connected", "searching", "matched"], "in pieces of {size}");
        }
    }
}
