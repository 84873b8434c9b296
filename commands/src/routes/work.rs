//! Claiming work, keeping it, and handing it in.

mod item;

use std::time::Duration;

use domain::job::failure::classify;
use domain::{job, matching};
use event_schemas::envelope::Cause;
use event_schemas::ids::{JobId, LeaseId, RequestId, Tenant, WorkerId};
use event_schemas::job::JobProgressReported;
use event_schemas::stream::StreamId;
use poem_openapi::param::{Header, Path};
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use serde_json::Value;
use web::caller::Caller;
use web::idempotency::IdempotencyKey;
use web::json::Json;
use web::problem::Problem;
use web::request::TraceParent;
use web::value::{At, Pos, Text, Uid};
use web::vocabulary::{Phase, Tag, WorkKind};

use super::{keyed, reporters};
use crate::claim::Asked;
use crate::work::{Beat, Found, Lease, Work};
use crate::{Commands, refusal};
use item::WorkItem;

/// What a worker asks for.
#[derive(Debug, Object)]
#[oai(example)]
struct ClaimWork {
    worker_id: Text<WorkerId>,
    /// Which kinds of work it can do.
    #[oai(validator(min_items = 1, max_items = 20))]
    kinds: Vec<WorkKind>,
    /// How much it takes at once, at most; 1 unless said otherwise.
    #[oai(validator(minimum(value = "1"), maximum(value = "100")))]
    max: Option<u32>,
    /// How long to wait while there is none, in milliseconds; not at all unless said otherwise.
    #[oai(validator(maximum(value = "30000")))]
    wait_ms: Option<u64>,
}

impl Example for ClaimWork {
    fn example() -> Self {
        Self {
            worker_id: Text("matcher-1".parse().expect("a short text")),
            kinds: vec![WorkKind::MatchRequest],
            max: Some(1),
            wait_ms: Some(5_000),
        }
    }
}

/// Work under leases; empty if there was none in time.
#[derive(Debug, Object)]
struct ClaimedWork {
    items: Vec<WorkItem>,
    /// Of the last claim; not there if nothing was claimed.
    #[oai(skip_serializing_if_is_none)]
    position: Option<Pos>,
}

/// How long a lease runs now.
#[derive(Debug, Object)]
struct LeaseKept {
    lease_id: Uid<LeaseId>,
    /// Not there if the work was handed in already.
    #[oai(skip_serializing_if_is_none)]
    lease_until: Option<At>,
}

/// How far a job's stage is.
#[derive(Debug, Object)]
#[oai(example)]
struct ReportProgress {
    stage: Phase,
    /// How much of the stage is done, from 0 to 1.
    #[oai(validator(minimum(value = "0"), maximum(value = "1")))]
    fraction: f64,
    #[oai(validator(maximum(value = "9007199254740991")))]
    items_done: Option<u64>,
    #[oai(validator(maximum(value = "9007199254740991")))]
    items_total: Option<u64>,
}

impl Example for ReportProgress {
    fn example() -> Self {
        Self { stage: Phase::Processing, fraction: 0.5, items_done: Some(5), items_total: Some(10) }
    }
}

/// What came out.
#[derive(Debug, Object)]
#[oai(example)]
struct CompleteWork {
    /// Kept with the job. A match request has no result of its own.
    result: Option<Value>,
}

impl Example for CompleteWork {
    fn example() -> Self {
        Self { result: Some(serde_json::json!({"items": 10})) }
    }
}

/// What went wrong.
#[derive(Debug, Object)]
#[oai(example)]
struct FailWork {
    /// The error as it occurred; it is classified here.
    #[oai(validator(min_length = 1, max_length = 10000))]
    error: String,
    exit_code: Option<i32>,
    /// After how many seconds to come back, if whoever refused said so; the pause of a job that was rate limited.
    #[oai(validator(maximum(value = "86400")))]
    retry_after_seconds: Option<u32>,
}

impl Example for FailWork {
    fn example() -> Self {
        Self { error: "connection timed out".to_owned(), exit_code: None, retry_after_seconds: None }
    }
}

/// A report that was taken.
#[derive(Debug, Object)]
pub(crate) struct ReportTaken {
    lease_id: Uid<LeaseId>,
    job_id: Uid<JobId>,
    position: Pos,
}

/// Commands about claimed work.
#[derive(Clone, Debug)]
pub struct WorkCommands(pub(super) Commands);

