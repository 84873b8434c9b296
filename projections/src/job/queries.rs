//! The queries of `jobs`.

use std::sync::Arc;
use std::time::Duration;

use domain::job::analysis::{self, AnalysisView};
use domain::job::extraction::{self, ExtractionView};
use domain::job::history::Status;
use domain::job::view::JobView;
use event_log::clock::Clock;
use event_schemas::ids::{JobId, Position, Tenant};
use event_schemas::job::{JobKind, Phase};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::overview::JobOverview;
use super::{LIST, WHOLE};
use crate::generation::{QueryError, Slot};
use crate::projection::Name;
use crate::row::{like, parse_json, variant_name};
use crate::rows::json;
use crate::sql::Statement;

/// A filter for a tenant's jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    pub status: Option<Status>,
    pub phase: Option<Phase>,
    /// Up to three kinds; any if there are none.
    pub kinds: Vec<JobKind>,
    /// The earliest creation time, inclusive.
    pub since: Option<Timestamp>,
    /// A part of the name or the id, case-insensitive.
    pub search: Option<String>,
}

/// The last job of a page: the next page starts after it. New jobs do not shift the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCursor {
    pub created_at: Timestamp,
    pub job_id: JobId,
}

/// A page of a tenant's jobs, newest first.
#[derive(Clone, Debug, PartialEq)]
pub struct JobPage<T = JobView> {
    pub items: Vec<T>,
    /// None on the last page.
    pub next: Option<JobCursor>,
    /// The page reflects everything up to this position, and possibly more.
    pub position: Position,
}

/// A page of a tenant's analyses, newest first.
pub type AnalysisPage = JobPage<AnalysisView>;

/// A page of a tenant's extractions, newest first.
pub type ExtractionPage = JobPage<ExtractionView>;

/// The queries of `jobs`.
#[derive(Clone, Debug)]
pub struct Jobs {
    pub(crate) slot: Arc<Slot<()>>,
    pub(crate) clock: Clock,
}

