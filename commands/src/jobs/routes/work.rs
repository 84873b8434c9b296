//! Claims work, extends leases, and reports progress and results.

mod item;

use std::sync::Arc;
use std::time::Duration;

use domain::job::failure::classify;
use domain::{image_matching, job};
use event_schemas::ids::{ImageId, JobId, LeaseId, Position, RequestId, Tenant, WorkerId};
use event_schemas::image_match::Totals;
use event_schemas::job::{ItemFailure, ItemsReport, JobProgressReported, Phase};
use event_schemas::stream::StreamId;
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkKind;
use poem_openapi::param::Path;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use web::json::Json;
use web::problem::Problem;
use web::schema::Api;
use web::server::ClientSide;
use web::tag::Tag;
use web::value::TextId;

use crate::engine::execute::CachedStream;
use crate::engine::problem;
use crate::engine::write_request::{CallerOf, Workers, WriteRequest};
use crate::jobs::Jobs;
use crate::jobs::claim::{ClaimRequest, claim};
use crate::jobs::problem::{board_not_ready, check_kinds, check_worker, lease_lost, no_such_lease};
use crate::jobs::scheduler::{HeartbeatResult, Lease, LeaseLookup, Work};
use crate::trained_models::TrainedModels;
use item::WorkItem;

/// A claim for work.
#[derive(Debug, Object)]
#[oai(example)]
struct ClaimWork {
    worker_id: TextId<WorkerId>,
    /// The kinds of work that the worker can do.
    #[oai(validator(min_items = 1, max_items = 20))]
    kinds: Vec<Api<WorkKind>>,
    /// The most work items to claim. Default: 1.
    #[oai(validator(minimum(value = "1"), maximum(value = "100")))]
    max: Option<u32>,
    /// The time to wait while there is no work, in milliseconds. Default: 0.
    #[oai(validator(maximum(value = "30000")))]
    wait_ms: Option<u64>,
}

impl Example for ClaimWork {
    fn example() -> Self {
        Self {
            worker_id: TextId("matcher-1".parse().expect("a short text")),
            kinds: vec![Api(WorkKind::MatchRequest)],
            max: Some(1),
            wait_ms: Some(5_000),
        }
    }
}

/// The claimed work; empty if there was none in time.
#[derive(Debug, Serialize, JsonSchema)]
struct ClaimedWork {
    items: Vec<WorkItem>,
    /// Log position of the last claim; missing if nothing was claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<Position>,
}

/// The deadline of a lease after a heartbeat.
#[derive(Debug, Serialize, JsonSchema)]
struct LeaseExtended {
    lease_id: LeaseId,
    /// Missing if the work was completed or failed already.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_until: Option<Timestamp>,
}

/// The progress of a job in a stage.
#[derive(Debug, Object)]
#[oai(example)]
struct ReportProgress {
    /// A stage of the job's kind: `downloading`, `fetching_chat`, `transcribing`, `analyzing` or `finding_highlights` of
    /// `video_analysis`, `processing` of `extract_cutouts`, `extract_products`, `extract_single_product` and
    /// `model_training`.
    stage: Api<Phase>,
    /// The completed fraction of the stage, from 0 to 1.
    #[oai(validator(minimum(value = "0"), maximum(value = "1")))]
    fraction: f64,
    #[oai(validator(maximum(value = "9007199254740991")))]
    items_done: Option<u64>,
    #[oai(validator(maximum(value = "9007199254740991")))]
    items_total: Option<u64>,
    /// Of an extraction: the number of items that failed so far, which are not among the done ones.
    #[oai(validator(maximum(value = "9007199254740991")))]
    items_failed: Option<u64>,
    /// Of an extraction: the items that failed since the last report.
    #[oai(validator(max_items = 50))]
    failures: Option<Vec<FailedItem>>,
    /// Of an extraction: the `checkpoint` of the last item that was done or failed. A worker that claims the job after a crash gets
    /// it, and continues there.
    #[oai(validator(min_length = 1, max_length = 200))]
    checkpoint: Option<String>,
}

