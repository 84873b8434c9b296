//! Matching jobs: the summary, current and historical, and the image matches.

pub(crate) mod response_cache;

use std::sync::Arc;

use domain::image_matching::summary::Summary;
use event_schemas::ids::{JobId, ProductId};
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use projections::Name;
use projections::image_match::{ImageMatchCursor, ImageMatchFilter, ImageMatchOrder, ImageMatchView};
use projections::matching_summary::{Replayed, ScoresFrom, Snapshots};
use web::caller::{Caller, CostlyReads};
use web::etag::{Cached, Rendered};
use web::paging::{Cursor, Limit, Page};
use web::path;
use web::problem::Problem;
use web::schema::Api;
use web::value::{ScoreValue, TextId};

use super::Tag;
use crate::ReadApi;
use crate::as_of::AsOf;
use crate::errors::{from_query_error, from_summary_error, no_such_job};
use crate::job_access::require_matching_job;
use crate::min_position::MinPosition;

/// Routes for matching jobs.
#[derive(Clone, Debug)]
pub struct MatchingRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Matching")]
impl MatchingRoutes {
    /// Get the matching summary of a job
    ///
    /// Its statistics and blockers, current or as of a point in the past. A poll with `If-None-Match` gets 304 while
    /// only the log position has changed.
    #[oai(path = "/jobs/:job_id/matching/summary", method = "get", operation_id = "read_matching_summary")]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn summary(
        &self,
        caller: Caller,
        job_id: Path<String>,
        /// Recomputes the summary from all events of the job, and repairs the read model if it differs
        #[oai(default)]
        force_refresh: Query<bool>,
        /// The point in time of the summary: a log position or an RFC 3339 instant, not in the future
        as_of: Query<Option<AsOf>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
        budget: CostlyReads,
    ) -> Result<Cached<Summary>, Problem> {
        let job = path::job_id(&job_id)?;
        let summary = match (as_of.0, force_refresh.0) {
            (Some(as_of), force) => {
                self.api.wait_for_log(min).await?;
                self.historical_summary(&caller, job, as_of, force).await?
            }
            (None, true) => {
                self.api.wait_for_log(min).await?;
                self.refreshed_summary(&caller, job).await?
            }
            (None, false) => self.current_summary(&caller, job, min, &budget).await?,
        };
        Ok(Cached::rendered(summary, if_none_match.as_deref()))
    }

    /// List a job's image matches, best first
    #[oai(path = "/jobs/:job_id/matches", method = "get", operation_id = "list_matches")]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn matches(
        &self,
        caller: Caller,
        job_id: Path<String>,
        /// The minimum score
        min_score: Query<Option<ScoreValue>>,
        /// Only matches with evidence, or only those without
        has_evidence: Query<Option<bool>>,
        product_id: Query<Option<TextId<ProductId>>>,
        #[oai(default)] order: Query<Api<ImageMatchOrder>>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<ImageMatchView>>, Problem> {
        let job = path::job_id(&job_id)?;
        self.api.wait_for_models(&[Name::ImageMatches, Name::Jobs], min).await?;
        self.api.check_tenant(&caller.tenant, job).await?;
        let filter = ImageMatchFilter {
            min_score: min_score.0.map(|score| *score),
            has_evidence: has_evidence.0,
            product_id: product_id.0.map(|TextId(id)| id),
        };
        let page = self.page(job, &filter, *order.0, limit.0, cursor.0.as_ref()).await?;
        Ok(Cached::new(&page, if_none_match.as_deref()))
    }
}

impl MatchingRoutes {
    /// Computed from memory, without disk access or SQL; from the log while the read model cannot be read.
    async fn current_summary(
        &self,
        caller: &Caller,
        job: JobId,
        min: MinPosition,
        budget: &CostlyReads,
    ) -> Result<Rendered, Problem> {
        let (Replayed { folded, instant }, scores) =
            self.api.current_job(&caller.tenant, job, min, budget).await?;
        let summary = self.api.summarize(job, &folded, instant, scores).await?;
        Ok(self.api.summary_responses.render(summary))
    }

    async fn refreshed_summary(&self, caller: &Caller, job: JobId) -> Result<Rendered, Problem> {
        let refreshed = self.api.models.matching_summary().refresh(&caller.tenant, job).await;
        let Replayed { folded, instant } =
            refreshed.map_err(|error| from_summary_error(&error))?.ok_or_else(no_such_job)?;
        require_matching_job(&folded)?;
        Ok(rendered(&self.api.summarize(job, &folded, instant, ScoresFrom::Log).await?))
    }

    async fn historical_summary(
        &self,
        caller: &Caller,
        job: JobId,
        as_of: AsOf,
        force: bool,
    ) -> Result<Rendered, Problem> {
        as_of.check_not_future(self.api.head(), self.api.clock.now())?;
        let (snapshots, scores) = if force {
            (Snapshots::Ignore, ScoresFrom::Log)
        } else {
            (Snapshots::Use, ScoresFrom::ReadModel)
        };
        let models = self.api.models.matching_summary();
        let then = models.replay(&caller.tenant, job, as_of.up_to(), snapshots).await;
        let Replayed { folded, instant } = then
            .map_err(|error| from_summary_error(&error))?
            .ok_or_else(|| Problem::not_found("no such job, or it did not exist at that time"))?;
        require_matching_job(&folded)?;
        let mut summary = self.api.summarize(job, &folded, instant, scores).await?;
        summary.as_of = as_of.instant();
        Ok(rendered(&summary))
    }

    async fn page(
        &self,
        job: JobId,
        filter: &ImageMatchFilter,
        order: ImageMatchOrder,
        limit: Limit,
        cursor: Option<&Cursor>,
    ) -> Result<Page<ImageMatchView>, Problem> {
        // A cursor is valid only for the list and order that it was issued for.
        let list = format!("matches of {job} by {order:?} {filter:?}");
        let after: Option<ImageMatchCursor> = cursor.map(|cursor| cursor.key(&list)).transpose()?;
        let found = self.api.models.image_matches().list(job, filter, order, after, limit.get() as u32).await;
        let found = found.map_err(|error| from_query_error(&error))?;
        Ok(Page {
            items: found.items,
            next_cursor: found.next.map(|next| Cursor::new(&list, &next).to_string()),
        })
    }
}

/// A summary whose tag ignores the position, which changes without any other change.
fn rendered(summary: &Summary) -> Rendered {
    Rendered::without(summary, &["position"])
}
