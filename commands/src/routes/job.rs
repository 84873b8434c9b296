//! Creating, leading and ending jobs.

use futures_util::FutureExt;
use std::collections::BTreeMap;

use domain::job::{Action, Command};
use event_log::EventLog;
use event_schemas::envelope::{Cause, Envelope, Event};
use event_schemas::ids::{JobId, Revision};
use event_schemas::job::{JobCreated, JobEvent, JobKind as StoredKind};
use event_schemas::stream::StreamId;
use poem_openapi::param::{Header, Path};
use poem_openapi::{Object, OpenApi};
use serde_json::Value;
use uuid::Uuid;
use web::caller::Caller;
use web::idempotency::IdempotencyKey;
use web::json::{Created, Json};
use web::problem::Problem;
use web::request::TraceParent;
use web::value::{At, Pos, Uid};
use web::vocabulary::{JobKind, Phase, Tag};

use super::{keyed, leaders, reporters};
use crate::Commands;
use crate::execute::ExecuteError;
use crate::idempotency::Seen;
use crate::refusal;

/// A job to create.
#[derive(Debug, Object)]
#[oai(example)]
struct CreateJob {
    /// The job's id, if the caller has one; made otherwise.
    job_id: Option<Uid<JobId>>,
    /// What it does; `product_video_matching` unless said otherwise.
    kind: Option<JobKind>,
    /// For people to recognise it by.
    #[oai(validator(min_length = 1, max_length = 200))]
    name: Option<String>,
    /// The caller's own notes; kept, and not looked into.
    metadata: Option<BTreeMap<String, Value>>,
}

impl poem_openapi::types::Example for CreateJob {
    fn example() -> Self {
        Self {
            job_id: None,
            kind: Some(JobKind::ProductVideoMatching),
            name: Some("spring collection".to_owned()),
            metadata: Some(BTreeMap::from([("season".to_owned(), "2026".into())])),
        }
    }
}

/// A job as it was created.
#[derive(Debug, Object)]
struct CreatedJob {
    id: Uid<JobId>,
    job_id: Uid<JobId>,
    kind: JobKind,
    #[oai(skip_serializing_if_is_none)]
    name: Option<String>,
    metadata: BTreeMap<String, Value>,
    phase: Phase,
    attempt: u32,
    created_at: At,
    /// Of the job's creation in the log. Send it as `X-Min-Position` to read what you wrote.
    position: Pos,
}

/// Where a job is to go.
#[derive(Debug, Object)]
#[oai(example)]
struct ChangePhase {
    phase: Phase,
    /// Why; for a failure, the error's message.
    #[oai(validator(max_length = 2000))]
    reason: Option<String>,
    /// When it happened; now, unless said otherwise.
    occurred_at: Option<At>,
}

impl poem_openapi::types::Example for ChangePhase {
    fn example() -> Self {
        Self { phase: Phase::Matching, reason: None, occurred_at: None }
    }
}

/// Where a job was taken.
#[derive(Debug, Object)]
struct PhaseTaken {
    id: Uid<JobId>,
    job_id: Uid<JobId>,
    phase: Phase,
    position: Pos,
}

/// Commands to jobs.
#[derive(Clone, Debug)]
pub struct JobCommands(pub(super) Commands);

#[OpenApi(tag = "Tag::Jobs")]
impl JobCommands {
    /// Create a job
    #[oai(path = "/jobs", method = "post", operation_id = "create_job")]
    async fn create(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        body: Json<CreateJob>,
    ) -> Result<Created<CreatedJob>, Problem> {
        caller.require(leaders())?;
        let idempotency = keyed(&caller, "POST", "/jobs", key.0, &body.0);
        let cause = self.0.cause(&caller, trace, idempotency).await?;
        // On a task of its own, so that the key is held until the job is in the log, even if the caller goes away.
        let commands = self.0.clone();
        let creating = tokio::spawn(async move { commands.create_job(&cause, body.0).await }.boxed());
        let job = creating.await.map_err(|error| Problem::internal(&error))??;
        Ok(Created { location: format!("/jobs/{}", *job.id), body: job })
    }

    /// Take a job into a phase
    ///
    /// Phases may be skipped forwards and are never taken backwards. The phase that the job is in changes nothing.
    #[oai(path = "/jobs/:job_id/phase", method = "put", operation_id = "change_job_phase")]
    async fn change_phase(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        job_id: Path<String>,
        body: Json<ChangePhase>,
    ) -> Result<Json<PhaseTaken>, Problem> {
        caller.require(reporters())?;
        let job = web::path::job_id(&job_id)?;
        let seen = self.0.job(&caller.tenant, job).await?;
        let at = self.0.occurred(body.0.occurred_at, || "occurred_at".to_owned())?;
        let idempotency = keyed(&caller, "PUT", &format!("/jobs/{job}/phase"), key.0, &body.0);
        let cause = self.0.cause(&caller, trace, idempotency).await?;
        let phase = body.0.phase;
        let eta_priors = self.0.0.board.eta_priors(&caller.tenant, seen.kind);
        let action = Action::ChangePhase { to: phase.into(), reason: body.0.reason, eta_priors };
        self.0.lead(job, &cause, Command { at, action }, phase).await
    }

