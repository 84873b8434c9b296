//! Starts and cancels analyses of videos.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::job::analysis::{self, url};
use domain::job::history::Status as JobStatus;
use domain::job::{Action, Command, pipeline};
use event_log::EventLog;
use event_schemas::envelope::{Cause, Envelope, Event, Recorded};
use event_schemas::ids::{JobId, Revision, Tenant, VideoId};
use event_schemas::job::{JobCreated, JobEvent, JobKind, JobSource, Phase as StoredPhase};
use event_schemas::stream::StreamId;
use futures_util::FutureExt;
use poem_openapi::param::{Header, Path};
use poem_openapi::types::Example;
use poem_openapi::{Enum, Object, OpenApi};
use serde_json::Value;
use web::caller::Caller;
use web::enums::{Phase, Tag};
use web::idempotency::IdempotencyKey;
use web::json::{Accepted, Json};
use web::problem::Problem;
use web::request::TraceParent;
use web::value::{ApiPosition, ApiTimestamp, TextId, UuidParam};

use super::{idempotency_of, job_roles};
use crate::execute::{CachedStream, ExecuteError};
use crate::idempotency::KeyStatus;
use crate::{Commands, problem};

/// The retry delay of a tenant that has too many analyses in progress.
const RETRY_DELAY: Duration = Duration::from_secs(30);

/// The number of attempts to find or create a job while other requests create and end jobs of the video.
const ATTEMPTS_MAX: usize = 16;

/// A video to analyse.
#[derive(Debug, Object)]
#[oai(example)]
struct StartAnalysis {
    /// A recording on Twitch: `https://www.twitch.tv/videos/` and its number.
    #[oai(validator(max_length = 2000))]
    url: String,
    /// Options of the work, which its worker receives unchanged.
    options: Option<BTreeMap<String, Value>>,
}

impl Example for StartAnalysis {
    fn example() -> Self {
        let options = BTreeMap::from([("highlights_max".to_owned(), 5.into())]);
        Self { url: "https://www.twitch.tv/videos/2039".to_owned(), options: Some(options) }
    }
}

/// The status of an analysis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "AnalysisState", rename_all = "snake_case", remote = "JobStatus")]
enum AnalysisState {
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
}

/// The analysis of a video.
#[derive(Debug, Object)]
pub(crate) struct AnalysisStarted {
    id: UuidParam<JobId>,
    pub(crate) job_id: UuidParam<JobId>,
    video_id: TextId<VideoId>,
    url: String,
    status: AnalysisState,
    phase: Phase,
    /// The display name of the phase.
    current_stage: String,
    /// From 0 to 100.
    progress_percentage: f64,
    attempt: u32,
    created_at: ApiTimestamp,
    /// Log position of this state. Send it as `X-Min-Position` to read at least this state.
    position: ApiPosition,
}

/// A cancelled analysis.
#[derive(Debug, Object)]
struct AnalysisCancelled {
    id: UuidParam<JobId>,
    job_id: UuidParam<JobId>,
    status: AnalysisState,
    position: ApiPosition,
}

/// The write routes of analyses.
#[derive(Clone, Debug)]
pub struct AnalysisCommands(pub(super) Commands);

#[OpenApi(tag = "Tag::Analysis")]
impl AnalysisCommands {
    /// Analyse a video
    ///
    /// Returns at once; a worker claims the work. If the tenant already has an analysis of the video in progress, that
    /// job is returned and no second one is started. The number of analyses that a tenant may have in progress is
    /// limited.
    #[oai(path = "/api/v1/analysis", method = "post", operation_id = "start_analysis")]
    async fn start(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        body: Json<StartAnalysis>,
    ) -> Result<Accepted<AnalysisStarted>, Problem> {
        caller.require(job_roles())?;
        let video_id =
            url::video_id(&body.0.url).map_err(|error| Problem::unprocessable("url", error.to_string()))?;
        let idempotency = idempotency_of(&caller, "POST", "/api/v1/analysis", key.0, &body.0);
        let cause = self.0.cause(&caller, trace, idempotency).await?;
        let source = JobSource::Video {
            video_id: video_id.clone(),
            url: body.0.url,
            options: body.0.options.unwrap_or_default().into_iter().collect(),
        };
        // On a task of its own, so that the key stays locked until the job is in the log, even if the caller
        // disconnects.
        let commands = self.0.clone();
        let starting =
            tokio::spawn(async move { commands.start_analysis(&cause, &video_id, source).await }.boxed());
        let (is_new, body) = starting.await.map_err(|error| Problem::internal(&error))??;
        let location = format!("/api/v1/analysis/{}", *body.id);
        Ok(if is_new { Accepted::New { location, body } } else { Accepted::Existing { location, body } })
    }

