//! Creates, retries and cancels jobs, and sets their phase.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::image_matching::Action::RetryParked;
use domain::image_matching::ImageMatchingDecider;
use domain::job::{Action, Command, JobAvailability, JobDecider, pipeline};
use event_schemas::envelope::Cause;
use event_schemas::ids::{JobId, Position};
use event_schemas::job::{JobCreated, JobKind, Phase};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkKind;
use futures_util::FutureExt;
use poem_openapi::param::Path;
use poem_openapi::{Object, OpenApi};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use web::json::{Created, Json};
use web::problem::Problem;
use web::schema::Api;
use web::tag::Tag;
use web::value::{ApiTimestamp, UuidParam};

use crate::engine::answers::Answer;
use crate::engine::execute::CachedStream;
use crate::engine::idempotency::KeyStatus;
use crate::engine::problem::{self, Step, after_step, text_of};
use crate::engine::write_request::{Users, Workers, WriteRequest};
use crate::jobs::problem::{check_kind, phase_of_server};
use crate::jobs::{Jobs, series};

/// A job to create.
#[derive(Debug, Object)]
#[oai(example)]
struct CreateJob {
    /// The job's id; generated if it is missing.
    job_id: Option<UuidParam<JobId>>,
    /// The kind of work. Default: `product_video_matching`.
    kind: Option<Api<JobKind>>,
    /// A display name.
    #[oai(validator(min_length = 1, max_length = 200))]
    name: Option<String>,
    /// The caller's own data, at most 16,384 bytes of JSON; stored, and not interpreted.
    metadata: Option<BTreeMap<String, Value>>,
}

impl poem_openapi::types::Example for CreateJob {
    fn example() -> Self {
        Self {
            job_id: None,
            kind: Some(Api(JobKind::ProductVideoMatching)),
            name: Some("spring collection".to_owned()),
            metadata: Some(BTreeMap::from([("season".to_owned(), "2026".into())])),
        }
    }
}

/// A job as it was created.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct CreatedJob {
    pub id: JobId,
    pub job_id: JobId,
    pub kind: JobKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub metadata: Value,
    pub phase: Phase,
    pub attempt: u32,
    pub created_at: Timestamp,
    /// Log position of the job's creation. Send it as `X-Min-Position` to read your own write.
    pub position: Position,
}

/// A phase to set.
#[derive(Debug, Object)]
#[oai(example)]
struct ChangePhase {
    phase: Api<Phase>,
    /// The reason; for a failure, the error message.
    #[oai(validator(max_length = 2000))]
    reason: Option<String>,
    /// The time of the change. Default: now.
    occurred_at: Option<ApiTimestamp>,
}

impl poem_openapi::types::Example for ChangePhase {
    fn example() -> Self {
        Self { phase: Api(Phase::Matching), reason: None, occurred_at: None }
    }
}

/// The phase of a job after the command.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ChangedPhase {
    pub id: JobId,
    pub job_id: JobId,
    pub phase: Phase,
    pub position: Position,
}

/// The write routes of jobs.
#[derive(Clone, Debug)]
pub struct JobCommands(pub(super) Arc<Jobs>);

#[OpenApi(tag = "Tag::Jobs")]
impl JobCommands {
    /// Create a job
    #[oai(path = "/jobs", method = "post", operation_id = "create_job")]
    async fn create(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        body: Json<CreateJob>,
    ) -> Result<Created<Api<CreatedJob>>, Problem> {
        check_kind(body.0.kind.as_ref().map_or(JobKind::ProductVideoMatching, |kind| kind.0))?;
        let cause = request.cause(&self.0.engine, "POST /jobs", &body.0).await?;
        // It ends in any case, so that the key stays locked until the job is in the log, even if the caller disconnects.
        let commands = self.clone();
        let creating = async move { commands.create_job(&cause, body.0).await };
        let job = request.execution.run(creating.boxed()).await?;
        Ok(Created { location: format!("/jobs/{}", job.id), body: Api(job) })
    }

    /// Set a job's phase
    ///
    /// A job only moves forward, and may skip phases. Its current phase changes nothing.
    #[oai(path = "/jobs/:job_id/phase", method = "put", operation_id = "change_job_phase")]
    async fn change_phase(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Workers>,
        job_id: Path<String>,
        body: Json<ChangePhase>,
    ) -> Result<Json<Api<ChangedPhase>>, Problem> {
        let job = web::path::job_id(&job_id)?;
        let kind = self.0.job_kind(&request.caller.tenant, job).await?;
        if WorkKind::of(kind).is_of_server() {
            return Err(phase_of_server(kind));
        }
        let at = self.0.engine.occurred_at_or_now(body.0.occurred_at, || "occurred_at".to_owned())?;
        let cause = request.cause(&self.0.engine, &format!("PUT /jobs/{job}/phase"), &body.0).await?;
        let phase = *body.0.phase;
        let eta_priors = self.0.board.eta_priors(&request.caller.tenant, kind);
        let action = Action::ChangePhase { to: phase, reason: body.0.reason, eta_priors };
        self.set_phase(job, &cause, Command { at, action }, phase).await
    }

