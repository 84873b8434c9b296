//! The workers and their presence.

use std::sync::Arc;

use event_schemas::ids::WorkerId;
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Query};
use projections::Name;
use projections::worker::WorkerView;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use web::caller::{Caller, Role};
use web::etag::Cached;
use web::paging::{Cursor, Limit, Page};
use web::problem::Problem;

use super::Tag;
use crate::ReadApi;
use crate::errors::from_query_error;
use crate::min_position::MinPosition;

/// A process that claims work.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Worker {
    pub id: WorkerId,
    #[serde(flatten)]
    pub view: WorkerView,
}

impl From<WorkerView> for Worker {
    fn from(view: WorkerView) -> Self {
        Self { id: view.worker_id.clone(), view }
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
            items: page.items.into_iter().map(|view| Worker::from(self.seen(&caller, view))).collect(),
            next_cursor: page.next.map(|next| Cursor::new(list, &next).to_string()),
        };
        Ok(Cached::without(&page, &["last_seen_at"], if_none_match.as_deref()))
    }
}

impl WorkerRoutes {
    /// The worker with its latest heartbeat, of which the read model has no event.
    fn seen(&self, caller: &Caller, view: WorkerView) -> WorkerView {
        let heartbeat = self.api.server.last_seen.find(&caller.tenant, &view.worker_id);
        WorkerView {
            last_seen_at: heartbeat.max(Some(view.last_seen_at)).unwrap_or(view.last_seen_at),
            ..view
        }
    }
}
