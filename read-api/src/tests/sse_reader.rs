//! A client of a stream of server-sent events.

use std::time::Duration;

use event_schemas::ids::JobId;
use poem::Body;
use serde_json::Value;
use tokio::io::AsyncReadExt;

use super::fixture::ReadApiFixture;

/// The longest wait for an event; a test that waits longer fails.
pub(super) const TIMEOUT: Duration = Duration::from_secs(300);

/// One event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ReceivedEvent {
    pub(super) name: String,
    pub(super) id: Option<u64>,
    pub(super) data: Value,
}

/// A client of one stream.
pub(super) struct SseReader {
    body: std::pin::Pin<Box<dyn tokio::io::AsyncRead + Send>>,
    text: String,
}

impl SseReader {
    /// Opens the stream of a matching job.
    pub(super) async fn open(
        fixture: &ReadApiFixture,
        id: JobId,
        last_event_id: Option<u64>,
    ) -> Result<Self, u16> {
        // This read waits for the read model.
        fixture.get(&format!("/jobs/{id}/matching/summary")).await;
        Self::open_at(fixture, &format!("/jobs/{id}/matching/stream"), last_event_id).await
    }

    /// # Errors
    /// The status, if it is not 200.
    pub(super) async fn open_at(
        fixture: &ReadApiFixture,
        path: &str,
        last_event_id: Option<u64>,
    ) -> Result<Self, u16> {
        let mut request = fixture.client.get(path);
        if let Some(last) = last_event_id {
            request = request.header("Last-Event-ID", last.to_string());
        }
        let response = request.send().await.0;
        if response.status() != 200 {
            return Err(response.status().as_u16());
        }
        assert_eq!(response.header("cache-control"), Some("no-cache, no-transform"));
        let body: Body = response.into_body();
        Ok(Self { body: Box::pin(body.into_async_read()), text: String::new() })
    }

    /// Returns the next event; none at the end.
    pub(super) async fn next(&mut self) -> Option<ReceivedEvent> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let event = parse(frame);
                self.text = rest.to_owned();
                if event.is_some() {
                    return event;
                }
                continue;
            }
            let mut bytes = [0; 4096];
            let read = tokio::time::timeout(TIMEOUT, self.body.read(&mut bytes)).await;
            let count = read.expect("the stream is silent").unwrap();
            if count == 0 {
                return None;
            }
            self.text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
    }

    pub(super) async fn skip_to(&mut self, name: &str) -> ReceivedEvent {
        loop {
            let event = self.next().await.expect("the stream ended early");
            if event.name == name {
                return event;
            }
        }
    }

    pub(super) async fn rest(mut self) -> Vec<ReceivedEvent> {
        let mut all = Vec::new();
        while let Some(event) = self.next().await {
            all.push(event);
        }
        all
    }
}

fn parse(frame: &str) -> Option<ReceivedEvent> {
    let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    Some(ReceivedEvent {
        name: field("event")?.to_owned(),
        id: field("id").map(|id| id.parse().unwrap()),
        data: serde_json::from_str(field("data")?).unwrap(),
    })
}

pub(super) fn event_names(events: &[ReceivedEvent]) -> Vec<&str> {
    events.iter().map(|event| event.name.as_str()).collect()
}
