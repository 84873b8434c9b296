//! Someone who reads a stream of server-sent events over HTTP.

use futures_util::StreamExt;
use serde_json::Value;

use super::PATIENCE;
use super::server::Server;

/// One event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    pub(crate) event: String,
    pub(crate) id: Option<u64>,
    pub(crate) data: Value,
}

pub(crate) struct Reader {
    answer: futures_util::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: String,
}

impl Reader {
    /// # Errors
    /// The status, if it is not that of an open stream.
    pub(crate) async fn open(server: &Server, path: &str, last: Option<u64>) -> Result<Self, u16> {
        let mut request =
            server.http.get(format!("{}{path}", server.url)).header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last.to_string());
        }
        let answer = request.send().await.unwrap();
        if answer.status() != 200 {
            return Err(answer.status().as_u16());
        }
        for (name, value) in [("cache-control", "no-cache, no-transform"), ("x-accel-buffering", "no")] {
            assert_eq!(answer.headers().get(name).map(|value| value.to_str().unwrap()), Some(value));
        }
        assert!(answer.headers().get("content-encoding").is_none());
        Ok(Self { answer: answer.bytes_stream().boxed(), text: String::new() })
    }

    /// The next event; none at the end.
    pub(crate) async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let told = parse(frame);
                self.text = rest.to_owned();
                if told.is_some() {
                    return told;
                }
                continue;
            }
            let bytes = tokio::time::timeout(PATIENCE, self.answer.next()).await;
            let bytes = bytes.expect("the stream says nothing")?.unwrap();
            self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    pub(crate) async fn rest(&mut self) -> Vec<Told> {
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
