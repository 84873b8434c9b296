//! Starts the jobs of a series, of which a tenant has at most one in progress: [`Series`].

use domain::job::series::Series;
use domain::job::{Action, JobDecider, pipeline};
use event_schemas::envelope::Cause;
use event_schemas::ids::{JobId, Tenant};
use event_schemas::job::{JobCreated, Phase};
use event_schemas::json_text::JsonText;
use event_schemas::stream::StreamId;
use serde::{Deserialize, Serialize};
use web::problem::Problem;

use super::Jobs;
use super::creation::JobSnapshot;
use crate::engine::execute::{CachedStream, ExecuteError};
use crate::engine::idempotency::KeyStatus;
use crate::engine::problem::{Step, after_step, from_execute_error, from_load_error};

/// The number of attempts to find or create a job while other requests create and end jobs of the series.
const ATTEMPTS_MAX: usize = 16;

/// The latest job of a series.
#[derive(Clone, Debug)]
pub(crate) struct Latest {
    pub(crate) job_id: JobId,
    pub(crate) phase: Phase,
    /// Where its next attempt would have continued.
    pub(crate) checkpoint: Option<JsonText>,
}

/// The job of the series that is in progress, and true if this command, or an earlier one with its key, created it.
/// `create` returns the job to create after the latest one, and may refuse.
///
/// # Errors
/// The refusal of `create`; 422 for a key that was used for another command.
pub(crate) async fn start<Creating>(
    jobs: &Jobs,
    cause: &Cause,
    series: &Series,
    create: impl Fn(JobId, Option<Latest>) -> Creating,
) -> Result<(bool, JobSnapshot), Problem>
where
    Creating: Future<Output = Result<JobCreated, Problem>>,
{
    // The same key may come with two series, whose jobs have separate streams.
    let _guard = match cause.idempotency {
        Some(idempotency) => Some(jobs.engine.key_locks.acquire(idempotency.key).await),
        None => None,
    };
    if let Some(earlier) = repeated(jobs, cause).await? {
        return Ok(earlier);
    }
    // One at a time for a series, so that a concurrent request finds the job instead of a conflict.
    let series_lock = series.job_id(&cause.tenant, u64::MAX).0;
    let _series_guard = jobs.engine.key_locks.acquire(series_lock).await;
    for _ in 0..ATTEMPTS_MAX {
        let number = count(jobs, &cause.tenant, series).await?;
        let latest = match number.checked_sub(1) {
            Some(latest) => latest_of(jobs, &cause.tenant, series.job_id(&cause.tenant, latest)).await?,
            None => None,
        };
        if let Some(latest) = latest.as_ref().filter(|latest| !pipeline::is_end(latest.phase))
            && let Some(latest) = current(jobs, &cause.tenant, latest.job_id).await?
        {
            return Ok((false, remembered(jobs, cause, latest).await?));
        }
        let job_id = series.job_id(&cause.tenant, number);
        let created = create(job_id, latest).await?;
        match jobs.execute_job(job_id, cause, Action::Create(created)).await {
            Ok(executed) if executed.events > 0 => {
                let creation = Step { name: "creation", position: executed.position };
                let created = jobs.as_created(job_id).await;
                return Ok((true, created.map_err(|problem| after_step(creation, "answer", problem))?));
            }
            // Another node was faster.
            Ok(_) | Err(ExecuteError::Refused(_)) => {}
            Err(error) => return Err(from_execute_error(error)),
        }
    }
    Err(from_execute_error::<domain::job::Refusal>(ExecuteError::Contended))
}

/// The job in progress that a command got, as it was then.
#[derive(Serialize, Deserialize)]
struct JobFound {
    job_id: JobId,
    phase: Phase,
    progress_percentage: f64,
    attempt: u32,
}