    /// Cancel an analysis
    #[oai(path = "/api/v1/analysis/:job_id/cancel", method = "post", operation_id = "cancel_analysis")]
    async fn cancel(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        job_id: Path<String>,
    ) -> Result<Json<AnalysisCancelled>, Problem> {
        caller.require(job_roles())?;
        let job = web::path::job_id(&job_id)?;
        if self.0.job(&caller.tenant, job).await?.kind != JobKind::VideoAnalysis {
            return Err(problem::no_such_job());
        }
        let path = format!("/api/v1/analysis/{job}/cancel");
        let cause =
            self.0.cause(&caller, trace, idempotency_of(&caller, "POST", &path, key.0, &Value::Null)).await?;
        let command = Command { at: self.0.0.clock.now(), action: Action::Cancel { reason: None } };
        let executed = self.0.0.jobs.execute(&StreamId::job(job), &cause, command).await;
        let position = executed.map_err(problem::from_execute_error)?.position.into();
        Ok(Json(AnalysisCancelled {
            id: job.into(),
            job_id: job.into(),
            status: AnalysisState::Cancelled,
            position,
        }))
    }
}

/// An existing job.
struct Existing {
    is_open: bool,
    started: AnalysisStarted,
}

impl Commands {
    /// The analysis of the video, and true if this command created it.
    pub(crate) async fn start_analysis(
        &self,
        cause: &Cause,
        video: &VideoId,
        source: JobSource,
    ) -> Result<(bool, AnalysisStarted), Problem> {
        // The same key may come with two videos, whose jobs have separate streams.
        let _guard = match cause.idempotency {
            Some(idempotency) => Some(self.0.key_locks.acquire(idempotency.key).await),
            None => None,
        };
        if let Some(earlier) = self.repeated_start(cause).await? {
            return Ok((true, earlier));
        }
        // One at a time for a video, so that a concurrent request finds the job instead of a conflict.
        let video_lock = analysis::job_id(&cause.tenant, video, u64::MAX).0;
        let _video_guard = self.0.key_locks.acquire(video_lock).await;
        for _ in 0..ATTEMPTS_MAX {
            let number = self.analysis_count(&cause.tenant, video).await?;
            if let Some(latest) = number.checked_sub(1) {
                let job = analysis::job_id(&cause.tenant, video, latest);
                if let Some(latest) = self.analysis(&cause.tenant, job).await?.filter(|latest| latest.is_open)
                {
                    return Ok((false, latest.started));
                }
            }
            self.check_limit(&cause.tenant).await?;
            let job_id = analysis::job_id(&cause.tenant, video, number);
            let created = JobCreated {
                job_id,
                kind: JobKind::VideoAnalysis,
                source: Some(source.clone()),
                name: None,
                metadata: serde_json::Map::new(),
            };
            let command = Command { at: self.0.clock.now(), action: Action::Create(created) };
            match self.0.jobs.execute(&StreamId::job(job_id), cause, command).await {
                Ok(executed) if executed.events > 0 => {
                    return Ok((true, self.analysis_as_created(job_id).await?));
                }
                // Another node was faster.
                Ok(_) | Err(ExecuteError::Refused(_)) => {}
                Err(error) => return Err(problem::from_execute_error(error)),
            }
        }
        Err(problem::from_execute_error::<domain::job::Refusal>(ExecuteError::Contended))
    }

    /// The result of an earlier command with the same key, if there was one.
    async fn repeated_start(&self, cause: &Cause) -> Result<Option<AnalysisStarted>, Problem> {
        let Some(idempotency) = cause.idempotency else { return Ok(None) };
        self.wait_for_board().await?;
        match self.0.board.creation_key_status(idempotency) {
            KeyStatus::BodyMismatch => Err(Problem::idempotency_key_reused()),
            KeyStatus::Unused => Ok(None),
            KeyStatus::Completed(_) => match self.0.board.job_created_with(idempotency.key) {
                Some(job) => self.analysis_as_created(job).await.map(Some),
                None => Ok(None),
            },
        }
    }

