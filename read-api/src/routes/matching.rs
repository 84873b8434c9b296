//! Matching jobs: the summary, live and as it was, and what was found.

mod summary;

use std::sync::Arc;

use event_schemas::ids::{FrameId, ImageId, JobId, MatchId, ProductId, VideoId};
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::{Enum, Object, OpenApi};
use projections::Name;
use projections::found_match::{FoundMatch, MatchCursor, MatchFilter, MatchOrder};
use projections::matching_summary::{Refolded, ScoresFrom, Snapshots};
use web::caller::Caller;
use web::etag::Cached;
use web::paging::{Cursor, Limit, Page};
use web::path;
use web::problem::Problem;
use web::value::{At, Pos, Text, Unit};

use super::Tag;
use crate::ReadApi;
use crate::answer::{MinPosition, no_such_job, only_matching, unanswered, untold};
use crate::moment::Moment;

pub use summary::{Eta, Summary};

/// In which order matches are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Enum)]
#[oai(rename = "MatchOrder", rename_all = "snake_case", remote = "MatchOrder")]
pub enum Order {
    #[default]
    ScoreDesc,
    ScoreAsc,
    /// The last one found first.
    Newest,
    Oldest,
}

/// A product image found in a frame.
#[derive(Clone, Debug, Object)]
pub struct Match {
    pub id: Text<MatchId>,
    pub match_id: Text<MatchId>,
    pub product_id: Text<ProductId>,
    pub video_id: Text<VideoId>,
    pub img_id: Text<ImageId>,
    pub frame_id: Text<FrameId>,
    pub score: Unit,
    /// Where the worker put its proof.
    pub evidence_path: Option<String>,
    pub occurred_at: At,
    /// Of the event that reported it.
    pub position: Pos,
}

impl From<FoundMatch> for Match {
    fn from(found: FoundMatch) -> Self {
        Self {
            id: Text(found.match_id.clone()),
            match_id: Text(found.match_id),
            product_id: Text(found.product_id),
            video_id: Text(found.video_id),
            img_id: Text(found.img_id),
            frame_id: Text(found.frame_id),
            score: Unit(found.score),
            evidence_path: found.evidence_path,
            occurred_at: At(found.occurred_at),
            position: Pos(found.position),
        }
    }
}

/// Routes over what a matching job has found.
#[derive(Clone, Debug)]
pub struct MatchingRoutes {
    pub(crate) api: Arc<ReadApi>,
}

#[OpenApi(tag = "Tag::Matching")]
impl MatchingRoutes {
    /// The statistics and the health of a matching job, now or as they were
    ///
    /// A poll with `If-None-Match` costs 304 while nothing but the log's position has moved.
    #[oai(path = "/jobs/:job_id/matching/summary", method = "get", operation_id = "read_matching_summary")]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn summary(
        &self,
        caller: Caller,
        job_id: Path<String>,
        /// Folds the job anew from all its events, and has the read model repaired if it says something else
        #[oai(default)]
        force_refresh: Query<bool>,
        /// The summary as it was then: a position of the log, or an RFC 3339 instant. Neither may lie in the future
        as_of: Query<Option<Moment>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Summary>, Problem> {
        let job = path::job_id(&job_id)?;
        let summary = match (as_of.0, force_refresh.0) {
            (Some(moment), force) => {
                self.api.log_reached(min).await?;
                self.summary_of_then(&caller, job, moment, force).await?
            }
            (None, true) => {
                self.api.log_reached(min).await?;
                self.refreshed_summary(&caller, job).await?
            }
            (None, false) => {
                self.api.models_reached(&[Name::MatchingSummary], min).await?;
                self.live_summary(&caller, job).await?
            }
        };
        Ok(Cached::without(&summary, &["position"], if_none_match.as_deref()))
    }