#[OpenApi(tag = "Tag::Workers")]
impl WorkCommands {
    /// Claim work
    ///
    /// The longest waiting first. While there is none the answer waits, up to `wait_ms`. A claim registers its worker and
    /// counts as its heartbeat. One that came back empty leaves its idempotency key free.
    #[oai(path = "/internal/work/claim", method = "post", operation_id = "claim_work")]
    async fn claim(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        body: Json<ClaimWork>,
    ) -> Result<Json<ClaimedWork>, Problem> {
        caller.require(reporters())?;
        let idempotency = keyed(&caller, "POST", "/internal/work/claim", key.0, &body.0);
        let cause = self.0.cause(&caller, trace, idempotency).await?;
        let asked = Asked {
            worker_id: body.0.worker_id.0,
            kinds: body.0.kinds.into_iter().map(Into::into).collect(),
            max: body.0.max.unwrap_or(1) as usize,
            wait: Duration::from_millis(body.0.wait_ms.unwrap_or(0)),
        };
        let claimed = self.0.claim(&cause, &asked).await?;
        Ok(Json(ClaimedWork {
            items: claimed.items.into_iter().map(Into::into).collect(),
            position: claimed.position.map(Into::into),
        }))
    }

    /// Keep a lease alive
    #[oai(path = "/internal/work/:lease_id/heartbeat", method = "post", operation_id = "work_heartbeat")]
    async fn heartbeat(&self, caller: Caller, lease_id: Path<String>) -> Result<Json<LeaseKept>, Problem> {
        caller.require(reporters())?;
        let id = web::path::lease_id(&lease_id)?;
        let lease = self.0.lease(&caller.tenant, id).await?;
        self.0.0.board.seen(&caller.tenant, &lease.worker_id);
        let lease_until = match self.0.0.board.heartbeat(&caller.tenant, id) {
            Beat::Until(until) => Some(until.into()),
            Beat::Reported => None,
            Beat::Lost => return Err(refusal::lease_lost()),
            Beat::Unknown => return Err(refusal::no_such_lease()),
        };
        Ok(Json(LeaseKept { lease_id: id.into(), lease_until }))
    }

    /// Report how far a job is
    ///
    /// A match request's progress goes to `/jobs/{job_id}/match-progress` instead.
    #[oai(path = "/internal/work/:lease_id/progress", method = "post", operation_id = "work_progress")]
    async fn progress(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        lease_id: Path<String>,
        body: Json<ReportProgress>,
    ) -> Result<Json<ReportTaken>, Problem> {
        caller.require(reporters())?;
        let id = web::path::lease_id(&lease_id)?;
        let lease = self.0.lease(&caller.tenant, id).await?;
        let path = format!("/internal/work/{id}/progress");
        let cause = self.0.cause(&caller, trace, keyed(&caller, "POST", &path, key.0, &body.0)).await?;
        let Work::Job(job) = lease.work else {
            let job = lease.work.job_id();
            return Err(Problem::conflict(format!(
                "the progress of a match request goes to /jobs/{job}/match-progress, with this lease_id"
            )));
        };
        let report = JobProgressReported {
            lease_id: id,
            stage: body.0.stage.into(),
            fraction: body.0.fraction,
            items_done: body.0.items_done,
            items_total: body.0.items_total,
        };
        let kind = self.0.job(&caller.tenant, job).await?.kind;
        let eta_priors = self.0.0.board.eta_priors(&caller.tenant, kind);
        self.0.report(&cause, id, job, job::Action::ReportProgress { report, eta_priors }).await
    }

    /// Hand work in
    ///
    /// A match request is completed with the totals that were reported for it.
    #[oai(path = "/internal/work/:lease_id/complete", method = "post", operation_id = "complete_work")]
    async fn complete(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        lease_id: Path<String>,
        body: Json<CompleteWork>,
    ) -> Result<Json<ReportTaken>, Problem> {
        caller.require(reporters())?;
        let id = web::path::lease_id(&lease_id)?;
        let lease = self.0.lease(&caller.tenant, id).await?;
        let path = format!("/internal/work/{id}/complete");
        let cause = self.0.cause(&caller, trace, keyed(&caller, "POST", &path, key.0, &body.0)).await?;
        match lease.work {
            Work::Job(job) => {
                let action = job::Action::Complete { lease_id: Some(id), result: body.0.result };
                self.0.report(&cause, id, job, action).await
            }
            Work::Request(job, request_id) => {
                let totals = self.0.totals(job, &request_id).await?;
                let action =
                    matching::Action::Report { request_id, lease_id: Some(id), totals, completed: true };
                self.0.report_part(&cause, id, job, action).await
            }
        }
    }

