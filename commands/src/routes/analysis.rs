//! Asking for a video's analysis, and taking that back.

use futures_util::FutureExt;
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
use poem_openapi::param::{Header, Path};
use poem_openapi::types::Example;
use poem_openapi::{Enum, Object, OpenApi};
use serde_json::Value;
use web::caller::Caller;
use web::idempotency::IdempotencyKey;
use web::json::{Accepted, Json};
use web::problem::Problem;
use web::request::TraceParent;
use web::value::{At, Pos, Text, Uid};
use web::vocabulary::{Phase, Tag};

use super::{keyed, leaders};
use crate::execute::{ExecuteError, Folded};
use crate::idempotency::Seen;
use crate::{Commands, refusal};

/// When somebody who has too many analyses under way may ask again: one of them may be done by then.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// How often a job is looked for anew that others create and end at the same moment.
const ROUNDS_MAX: usize = 16;

/// A video to analyse.
#[derive(Debug, Object)]
#[oai(example)]
struct StartAnalysis {
    /// A recording on Twitch: `https://www.twitch.tv/videos/` and its number.
    #[oai(validator(max_length = 2000))]
    url: String,
    /// Wishes about the work, handed to its worker as they are.
    options: Option<BTreeMap<String, Value>>,
}

impl Example for StartAnalysis {
    fn example() -> Self {
        let options = BTreeMap::from([("highlights_max".to_owned(), 5.into())]);
        Self { url: "https://www.twitch.tv/videos/2039".to_owned(), options: Some(options) }
    }
}

/// How the job that is on a video stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "AnalysisStanding", rename_all = "snake_case", remote = "JobStatus")]
enum Standing {
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
}

/// The job that is on a video.
#[derive(Debug, Object)]
pub(crate) struct AnalysisStarted {
    id: Uid<JobId>,
    pub(crate) job_id: Uid<JobId>,
    video_id: Text<VideoId>,
    url: String,
    status: Standing,
    phase: Phase,
    /// The phase as people read it.
    current_stage: String,
    /// From 0 to 100.
    progress_percentage: f64,
    attempt: u32,
    created_at: At,
    /// Send it as `X-Min-Position` to read what is answered here.
    position: Pos,
}

/// An analysis that was cancelled.
#[derive(Debug, Object)]
struct AnalysisCancelled {
    id: Uid<JobId>,
    job_id: Uid<JobId>,
    status: Standing,
    position: Pos,
}

/// Commands to analyses.
#[derive(Clone, Debug)]
pub struct AnalysisCommands(pub(super) Commands);

#[OpenApi(tag = "Tag::Analysis")]
impl AnalysisCommands {
    /// Analyse a video
    ///
    /// Answered at once; the work is done by whoever claims it. A video that the tenant has under way already is not begun
    /// again: the job that is on it is answered. A tenant may have only so many under way.
    #[oai(path = "/api/v1/analysis", method = "post", operation_id = "start_analysis")]
    async fn start(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        body: Json<StartAnalysis>,
    ) -> Result<Accepted<AnalysisStarted>, Problem> {
        caller.require(leaders())?;
        let video_id =
            url::video_id(&body.0.url).map_err(|wrong| Problem::unprocessable("url", wrong.to_string()))?;
        let idempotency = keyed(&caller, "POST", "/api/v1/analysis", key.0, &body.0);
        let cause = self.0.cause(&caller, trace, idempotency).await?;
        let source = JobSource::Video {
            video_id: video_id.clone(),
            url: body.0.url,
            options: body.0.options.unwrap_or_default().into_iter().collect(),
        };
        // On a task of its own, so that the turn is held until the job is in the log, even if the caller goes away.
        let commands = self.0.clone();
        let starting =
            tokio::spawn(async move { commands.start_analysis(&cause, &video_id, source).await }.boxed());
        let (is_new, body) = starting.await.map_err(|error| Problem::internal(&error))??;
        let location = format!("/api/v1/analysis/{}", *body.id);
        Ok(if is_new { Accepted::New { location, body } } else { Accepted::Already { location, body } })
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
        caller.require(leaders())?;
        let job = web::path::job_id(&job_id)?;
        if self.0.job(&caller.tenant, job).await?.kind != JobKind::VideoAnalysis {
            return Err(refusal::no_such_job());
        }
        let path = format!("/api/v1/analysis/{job}/cancel");
        let cause = self.0.cause(&caller, trace, keyed(&caller, "POST", &path, key.0, &Value::Null)).await?;
        let command = Command { at: self.0.0.clock.now(), action: Action::Cancel { reason: None } };
        let executed = self.0.0.jobs.execute(&StreamId::job(job), &cause, command).await;
        let position = executed.map_err(refusal::single)?.position.into();
        Ok(Json(AnalysisCancelled {
            id: job.into(),
            job_id: job.into(),
            status: Standing::Cancelled,
            position,
        }))
    }
}

/// A job that exists.
struct Existing {
    is_open: bool,
    started: AnalysisStarted,
}

