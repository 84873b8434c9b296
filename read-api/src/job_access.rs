//! Access to one job: the tenant check, its fold and its summary.
//!
//! While the read model of the job cannot be read, because it is being built, is damaged or its disk is full, the job is
//! replayed from its events, as for a time in the past. That is a costly read of the caller.

use domain::image_matching::summary::Summary;
use domain::job::view::ErrorView;
use event_log::EventLog;
use event_schemas::ids::{JobId, Revision, Tenant};
use event_schemas::job::JobKind;
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use projections::Name;
use projections::QueryError;
use projections::matching_summary::{FoldedJob, Replayed, ScoresFrom, Snapshots, UpTo};
use web::caller::{Caller, CostlyReads};
use web::problem::Problem;

use crate::ReadApi;
use crate::by_id::Origin;
use crate::errors::{from_query_error, from_read_error, from_summary_error, no_such_job};
use crate::min_position::MinPosition;

impl ReadApi {
    /// Restricts a read to the tenant that the first event of the job names.
    ///
    /// # Errors
    /// 404 if the job does not exist or belongs to another tenant; both get the same response.
    pub(crate) async fn check_tenant(&self, tenant: &Tenant, job: JobId) -> Result<(), Problem> {
        let first = self.log.read_stream(&StreamId::job(job), Revision(0), 1).await;
        let first = first.map_err(|error| from_read_error(&error))?;
        let metadata = first.first().map(|event| event.metadata().map_err(|error| Problem::internal(&error)));
        match metadata.transpose()? {
            Some(metadata) if metadata.tenant == *tenant => Ok(()),
            _ => Err(no_such_job()),
        }
    }

    /// The job's fold from the read model.
    ///
    /// # Errors
    /// 404 if there is no such matching job or it belongs to another tenant.
    pub(crate) async fn job_fold(&self, tenant: &Tenant, job: JobId) -> Result<FoldedJob, Problem> {
        let read = || async {
            let found = self.models.matching_summary().summary(tenant, job).await;
            found.map_err(|error| from_query_error(&error))
        };
        let origin = Origin::Stream(StreamId::job(job));
        let found = self.read_by_id(Name::MatchingSummary, tenant, origin, read).await?;
        let folded = found.ok_or_else(no_such_job)?;
        require_matching_job(&folded)?;
        Ok(folded)
    }

    /// The job's fold from the read model, or from the log.
    ///
    /// # Errors
    /// 404 if there is no such matching job or it belongs to another tenant.
    pub(crate) async fn current_job(
        &self,
        tenant: &Tenant,
        job: JobId,
        min: MinPosition,
        budget: &CostlyReads,
    ) -> Result<(Replayed, ScoresFrom), Problem> {
        self.wait_for_models_or_log(&[Name::MatchingSummary], min).await?;
        let read = || async {
            match self.models.matching_summary().summary(tenant, job).await {
                Ok(found) => {
                    let instant = self.clock.now();
                    Ok(found.map(|folded| (Replayed { folded, instant }, ScoresFrom::ReadModel)))
                }
                Err(error) => {
                    let replayed = self.replay_instead(&error, tenant, job, budget).await?;
                    Ok(replayed.map(|replayed| (replayed, ScoresFrom::Log)))
                }
            }
        };
        let origin = Origin::Stream(StreamId::job(job));
        let found = self.read_by_id(Name::MatchingSummary, tenant, origin, read).await?;
        let (replayed, scores) = found.ok_or_else(no_such_job)?;
        require_matching_job(&replayed.folded)?;
        Ok((replayed, scores))
    }

    /// Replays the job from the log, because a read model cannot be read.
    ///
    /// # Errors
    /// 429 beyond the caller's costly reads.
    pub(crate) async fn replay_instead(
        &self,
        error: &QueryError,
        tenant: &Tenant,
        job: JobId,
        budget: &CostlyReads,
    ) -> Result<Option<Replayed>, Problem> {
        tracing::debug!(%job, %error, "a job is read from the log");
        let _turn = budget.turn().await?;
        let replayed = self.models.matching_summary().replay(tenant, job, UpTo::Head, Snapshots::Use).await;
        replayed.map_err(|error| from_summary_error(&error))
    }

    /// The summary of a fold at an instant.
    ///
    /// # Errors
    /// 404 before the job's creation.
    pub(crate) async fn summarize(
        &self,
        job: JobId,
        folded: &FoldedJob,
        instant: Timestamp,
        scores: ScoresFrom,
    ) -> Result<Summary, Problem> {
        let thresholds = &self.server.thresholds;
        let summary =
            self.models.matching_summary().summarise(job, folded, instant, thresholds, scores).await;
        let mut summary = summary.map_err(|error| from_summary_error(&error))?.ok_or_else(no_such_job)?;
        // The fold contains everything up to here, although the job has no event there.
        summary.position = folded.position;
        Ok(summary)
    }
}

/// Refuses jobs of other kinds, which have no matching summary.
pub(crate) fn require_matching_job(folded: &FoldedJob) -> Result<(), Problem> {
    match &folded.fold.history {
        Some(history) if history.kind() == JobKind::ProductVideoMatching => Ok(()),
        Some(_) => Err(Problem::not_found("this job is of a kind that has no matching summary")),
        None => Err(no_such_job()),
    }
}

/// Removes the messages of workers for callers that may not see what went wrong inside the tenant's services: these get
/// the classification only.
pub(crate) fn hide_messages<'a>(caller: &Caller, errors: impl Iterator<Item = &'a mut ErrorView>) {
    if !caller.can_access_others() {
        errors.for_each(|error| error.message = None);
    }
}