    /// Report that work failed
    ///
    /// Whether it is tried again, and when, depends on the error.
    #[oai(path = "/internal/work/:lease_id/fail", method = "post", operation_id = "fail_work")]
    async fn fail(
        &self,
        caller: Caller,
        trace: TraceParent,
        #[oai(name = "Idempotency-Key")] key: Header<Option<IdempotencyKey>>,
        lease_id: Path<String>,
        body: Json<FailWork>,
    ) -> Result<Json<ReportTaken>, Problem> {
        caller.require(reporters())?;
        let id = web::path::lease_id(&lease_id)?;
        let lease = self.0.lease(&caller.tenant, id).await?;
        let path = format!("/internal/work/{id}/fail");
        let cause = self.0.cause(&caller, trace, keyed(&caller, "POST", &path, key.0, &body.0)).await?;
        let job = lease.work.job_id();
        let told = body.0.retry_after_seconds;
        let error = classify(&body.0.error, body.0.exit_code, told, job, lease.attempt);
        match lease.work {
            Work::Job(_) => {
                let left_alone_until = self.0.0.board.left_alone_until(job, &error);
                let action = job::Action::Fail { lease_id: Some(id), error, left_alone_until };
                self.0.report(&cause, id, job, action).await
            }
            Work::Request(..) => {
                self.0.report_part(&cause, id, job, matching::Action::Fail { lease_id: id, error }).await
            }
        }
    }
}

impl Commands {
    /// The lease of this id, in force or ended.
    ///
    /// # Errors
    /// 404 if there never was one, as far as is known, or it is another tenant's.
    async fn lease(&self, tenant: &Tenant, id: LeaseId) -> Result<Lease, Problem> {
        let board = &self.0.board;
        let mut found = board.lease(tenant, id);
        if found == Found::Unknown {
            // Its claim may be in the log and not yet on the board.
            if !board.reached(self.head()).await || !board.is_ready() {
                return Err(refusal::no_board(&self.0.board.readiness()));
            }
            found = board.lease(tenant, id);
        }
        match found {
            Found::Open(lease) | Found::Ended(lease) => Ok(lease),
            Found::Unknown => Err(refusal::no_such_lease()),
        }
    }

    /// A report came under this lease, so its worker is alive.
    pub(super) fn alive(&self, tenant: &Tenant, id: LeaseId) {
        if let Found::Open(lease) = self.0.board.lease(tenant, id) {
            self.0.board.seen(tenant, &lease.worker_id);
            self.0.board.heartbeat(tenant, id);
        }
    }

    pub(crate) async fn report(
        &self,
        cause: &Cause,
        lease_id: LeaseId,
        job: JobId,
        action: job::Action,
    ) -> Result<Json<ReportTaken>, Problem> {
        let command = job::Command { at: self.0.clock.now(), action };
        let executed = self.0.jobs.execute(&StreamId::job(job), cause, command).await;
        let position = executed.map_err(refusal::single)?.position.into();
        self.alive(&cause.tenant, lease_id);
        Ok(Json(ReportTaken { lease_id: lease_id.into(), job_id: job.into(), position }))
    }

    async fn report_part(
        &self,
        cause: &Cause,
        lease_id: LeaseId,
        job: JobId,
        action: matching::Action,
    ) -> Result<Json<ReportTaken>, Problem> {
        let standing = self.job(&cause.tenant, job).await?.standing;
        let command = matching::Command { job: standing, at: self.0.clock.now(), action };
        let executed = self.0.matchings.execute(&StreamId::matching(job), cause, command).await;
        let position = executed.map_err(refusal::single)?.position.into();
        self.alive(&cause.tenant, lease_id);
        Ok(Json(ReportTaken { lease_id: lease_id.into(), job_id: job.into(), position }))
    }

    async fn totals(
        &self,
        job: JobId,
        request: &RequestId,
    ) -> Result<event_schemas::matching::Totals, Problem> {
        let totals = |folded: &crate::execute::Folded<matching::Matching>| {
            folded.state.request(request).map(|request| request.totals).unwrap_or_default()
        };
        let stream = StreamId::matching(job);
        self.0.matchings.look(&stream, totals).await.map_err(refusal::unreadable)
    }
}
