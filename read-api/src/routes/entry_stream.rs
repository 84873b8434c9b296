//! The live stream of one queue entry.

use std::sync::Arc;

use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use web::caller::Caller;
use web::path;
use web::problem::Problem;
use web::sse::{self, StreamResponse};
use web::value::ApiPosition;

use super::{Tag, player_roles};
use crate::ReadApi;
use crate::stream::{QueueEntryFollower, QueueEntryUpdate};

/// The route of an entry's live stream.
#[derive(Clone, Debug)]
pub struct EntryStreamRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Matchmaking")]
impl EntryStreamRoutes {
    /// Stream a queue entry as server-sent events
    ///
    /// `connected` comes first, then the current state, then each change: `searching`, `placing` while the game is
    /// being created, `searching` again if that fails, and finally `matched`, `cancelled` or `expired`, and
    /// `stream_ended`. The id of a change is its log position. When the window widens, `searching` is repeated
    /// without an id and with the new width. A client that reconnects with the last id (`Last-Event-ID`, or
    /// `?last_event_id=`) resumes there without a gap or a duplicate; one that has received the last update gets 204.
    /// A client that is too slow receives `lagged` and should reconnect. The roles `service` and `admin` may stream
    /// all entries of the tenant.
    #[oai(
        path = "/v1/matchmaking/queue/:entry_id/stream",
        method = "get",
        operation_id = "stream_queue_entry"
    )]
    async fn stream(
        &self,
        caller: Caller,
        entry_id: Path<String>,
        #[oai(name = "Last-Event-ID")] last_event_id: Header<Option<ApiPosition>>,
        #[oai(name = "last_event_id")] resume_after: Query<Option<ApiPosition>>,
        /// From `POST /v1/stream-tickets`, for a browser's EventSource, which sends no headers
        #[oai(name = "ticket", validator(max_length = 128))]
        _ticket: Query<Option<String>>,
    ) -> Result<StreamResponse<QueueEntryUpdate>, Problem> {
        caller.require(player_roles())?;
        let entry = path::entry_id(&entry_id)?;
        let after = sse::resume_after(last_event_id.0, resume_after.0);
        Ok(self.api.stream(QueueEntryFollower::open(&self.api, &caller, entry, after).await?))
    }
}
