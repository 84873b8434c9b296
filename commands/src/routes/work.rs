//! Claiming work, keeping it, and handing it in.

use std::time::Duration;

use domain::job::failure::classify;
use domain::{job, matching};
use event_schemas::envelope::Cause;
use event_schemas::ids::{FrameId, ImageId, JobId, LeaseId, ProductId, RequestId, Tenant, VideoId, WorkerId};
use event_schemas::job::JobProgressReported;
use event_schemas::stream::StreamId;
use poem_openapi::param::{Header, Path};
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use serde_json::{Map, Value};
use web::caller::Caller;
use web::idempotency::IdempotencyKey;
use web::json::Json;
use web::problem::Problem;
use web::request::TraceParent;
use web::value::{At, Pos, Text, Uid};
use web::vocabulary::{Phase, WorkKind};

use super::{keyed, reporters};
use crate::claim::{self, Asked, Task};
use crate::work::{Beat, Found, Lease, Work};
use crate::{Commands, refusal};

/// What a worker asks for.
#[derive(Debug, Object)]
#[oai(example)]
struct ClaimWork {
    worker_id: Text<WorkerId>,
    /// Which kinds of work it can do.
    #[oai(validator(min_items = 1, max_items = 20))]
    kinds: Vec<WorkKind>,
    /// How much it takes at once; 1 unless said otherwise.
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
            wait_ms: Some(20_000),
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

/// A piece of work. Of a match request it has the request, of any other kind the job.
#[derive(Debug, Object)]
struct WorkItem {
    /// To be named in all reports.
    lease_id: Uid<LeaseId>,
    /// When the lease runs out, unless a heartbeat comes before.
    lease_until: At,
    kind: WorkKind,
    job_id: Uid<JobId>,
    /// From 1.
    attempt: u32,
    #[oai(skip_serializing_if_is_none)]
    request_id: Option<Text<RequestId>>,
    #[oai(skip_serializing_if_is_none)]
    product_id: Option<Text<ProductId>>,
    #[oai(skip_serializing_if_is_none)]
    video_id: Option<Text<VideoId>>,
    /// How many pairs of image and frame there are to compare.
    #[oai(skip_serializing_if_is_none)]
    candidates: Option<u64>,
    #[oai(skip_serializing_if_is_none)]
    images: Option<Vec<WorkImage>>,
    /// Empty if the frames were only counted.
    #[oai(skip_serializing_if_is_none)]
    frames: Option<Vec<WorkFrame>>,
    #[oai(skip_serializing_if_is_none)]
    frame_count: Option<u64>,
    /// What earlier attempts have reported already.
    #[oai(skip_serializing_if_is_none)]
    totals: Option<WorkTotals>,
    /// The job's name.
    #[oai(skip_serializing_if_is_none)]
    name: Option<String>,
    /// What the job's creator noted.
    #[oai(skip_serializing_if_is_none)]
    metadata: Option<Value>,
    /// What the job is about.
    #[oai(skip_serializing_if_is_none)]
    source: Option<Value>,
}

/// An image of the product.
#[derive(Debug, Object)]
struct WorkImage {
    img_id: Text<ImageId>,
    #[oai(skip_serializing_if_is_none)]
    url: Option<String>,
}

/// A frame of the video.
#[derive(Debug, Object)]
struct WorkFrame {
    frame_id: Text<FrameId>,
    #[oai(skip_serializing_if_is_none)]
    timestamp_ms: Option<u64>,
}

/// Candidates of the request so far, over all attempts.
#[derive(Debug, Object)]
struct WorkTotals {
    candidates_processed: u64,
    vector_pass_done: u64,
    ransac_checked: u64,
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
}

impl Example for FailWork {
    fn example() -> Self {
        Self { error: "connection timed out".to_owned(), exit_code: None }
    }
}

/// A report that was taken.
#[derive(Debug, Object)]
struct ReportTaken {
    lease_id: Uid<LeaseId>,
    job_id: Uid<JobId>,
    position: Pos,
}

/// Commands about claimed work.
#[derive(Clone, Debug)]
pub struct WorkCommands(pub(super) Commands);

#[OpenApi]
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
    /// Whether it is tried again depends on the error.
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
        let error = classify(&body.0.error, body.0.exit_code, job, lease.attempt);
        match lease.work {
            Work::Job(_) => {
                self.0.report(&cause, id, job, job::Action::Fail { lease_id: Some(id), error }).await
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
                return Err(refusal::board_not_ready());
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

    async fn report(
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

impl From<claim::Item> for WorkItem {
    fn from(item: claim::Item) -> Self {
        let mut shown = Self {
            lease_id: item.lease_id.into(),
            lease_until: item.lease_until.into(),
            kind: item.kind.into(),
            job_id: item.job_id.into(),
            attempt: item.attempt,
            request_id: None,
            product_id: None,
            video_id: None,
            candidates: None,
            images: None,
            frames: None,
            frame_count: None,
            totals: None,
            name: None,
            metadata: None,
            source: None,
        };
        match item.task {
            Task::Job(created) => {
                shown.name = created.name;
                shown.metadata = some_object(created.metadata);
                shown.source = created.source.and_then(|source| serde_json::to_value(source).ok());
            }
            Task::Request(request) => {
                let image = |image: event_schemas::matching::ProductImage| WorkImage {
                    img_id: image.img_id.into(),
                    url: image.url,
                };
                let frame = |frame: event_schemas::matching::VideoFrame| WorkFrame {
                    frame_id: frame.frame_id.into(),
                    timestamp_ms: frame.timestamp_ms,
                };
                shown.request_id = Some(request.request_id.into());
                shown.product_id = Some(request.product_id.into());
                shown.video_id = Some(request.video_id.into());
                shown.candidates = Some(request.candidates);
                shown.images = Some(request.images.into_iter().map(image).collect());
                shown.frames = Some(request.frames.into_iter().map(frame).collect());
                shown.frame_count = Some(request.frame_count);
                shown.totals = Some(WorkTotals {
                    candidates_processed: request.totals.candidates_processed,
                    vector_pass_done: request.totals.vector_pass_done,
                    ransac_checked: request.totals.ransac_checked,
                });
            }
        }
        shown
    }
}

fn some_object(map: Map<String, Value>) -> Option<Value> {
    (!map.is_empty()).then_some(Value::Object(map))
}