impl Jobs {
    /// Lists at most `limit` of the tenant's jobs after the cursor, newest first, in their current state, without metadata
    /// and results.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn list(
        &self,
        tenant: &Tenant,
        filter: &JobFilter,
        after: Option<JobCursor>,
        limit: u32,
    ) -> Result<JobPage, QueryError> {
        let now = self.clock.now();
        let view = |overview: JobOverview| {
            overview.view(now).map(|view| JobView { metadata: None, result: None, ..view })
        };
        self.page(tenant, filter, after, limit, view).await
    }

    /// Lists at most `limit` of the tenant's analyses after the cursor, newest first, in their current state; with a
    /// status, only those that have it. An analysis without an event for `stalled_after` is stalled.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn analyses(
        &self,
        tenant: &Tenant,
        status: Option<Status>,
        after: Option<JobCursor>,
        limit: u32,
        stalled_after: Duration,
    ) -> Result<AnalysisPage, QueryError> {
        let now = self.clock.now();
        let filter = JobFilter { status, kinds: vec![JobKind::VideoAnalysis], ..JobFilter::default() };
        let view = |overview: JobOverview| {
            let view = analysis::view(&overview.history, &overview.latest, now, stalled_after);
            Some(AnalysisView { options: None, result: None, ..view })
        };
        self.page(tenant, &filter, after, limit, view).await
    }

    /// Lists at most `limit` of the tenant's extractions after the cursor, newest first, in their current state; with a status or a
    /// kind, only those that have it.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn extractions(
        &self,
        tenant: &Tenant,
        status: Option<Status>,
        kind: Option<JobKind>,
        after: Option<JobCursor>,
        limit: u32,
    ) -> Result<ExtractionPage, QueryError> {
        let kinds = kind.map_or_else(|| extraction::KINDS.to_vec(), |kind| vec![kind]);
        let filter = JobFilter { status, kinds, ..JobFilter::default() };
        let view = |overview: JobOverview| extraction::view(&overview.history, &overview.latest);
        let view = |overview| view(overview).map(ExtractionView::in_list);
        self.page(tenant, &filter, after, limit, view).await
    }

    /// The extraction in its current state, if it exists and belongs to the tenant.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn extraction(
        &self,
        tenant: &Tenant,
        job: JobId,
    ) -> Result<Option<ExtractionView>, QueryError> {
        let own = self.overview(tenant, job).await?;
        Ok(own.and_then(|(overview, _)| extraction::view(&overview.history, &overview.latest)))
    }

    async fn page<T>(
        &self,
        tenant: &Tenant,
        filter: &JobFilter,
        after: Option<JobCursor>,
        limit: u32,
        view: impl Fn(JobOverview) -> Option<T>,
    ) -> Result<JobPage<T>, QueryError> {
        let generation = self.slot.live()?;
        let position = generation.position();
        let (created_at, job_id) =
            after.map_or((i64::MAX, Uuid::max()), |cursor| (cursor.created_at.micros(), cursor.job_id.0));
        let statement = Statement::new(LIST)
            .bind(tenant.as_str())
            .bind(created_at)
            .bind(job_id)
            .bind(filter.since.map_or(i64::MIN, Timestamp::micros))
            .bind(filter.status.as_ref().map(variant_name))
            .bind(filter.phase.as_ref().map(variant_name))
            .bind(filter.kinds.first().map(variant_name))
            .bind(filter.kinds.get(1).map(variant_name))
            .bind(filter.kinds.get(2).map(variant_name))
            .bind(filter.search.as_deref().map(like));
        let parse = |row| {
            let overview: JobOverview = json(Name::Jobs, row)?;
            let history = &overview.history;
            let cursor = JobCursor { created_at: history.created_at, job_id: history.job_id() };
            Ok((view(overview), cursor))
        };
        let cursor = |(_, cursor): &(Option<T>, JobCursor)| *cursor;
        let (items, next) = generation.page(Name::Jobs, statement, limit, parse, cursor).await?;
        Ok(JobPage { items: items.into_iter().filter_map(|(view, _)| view).collect(), next, position })
    }

    /// The job in its current state, if it belongs to the tenant, and a position up to which the result is complete.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn get(&self, tenant: &Tenant, job: JobId) -> Result<Option<(JobView, Position)>, QueryError> {
        let own = self.overview(tenant, job).await?;
        Ok(own.and_then(|(overview, position)| Some((overview.view(self.clock.now())?, position))))
    }

    /// The analysis in its current state, if it exists and belongs to the tenant. Without an event for `stalled_after`
    /// it is stalled.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn analysis(
        &self,
        tenant: &Tenant,
        job: JobId,
        stalled_after: Duration,
    ) -> Result<Option<(AnalysisView, Position)>, QueryError> {
        let own = self.overview(tenant, job).await?;
        let own = own.filter(|(overview, _)| overview.history.kind() == JobKind::VideoAnalysis);
        let now = self.clock.now();
        let view =
            |overview: &JobOverview| analysis::view(&overview.history, &overview.latest, now, stalled_after);
        Ok(own.map(|(overview, position)| (view(&overview), position)))
    }

    pub(super) async fn overview(
        &self,
        tenant: &Tenant,
        job: JobId,
    ) -> Result<Option<(JobOverview, Position)>, QueryError> {
        let generation = self.slot.live()?;
        let position = generation.position();
        let statement = Statement::new(WHOLE).bind(job.0);
        let overview: Option<JobOverview> = generation.one_row(Name::Jobs, statement, parse_whole).await?;
        let own = overview.filter(|overview| overview.history.tenant == *tenant);
        Ok(own.map(|overview| (overview, position)))
    }
}

/// Parses a job with its texts.
pub(super) fn parse_whole((overview, texts): (String, Option<String>)) -> Result<JobOverview, QueryError> {
    let mut overview: JobOverview = parse_json(Name::Jobs, &overview)?;
    let texts = texts.map(|texts| parse_json(Name::Jobs, &texts)).transpose()?;
    overview.join(texts.unwrap_or_default());
    Ok(overview)
}
