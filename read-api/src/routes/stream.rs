//! Live streams, and the tickets that open them from a browser.

use std::sync::Arc;

use event_schemas::time::Timestamp;
use poem::Request;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::{ApiResponse, OpenApi};
use schemars::JsonSchema;
use serde::Serialize;
use web::caller::{Auth, Caller};
use web::json::Json;
use web::path;
use web::problem::Problem;
use web::schema::Api;
use web::sse::{self, StreamResponse};
use web::value::ApiPosition;

use super::Tag;
use crate::ReadApi;
use crate::stream::{MatchingFollower, MatchingUpdate};

/// A ticket that opens one stream.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StreamTicket {
    /// Send it as `?ticket=`.
    pub ticket: String,
    /// The time until which it must be used first.
    pub expires_at: Timestamp,
}

/// The response to a request for a ticket.
#[derive(Debug, ApiResponse)]
pub enum TicketResponse {
    /// To be used within a minute
    #[oai(status = 201)]
    Ticket(Json<Api<StreamTicket>>),
}

/// Routes for streams of summaries and for tickets.
#[derive(Clone, Debug)]
pub struct StreamRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Matching")]
impl StreamRoutes {
    /// Stream a job's summary as server-sent events
    ///
    /// `connected` comes first, then `progress` with the current summary, then `progress` and `retrying` on changes,
    /// and finally `completed`, `failed` or `cancelled`, and `stream_ended`. The id of an update is its log position.
    /// A client that reconnects with the last id (`Last-Event-ID`, or `?last_event_id=`) resumes there without a gap
    /// or a duplicate; one that has received the last update gets 204.
    ///
    /// The same updates are sent as JSON text frames over a WebSocket at `/jobs/{job_id}/matching/ws`, with the same
    /// `?last_event_id=` and `?ticket=`; at the end it is closed with code 1000.
    #[oai(path = "/jobs/:job_id/matching/stream", method = "get", operation_id = "stream_matching_summary")]
    async fn summary(
        &self,
        caller: Caller,
        job_id: Path<String>,
        #[oai(name = "Last-Event-ID")] last_event_id: Header<Option<ApiPosition>>,
        #[oai(name = "last_event_id")] resume_after: Query<Option<ApiPosition>>,
        /// From `POST /v1/stream-tickets`, for a browser's EventSource, which sends no headers
        #[oai(name = "ticket", validator(max_length = 128))]
        _ticket: Query<Option<String>>,
    ) -> Result<StreamResponse<MatchingUpdate>, Problem> {
        let job = path::job_id(&job_id)?;
        let after = sse::resume_after(last_event_id.0, resume_after.0);
        Ok(self.api.stream(MatchingFollower::open(&self.api, &caller.tenant, job, after).await?))
    }

    /// Create a ticket for one stream
    ///
    /// A browser's EventSource cannot send headers; it opens the stream with `?ticket=` instead. The first use binds the
    /// ticket to the stream's path: when the browser reconnects, it opens this stream again, until the token expires.
    /// A caller has at most 16 unused tickets.
    #[oai(path = "/v1/stream-tickets", method = "post", operation_id = "create_stream_ticket")]
    async fn ticket(
        &self,
        caller: Caller,
        /// The path of the only stream that it opens, such as `/jobs/{job_id}/matching/stream`; without it, the first
        /// use decides
        #[oai(validator(max_length = 512, pattern = "^/"))]
        path: Query<Option<String>>,
        request: &Request,
    ) -> Result<TicketResponse, Problem> {
        let auth = request
            .data::<Auth>()
            .ok_or_else(|| Problem::internal(&"tickets are served outside web::serve::layers"))?;
        let ticket = auth.ticket(caller, path.0)?;
        Ok(TicketResponse::Ticket(Json(Api(StreamTicket {
            ticket: ticket.ticket,
            expires_at: ticket.expires_at,
        }))))
    }
}