    /// Cancel a job
    #[oai(path = "/jobs/:job_id/cancel", method = "post", operation_id = "cancel_job")]
    async fn cancel(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        job_id: Path<String>,
    ) -> Result<Json<PhaseTaken>, Problem> {
        caller.require(leaders())?;
        let job = web::path::job_id(&job_id)?;
        self.0.job(&caller.tenant, job).await?;
        let idempotency = keyed(&caller, "POST", &format!("/jobs/{job}/cancel"), key.0, &Value::Null);
        let cause = self.0.cause(&caller, trace, idempotency).await?;
        let command = Command { at: self.0.0.clock.now(), action: Action::Cancel { reason: None } };
        self.0.lead(job, &cause, command, Phase::Cancelled).await
    }

    /// Try a failed job again
    ///
    /// The job keeps what it found, and goes back to `queued`. A retry that is scheduled already begins now. An analysis whose video was begun anew since stays as it is.
    #[oai(path = "/jobs/:job_id/retry", method = "post", operation_id = "retry_job")]
    async fn retry(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        job_id: Path<String>,
    ) -> Result<Json<PhaseTaken>, Problem> {
        caller.require(leaders())?;
        let job = web::path::job_id(&job_id)?;
        let seen = self.0.job(&caller.tenant, job).await?;
        self.0.is_latest_analysis(&caller.tenant, job).await?;
        let idempotency = keyed(&caller, "POST", &format!("/jobs/{job}/retry"), key.0, &Value::Null);
        let cause = self.0.cause(&caller, trace, idempotency).await?;
        let eta_priors = self.0.0.board.eta_priors(&caller.tenant, seen.kind);
        let command = Command { at: self.0.0.clock.now(), action: Action::Retry { eta_priors } };
        self.0.lead(job, &cause, command, Phase::Queued).await
    }
}

impl Commands {
    async fn create_job(&self, cause: &Cause, body: CreateJob) -> Result<CreatedJob, Problem> {
        // The same key may come with two ids, whose streams know nothing of each other.
        let _turn = match cause.idempotency {
            Some(asked) => {
                let turn = self.0.keys.hold(asked.key).await;
                self.created_before(cause).await?;
                Some(turn)
            }
            None => None,
        };
        let made = || match cause.idempotency {
            Some(idempotency) => JobId(Uuid::new_v5(&idempotency.key, b"job")),
            None => JobId(self.0.ids.next()),
        };
        let job_id = body.job_id.map_or_else(made, |id| *id);
        let created = JobCreated {
            job_id,
            kind: body.kind.map_or(StoredKind::ProductVideoMatching, StoredKind::from),
            source: None,
            name: body.name,
            metadata: body.metadata.unwrap_or_default().into_iter().collect(),
        };
        let command = Command { at: self.0.clock.now(), action: Action::Create(created) };
        match self.0.jobs.execute(&StreamId::job(job_id), cause, command).await {
            Ok(_) => self.first_event(job_id).await,
            Err(ExecuteError::OtherTenant) => {
                Err(Problem::conflict(domain::job::Refusal::Exists.to_string()))
            }
            Err(error) => Err(refusal::single(error)),
        }
    }

    /// Refuses a key under which another job was created.
    async fn created_before(&self, cause: &Cause) -> Result<(), Problem> {
        let Some(asked) = cause.idempotency else { return Ok(()) };
        if !self.0.board.reached(self.head()).await {
            return Err(refusal::no_board(&self.0.board.readiness()));
        }
        match self.0.board.created(asked) {
            Seen::OtherBody => Err(Problem::idempotency_key_reused()),
            Seen::Never | Seen::Done(_) => Ok(()),
        }
    }

    /// The job as its creation says, which stays the same whatever happened since: so a repeated command is answered as
    /// the first time.
    async fn first_event(&self, job_id: JobId) -> Result<CreatedJob, Problem> {
        let first = self.0.log.read_stream(&StreamId::job(job_id), Revision(0), 1).await;
        let first = first.map_err(|error| refusal::unreadable(error.into()))?;
        let first = first.first().map(event_schemas::envelope::Recorded::decode).transpose();
        match first.map_err(|error| refusal::unreadable(error.into()))? {
            Some(Envelope {
                event: Event::Job(JobEvent::JobCreated(created)), metadata, position, ..
            }) => Ok(CreatedJob {
                id: job_id.into(),
                job_id: job_id.into(),
                kind: created.kind.into(),
                name: created.name,
                metadata: created.metadata.into_iter().collect(),
                phase: Phase::Queued,
                attempt: 1,
                created_at: metadata.occurred_at.into(),
                position: position.into(),
            }),
            _ => Err(Problem::internal(&"a job's stream does not begin with its creation")),
        }
    }

    async fn lead(
        &self,
        job: JobId,
        cause: &Cause,
        command: Command,
        phase: Phase,
    ) -> Result<Json<PhaseTaken>, Problem> {
        let executed = self.0.jobs.execute(&StreamId::job(job), cause, command).await;
        let position = executed.map_err(refusal::single)?.position.into();
        Ok(Json(PhaseTaken { id: job.into(), job_id: job.into(), phase, position }))
    }
}