/// An item that failed.
#[derive(Debug, Object)]
#[oai(example)]
struct FailedItem {
    /// The cutout or the product.
    #[oai(validator(min_length = 1, max_length = 128))]
    item_id: String,
    /// The image of the product.
    image_id: Option<TextId<ImageId>>,
    #[oai(validator(min_length = 1, max_length = 500))]
    reason: String,
}

impl Example for FailedItem {
    fn example() -> Self {
        Self { item_id: "17".to_owned(), image_id: None, reason: "the image is truncated".to_owned() }
    }
}

impl Example for ReportProgress {
    fn example() -> Self {
        Self {
            stage: Api(Phase::Processing),
            fraction: 0.5,
            items_done: Some(5),
            items_total: Some(10),
            items_failed: None,
            failures: None,
            checkpoint: None,
        }
    }
}

impl ReportProgress {
    /// What it reports of the items of an extraction, if anything.
    fn items(&mut self) -> Option<Box<ItemsReport>> {
        let failures = self.failures.take();
        if self.items_failed.is_none() && failures.is_none() {
            return None;
        }
        let failure = |failed: FailedItem| {
            let image_id = failed.image_id.map(|id| id.0);
            ItemFailure { item_id: failed.item_id, image_id, reason: failed.reason }
        };
        let failures = failures.unwrap_or_default().into_iter().map(failure).collect();
        let items_failed = self.items_failed.unwrap_or_default();
        Some(Box::new(ItemsReport { items_failed, failures }))
    }
}

/// The result of the work.
#[derive(Debug, Object)]
#[oai(example)]
struct CompleteWork {
    /// Stored with the job, at most 16,384 bytes of JSON. A match request has no result of its own.
    result: Option<Value>,
}

impl Example for CompleteWork {
    fn example() -> Self {
        Self { result: Some(serde_json::json!({"items": 10})) }
    }
}

/// The failure of the work.
#[derive(Debug, Object)]
#[oai(example)]
struct FailWork {
    /// The error as it occurred; the server classifies it.
    #[oai(validator(min_length = 1, max_length = 10000))]
    error: String,
    /// The exit code of the work's process: a signed or an unsigned number of 32 bits.
    #[oai(validator(minimum(value = "-2147483648"), maximum(value = "4294967295")))]
    exit_code: Option<i64>,
    /// The retry delay, in seconds, that a rate-limiting service has requested.
    #[oai(validator(maximum(value = "86400")))]
    retry_after_seconds: Option<u32>,
}

impl Example for FailWork {
    fn example() -> Self {
        Self { error: "connection timed out".to_owned(), exit_code: None, retry_after_seconds: None }
    }
}

/// An accepted report.
#[derive(Debug, Serialize, JsonSchema)]
struct ReportAccepted {
    lease_id: LeaseId,
    job_id: JobId,
    position: Position,
}

/// The write routes of claimed work.
#[derive(Clone, Debug)]
pub struct WorkCommands(pub(super) Arc<Jobs>, pub(super) TrainedModels);

#[OpenApi(tag = "Tag::Workers")]
impl WorkCommands {
    /// Claim work
    ///
    /// Returns the oldest work first. While there is none, the response waits up to `wait_ms`. A claim registers its
    /// worker and counts as a heartbeat. A repeated claim gets the first response, also an empty one: ask for work with a
    /// new idempotency key.
    #[oai(path = "/internal/work/claim", method = "post", operation_id = "claim_work")]
    async fn claim(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Workers>,
        client: ClientSide,
        body: Json<ClaimWork>,
    ) -> Result<Json<Api<ClaimedWork>>, Problem> {
        let cause = request.cause(&self.0.engine, "POST /internal/work/claim", &body.0).await?;
        let kinds: Vec<WorkKind> = body.0.kinds.into_iter().map(|kind| kind.0).collect();
        check_kinds(&kinds)?;
        check_worker(&body.0.worker_id.0)?;
        let request = ClaimRequest {
            worker_id: body.0.worker_id.0,
            kinds,
            max: body.0.max.unwrap_or(1) as usize,
            wait: Duration::from_millis(body.0.wait_ms.unwrap_or(0)),
            client,
        };
        let claimed = claim(&self.0, &cause, &request).await?;
        let items = claimed.items.into_iter().map(Into::into).collect();
        Ok(Json(Api(ClaimedWork { items, position: claimed.position })))
    }

