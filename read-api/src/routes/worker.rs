//! The workers and their presence.

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
use web::value::{ApiPosition, ApiTimestamp, TextId};

use super::Tag;
use crate::ReadApi;
use crate::errors::from_query_error;
use crate::min_position::MinPosition;
use web::enums::WorkKind;

/// The presence of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "WorkerPresence", rename_all = "snake_case", remote = "WorkerPresence")]
pub enum Presence {
    Present,
    Lost,
    Stopped,
    OutOfMemory,
    Crashed,
}

/// The latest exit or loss of a worker.
#[derive(Clone, Debug, Object)]
pub struct WorkerEnd {
    pub end: Presence,
    pub at: ApiTimestamp,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub reason: Option<String>,
}

/// A process that claims work.
#[derive(Clone, Debug, Object)]
pub struct Worker {
    pub id: TextId<WorkerId>,
    pub worker_id: TextId<WorkerId>,
    pub kinds: Vec<WorkKind>,
    pub version: Option<String>,
    pub presence: Presence,
    /// The start of the current presence.
    pub since: ApiTimestamp,
    pub registered_at: ApiTimestamp,
    /// The time of its latest event in the log; heartbeats are not events.
    pub last_seen_at: ApiTimestamp,
    pub last_end: Option<WorkerEnd>,
    /// The number of times that it returned after a loss.
    pub returns: u64,
    /// Log position of the last event that changed this resource.
    pub position: ApiPosition,
}

impl From<LastEnd> for WorkerEnd {
    fn from(last: LastEnd) -> Self {
        Self {
            end: WorkerPresence::from(last.end).into(),
            at: ApiTimestamp(last.at),
            exit_code: last.exit_code,
            signal: last.signal,
            reason: last.reason,
        }
    }
}

impl From<WorkerView> for Worker {
    fn from(worker: WorkerView) -> Self {
        Self {
            id: TextId(worker.worker_id.clone()),
            worker_id: TextId(worker.worker_id),
            kinds: worker.kinds.into_iter().map(Into::into).collect(),
            version: worker.version,
            presence: worker.presence.into(),
            since: ApiTimestamp(worker.since),
            registered_at: ApiTimestamp(worker.registered_at),
            last_seen_at: ApiTimestamp(worker.last_seen_at),
            last_end: worker.last_end.map(Into::into),
            returns: worker.returns,
            position: ApiPosition(worker.position),
        }
    }
}

/// Routes for workers.
#[derive(Clone, Debug)]
pub struct WorkerRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Workers")]
impl WorkerRoutes {
    /// List all workers of the tenant, past ones included, by id
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
        self.api.wait_for_models(&[Name::Workers], min).await?;
        let list = "workers";
        let after: Option<WorkerId> = cursor.0.map(|cursor| cursor.key(list)).transpose()?;
        let workers = self.api.models.workers();
        let page = workers.list(&caller.tenant, after.as_ref(), limit.0.get() as u32).await;
        let page = page.map_err(|error| from_query_error(&error))?;
        let page = Page {
            items: page.items.into_iter().map(Worker::from).collect(),
            next_cursor: page.next.map(|next| Cursor::new(list, &next).to_string()),
        };
        Ok(Cached::new(&page, if_none_match.as_deref()))
    }
}
