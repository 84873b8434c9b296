//! The jobs that make exports.

use domain::job::view::JobView;
use event_schemas::envelope::Actor;
use event_schemas::export::ExportOptions;
use event_schemas::ids::{JobId, Position, Tenant};
use event_schemas::job::JobKind;
use event_schemas::time::Timestamp;
use uuid::Uuid;

use super::overview::JobOverview;
use super::queries::parse_whole;
use super::{JobCursor, JobPage, Jobs, LIST_EXPORTS};
use crate::generation::QueryError;
use crate::projection::Name;
use crate::sql::Statement;

/// A job that makes an export.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportJob {
    pub job: JobView,
    pub options: ExportOptions,
    pub created_by: Actor,
}

/// None for a job of another kind.
fn view(overview: JobOverview, now: Timestamp) -> Result<Option<ExportJob>, QueryError> {
    let history = &overview.history;
    let (kind, created_by) = (history.kind(), overview.created_by.clone());
    let Some(source) = history.created.source.as_ref().filter(|_| kind == JobKind::EmbeddingExport) else {
        return Ok(None);
    };
    let options = serde_json::from_str(source.options().as_str())
        .map_err(|error| QueryError::InvalidRow { name: Name::Jobs, reason: error.to_string() })?;
    Ok(overview.view(now).map(|job| ExportJob { job, options, created_by }))
}

impl Jobs {
    /// Lists at most `limit` of the tenant's exports after the cursor, newest first, in their current state.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn exports(
        &self,
        tenant: &Tenant,
        after: Option<JobCursor>,
        limit: u32,
    ) -> Result<JobPage<ExportJob>, QueryError> {
        let generation = self.slot.live()?;
        let (position, now) = (generation.position(), self.clock.now());
        let (created_at, job_id) =
            after.map_or((i64::MAX, Uuid::max()), |cursor| (cursor.created_at.micros(), cursor.job_id.0));
        let statement = Statement::new(LIST_EXPORTS).bind(tenant.as_str()).bind(created_at).bind(job_id);
        let parse = |row| {
            let overview = parse_whole(row)?;
            let history = &overview.history;
            let cursor = JobCursor { created_at: history.created_at, job_id: history.job_id() };
            Ok((view(overview, now)?, cursor))
        };
        let cursor = |(_, cursor): &(Option<ExportJob>, JobCursor)| *cursor;
        let (items, next) = generation.page(Name::Jobs, statement, limit, parse, cursor).await?;
        Ok(JobPage { items: items.into_iter().filter_map(|(view, _)| view).collect(), next, position })
    }

    /// The export in its current state, if it exists and belongs to the tenant.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn export(
        &self,
        tenant: &Tenant,
        job: JobId,
    ) -> Result<Option<(ExportJob, Position)>, QueryError> {
        let Some((overview, position)) = self.overview(tenant, job).await? else { return Ok(None) };
        Ok(view(overview, self.clock.now())?.map(|export| (export, position)))
    }
}