    async fn wait_for_board(&self) -> Result<(), Problem> {
        if self.0.board.wait_for_position(self.head()).await {
            return Ok(());
        }
        Err(problem::board_not_ready(&self.0.board.readiness()))
    }

    /// # Errors
    /// 429 if the tenant has as many analyses in progress as it may have.
    async fn check_limit(&self, tenant: &Tenant) -> Result<(), Problem> {
        self.wait_for_board().await?;
        let max = self.0.settings.analyses_max;
        if self.0.board.analyses_in_progress(tenant) < max {
            return Ok(());
        }
        let detail =
            format!("{max} analyses are in progress, which is the limit; wait for one to end, or cancel one");
        Err(Problem::rate_limited(detail, RETRY_DELAY))
    }

    /// The number of analyses of the video. They are numbered without a gap, so the first missing number is found by
    /// doubling and bisection.
    async fn analysis_count(&self, tenant: &Tenant, video: &VideoId) -> Result<u64, Problem> {
        let exists = async |number| {
            let stream = StreamId::job(analysis::job_id(tenant, video, number));
            let exists = self.0.jobs.query(&stream, |folded| folded.state.details().is_some()).await;
            exists.map_err(problem::from_load_error)
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
    pub(crate) async fn check_latest_analysis(&self, tenant: &Tenant, job: JobId) -> Result<(), Problem> {
        let video = |folded: &CachedStream<domain::job::JobDecider>| {
            let JobSource::Video { video_id, .. } = folded.state.details()?.created.source.as_ref()?;
            Some(video_id.clone())
        };
        let video = self.0.jobs.query(&StreamId::job(job), video).await.map_err(problem::from_load_error)?;
        let Some(video) = video else { return Ok(()) };
        let Some(latest) = self.analysis_count(tenant, &video).await?.checked_sub(1) else { return Ok(()) };
        let latest = analysis::job_id(tenant, &video, latest);
        if latest == job {
            return Ok(());
        }
        let detail = format!("the video has a later analysis, the job {latest}; use that one");
        Err(Problem::conflict(detail))
    }

    /// The current state of an analysis.
    async fn analysis(&self, tenant: &Tenant, job: JobId) -> Result<Option<Existing>, Problem> {
        let project = |folded: &CachedStream<domain::job::JobDecider>| {
            let details = folded.state.details().filter(|_| folded.tenant() == Some(tenant))?;
            let (phase, attempt) = (details.phase, details.attempt);
            Some((!pipeline::is_end(phase), phase, attempt, details.progress_percentage(), folded.position()))
        };
        let found =
            self.0.jobs.query(&StreamId::job(job), project).await.map_err(problem::from_load_error)?;
        let Some((is_open, phase, attempt, progress_percentage, position)) = found else { return Ok(None) };
        let first = self.analysis_as_created(job).await?;
        let started = AnalysisStarted {
            status: JobStatus::of(JobKind::VideoAnalysis, phase).into(),
            phase: phase.into(),
            current_stage: pipeline::display_name(phase).to_owned(),
            progress_percentage,
            attempt,
            position: position.into(),
            ..first
        };
        Ok(Some(Existing { is_open, started }))
    }

    /// The analysis as it was created, unaffected by later events.
    async fn analysis_as_created(&self, job: JobId) -> Result<AnalysisStarted, Problem> {
        let first = self.0.log.read_stream(&StreamId::job(job), Revision(0), 1).await;
        let first = first.map_err(|error| problem::from_load_error(error.into()))?;
        let first = first.first().map(Recorded::decode).transpose();
        match first.map_err(|error| problem::from_load_error(error.into()))? {
            Some(Envelope {
                event:
                    Event::Job(JobEvent::JobCreated(JobCreated {
                        source: Some(JobSource::Video { video_id, url, .. }),
                        ..
                    })),
                metadata,
                position,
                ..
            }) => Ok(AnalysisStarted {
                id: job.into(),
                job_id: job.into(),
                video_id: TextId(video_id),
                url,
                status: AnalysisState::Pending,
                phase: Phase::Queued,
                current_stage: pipeline::display_name(StoredPhase::Queued).to_owned(),
                progress_percentage: 0.0,
                attempt: 1,
                created_at: metadata.occurred_at.into(),
                position: position.into(),
            }),
            _ => Err(Problem::internal(&"the stream of an analysis does not start with its creation")),
        }
    }
}
