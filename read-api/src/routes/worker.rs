//! Who takes work, and who of them is there.

use std::sync::Arc;

use event_schemas::ids::WorkerId;
use poem_openapi::param::{Header, Query};
use poem_openapi::{Enum, Object, OpenApi};
use projections::Name;
use projections::worker::{LastEnd, WorkerPresence, WorkerView};
use web::caller::{Caller, Role};
use web::etag::Cached;
use web::paging::{Cursor, Limit, Page};
use web::problem::Problem;
use web::value::{At, Pos, Text};

use super::Tag;
use crate::ReadApi;
use crate::answer::{MinPosition, unanswered};
use web::vocabulary::WorkKind;

/// Whether a worker is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "WorkerPresence", rename_all = "snake_case", remote = "WorkerPresence")]
pub enum Presence {
    Present,
    Lost,
    Stopped,
    OutOfMemory,
    Crashed,
}

/// How a worker ended when it ended last.
#[derive(Clone, Debug, Object)]
pub struct WorkerEnd {
    pub end: Presence,
    pub at: At,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub reason: Option<String>,
}

/// A process that takes work.
#[derive(Clone, Debug, Object)]
pub struct Worker {
    pub id: Text<WorkerId>,
    pub worker_id: Text<WorkerId>,
    pub kinds: Vec<WorkKind>,
    pub version: Option<String>,
    pub presence: Presence,
    /// Since when it is in this presence.
    pub since: At,
    pub registered_at: At,
    /// When it was heard of last, as far as the log knows: heartbeats are no events.
    pub last_seen_at: At,
    pub last_end: Option<WorkerEnd>,
    /// How often it came back.
    pub returns: u64,
    /// Of the event that changed it last.
    pub position: Pos,
}

impl From<LastEnd> for WorkerEnd {
    fn from(last: LastEnd) -> Self {
        Self {
            end: WorkerPresence::from(last.end).into(),
            at: At(last.at),
            exit_code: last.exit_code,
            signal: last.signal,
            reason: last.reason,
        }
    }
}

impl From<WorkerView> for Worker {
    fn from(worker: WorkerView) -> Self {
        Self {
            id: Text(worker.worker_id.clone()),
            worker_id: Text(worker.worker_id),
            kinds: worker.kinds.into_iter().map(Into::into).collect(),
            version: worker.version,
            presence: worker.presence.into(),
            since: At(worker.since),
            registered_at: At(worker.registered_at),
            last_seen_at: At(worker.last_seen_at),
            last_end: worker.last_end.map(Into::into),
            returns: worker.returns,
            position: Pos(worker.position),
        }
    }
}

/// Routes over workers.
#[derive(Clone, Debug)]
pub struct WorkerRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Workers")]
impl WorkerRoutes {
    /// All workers that the tenant has had, by id
    ///
    /// Needs the role `admin`.
    #[oai(path = "/internal/workers", method = "get", operation_id = "list_workers")]
    async fn list(
        &self,
        caller: Caller,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<Worker>>, Problem> {
        caller.require(Role::Admin)?;
        self.api.models_reached(&[Name::Workers], min).await?;
        let list = "workers";
        let after: Option<WorkerId> = cursor.0.map(|cursor| cursor.key(list)).transpose()?;
        let workers = self.api.models.workers();
        let page = workers.list(&caller.tenant, after.as_ref(), limit.0.get() as u32).await;
        let page = page.map_err(|error| unanswered(&error))?;
        let page = Page {
            items: page.items.into_iter().map(Worker::from).collect(),
            next_cursor: page.next.map(|next| Cursor::new(list, &next).to_string()),
        };
        Ok(Cached::new(&page, if_none_match.as_deref()))
    }
}
