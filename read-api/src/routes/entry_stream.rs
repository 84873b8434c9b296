//! The live stream of one queue entry.

use std::sync::Arc;

use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use web::caller::Caller;
use web::path;
use web::problem::Problem;
use web::sse::{self, Answer};
use web::value::Pos;

use super::{Tag, players};
use crate::ReadApi;
use crate::stream::{EntryMessage, FollowEntry};

/// The route of an entry's live stream.
#[derive(Clone, Debug)]
pub struct EntryStreamRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Matchmaking")]
impl EntryStreamRoutes {
    /// A queue entry as it goes on, as server-sent events
    ///
    /// `connected` comes first, then how the entry stands, then each change: `searching`, `placing` while a game is being
    /// made, `searching` again if that comes to nothing, and at its end `matched`, `cancelled` or `expired`, and
    /// `stream_ended`. Each change has the log position as its id. As the window widens, `searching` is repeated without
    /// one, with how far it reaches. A reader that comes back with the last id (`Last-Event-ID`, or `?last_event_id=`) goes
    /// on there without a gap or a repeat; one that has seen the end gets 204. A reader that is too slow is told `lagged`,
    /// and comes back. Whoever has the role `service` or `admin` sees all entries of the tenant.
    #[oai(
        path = "/v1/matchmaking/queue/:entry_id/stream",
        method = "get",
        operation_id = "stream_queue_entry"
    )]
    async fn stream(
        &self,
        caller: Caller,
        entry_id: Path<String>,
        #[oai(name = "Last-Event-ID")] last_event_id: Header<Option<Pos>>,
        #[oai(name = "last_event_id")] resume_after: Query<Option<Pos>>,
        /// From `POST /v1/stream-tickets`, for a browser's EventSource, which sends no headers
        #[oai(name = "ticket", validator(max_length = 128))]
        _ticket: Query<Option<String>>,
    ) -> Result<Answer<EntryMessage>, Problem> {
        caller.require(players())?;
        let entry = path::entry_id(&entry_id)?;
        let after = sse::resume_after(last_event_id.0, resume_after.0);
        let Some(follow) = FollowEntry::open(&self.api, &caller, entry, after).await? else {
            return Ok(Answer::Ended);
        };
        let greeting = follow.greeting();
        Ok(Answer::Open(sse::stream(&greeting, &self.api.shutdown, |sender| follow.run(sender))))
    }
}
