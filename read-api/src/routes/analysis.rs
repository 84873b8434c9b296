//! Analyses of videos: the list, one analysis, its status, and its live stream.

use std::sync::Arc;

use domain::job::analysis::{self, AnalysisStatus, AnalysisView};
use domain::job::history::Status;
use domain::job::service;
use event_schemas::ids::Tenant;
use event_schemas::job::{JobKind, Phase};
use event_schemas::stream::StreamId;
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use projections::Name;
use projections::job::JobCursor;
use projections::matching_summary::Replayed;
use web::caller::{Caller, CostlyReads};
use web::etag::Cached;
use web::paging::{Cursor, Limit, Page};
use web::path;
use web::problem::Problem;
use web::schema::Api;
use web::sse::{self, StreamResponse};
use web::value::ApiPosition;

use super::Tag;
use super::job::RUNNING_TIMES;
use crate::ReadApi;
use crate::by_id::Origin;
use crate::errors::{from_query_error, no_such_job};
use crate::job_access::hide_messages;
use crate::min_position::MinPosition;
use crate::stream::{AnalysisFollower, AnalysisUpdate};

/// Routes for analyses.
#[derive(Clone, Debug)]
pub struct AnalysisRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Analysis")]
impl AnalysisRoutes {
    /// List analyses, newest first
    #[oai(path = "/api/v1/jobs", method = "get", operation_id = "list_analyses")]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn list(
        &self,
        caller: Caller,
        status: Query<Option<Api<Status>>>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<AnalysisView>>, Problem> {
        self.api.wait_for_models(&[Name::Jobs], min).await?;
        // A cursor is valid only for the list that it was issued for.
        let status = status.0.map(|status| status.0);
        let list = format!("analyses {status:?}");
        let after: Option<JobCursor> = cursor.0.map(|cursor| cursor.key(&list)).transpose()?;
        let (limit, stalled_after) = (limit.0.get() as u32, self.api.server.thresholds.stalled_after);
        let jobs = self.api.models.jobs();
        let page = jobs.analyses(&caller.tenant, status, after, limit, stalled_after).await;
        let mut page = page.map_err(|error| from_query_error(&error))?;
        for view in &mut page.items {
            self.api.park(&caller.tenant, &mut view.current);
            hide_messages(&caller, view.errors_mut());
        }
        let page = Page {
            items: page.items,
            next_cursor: page.next.map(|next| Cursor::new(&list, &next).to_string()),
        };
        Ok(Cached::without(&page, RUNNING_TIMES, if_none_match.as_deref()))
    }

    /// Get an analysis, with its stages and attempts
    #[oai(path = "/api/v1/analysis/:job_id", method = "get", operation_id = "read_analysis")]
    async fn read(
        &self,
        caller: Caller,
        job_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
        budget: CostlyReads,
    ) -> Result<Cached<AnalysisView>, Problem> {
        let view = self.view(&caller, &job_id, min, &budget).await?;
        Ok(Cached::without(&view, RUNNING_TIMES, if_none_match.as_deref()))
    }

    /// Get the status of an analysis
    #[oai(path = "/api/v1/analysis/:job_id/status", method = "get", operation_id = "read_analysis_status")]
    async fn status(
        &self,
        caller: Caller,
        job_id: Path<String>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
        budget: CostlyReads,
    ) -> Result<Cached<AnalysisStatus>, Problem> {
        let view = self.view(&caller, &job_id, min, &budget).await?;
        Ok(Cached::without(&view.current, RUNNING_TIMES, if_none_match.as_deref()))
    }

    /// Stream an analysis as server-sent events
    ///
    /// `connected` comes first, then the current state, then `progress` and `retrying` on changes, and finally
    /// `completed`, `failed` (permanently) or `cancelled`, and `stream_ended`. The id of an update is its log
    /// position. Progress is sent at most four times a second, every state change is sent. An analysis that waits
    /// behind an open circuit breaker has `parked`. A client that reconnects with the last id (`Last-Event-ID`, or
    /// `?last_event_id=`) resumes there without a gap or a duplicate; one that has received the last update gets 204.
    /// A client that is too slow receives `lagged` and should reconnect.
    #[oai(path = "/api/v1/analysis/:job_id/stream", method = "get", operation_id = "stream_analysis")]
    async fn stream(
        &self,
        caller: Caller,
        job_id: Path<String>,
        #[oai(name = "Last-Event-ID")] last_event_id: Header<Option<ApiPosition>>,
        #[oai(name = "last_event_id")] resume_after: Query<Option<ApiPosition>>,
        /// From `POST /v1/stream-tickets`, for a browser's EventSource, which sends no headers
        #[oai(name = "ticket", validator(max_length = 128))]
        _ticket: Query<Option<String>>,
    ) -> Result<StreamResponse<AnalysisUpdate>, Problem> {
        let job = path::job_id(&job_id)?;
        let after = sse::resume_after(last_event_id.0, resume_after.0);
        Ok(self.api.stream(AnalysisFollower::open(&self.api, &caller, job, after).await?))
    }
}

impl AnalysisRoutes {
    async fn view(
        &self,
        caller: &Caller,
        job_id: &str,
        min: MinPosition,
        budget: &CostlyReads,
    ) -> Result<AnalysisView, Problem> {
        let id = path::job_id(job_id)?;
        self.api.wait_for_models_or_log(&[Name::Jobs], min).await?;
        let stalled_after = self.api.server.thresholds.stalled_after;
        let of_log = |Replayed { folded, instant }: Replayed| {
            let history = folded.fold.history.as_ref()?;
            let view = || analysis::view(history, &folded.fold.latest, instant, stalled_after);
            (history.kind() == JobKind::VideoAnalysis).then(view)
        };
        let read = || async {
            match self.api.models.jobs().analysis(&caller.tenant, id, stalled_after).await {
                Ok(found) => Ok(found.map(|(view, _)| view)),
                Err(error) => {
                    let replayed = self.api.replay_instead(&error, &caller.tenant, id, budget).await?;
                    Ok(replayed.and_then(of_log))
                }
            }
        };
        let origin = Origin::Stream(StreamId::job(id));
        let found = self.api.read_by_id(Name::Jobs, &caller.tenant, origin, read).await?;
        let mut view = found.ok_or_else(no_such_job)?;
        self.api.park(&caller.tenant, &mut view.current);
        hide_messages(caller, view.errors_mut());
        Ok(view)
    }
}

impl ReadApi {
    /// Says why a waiting analysis does not start, which follows from the failures of others.
    pub(crate) fn park(&self, tenant: &Tenant, current: &mut AnalysisStatus) {
        if current.phase == Phase::Queued && current.parked.is_none() {
            let services = service::needed_by(JobKind::VideoAnalysis);
            let services: Vec<&str> = services.iter().map(|service| service.into_str()).collect();
            current.parked = self.server.breakers.parked(tenant, &services);
        }
    }
}
