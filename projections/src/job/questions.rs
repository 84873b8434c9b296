//! What can be asked of `jobs`.

use std::sync::Arc;
use std::time::Duration;

use domain::job::analysis::{self, AnalysisView};
use domain::job::history::Status;
use domain::job::view::JobView;
use event_log::clock::Clock;
use event_schemas::ids::{JobId, Position, Tenant};
use event_schemas::job::{JobKind, Phase};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::head::Head;
use super::{LIST, Stored, read};
use crate::generation::{QueryError, Slot};
use crate::projection::Name;
use crate::row::{json, store_error, variant};
use crate::sql::Statement;

/// Which of a tenant's jobs are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    pub status: Option<Status>,
    pub phase: Option<Phase>,
    pub kind: Option<JobKind>,
    /// Created then or later.
    pub since: Option<Timestamp>,
    /// A part of the name or the id, in small or capital letters.
    pub search: Option<String>,
}

/// Where a list goes on: behind this job. Jobs created meanwhile move nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCursor {
    pub created_at: Timestamp,
    pub job_id: JobId,
}

/// A part of a tenant's jobs, the newest first.
#[derive(Clone, Debug, PartialEq)]
pub struct JobPage<T = JobView> {
    pub items: Vec<T>,
    /// None at the end.
    pub next: Option<JobCursor>,
    /// The answer reflects everything up to here, and perhaps more.
    pub position: Position,
}

/// A part of a tenant's analyses, the newest first.
pub type AnalysisPage = JobPage<AnalysisView>;

/// The questions that can be asked of `jobs`.
#[derive(Clone, Debug)]
pub struct Jobs {
    pub(crate) slot: Arc<Slot<()>>,
    pub(crate) clock: Clock,
}

impl Jobs {
    /// At most `limit` of the tenant's jobs behind the cursor, the newest first, as they stand now.
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
        self.page(tenant, filter, after, limit, |head| head.view(now)).await
    }

    /// At most `limit` of the tenant's analyses behind the cursor, the newest first, as they stand now; with a status, those
    /// that have it. One without an event for `stalled_after` is stalled.
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
        let filter = JobFilter { status, kind: Some(JobKind::VideoAnalysis), ..JobFilter::default() };
        let view = |head: Head| Some(analysis::view(&head.history, &head.latest, now, stalled_after));
        self.page(tenant, &filter, after, limit, view).await
    }

    async fn page<T>(
        &self,
        tenant: &Tenant,
        filter: &JobFilter,
        after: Option<JobCursor>,
        limit: u32,
        view: impl Fn(Head) -> Option<T>,
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
            .bind(filter.status.as_ref().map(variant))
            .bind(filter.phase.as_ref().map(variant))
            .bind(filter.kind.as_ref().map(variant))
            .bind(filter.search.as_deref().map(like))
            // One more than asked for shows whether there is more.
            .bind(i64::from(limit) + 1);
        let rows: Vec<Stored> =
            generation.db.all(statement).await.map_err(|error| store_error(Name::Jobs, error))?;
        let has_more = rows.len() > limit as usize;
        let mut items = Vec::with_capacity(rows.len());
        let mut last = None;
        for row in rows.iter().take(limit as usize) {
            let head: Head = json(Name::Jobs, &row.head)?;
            last = Some(JobCursor { created_at: head.history.created_at, job_id: head.history.job_id() });
            items.extend(view(head));
        }
        let next = last.filter(|_| has_more);
        Ok(JobPage { items, next, position })
    }

    /// The job as it stands now, if it is this tenant's, with a position up to which the answer is complete.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn get(&self, tenant: &Tenant, job: JobId) -> Result<Option<(JobView, Position)>, QueryError> {
        let own = self.head(tenant, job).await?;
        Ok(own.and_then(|(head, position)| Some((head.view(self.clock.now())?, position))))
    }

    /// The analysis as it stands now, if there is one of this id and it is this tenant's. Without an event for
    /// `stalled_after` it is stalled.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn analysis(
        &self,
        tenant: &Tenant,
        job: JobId,
        stalled_after: Duration,
    ) -> Result<Option<(AnalysisView, Position)>, QueryError> {
        let own = self.head(tenant, job).await?;
        let own = own.filter(|(head, _)| head.history.kind() == JobKind::VideoAnalysis);
        let now = self.clock.now();
        let view = |head: &Head| analysis::view(&head.history, &head.latest, now, stalled_after);
        Ok(own.map(|(head, position)| (view(&head), position)))
    }

    async fn head(&self, tenant: &Tenant, job: JobId) -> Result<Option<(Head, Position)>, QueryError> {
        let generation = self.slot.live()?;
        let position = generation.position();
        let head = read(&generation.db, job).await.map_err(|error| store_error(Name::Jobs, error))?;
        Ok(head.filter(|head| head.history.tenant == *tenant).map(|head| (head, position)))
    }
}

/// A pattern that finds the text itself, in any letters.
fn like(search: &str) -> String {
    let mut pattern = String::from("%");
    for letter in search.to_lowercase().chars() {
        if matches!(letter, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}
