//! A client that reads a stream of server-sent events over HTTP.

use futures_util::StreamExt;
use serde_json::Value;

use super::TIMEOUT;
use super::server::Server;

/// One event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SseEvent {
    pub(crate) event: String,
    pub(crate) id: Option<u64>,
    pub(crate) data: Value,
}

pub(crate) struct SseClient {
    body: futures_util::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: String,
}

impl SseClient {
    /// # Errors
    /// The status of the response, if the stream was not opened.
    pub(crate) async fn open(server: &Server, path: &str, last: Option<u64>) -> Result<Self, u16> {
        let mut request =
            server.http.get(format!("{}{path}", server.url)).header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last.to_string());
        }
        let response = request.send().await.unwrap();
        if response.status() != 200 {
            return Err(response.status().as_u16());
        }
        for (name, value) in [("cache-control", "no-cache, no-transform"), ("x-accel-buffering", "no")] {
            assert_eq!(response.headers().get(name).map(|value| value.to_str().unwrap()), Some(value));
        }
        assert!(response.headers().get("content-encoding").is_none());
        Ok(Self { body: response.bytes_stream().boxed(), text: String::new() })
    }

    /// The next event, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<SseEvent> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let event = parse(frame);
                self.text = rest.to_owned();
                if event.is_some() {
                    return event;
                }
                continue;
            }
            let bytes = tokio::time::timeout(TIMEOUT, self.body.next()).await;
            let bytes = bytes.expect("an event or the end of the stream")?.unwrap();
            self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    /// Reads all events up to the end of the stream.
    pub(crate) async fn read_to_end(&mut self) -> Vec<SseEvent> {
        let mut all = Vec::new();
        while let Some(event) = self.next().await {
            all.push(event);
        }
        all
    }
}

fn parse(frame: &str) -> Option<SseEvent> {
    let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    Some(SseEvent {
        event: field("event")?.to_owned(),
        id: field("id").map(|id| id.parse().unwrap()),
        data: serde_json::from_str(field("data")?).unwrap(),
    })
}
