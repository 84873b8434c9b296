//! Jobs of all kinds: the list, and one job.

mod summary_preview;

use std::sync::Arc;

use domain::job::history::Status;
use domain::job::view::{self, JobView};
use event_schemas::job::{JobKind, Phase};
use event_schemas::stream::StreamId;
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use projections::Name;
use projections::job::{JobCursor, JobFilter};
use projections::matching_summary::Replayed;
use web::caller::{Caller, CostlyReads};
use web::etag::Cached;
use web::paging::{Cursor, Limit, Page};
use web::path;
use web::problem::Problem;
use web::schema::Api;
use web::value::ApiTimestamp;

use super::Tag;
use crate::ReadApi;
use crate::by_id::Origin;
use crate::errors::{from_query_error, no_such_job};
use crate::job_access::hide_messages;
use crate::min_position::MinPosition;

pub(crate) use summary_preview::SummaryPreviewCache;
/// The members that grow with the clock while a job runs. They are excluded from the `ETag`, so that a poll gets 304
/// until an event happens; clients can compute them from the timestamps.
pub(super) const RUNNING_TIMES: &[&str] = &["queue_seconds", "run_seconds", "duration_seconds"];

/// Routes for jobs.
#[derive(Clone, Debug)]
pub struct JobRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Jobs")]
impl JobRoutes {
    /// List jobs, newest first
    #[oai(path = "/jobs", method = "get", operation_id = "list_jobs")]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn list(
        &self,
        caller: Caller,
        status: Query<Option<Api<Status>>>,
        phase: Query<Option<Api<Phase>>>,
        kind: Query<Option<Api<JobKind>>>,
        /// Created at or after this instant
        since: Query<Option<ApiTimestamp>>,
        /// A part of the name or of the id; case-insensitive
        #[oai(validator(max_length = 200))]
        q: Query<Option<String>>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<JobView>>, Problem> {
        self.api.wait_for_models(&[Name::Jobs, Name::MatchingSummary], min).await?;
        let filter = JobFilter {
            status: status.0.map(|status| status.0),
            phase: phase.0.map(|phase| phase.0),
            kinds: kind.0.map(|kind| kind.0).into_iter().collect(),
            since: since.0.map(|ApiTimestamp(since)| since),
            search: q.0.filter(|q| !q.is_empty()),
        };
        let page = self.page(&caller, &filter, limit.0, cursor.0.as_ref()).await?;
        Ok(Cached::without(&page, RUNNING_TIMES, if_none_match.as_deref()))
    }

    /// Get a job
    #[oai(path = "/jobs/:job_id", method = "get", operation_id = "read_job")]
    async fn read(
        &self,
        caller: Caller,
        job_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
        budget: CostlyReads,
    ) -> Result<Cached<JobView>, Problem> {
        let id = path::job_id(&job_id)?;
        self.api.wait_for_models_or_log(&[Name::Jobs, Name::MatchingSummary], min).await?;
        let read = || async {
            match self.api.models.jobs().get(&caller.tenant, id).await {
                Ok(found) => Ok(found.map(|(view, _)| view)),
                Err(error) => {
                    let replayed = self.api.replay_instead(&error, &caller.tenant, id, &budget).await?;
                    Ok(replayed.and_then(|Replayed { folded, instant }| view::view(&folded.fold, instant)))
                }
            }
        };
        let origin = Origin::Stream(StreamId::job(id));
        let found = self.api.read_by_id(Name::Jobs, &caller.tenant, origin, read).await?;
        let mut job = found.ok_or_else(no_such_job)?;
        job.matching = self.api.summary_preview(&caller.tenant, &job).await;
        hide_messages(&caller, job.errors_mut());
        Ok(Cached::without(&job, RUNNING_TIMES, if_none_match.as_deref()))
    }
}

impl JobRoutes {
    async fn page(
        &self,
        caller: &Caller,
        filter: &JobFilter,
        limit: Limit,
        cursor: Option<&Cursor>,
    ) -> Result<Page<JobView>, Problem> {
        // A cursor is valid only for the list that it was issued for.
        let list = format!("jobs {filter:?}");
        let after: Option<JobCursor> = cursor.map(|cursor| cursor.key(&list)).transpose()?;
        let page = self.api.models.jobs().list(&caller.tenant, filter, after, limit.get() as u32).await;
        let page = page.map_err(|error| from_query_error(&error))?;
        let mut items = page.items;
        for job in &mut items {
            job.matching = self.api.summary_preview(&caller.tenant, job).await;
            hide_messages(caller, job.errors_mut());
        }
        Ok(Page { items, next_cursor: page.next.map(|next| Cursor::new(&list, &next).to_string()) })
    }
}