    /// Send a lease heartbeat
    #[oai(path = "/internal/work/:lease_id/heartbeat", method = "post", operation_id = "work_heartbeat")]
    async fn heartbeat(
        &self,
        request: CallerOf<Workers>,
        lease_id: Path<String>,
    ) -> Result<Json<Api<LeaseExtended>>, Problem> {
        let id = web::path::lease_id(&lease_id)?;
        let lease = self.lease(&request.caller.tenant, id).await?;
        self.0.board.worker_heartbeat(&request.caller.tenant, &lease.worker_id);
        let lease_until = match self.0.board.heartbeat(&request.caller.tenant, id) {
            HeartbeatResult::Until(until) => Some(until),
            HeartbeatResult::Reported => None,
            HeartbeatResult::Lost => return Err(lease_lost()),
            HeartbeatResult::Unknown => return Err(no_such_lease()),
        };
        Ok(Json(Api(LeaseExtended { lease_id: id, lease_until })))
    }

    /// Report the progress of a job
    ///
    /// The progress of a match request is reported to `/jobs/{job_id}/match-progress` instead.
    #[oai(path = "/internal/work/:lease_id/progress", method = "post", operation_id = "work_progress")]
    async fn progress(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Workers>,
        lease_id: Path<String>,
        mut body: Json<ReportProgress>,
    ) -> Result<Json<Api<ReportAccepted>>, Problem> {
        let id = web::path::lease_id(&lease_id)?;
        let lease = self.lease(&request.caller.tenant, id).await?;
        let route = format!("POST /internal/work/{id}/progress");
        let cause = request.cause(&self.0.engine, &route, &body.0).await?;
        let Work::Job(job) = lease.work else {
            let job = lease.work.job_id();
            return Err(Problem::conflict(format!(
                "the progress of a match request goes to /jobs/{job}/match-progress, with this lease_id"
            )));
        };
        let report = JobProgressReported {
            lease_id: id,
            stage: *body.0.stage,
            fraction: body.0.fraction,
            items_done: body.0.items_done,
            items_total: body.0.items_total,
            checkpoint: body.0.checkpoint.take().map(|text| Value::String(text).into()),
            items: body.0.items(),
        };
        let kind = self.0.job_kind(&request.caller.tenant, job).await?;
        let eta_priors = self.0.board.eta_priors(&request.caller.tenant, kind);
        let action = job::Action::ReportProgress { report, eta_priors };
        Ok(accepted(id, job, self.0.report(job, id, &cause, action).await?))
    }

