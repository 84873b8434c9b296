//! The stream of a job over a WebSocket, with each update's data as one text frame.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use poem::http::{StatusCode, header};
use poem::web::Path;
use poem::web::websocket::{CloseCode, Message as Frame, WebSocket, WebSocketConfig, WebSocketStream};
use poem::{Body, Endpoint, FromRequest, IntoResponse, Request, Response};
use web::caller::Authenticated;
use web::path;
use web::problem::Problem;
use web::sse::{Events, Outgoing};
use web::value::ApiPosition;

use super::{MatchingFollower, MatchingUpdate};
use crate::ReadApi;

/// Messages from the client are ignored, so large ones are refused.
const RECEIVED_BYTES_MAX: usize = 1024;

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
        same_origin(&request)?;
        let Path(job) = Path::<String>::from_request(&request, &mut body).await?;
        let job = path::job_id(&job)?;
        let after = last_event_id(&request)?;
        let after = after.map(|ApiPosition(after)| after);
        let Some(follower) = MatchingFollower::open(&self.api, &caller.tenant, job, after).await? else {
            return Ok(StatusCode::NO_CONTENT.into_response());
        };
        let socket = WebSocket::from_request(&request, &mut body).await?;
        let events = self.api.topics.open(follower, &self.api.shutdown);
        let config = WebSocketConfig::default()
            .max_message_size(Some(RECEIVED_BYTES_MAX))
            .max_frame_size(Some(RECEIVED_BYTES_MAX));
        let upgraded = socket.config(config).on_upgrade(move |socket| forward(socket, events));
        Ok(upgraded.into_response())
    }
}

/// Refuses pages of other origins: they could open a WebSocket to an open server, and unlike with `fetch` no CORS rule
/// would prevent them from reading it. Clients that are not browsers send no `Origin`.
fn same_origin(request: &Request) -> Result<(), Problem> {
    let Some(origin) = request.header(header::ORIGIN) else { return Ok(()) };
    let host = request.header(header::HOST).unwrap_or_default();
    match origin.split_once("://") {
        Some((_, origin)) if origin == host => Ok(()),
        _ => Err(Problem::forbidden("a page of another origin may not open this WebSocket")),
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
    loop {
        tokio::select! {
            outgoing = events.next_outgoing() => {
                let Some(outgoing) = outgoing else { break };
                if sink.send(frame(&outgoing)).await.is_err() {
                    return;
                }
            }
            // Reading also answers pings.
            message = received.next() => match message {
                // The close frame of the reply is queued and must be flushed.
                Some(Ok(Frame::Close(_))) => {
                    let _ = sink.close().await;
                    return;
                }
                Some(Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
    // The client may have disconnected already.
    let _ = sink.send(Frame::Close(Some((CloseCode::Normal, "the stream has ended".to_owned())))).await;
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
    fn page_of_another_origin_is_refused() {
        let check = |origin: &str| {
            same_origin(
                &Request::builder().header("host", "127.0.0.1:8080").header("origin", origin).finish(),
            )
        };
        assert!(check("http://127.0.0.1:8080").is_ok());
        for other in ["http://evil.example", "http://127.0.0.1:8081", "null"] {
            assert!(check(other).is_err(), "{other}");
        }
        assert!(same_origin(&Request::builder().header("host", "a").finish()).is_ok());
    }
}
