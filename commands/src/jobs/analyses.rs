//! Analyses of videos: a tenant has at most one in progress for each video, and a limited number altogether.

use std::time::Duration;

use domain::job::series::Series;
use event_schemas::envelope::Cause;
use event_schemas::ids::{JobId, Position, Tenant, VideoId};
use event_schemas::job::{JobCreated, JobKind, JobSource, Phase};
use event_schemas::json_text::JsonText;
use event_schemas::time::Timestamp;
use web::problem::Problem;

use super::Jobs;
use super::creation::JobSnapshot;
use super::series;

/// The retry delay of a tenant that has too many analyses in progress.
const RETRY_DELAY: Duration = Duration::from_secs(30);

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

impl TryFrom<JobSnapshot> for Analysis {
    type Error = Problem;

    fn try_from(job: JobSnapshot) -> Result<Self, Problem> {
        let Some(JobSource::Video { video_id, url, .. }) = job.created.source else {
            return Err(Problem::internal(&"an analysis was created without a video"));
        };
        Ok(Self {
            job_id: job.created.job_id,
            video_id,
            url,
            phase: job.phase,
            progress_percentage: job.progress_percentage,
            attempt: job.attempt,
            created_at: job.created_at,
            position: job.position,
        })
    }
}

/// The analysis of the video, and true if this command, or an earlier one with its key, created it.
pub(crate) async fn start(
    jobs: &Jobs,
    cause: &Cause,
    video: &VideoId,
    source: JobSource,
) -> Result<(bool, Analysis), Problem> {
    let source = &source;
    let create = |job_id, _| async move {
        check_limit(jobs, &cause.tenant).await?;
        let (kind, source) = (JobKind::VideoAnalysis, Some(source.clone()));
        Ok(JobCreated { job_id, kind, source, name: None, metadata: JsonText::default() })
    };
    let (is_new, job) = series::start(jobs, cause, &Series::Analyses(video.clone()), create).await?;
    Ok((is_new, job.try_into()?))
}

/// # Errors
/// 429 if the tenant has as many analyses in progress as it may have.
async fn check_limit(jobs: &Jobs, tenant: &Tenant) -> Result<(), Problem> {
    jobs.wait_for_board().await?;
    let max = jobs.analyses_max;
    if jobs.board.jobs_in_progress(tenant, JobKind::VideoAnalysis) < max {
        return Ok(());
    }
    let detail =
        format!("{max} analyses are in progress, which is the limit; wait for one to end, or cancel one");
    Err(Problem::rate_limited(detail, RETRY_DELAY))
}
