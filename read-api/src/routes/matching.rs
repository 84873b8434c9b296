//! Matching jobs: the summary, current and historical, and the image matches.

pub(crate) mod response_cache;
mod summary;

use std::sync::Arc;

use domain::image_matching::summary::Summary as DomainSummary;
use event_schemas::ids::{FrameId, ImageId, ImageMatchId, JobId, Position, ProductId, VideoId};
use event_schemas::time::Timestamp;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::{Enum, Object, OpenApi};
use projections::Name;
use projections::image_match::{ImageMatchCursor, ImageMatchFilter, ImageMatchOrder, ImageMatchView};
use projections::matching_summary::{Replayed, ScoresFrom, Snapshots};
use web::caller::Caller;
use web::etag::{Cached, Rendered};
use web::paging::{Cursor, Limit, Page};
use web::path;
use web::problem::Problem;
use web::value::{ApiPosition, ApiTimestamp, ScoreValue, TextId};

use super::Tag;
use crate::ReadApi;
use crate::as_of::AsOf;
use crate::errors::{from_query_error, from_summary_error, no_such_job};
use crate::job_access::require_matching_job;
use crate::min_position::MinPosition;

pub use summary::{Eta, Summary};

/// The order of a list of image matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Enum)]
#[oai(rename = "ImageMatchOrder", rename_all = "snake_case", remote = "ImageMatchOrder")]
pub enum Order {
    #[default]
    ScoreDesc,
    ScoreAsc,
    /// The latest match first.
    Newest,
    Oldest,
}

/// A product image found in a frame.
#[derive(Clone, Debug, Object)]
pub struct ImageMatch {
    pub id: TextId<ImageMatchId>,
    pub match_id: TextId<ImageMatchId>,
    pub product_id: TextId<ProductId>,
    pub video_id: TextId<VideoId>,
    pub img_id: TextId<ImageId>,
    pub frame_id: TextId<FrameId>,
    pub score: ScoreValue,
    /// The path of the evidence that the worker stored.
    pub evidence_path: Option<String>,
    pub occurred_at: ApiTimestamp,
    /// The log position of the event that reported it.
    pub position: ApiPosition,
}

impl From<ImageMatchView> for ImageMatch {
    fn from(found: ImageMatchView) -> Self {
        Self {
            id: TextId(found.match_id.clone()),
            match_id: TextId(found.match_id),
            product_id: TextId(found.product_id),
            video_id: TextId(found.video_id),
            img_id: TextId(found.img_id),
            frame_id: TextId(found.frame_id),
            score: ScoreValue(found.score),
            evidence_path: found.evidence_path,
            occurred_at: ApiTimestamp(found.occurred_at),
            position: ApiPosition(found.position),
        }
    }
}

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
            (None, false) => {
                self.api.wait_for_models(&[Name::MatchingSummary], min).await?;
                self.live_summary(&caller, job).await?
            }
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
        #[oai(default)] order: Query<Order>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<ImageMatch>>, Problem> {
        let job = path::job_id(&job_id)?;
        self.api.wait_for_models(&[Name::ImageMatches, Name::Jobs], min).await?;
        self.api.check_tenant(&caller.tenant, job).await?;
        let filter = ImageMatchFilter {
            min_score: min_score.0.map(|score| *score),
            has_evidence: has_evidence.0,
            product_id: product_id.0.map(|TextId(id)| id),
        };
        let order = ImageMatchOrder::from(order.0);
        let page = self.page(job, &filter, order, limit.0, cursor.0.as_ref()).await?;
        Ok(Cached::new(&page, if_none_match.as_deref()))
    }
}

impl MatchingRoutes {
    /// Computed from memory, without disk access or SQL.
    async fn live_summary(&self, caller: &Caller, job: JobId) -> Result<Rendered, Problem> {
        let folded = self.api.job_fold(&caller.tenant, job).await?;
        let now = self.api.clock.now();
        let summary = self.api.summarize(job, &folded, now, ScoresFrom::ReadModel).await?;
        Ok(self.api.summary_responses.render(summary, folded.position))
    }

    async fn refreshed_summary(&self, caller: &Caller, job: JobId) -> Result<Rendered, Problem> {
        let refreshed = self.api.models.matching_summary().refresh(&caller.tenant, job).await;
        let Replayed { folded, instant } =
            refreshed.map_err(|error| from_summary_error(&error))?.ok_or_else(no_such_job)?;
        require_matching_job(&folded)?;
        let summary = self.api.summarize(job, &folded, instant, ScoresFrom::Log).await?;
        Ok(rendered(summary, folded.position, None))
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
        let summary = self.api.summarize(job, &folded, instant, scores).await?;
        Ok(rendered(summary, folded.position, as_of.instant()))
    }

    async fn page(
        &self,
        job: JobId,
        filter: &ImageMatchFilter,
        order: ImageMatchOrder,
        limit: Limit,
        cursor: Option<&Cursor>,
    ) -> Result<Page<ImageMatch>, Problem> {
        // A cursor is valid only for the list and order that it was issued for.
        let list = format!("matches of {job} by {order:?} {filter:?}");
        let after: Option<ImageMatchCursor> = cursor.map(|cursor| cursor.key(&list)).transpose()?;
        let found = self.api.models.image_matches().list(job, filter, order, after, limit.get() as u32).await;
        let found = found.map_err(|error| from_query_error(&error))?;
        Ok(Page {
            items: found.items.into_iter().map(ImageMatch::from).collect(),
            next_cursor: found.next.map(|next| Cursor::new(&list, &next).to_string()),
        })
    }
}

/// A summary whose tag ignores the position, which changes without any other change.
fn rendered(summary: DomainSummary, position: Position, as_of: Option<Timestamp>) -> Rendered {
    Rendered::without(&Summary::new(summary, position, as_of), &["position"])
}
