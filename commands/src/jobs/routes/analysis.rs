//! Starts and cancels analyses of videos.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::job::analysis::url;
use domain::job::history::Status as JobStatus;
use domain::job::{Action, pipeline};
use event_schemas::ids::{JobId, Position, VideoId};
use event_schemas::job::{JobKind, JobSource, Phase};
use event_schemas::time::Timestamp;
use futures_util::FutureExt;
use poem_openapi::param::Path;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use web::json::{Accepted, Json};
use web::problem::Problem;
use web::schema::Api;
use web::tag::Tag;

use crate::engine::problem::{self, text_of};
use crate::engine::write_request::{Users, WriteRequest};
use crate::jobs::Jobs;
use crate::jobs::analyses::{self, Analysis};
use crate::jobs::problem::no_such_job;

/// A video to analyse.
#[derive(Debug, Object)]
#[oai(example)]
struct StartAnalysis {
    /// A recording on Twitch: `https://www.twitch.tv/videos/` and its number.
    #[oai(validator(max_length = 2000))]
    url: String,
    /// Options of the work, which its worker receives unchanged; at most 16,384 bytes of JSON.
    options: Option<BTreeMap<String, Value>>,
}

impl Example for StartAnalysis {
    fn example() -> Self {
        let options = BTreeMap::from([("highlights_max".to_owned(), 5.into())]);
        Self { url: "https://www.twitch.tv/videos/2039".to_owned(), options: Some(options) }
    }
}

/// The analysis of a video.
#[derive(Debug, Serialize, JsonSchema)]
struct AnalysisStarted {
    id: JobId,
    job_id: JobId,
    video_id: VideoId,
    url: String,
    status: JobStatus,
    phase: Phase,
    /// The display name of the phase.
    current_stage: String,
    /// From 0 to 100.
    progress_percentage: f64,
    attempt: u32,
    created_at: Timestamp,
    /// Log position of this state. Send it as `X-Min-Position` to read at least this state.
    position: Position,
}

/// A cancelled analysis.
#[derive(Debug, Serialize, JsonSchema)]
struct AnalysisCancelled {
    id: JobId,
    job_id: JobId,
    status: JobStatus,
    position: Position,
}

/// The write routes of analyses.
#[derive(Clone, Debug)]
pub struct AnalysisCommands(pub(super) Arc<Jobs>);

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
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        body: Json<StartAnalysis>,
    ) -> Result<Accepted<Api<AnalysisStarted>>, Problem> {
        let video_id =
            url::video_id(&body.0.url).map_err(|error| Problem::unprocessable("url", error.to_string()))?;
        let cause = request.cause(&self.0.engine, "POST /api/v1/analysis", &body.0).await?;
        let source = JobSource::Video {
            video_id: video_id.clone(),
            url: body.0.url,
            options: text_of(&body.0.options.unwrap_or_default())?,
        };
        // It ends in any case, so that the key stays locked until the job is in the log, even if the caller disconnects.
        let jobs = self.0.clone();
        let starting = async move { analyses::start(&jobs, &cause, &video_id, source).await };
        let (is_new, analysis) = request.execution.run(starting.boxed()).await?;
        let body = AnalysisStarted::from(analysis);
        let (location, body) = (format!("/api/v1/analysis/{}", body.id), Api(body));
        Ok(if is_new { Accepted::New { location, body } } else { Accepted::Existing { location, body } })
    }

    /// Cancel an analysis
    #[oai(path = "/api/v1/analysis/:job_id/cancel", method = "post", operation_id = "cancel_analysis")]
    async fn cancel(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        job_id: Path<String>,
    ) -> Result<Json<Api<AnalysisCancelled>>, Problem> {
        let job = web::path::job_id(&job_id)?;
        if self.0.job_kind(&request.caller.tenant, job).await? != JobKind::VideoAnalysis {
            return Err(no_such_job());
        }
        let route = format!("POST /api/v1/analysis/{job}/cancel");
        let cause = request.cause(&self.0.engine, &route, &Value::Null).await?;
        let executed = self.0.execute_job(job, &cause, Action::Cancel { reason: None }).await;
        let position = executed.map_err(problem::from_execute_error)?.position;
        let status = JobStatus::Cancelled;
        Ok(Json(Api(AnalysisCancelled { id: job, job_id: job, status, position })))
    }
}

impl From<Analysis> for AnalysisStarted {
    fn from(analysis: Analysis) -> Self {
        Self {
            id: analysis.job_id,
            job_id: analysis.job_id,
            video_id: analysis.video_id,
            url: analysis.url,
            status: JobStatus::of(JobKind::VideoAnalysis, analysis.phase),
            phase: analysis.phase,
            current_stage: pipeline::display_name(analysis.phase).to_owned(),
            progress_percentage: analysis.progress_percentage,
            attempt: analysis.attempt,
            created_at: analysis.created_at,
            position: analysis.position,
        }
    }
}
