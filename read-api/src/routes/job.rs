//! Jobs of any kind: the list, and one.

mod glance;
mod object;

use std::sync::Arc;

use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use projections::Name;
use projections::job::{JobCursor, JobFilter};
use web::caller::Caller;
use web::etag::Cached;
use web::paging::{Cursor, Limit, Page};
use web::path;
use web::problem::Problem;
use web::value::At;
use web::vocabulary::{JobKind, Phase};

use super::Tag;
use crate::ReadApi;
use crate::answer::{MinPosition, no_such_job, unanswered};

pub(crate) use glance::Glances;
/// What grows with the clock while a job goes on: a reader counts it on from the instants beside it, so that a poll costs
/// 304 until something happens.
pub(super) const RUNNING_TIMES: &[&str] = &["queue_seconds", "run_seconds", "duration_seconds"];

pub use object::{Attempt, ErrorObject, Glance, Job, Retry, Status};

/// Routes over jobs.
#[derive(Clone, Debug)]
pub struct JobRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Jobs")]
impl JobRoutes {
    /// The tenant's jobs, the newest first
    #[oai(path = "/jobs", method = "get", operation_id = "list_jobs")]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn list(
        &self,
        caller: Caller,
        status: Query<Option<Status>>,
        phase: Query<Option<Phase>>,
        kind: Query<Option<JobKind>>,
        /// Created then or later
        since: Query<Option<At>>,
        /// A part of the name or of the id, in small or capital letters
        #[oai(validator(max_length = 200))]
        q: Query<Option<String>>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<Job>>, Problem> {
        self.api.models_reached(&[Name::Jobs, Name::MatchingSummary], min).await?;
        let filter = JobFilter {
            status: status.0.map(Into::into),
            phase: phase.0.map(Into::into),
            kind: kind.0.map(Into::into),
            since: since.0.map(|At(since)| since),
            search: q.0.filter(|q| !q.is_empty()),
        };
        let page = self.page(&caller, &filter, limit.0, cursor.0.as_ref()).await?;
        Ok(Cached::without(&page, RUNNING_TIMES, if_none_match.as_deref()))
    }

    /// One job
    #[oai(path = "/jobs/:job_id", method = "get", operation_id = "read_job")]
    async fn read(
        &self,
        caller: Caller,
        job_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Job>, Problem> {
        let id = path::job_id(&job_id)?;
        self.api.models_reached(&[Name::Jobs, Name::MatchingSummary], min).await?;
        let found = self.api.models.jobs().get(&caller.tenant, id).await;
        let (job, _) = found.map_err(|error| unanswered(&error))?.ok_or_else(no_such_job)?;
        let glance = self.api.glance(&caller.tenant, &job).await;
        Ok(Cached::without(&Job::new(job, glance), RUNNING_TIMES, if_none_match.as_deref()))
    }
}

impl JobRoutes {
    async fn page(
        &self,
        caller: &Caller,
        filter: &JobFilter,
        limit: Limit,
        cursor: Option<&Cursor>,
    ) -> Result<Page<Job>, Problem> {
        // A cursor is only good where the same jobs stand in the list.
        let list = format!("jobs {filter:?}");
        let after: Option<JobCursor> = cursor.map(|cursor| cursor.key(&list)).transpose()?;
        let page = self.api.models.jobs().list(&caller.tenant, filter, after, limit.get() as u32).await;
        let page = page.map_err(|error| unanswered(&error))?;
        let mut items = Vec::with_capacity(page.items.len());
        for job in page.items {
            let glance = self.api.glance(&caller.tenant, &job).await;
            items.push(Job::new(job, glance));
        }
        Ok(Page { items, next_cursor: page.next.map(|next| Cursor::new(&list, &next).to_string()) })
    }
}
