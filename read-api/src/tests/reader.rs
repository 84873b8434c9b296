//! Someone who reads a stream of server-sent events.

use std::time::Duration;

use event_schemas::ids::JobId;
use poem::Body;
use serde_json::Value;
use tokio::io::AsyncReadExt;

use super::stage::Stage;

/// Nothing here takes long; a test that waits this long has failed.
pub(super) const SOON: Duration = Duration::from_secs(300);

/// One event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told {
    pub(super) event: String,
    pub(super) id: Option<u64>,
    pub(super) data: Value,
}

/// Someone who reads a stream.
pub(super) struct Reader {
    body: std::pin::Pin<Box<dyn tokio::io::AsyncRead + Send>>,
    text: String,
}

impl Reader {
    /// Reads the summaries of a matching job.
    pub(super) async fn open(stage: &Stage, id: JobId, last_event_id: Option<u64>) -> Result<Self, u16> {
        // The read model has caught up with what was appended before.
        stage.get(&format!("/jobs/{id}/matching/summary")).await;
        Self::open_at(stage, &format!("/jobs/{id}/matching/stream"), last_event_id).await
    }

    /// # Errors
    /// The status, if it is not that of an open stream.
    pub(super) async fn open_at(stage: &Stage, path: &str, last_event_id: Option<u64>) -> Result<Self, u16> {
        let mut request = stage.client.get(path);
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

    /// The next event; none at the end.
    pub(super) async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let told = parse(frame);
                self.text = rest.to_owned();
                if told.is_some() {
                    return told;
                }
                continue;
            }
            let mut bytes = [0; 4096];
            let read = tokio::time::timeout(SOON, self.body.read(&mut bytes)).await;
            let count = read.expect("the stream says nothing").unwrap();
            if count == 0 {
                return None;
            }
            self.text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
    }

    pub(super) async fn skip_to(&mut self, event: &str) -> Told {
        loop {
            let told = self.next().await.expect("the stream ended before");
            if told.event == event {
                return told;
            }
        }
    }

    pub(super) async fn rest(mut self) -> Vec<Told> {
        let mut all = Vec::new();
        while let Some(told) = self.next().await {
            all.push(told);
        }
        all
    }
}

fn parse(frame: &str) -> Option<Told> {
    let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    Some(Told {
        event: field("event")?.to_owned(),
        id: field("id").map(|id| id.parse().unwrap()),
        data: serde_json::from_str(field("data")?).unwrap(),
    })
}

pub(super) fn names(told: &[Told]) -> Vec<&str> {
    told.iter().map(|told| told.event.as_str()).collect()
}
