//! Analyses of videos: a tenant has at most one in progress for each video, and a limited number altogether.

use std::time::Duration;

use domain::job::{Action, JobDecider, analysis, pipeline};
use event_schemas::envelope::Cause;
use event_schemas::ids::{JobId, Position, Tenant, VideoId};
use event_schemas::job::{JobCreated, JobKind, JobSource, Phase};
use event_schemas::json_text::JsonText;
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};
use web::problem::Problem;

use super::{Creation, Jobs};
use crate::engine::execute::{CachedStream, ExecuteError};
use crate::engine::idempotency::KeyStatus;
use crate::engine::problem::{Step, after_step, from_execute_error, from_load_error};

/// The retry delay of a tenant that has too many analyses in progress.
const RETRY_DELAY: Duration = Duration::from_secs(30);

/// The number of attempts to find or create a job while other requests create and end jobs of the video.
const ATTEMPTS_MAX: usize = 16;

/// An analysis, as it was created or as it is now.
#[derive(Clone, Debug)]
pub(crate) struct Analysis {
    pub(crate) job_id: JobId,
    pub(crate) video_id: VideoId,
    pub(crate) url: String,
    pub(crate) phase: Phase,
    /// From 0 to 100.
    pub(crate) progress_percentage: f64,
    pub(crate) attempt: u32,
    pub(crate) created_at: Timestamp,
    pub(crate) position: Position,
}

/// The analysis of the video, and true if this command, or an earlier one with its key, created it.
pub(crate) async fn start(
    jobs: &Jobs,
    cause: &Cause,
    video: &VideoId,
    source: JobSource,
) -> Result<(bool, Analysis), Problem> {
    // The same key may come with two videos, whose jobs have separate streams.
    let _guard = match cause.idempotency {
        Some(idempotency) => Some(jobs.engine.key_locks.acquire(idempotency.key).await),
        None => None,
    };
    if let Some(earlier) = repeated(jobs, cause).await? {
        return Ok(earlier);
    }
    // One at a time for a video, so that a concurrent request finds the job instead of a conflict.
    let video_lock = analysis::job_id(&cause.tenant, video, u64::MAX).0;
    let _video_guard = jobs.engine.key_locks.acquire(video_lock).await;
    for _ in 0..ATTEMPTS_MAX {
        let number = count(jobs, &cause.tenant, video).await?;
        if let Some(latest) = number.checked_sub(1) {
            let job = analysis::job_id(&cause.tenant, video, latest);
            let latest = current(jobs, &cause.tenant, job).await?;
            if let Some(latest) = latest.filter(|latest| !pipeline::is_end(latest.phase)) {
                return Ok((false, remembered(jobs, cause, latest).await?));
            }
        }
        check_limit(jobs, &cause.tenant).await?;
        let job_id = analysis::job_id(&cause.tenant, video, number);
        let created = JobCreated {
            job_id,
            kind: JobKind::VideoAnalysis,
            source: Some(source.clone()),
            name: None,
            metadata: JsonText::default(),
        };
        match jobs.execute_job(job_id, cause, Action::Create(created)).await {
            Ok(executed) if executed.events > 0 => {
                let creation = Step { name: "creation", position: executed.position };
                let created = as_created(jobs, job_id).await;
                return Ok((true, created.map_err(|problem| after_step(creation, "answer", problem))?));
            }
            // Another node was faster.
            Ok(_) | Err(ExecuteError::Refused(_)) => {}
            Err(error) => return Err(from_execute_error(error)),
        }
    }
    Err(from_execute_error::<domain::job::Refusal>(ExecuteError::Contended))
}

/// The analysis in progress that a command got, as it was then.
#[derive(Serialize, Deserialize)]
struct AnalysisFound {
    job_id: JobId,
    phase: Phase,
    progress_percentage: f64,
    attempt: u32,
}