    /// Complete work
    ///
    /// A match request is completed with the totals that were reported for it. If the result of a `model_training` has the
    /// member `model`, an object as `POST /api/v1/embeddings/models` takes it, that model is registered with the job as its
    /// `training_job_id`.
    #[oai(path = "/internal/work/:lease_id/complete", method = "post", operation_id = "complete_work")]
    async fn complete(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Workers>,
        lease_id: Path<String>,
        body: Json<CompleteWork>,
    ) -> Result<Json<Api<ReportAccepted>>, Problem> {
        let id = web::path::lease_id(&lease_id)?;
        let lease = self.lease(&request.caller.tenant, id).await?;
        let route = format!("POST /internal/work/{id}/complete");
        let cause = request.cause(&self.0.engine, &route, &body.0).await?;
        match lease.work {
            Work::Job(job) => {
                let is_training = lease.kind == WorkKind::ModelTraining;
                if is_training {
                    self.1.check(&cause, job, body.0.result.as_ref()).await?;
                }
                let action =
                    job::Action::Complete { lease_id: Some(id), result: body.0.result.map(Into::into) };
                let completed = self.0.execute_report(job, id, &cause, action).await?;
                let position = if is_training {
                    self.1.position_after_completion(&cause, job, completed).await?
                } else {
                    completed.position
                };
                Ok(accepted(id, job, position))
            }
            Work::Request(job, request_id) => {
                let totals = self.totals(job, &request_id).await?;
                let action = image_matching::Action::Report {
                    request_id,
                    lease_id: Some(id),
                    totals,
                    completed: true,
                };
                Ok(accepted(id, job, self.0.report_request(job, id, &cause, action).await?))
            }
        }
    }

    /// Fail work
    ///
    /// The class of the error determines if and when the work is retried.
    #[oai(path = "/internal/work/:lease_id/fail", method = "post", operation_id = "fail_work")]
    async fn fail(
        &self,
        #[oai(name = "Idempotency-Key")] request: WriteRequest<Workers>,
        lease_id: Path<String>,
        body: Json<FailWork>,
    ) -> Result<Json<Api<ReportAccepted>>, Problem> {
        let id = web::path::lease_id(&lease_id)?;
        let lease = self.lease(&request.caller.tenant, id).await?;
        let route = format!("POST /internal/work/{id}/fail");
        let cause = request.cause(&self.0.engine, &route, &body.0).await?;
        let job = lease.work.job_id();
        let retry_after = body.0.retry_after_seconds;
        let error = classify(&body.0.error, body.0.exit_code, retry_after, job, lease.attempt);
        let position = match lease.work {
            Work::Job(_) => {
                let circuit_open_until = self.0.board.circuit_open_until(job, &error);
                let action = job::Action::Fail { lease_id: Some(id), error, circuit_open_until };
                self.0.report(job, id, &cause, action).await?
            }
            Work::Request(..) => {
                let action = image_matching::Action::Fail { lease_id: id, error };
                self.0.report_request(job, id, &cause, action).await?
            }
        };
        Ok(accepted(id, job, position))
    }
}

impl WorkCommands {
    /// The lease with this id, open or ended.
    ///
    /// # Errors
    /// 404 if it is unknown, or another tenant's.
    async fn lease(&self, tenant: &Tenant, id: LeaseId) -> Result<Lease, Problem> {
        let board = &self.0.board;
        let mut found = board.lease(tenant, id);
        if found == LeaseLookup::Unknown {
            // Its claim may be in the log and not yet on the board.
            if !board.wait_for_position(self.0.engine.head()).await || !board.is_ready() {
                return Err(board_not_ready(&self.0.board.readiness()));
            }
            found = board.lease(tenant, id);
        }
        match found {
            // The server's own leases are not those of any worker.
            LeaseLookup::Open(lease) | LeaseLookup::Ended(lease) if !lease.kind.is_of_server() => Ok(lease),
            _ => Err(no_such_lease()),
        }
    }

    async fn totals(&self, job: JobId, request: &RequestId) -> Result<Totals, Problem> {
        let totals = |folded: &CachedStream<image_matching::ImageMatchingDecider>| {
            folded.state.request(request).map(|request| request.totals).unwrap_or_default()
        };
        let stream = StreamId::image_matching(job);
        self.0.image_matchings.query(&stream, totals).await.map_err(problem::from_load_error)
    }
}

fn accepted(lease_id: LeaseId, job_id: JobId, position: Position) -> Json<Api<ReportAccepted>> {
    Json(Api(ReportAccepted { lease_id, job_id, position }))
}