    /// A job's matches, the best first
    #[oai(path = "/jobs/:job_id/matches", method = "get", operation_id = "list_matches")]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn matches(
        &self,
        caller: Caller,
        job_id: Path<String>,
        /// At least this score
        min_score: Query<Option<Unit>>,
        /// Only those with, or only those without evidence
        has_evidence: Query<Option<bool>>,
        product_id: Query<Option<Text<ProductId>>>,
        #[oai(default)] order: Query<Order>,
        #[oai(default)] limit: Query<Limit>,
        cursor: Query<Option<Cursor>>,
        min: MinPosition,
        #[oai(name = "If-None-Match")] if_none_match: Header<Option<String>>,
    ) -> Result<Cached<Page<Match>>, Problem> {
        let job = path::job_id(&job_id)?;
        self.api.models_reached(&[Name::Matches, Name::Jobs], min).await?;
        self.api.check_tenant(&caller.tenant, job).await?;
        let filter = MatchFilter {
            min_score: min_score.0.map(|score| *score),
            has_evidence: has_evidence.0,
            product_id: product_id.0.map(|Text(id)| id),
        };
        let order = MatchOrder::from(order.0);
        let page = self.page(job, &filter, order, limit.0, cursor.0.as_ref()).await?;
        Ok(Cached::new(&page, if_none_match.as_deref()))
    }
}

impl MatchingRoutes {
    /// From memory: no disk, no SQL.
    async fn live_summary(&self, caller: &Caller, job: JobId) -> Result<Summary, Problem> {
        let folded = self.api.folded(&caller.tenant, job).await?;
        let now = self.api.clock.now();
        let summary = self.api.summarised(job, &folded, now, ScoresFrom::ReadModel).await?;
        Ok(Summary::new(summary, folded.position, None))
    }

    async fn refreshed_summary(&self, caller: &Caller, job: JobId) -> Result<Summary, Problem> {
        let refreshed = self.api.models.matching_summary().refresh(&caller.tenant, job).await;
        let Refolded { folded, instant } =
            refreshed.map_err(|error| untold(&error))?.ok_or_else(no_such_job)?;
        only_matching(&folded)?;
        let summary = self.api.summarised(job, &folded, instant, ScoresFrom::Log).await?;
        Ok(Summary::new(summary, folded.position, None))
    }

    async fn summary_of_then(
        &self,
        caller: &Caller,
        job: JobId,
        moment: Moment,
        force: bool,
    ) -> Result<Summary, Problem> {
        moment.has_come(self.api.head(), self.api.clock.now())?;
        let (snapshots, scores) = if force {
            (Snapshots::Ignore, ScoresFrom::Log)
        } else {
            (Snapshots::Use, ScoresFrom::ReadModel)
        };
        let models = self.api.models.matching_summary();
        let then = models.refold(&caller.tenant, job, moment.up_to(), snapshots).await;
        let Refolded { folded, instant } = then
            .map_err(|error| untold(&error))?
            .ok_or_else(|| Problem::not_found("no such job, or not yet at that time"))?;
        only_matching(&folded)?;
        let summary = self.api.summarised(job, &folded, instant, scores).await?;
        Ok(Summary::new(summary, folded.position, moment.instant()))
    }

    async fn page(
        &self,
        job: JobId,
        filter: &MatchFilter,
        order: MatchOrder,
        limit: Limit,
        cursor: Option<&Cursor>,
    ) -> Result<Page<Match>, Problem> {
        // A cursor is only good where the same matches stand in the same order.
        let list = format!("matches of {job} by {order:?} {filter:?}");
        let after: Option<MatchCursor> = cursor.map(|cursor| cursor.key(&list)).transpose()?;
        let found = self.api.models.matches().list(job, filter, order, after, limit.get() as u32).await;
        let found = found.map_err(|error| unanswered(&error))?;
        Ok(Page {
            items: found.items.into_iter().map(Match::from).collect(),
            next_cursor: found.next.map(|next| Cursor::new(&list, &next).to_string()),
        })
    }
}