impl Commands {
    /// The job that is on the video, and whether it was made for this command.
    pub(crate) async fn start_analysis(
        &self,
        cause: &Cause,
        video: &VideoId,
        source: JobSource,
    ) -> Result<(bool, AnalysisStarted), Problem> {
        // The same key may come with two videos, whose jobs know nothing of each other.
        let _turn = match cause.idempotency {
            Some(asked) => Some(self.0.keys.hold(asked.key).await),
            None => None,
        };
        if let Some(before) = self.analysis_before(cause).await? {
            return Ok((true, before));
        }
        // One at a time for a video: whoever loses the race then finds the job instead of a conflict.
        let of_video = analysis::job_id(&cause.tenant, video, u64::MAX).0;
        let _first = self.0.keys.hold(of_video).await;
        for _ in 0..ROUNDS_MAX {
            let number = self.analyses_of(&cause.tenant, video).await?;
            if let Some(latest) = number.checked_sub(1) {
                let job = analysis::job_id(&cause.tenant, video, latest);
                if let Some(latest) = self.analysis(&cause.tenant, job).await?.filter(|latest| latest.is_open)
                {
                    return Ok((false, latest.started));
                }
            }
            self.has_room(&cause.tenant).await?;
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
                    return Ok((true, self.first_of_analysis(job_id).await?));
                }
                // Another node was faster.
                Ok(_) | Err(ExecuteError::Refused(_)) => {}
                Err(error) => return Err(refusal::single(error)),
            }
        }
        Err(refusal::single::<domain::job::Refusal>(ExecuteError::Contended))
    }

    /// What a command with the same key made, if there was one.
    async fn analysis_before(&self, cause: &Cause) -> Result<Option<AnalysisStarted>, Problem> {
        let Some(asked) = cause.idempotency else { return Ok(None) };
        self.board_is_current().await?;
        match self.0.board.created(asked) {
            Seen::OtherBody => Err(Problem::idempotency_key_reused()),
            Seen::Never => Ok(None),
            Seen::Done(_) => match self.0.board.created_job(asked.key) {
                Some(job) => self.first_of_analysis(job).await.map(Some),
                None => Ok(None),
            },
        }
    }

    async fn board_is_current(&self) -> Result<(), Problem> {
        if self.0.board.reached(self.head()).await {
            return Ok(());
        }
        Err(refusal::no_board(&self.0.board.readiness()))
    }

    /// # Errors
    /// 429 if the tenant has as many analyses under way as it may have.
    async fn has_room(&self, tenant: &Tenant) -> Result<(), Problem> {
        self.board_is_current().await?;
        let max = self.0.settings.analyses_max;
        if self.0.board.analyses_under_way(tenant) < max {
            return Ok(());
        }
        let detail = format!(
            "{max} analyses are under way, and no more at a time are allowed; wait for one, or cancel one"
        );
        Err(Problem::rate_limited(detail, AGAIN_AFTER))
    }

    /// How many analyses of the video there were: numbered without a gap, so that the first missing one is found by
    /// doubling and halving.
    async fn analyses_of(&self, tenant: &Tenant, video: &VideoId) -> Result<u64, Problem> {
        let exists = async |number| {
            let stream = StreamId::job(analysis::job_id(tenant, video, number));
            let exists = self.0.jobs.look(&stream, |folded| folded.state.life().is_some()).await;
            exists.map_err(refusal::unreadable)
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

    /// Whether nothing speaks against taking the job up again. A video that was begun anew since has a job of its own; that
    /// it has one never changes, so it may be looked up before.
    ///
    /// # Errors
    /// 409 that names the later job.
    pub(crate) async fn is_latest_analysis(&self, tenant: &Tenant, job: JobId) -> Result<(), Problem> {
        let video = |folded: &Folded<domain::job::Job>| {
            let JobSource::Video { video_id, .. } = folded.state.life()?.created.source.as_ref()?;
            Some(video_id.clone())
        };
        let video = self.0.jobs.look(&StreamId::job(job), video).await.map_err(refusal::unreadable)?;
        let Some(video) = video else { return Ok(()) };
        let Some(latest) = self.analyses_of(tenant, &video).await?.checked_sub(1) else { return Ok(()) };
        let latest = analysis::job_id(tenant, &video, latest);
        if latest == job {
            return Ok(());
        }
        let detail = format!("the video was begun anew since, by the job {latest}; see that one");
        Err(Problem::conflict(detail))
    }

    /// The analysis as it stands.
    async fn analysis(&self, tenant: &Tenant, job: JobId) -> Result<Option<Existing>, Problem> {
        let see = |folded: &Folded<domain::job::Job>| {
            let life = folded.state.life().filter(|_| folded.tenant() == Some(tenant))?;
            let (phase, attempt) = (life.phase, life.attempt);
            Some((!pipeline::is_end(phase), phase, attempt, life.progress_percentage(), folded.position()))
        };
        let seen = self.0.jobs.look(&StreamId::job(job), see).await.map_err(refusal::unreadable)?;
        let Some((is_open, phase, attempt, progress_percentage, position)) = seen else { return Ok(None) };
        let first = self.first_of_analysis(job).await?;
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

    /// The analysis as its creation says, which stays the same whatever happened since.
    async fn first_of_analysis(&self, job: JobId) -> Result<AnalysisStarted, Problem> {
        let first = self.0.log.read_stream(&StreamId::job(job), Revision(0), 1).await;
        let first = first.map_err(|error| refusal::unreadable(error.into()))?;
        let first = first.first().map(Recorded::decode).transpose();
        match first.map_err(|error| refusal::unreadable(error.into()))? {
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
                video_id: Text(video_id),
                url,
                status: Standing::Pending,
                phase: Phase::Queued,
                current_stage: pipeline::display_name(StoredPhase::Queued).to_owned(),
                progress_percentage: 0.0,
                attempt: 1,
                created_at: metadata.occurred_at.into(),
                position: position.into(),
            }),
            _ => Err(Problem::internal(&"an analysis does not begin with its creation")),
        }
    }
}
