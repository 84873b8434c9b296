//! Live streams, and the tickets that open them from a browser.

use std::sync::Arc;

use poem::Request;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::{ApiResponse, Object, OpenApi};
use web::caller::{Auth, Caller};
use web::json::Json;
use web::path;
use web::problem::Problem;
use web::sse::{self, Answer};
use web::value::{At, Pos};

use super::Tag;
use crate::ReadApi;
use crate::stream::{Follow, Message};

/// A right to open one stream.
#[derive(Clone, Debug, Object)]
pub struct StreamTicket {
    /// Send it as `?ticket=`.
    pub ticket: String,
    pub expires_at: At,
}

/// What a request for a ticket is answered with.
#[derive(Debug, ApiResponse)]
pub enum Issued {
    /// Good once, within a minute
    #[oai(status = 201)]
    Ticket(Json<StreamTicket>),
}

/// Routes that stream.
#[derive(Clone, Debug)]
pub struct StreamRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Matching")]
impl StreamRoutes {
    /// A job's summary whenever it changes, as server-sent events
    ///
    /// `connected` comes first, then `progress` with how the job stands, then `progress` and `retrying` as it goes on, and
    /// at its end `completed`, `failed` or `cancelled`, and `stream_ended`. Each has the log position as its id. A reader
    /// that comes back with the last id (`Last-Event-ID`, or `?last_event_id=`) goes on there without a gap or a repeat;
    /// one that has seen the end gets 204.
    ///
    /// The same messages come as JSON text frames over a WebSocket at `/jobs/{job_id}/matching/ws`, with the same
    /// `?last_event_id=` and `?ticket=`; at the end it is closed with code 1000.
    #[oai(path = "/jobs/:job_id/matching/stream", method = "get", operation_id = "stream_matching_summary")]
    async fn summary(
        &self,
        caller: Caller,
        job_id: Path<String>,
        #[oai(name = "Last-Event-ID")] last_event_id: Header<Option<Pos>>,
        #[oai(name = "last_event_id")] resume_after: Query<Option<Pos>>,
        /// From `POST /v1/stream-tickets`, for a browser's EventSource, which sends no headers
        #[oai(name = "ticket", validator(max_length = 128))]
        _ticket: Query<Option<String>>,
    ) -> Result<Answer<Message>, Problem> {
        let job = path::job_id(&job_id)?;
        let after = sse::resume_after(last_event_id.0, resume_after.0);
        let Some(follow) = Follow::open(&self.api, &caller.tenant, job, after).await? else {
            return Ok(Answer::Ended);
        };
        let greeting = follow.greeting();
        Ok(Answer::Open(sse::stream(&greeting, &self.api.shutdown, |sender| follow.run(sender))))
    }

    /// A ticket for one stream
    ///
    /// A browser's EventSource cannot send headers: it opens the stream with `?ticket=` instead.
    #[oai(path = "/v1/stream-tickets", method = "post", operation_id = "create_stream_ticket")]
    async fn ticket(&self, caller: Caller, request: &Request) -> Result<Issued, Problem> {
        let auth = request
            .data::<Auth>()
            .ok_or_else(|| Problem::internal(&"tickets are served outside web::serve::layers"))?;
        let ticket = auth.ticket(caller)?;
        Ok(Issued::Ticket(Json(StreamTicket { ticket: ticket.ticket, expires_at: At(ticket.expires_at) })))
    }
}