    /// Cancel a job
    #[oai(path = "/jobs/:job_id/cancel", method = "post", operation_id = "cancel_job")]
    async fn cancel(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        job_id: Path<String>,
    ) -> Result<Json<Api<ChangedPhase>>, Problem> {
        let job = web::path::job_id(&job_id)?;
        self.0.job_kind(&request.caller.tenant, job).await?;
        let cause = request.cause(&self.0.engine, &format!("POST /jobs/{job}/cancel"), &Value::Null).await?;
        let command = Command { at: self.0.engine.now(), action: Action::Cancel { reason: None } };
        self.set_phase(job, &cause, command, Phase::Cancelled).await
    }

    /// Retry a failed job
    ///
    /// The job keeps its results, and returns to `queued`. A scheduled retry starts now. A matching job that has not
    /// ended stays in its phase, and its permanently failed requests (the blocker `requests_parked`) are tried again. An
    /// analysis whose video has a later analysis is not retried.
    #[oai(path = "/jobs/:job_id/retry", method = "post", operation_id = "retry_job")]
    async fn retry(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Users>,
        job_id: Path<String>,
    ) -> Result<Json<Api<ChangedPhase>>, Problem> {
        let job = web::path::job_id(&job_id)?;
        let kind = self.0.job_kind(&request.caller.tenant, job).await?;
        let cause = request.cause(&self.0.engine, &format!("POST /jobs/{job}/retry"), &Value::Null).await?;
        if let Some(resumed) = self.retry_parked(job, &cause, kind).await? {
            return Ok(Json(Api(resumed)));
        }
        let earlier = self.0.jobs.repeated(&StreamId::job(job), &cause).await;
        if earlier.map_err(problem::from_execute_error)?.is_none() {
            series::check_is_latest(&self.0, &request.caller.tenant, job).await?;
        }
        let eta_priors = self.0.board.eta_priors(&request.caller.tenant, kind);
        let command = Command { at: self.0.engine.now(), action: Action::Retry { eta_priors } };
        self.set_phase(job, &cause, command, Phase::Queued).await
    }
}

impl JobCommands {
    async fn create_job(&self, cause: &Cause, body: CreateJob) -> Result<CreatedJob, Problem> {
        let metadata = text_of(&body.metadata.unwrap_or_default())?;
        let (kind, name) = (body.kind.map_or(JobKind::ProductVideoMatching, |kind| kind.0), body.name);
        let create = |job_id| JobCreated { job_id, kind, source: None, name, metadata };
        let job = self.0.create(cause, body.job_id.map(|id| *id), create).await?;
        Ok(CreatedJob {
            id: job.created.job_id,
            job_id: job.created.job_id,
            kind,
            name: job.created.name,
            metadata: job.created.metadata.to_value(),
            phase: job.phase,
            attempt: job.attempt,
            created_at: job.created_at,
            position: job.position,
        })
    }

    /// Resumes the parked requests of a matching job that has not ended. None if it has ended, or has none.
    async fn retry_parked(
        &self,
        job: JobId,
        cause: &Cause,
        kind: JobKind,
    ) -> Result<Option<ChangedPhase>, Problem> {
        if kind != JobKind::ProductVideoMatching {
            return Ok(None);
        }
        let changed = |phase, position| ChangedPhase { id: job, job_id: job, phase, position };
        // A retry of a failed job leaves an answer, too, without a phase.
        let earlier = self.0.engine.earlier_answer(cause).await?;
        if let Some(Answer { position, details: Some(phase) }) = earlier {
            let phase = serde_json::from_value(phase).map_err(|error| Problem::internal(&error))?;
            return Ok(Some(changed(phase, position)));
        }
        let phase = |stream: &CachedStream<JobDecider>| stream.state.details().map(|details| details.phase);
        let phase = self.0.jobs.query(&StreamId::job(job), phase).await.map_err(problem::from_load_error)?;
        let stream = StreamId::image_matching(job);
        let has_parked = |stream: &CachedStream<ImageMatchingDecider>| {
            let used = cause.idempotency.map(|idempotency| stream.key_status(idempotency));
            stream.state.has_parked() || used.is_some_and(|used| used != KeyStatus::Unused)
        };
        let has_parked = self.0.image_matchings.query(&stream, has_parked).await;
        let Some(phase) = phase.filter(|phase| !pipeline::is_end(*phase)) else { return Ok(None) };
        if !has_parked.map_err(problem::from_load_error)? {
            return Ok(None);
        }
        let availability = JobAvailability::Open;
        let executed = self.0.execute_matching(job, availability, cause, RetryParked).await;
        let executed = executed.map_err(problem::from_execute_error)?;
        let details = serde_json::to_value(phase).map_err(|error| Problem::internal(&error))?;
        let retried = Step { name: "retry", position: executed.position };
        let answer = self.0.engine.record_answer(cause, Some(details)).await;
        let answer = answer.map_err(|problem| after_step(retried, "answer", problem))?;
        Ok(Some(changed(phase, answer.map_or(executed.position, |answer| answer.position))))
    }

    async fn set_phase(
        &self,
        job: JobId,
        cause: &Cause,
        command: Command,
        phase: Phase,
    ) -> Result<Json<Api<ChangedPhase>>, Problem> {
        let executed = self.0.jobs.execute(&StreamId::job(job), cause, command).await;
        let executed = executed.map_err(problem::from_execute_error)?;
        let position = match phase {
            // Back from a failure, which resumes the job's requests.
            Phase::Queued => self.0.position_after_retry(cause, job, executed).await?,
            _ => executed.position,
        };
        Ok(Json(Api(ChangedPhase { id: job, job_id: job, phase, position })))
    }
}
