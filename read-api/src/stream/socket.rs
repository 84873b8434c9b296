//! The stream of a job over a WebSocket, with each update's data as one text frame.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use poem::http::{StatusCode, header};
use poem::web::Path;
use poem::web::websocket::{CloseCode, Message as Frame, WebSocket, WebSocketConfig, WebSocketStream};
use poem::{Body, Endpoint, FromRequest, IntoResponse, Request, Response};
use tokio::time::{Instant, timeout};
use web::caller::Authenticated;
use web::path;
use web::problem::Problem;
use web::sse::{Events, Outgoing, queue};
use web::stream_permit::StreamPermit;
use web::value::ApiPosition;

use super::{MatchingFollower, MatchingUpdate};
use crate::ReadApi;

/// Messages from the client are ignored, so large ones are refused.
const RECEIVED_BYTES_MAX: usize = 1024;

/// The most messages of a client within [`MESSAGES_WITHIN`], pings included: each ping is answered.
const MESSAGES_MAX: u32 = 32;
const MESSAGES_WITHIN: Duration = Duration::from_secs(10);

/// The most bytes that wait until the client reads: the largest update, and the answers to its pings.
const WRITE_BYTES_MAX: usize = 2 * queue::BEHIND_BYTES_MAX;

/// The time that the closing may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// `GET /jobs/{job_id}/matching/ws`.
#[derive(Clone, Debug)]
pub(crate) struct Socket {
    pub(crate) api: Arc<ReadApi>,
}

impl Endpoint for Socket {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let mut body = poem::RequestBody::new(Body::empty());
        let Authenticated(caller) = Authenticated::from_request(&request, &mut body).await?;
        let Path(job) = Path::<String>::from_request(&request, &mut body).await?;
        let job = path::job_id(&job)?;
        let after = last_event_id(&request)?;
        let after = after.map(|ApiPosition(after)| after);
        let Some(follower) = MatchingFollower::open(&self.api, &caller.tenant, job, after).await? else {
            return Ok(StatusCode::NO_CONTENT.into_response());
        };
        let version = request.header(header::SEC_WEBSOCKET_VERSION);
        if version.is_some_and(|version| version.trim() != "13") {
            return Err(Problem::websocket_version().into());
        }
        let socket = WebSocket::from_request(&request, &mut body).await?;
        let mut events = self.api.topics.open(follower, &self.api.shutdown);
        if let Some(permit) = StreamPermit::take(&request) {
            events.govern(permit);
        }
        let config = WebSocketConfig::default()
            .max_message_size(Some(RECEIVED_BYTES_MAX))
            .max_frame_size(Some(RECEIVED_BYTES_MAX))
            .max_write_buffer_size(WRITE_BYTES_MAX);
        let upgraded = socket.config(config).on_upgrade(move |socket| forward(socket, events));
        Ok(upgraded.into_response())
    }
}

/// `?last_event_id=` or the header: a browser cannot set headers for a WebSocket.
fn last_event_id(request: &Request) -> Result<Option<ApiPosition>, Problem> {
    use poem_openapi::types::ParseFromParameter;
    let query = request.uri().query().unwrap_or_default();
    let given = query.split('&').find_map(|pair| pair.strip_prefix("last_event_id="));
    let header = request.header("last-event-id");
    let parse = |text| {
        ApiPosition::parse_from_parameter(text)
            .map_err(|_| Problem::invalid("last_event_id", "must be a position: a whole number from 0"))
    };
    header.or(given).map(parse).transpose()
}

/// Forwards the stream to the socket until either ends.
async fn forward(socket: WebSocketStream, mut events: Events<MatchingUpdate>) {
    let (mut sink, mut received) = socket.split();
    let mut messages = ReceivedMessages::since(Instant::now());
    let (code, reason) = loop {
        tokio::select! {
            outgoing = events.next_outgoing() => {
                let Some(outgoing) = outgoing else {
                    break match events.end() {
                        Some(end) => (CloseCode::Policy, end.event()),
                        None => (CloseCode::Normal, "the stream has ended"),
                    };
                };
                if sink.send(frame(&outgoing)).await.is_err() {
                    return;
                }
            }
            // Reading also answers pings.
            message = received.next() => match message {
                // The close frame of the reply is queued and must be flushed.
                Some(Ok(Frame::Close(_))) => {
                    let _ = timeout(CLOSE_TIMEOUT, sink.close()).await;
                    return;
                }
                Some(Err(_)) | None => return,
                Some(Ok(_)) if messages.are_too_many(Instant::now()) => {
                    break (CloseCode::Policy, "too many messages; this stream needs none");
                }
                Some(Ok(_)) => {}
            },
        }
    };
    // The client may have disconnected already, or may not read.
    let close = Frame::Close(Some((code, reason.to_owned())));
    let _ = timeout(CLOSE_TIMEOUT, sink.send(close)).await;
}

/// The number of messages of a client in the current interval.
struct ReceivedMessages {
    since: Instant,
    count: u32,
}

impl ReceivedMessages {
    fn since(now: Instant) -> Self {
        Self { since: now, count: 0 }
    }

    /// Counts a message.
    fn are_too_many(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= MESSAGES_WITHIN {
            *self = Self::since(now);
        }
        self.count += 1;
        self.count > MESSAGES_MAX
    }
}

/// An update's data, or a ping as a heartbeat.
fn frame(outgoing: &Outgoing) -> Frame {
    match outgoing {
        Outgoing::Update(update) => {
            let mut data = String::new();
            update.write_data(&mut data);
            Frame::text(data)
        }
        Outgoing::Heartbeat => Frame::ping(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_pings_are_permitted_and_a_flood_is_not() {
        let start = Instant::now();
        let mut messages = ReceivedMessages::since(start);
        for second in 1..=1000 {
            assert!(!messages.are_too_many(start + Duration::from_secs(second)));
        }
        let now = start + Duration::from_secs(1000);
        assert!((0..MESSAGES_MAX).any(|_| messages.are_too_many(now)));
    }
}