/// The result of an earlier command with the same key, if there was one.
async fn repeated(jobs: &Jobs, cause: &Cause) -> Result<Option<(bool, Analysis)>, Problem> {
    let Some(idempotency) = cause.idempotency else { return Ok(None) };
    if let Some(answer) = jobs.engine.earlier_answer(cause).await? {
        let found: Option<AnalysisFound> = answer
            .details
            .map(serde_json::from_value)
            .transpose()
            .map_err(|error| Problem::internal(&error))?;
        let Some(AnalysisFound { job_id, phase, progress_percentage, attempt }) = found else {
            return Err(Problem::internal(&"the answer of an analysis names no job"));
        };
        let created = as_created(jobs, job_id).await?;
        let position = answer.position;
        return Ok(Some((false, Analysis { phase, progress_percentage, attempt, position, ..created })));
    }
    jobs.wait_for_board().await?;
    match jobs.board.creation_key_status(idempotency) {
        KeyStatus::BodyMismatch => Err(Problem::idempotency_key_reused()),
        KeyStatus::Unused => Ok(None),
        KeyStatus::Completed(_) => match jobs.board.job_created_with(idempotency.key) {
            Some(job) => Ok(Some((true, as_created(jobs, job).await?))),
            None => Ok(None),
        },
    }
}

/// Records that the command got this analysis, because no event of the job carries the command's key.
async fn remembered(jobs: &Jobs, cause: &Cause, found: Analysis) -> Result<Analysis, Problem> {
    let Analysis { job_id, phase, progress_percentage, attempt, .. } = found;
    let details = serde_json::to_value(AnalysisFound { job_id, phase, progress_percentage, attempt });
    let details = details.map_err(|error| Problem::internal(&error))?;
    let answer = jobs.engine.record_answer(cause, Some(details)).await?;
    let position = answer.map_or(found.position, |answer| answer.position);
    Ok(Analysis { position, ..found })
}

/// # Errors
/// 429 if the tenant has as many analyses in progress as it may have.
async fn check_limit(jobs: &Jobs, tenant: &Tenant) -> Result<(), Problem> {
    jobs.wait_for_board().await?;
    let max = jobs.analyses_max;
    if jobs.board.analyses_in_progress(tenant) < max {
        return Ok(());
    }
    let detail =
        format!("{max} analyses are in progress, which is the limit; wait for one to end, or cancel one");
    Err(Problem::rate_limited(detail, RETRY_DELAY))
}

/// The number of analyses of the video. They are numbered without a gap, so the first missing number is found by
/// doubling and bisection.
async fn count(jobs: &Jobs, tenant: &Tenant, video: &VideoId) -> Result<u64, Problem> {
    let exists = async |number| {
        let stream = StreamId::job(analysis::job_id(tenant, video, number));
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

/// Checks that the job may be retried, which a later analysis of the same video prevents. A later analysis never
/// disappears, so it may be looked up beforehand.
///
/// # Errors
/// 409 that names the later job.
pub(crate) async fn check_is_latest(jobs: &Jobs, tenant: &Tenant, job: JobId) -> Result<(), Problem> {
    let video = |folded: &CachedStream<JobDecider>| {
        let JobSource::Video { video_id, .. } = folded.state.details()?.created.source.as_ref()?;
        Some(video_id.clone())
    };
    let video = jobs.jobs.query(&StreamId::job(job), video).await.map_err(from_load_error)?;
    let Some(video) = video else { return Ok(()) };
    let Some(latest) = count(jobs, tenant, &video).await?.checked_sub(1) else { return Ok(()) };
    let latest = analysis::job_id(tenant, &video, latest);
    if latest == job {
        return Ok(());
    }
    let detail = format!("the video has a later analysis, the job {latest}; use that one");
    Err(Problem::conflict(detail))
}

/// The current state of an analysis.
async fn current(jobs: &Jobs, tenant: &Tenant, job: JobId) -> Result<Option<Analysis>, Problem> {
    let project = |folded: &CachedStream<JobDecider>| {
        let details = folded.state.details().filter(|_| folded.tenant() == Some(tenant))?;
        Some((details.phase, details.attempt, details.progress_percentage(), folded.position()))
    };
    let found = jobs.jobs.query(&StreamId::job(job), project).await.map_err(from_load_error)?;
    let Some((phase, attempt, progress_percentage, position)) = found else { return Ok(None) };
    Ok(Some(Analysis { phase, attempt, progress_percentage, position, ..as_created(jobs, job).await? }))
}

/// The analysis as it was created, unaffected by later events.
async fn as_created(jobs: &Jobs, job_id: JobId) -> Result<Analysis, Problem> {
    let Creation { created, at, position } = jobs.creation(job_id).await?;
    let Some(JobSource::Video { video_id, url, .. }) = created.source else {
        return Err(Problem::internal(&"an analysis was created without a video"));
    };
    Ok(Analysis {
        job_id,
        video_id,
        url,
        phase: Phase::Queued,
        progress_percentage: 0.0,
        attempt: 1,
        created_at: at,
        position,
    })
}