/// The result of an earlier command with the same key, if there was one.
async fn repeated(jobs: &Jobs, cause: &Cause) -> Result<Option<(bool, JobSnapshot)>, Problem> {
    let Some(idempotency) = cause.idempotency else { return Ok(None) };
    if let Some(answer) = jobs.engine.earlier_answer(cause).await? {
        let found: Option<JobFound> = answer
            .details
            .map(serde_json::from_value)
            .transpose()
            .map_err(|error| Problem::internal(&error))?;
        let Some(JobFound { job_id, phase, progress_percentage, attempt }) = found else {
            return Err(Problem::internal(&"the answer of a job names no job"));
        };
        let created = jobs.as_created(job_id).await?;
        let position = answer.position;
        return Ok(Some((false, JobSnapshot { phase, progress_percentage, attempt, position, ..created })));
    }
    jobs.wait_for_board().await?;
    match jobs.board.creation_key_status(idempotency) {
        KeyStatus::BodyMismatch => Err(Problem::idempotency_key_reused()),
        KeyStatus::Unused => Ok(None),
        KeyStatus::Completed(_) => match jobs.board.job_created_with(idempotency.key) {
            Some(job) => Ok(Some((true, jobs.as_created(job).await?))),
            None => Ok(None),
        },
    }
}

/// Records that the command got this job, because no event of the job carries the command's key.
async fn remembered(jobs: &Jobs, cause: &Cause, found: JobSnapshot) -> Result<JobSnapshot, Problem> {
    let JobSnapshot { phase, progress_percentage, attempt, .. } = found;
    let job_id = found.created.job_id;
    let details = serde_json::to_value(JobFound { job_id, phase, progress_percentage, attempt });
    let details = details.map_err(|error| Problem::internal(&error))?;
    let answer = jobs.engine.record_answer(cause, Some(details)).await?;
    let position = answer.map_or(found.position, |answer| answer.position);
    Ok(JobSnapshot { position, ..found })
}

/// The number of jobs of the series. They are numbered without a gap, so the first missing number is found by doubling and
/// bisection.
async fn count(jobs: &Jobs, tenant: &Tenant, series: &Series) -> Result<u64, Problem> {
    let exists = async |number| {
        let stream = StreamId::job(series.job_id(tenant, number));
        let exists = jobs.jobs.query(&stream, |folded| folded.state.details().is_some()).await;
        exists.map_err(from_load_error)
    };
    let mut missing = 0;
    while exists(missing).await? {
        missing = missing * 2 + 1;
    }
    let mut existing = missing / 2;
    if missing == 0 {
        return Ok(0);
    }
    while missing - existing > 1 {
        let middle = existing + (missing - existing) / 2;
        if exists(middle).await? {
            existing = middle;
        } else {
            missing = middle;
        }
    }
    Ok(missing)
}

/// Checks that the job may be retried, which a later job of its series prevents. A later job never disappears, so it may be
/// looked up beforehand.
///
/// # Errors
/// 409 that names the later job.
pub(crate) async fn check_is_latest(jobs: &Jobs, tenant: &Tenant, job: JobId) -> Result<(), Problem> {
    let series = |folded: &CachedStream<JobDecider>| Series::of(&folded.state.details()?.created);
    let series = jobs.jobs.query(&StreamId::job(job), series).await.map_err(from_load_error)?;
    let Some(series) = series else { return Ok(()) };
    let Some(latest) = count(jobs, tenant, &series).await?.checked_sub(1) else { return Ok(()) };
    let latest = series.job_id(tenant, latest);
    if latest == job {
        return Ok(());
    }
    let detail = format!("{}, the job {latest}; use that one", series.later());
    Err(Problem::conflict(detail))
}

async fn latest_of(jobs: &Jobs, tenant: &Tenant, job_id: JobId) -> Result<Option<Latest>, Problem> {
    let project = |folded: &CachedStream<JobDecider>| {
        let details = folded.state.details().filter(|_| folded.tenant() == Some(tenant))?;
        Some(Latest { job_id, phase: details.phase, checkpoint: details.checkpoint.clone() })
    };
    jobs.jobs.query(&StreamId::job(job_id), project).await.map_err(from_load_error)
}

/// The current state of a job.
async fn current(jobs: &Jobs, tenant: &Tenant, job: JobId) -> Result<Option<JobSnapshot>, Problem> {
    let project = |folded: &CachedStream<JobDecider>| {
        let details = folded.state.details().filter(|_| folded.tenant() == Some(tenant))?;
        Some((details.phase, details.attempt, details.progress_percentage(), folded.position()))
    };
    let found = jobs.jobs.query(&StreamId::job(job), project).await.map_err(from_load_error)?;
    let Some((phase, attempt, progress_percentage, position)) = found else { return Ok(None) };
    let created = jobs.as_created(job).await?;
    Ok(Some(JobSnapshot { phase, attempt, progress_percentage, position, ..created }))
}
