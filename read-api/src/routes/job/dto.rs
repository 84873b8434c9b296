//! The response objects of jobs.

use domain::image_matching::counters::Counters as Counted;
use domain::job::history::Status as JobStatus;
use domain::job::view::{AttemptView, JobView, RetryView};
use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{JobId, WorkerId};
use poem_openapi::types::Any;
use poem_openapi::{Enum, Object};
use serde_json::{Map, Value};
use web::enums::{FailureCategory, JobKind, Phase, RetryReason, RetryState, failure_code};
use web::value::{ApiTimestamp, TextId, UuidParam};

/// The status of a job, the same for all kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "JobStatus", rename_all = "snake_case", remote = "JobStatus")]
pub enum Status {
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
}

/// The counters of a job.
#[derive(Clone, Debug, Object)]
#[oai(rename = "JobCounters")]
pub struct Counters {
    pub product_images: u64,
    pub video_frames: u64,
    /// Product images × video frames.
    pub candidates_total: u64,
    /// The candidates that workers reported as processed.
    pub candidates_processed: u64,
    /// The sum of the match requests' candidates.
    pub vector_pass_total: u64,
    pub vector_pass_done: u64,
    pub ransac_checked: u64,
    pub match_requests: u64,
    pub match_requests_completed: u64,
    /// The number of failures reported for match requests.
    pub match_requests_failed: u64,
    pub matches_found: u64,
    pub matches_with_evidence: u64,
}

/// A classified error.
#[derive(Clone, Debug, Object)]
#[oai(rename = "ClassifiedError")]
pub struct ClassifiedErrorDto {
    pub code: String,
    pub category: FailureCategory,
    /// The external service that the message names, as in `GET /internal/retries`: `speech_to_text`.
    pub service: Option<String>,
    /// The reported message, verbatim.
    pub message: String,
    /// A sentence for the user who requested the job.
    pub user_message: String,
    pub suggested_actions: Vec<String>,
    pub retryable: bool,
    pub retry_after_seconds: Option<u32>,
    /// The reference to quote in support requests.
    pub support_reference: String,
}

/// One attempt of a job.
#[derive(Clone, Debug, Object)]
#[oai(rename = "JobAttempt")]
pub struct Attempt {
    pub attempt: u32,
    pub queued_at: ApiTimestamp,
    /// The scheduled start of a retry.
    pub due_at: Option<ApiTimestamp>,
    /// When work started; null while it waits.
    pub started_at: Option<ApiTimestamp>,
    pub ended_at: Option<ApiTimestamp>,
    /// The time that it has waited for a worker.
    pub queue_seconds: f64,
    /// The time that workers have spent on it.
    pub run_seconds: f64,
    /// The workers that claimed the job as a whole, in order.
    pub worker_ids: Vec<TextId<WorkerId>>,
    pub error: Option<ClassifiedErrorDto>,
}

/// A scheduled retry.
#[derive(Clone, Debug, Object)]
#[oai(rename = "JobRetry")]
pub struct Retry {
    /// The attempt that will start.
    pub attempt: u32,
    pub due_at: ApiTimestamp,
    pub reason: Option<RetryReason>,
}

/// A job.
#[derive(Clone, Debug, Object)]
pub struct Job {
    pub id: UuidParam<JobId>,
    pub job_id: UuidParam<JobId>,
    pub kind: JobKind,
    pub name: Option<String>,
    /// The metadata that the caller passed.
    pub metadata: Any<Map<String, Value>>,
    pub phase: Phase,
    pub status: Status,
    /// From 1; incremented by each retry.
    pub attempt: u32,
    /// From 0 to 100.
    pub progress_percentage: f64,
    pub created_at: ApiTimestamp,
    /// When work on the first attempt started.
    pub started_at: Option<ApiTimestamp>,
    /// When it completed, failed or was cancelled.
    pub ended_at: Option<ApiTimestamp>,
    /// The latest instant of any of its events.
    pub last_event_at: ApiTimestamp,
    /// The time that its attempts have waited for a worker.
    pub queue_seconds: f64,
    /// The time that workers have spent on its attempts.
    pub run_seconds: f64,
    pub attempts: Vec<Attempt>,
    pub counters: Counters,
    /// For a matching job: its current summary in short. Null while the read model is being built.
    pub matching: Option<SummaryPreview>,
    /// The error of a failed job.
    pub error: Option<ClassifiedErrorDto>,
    /// Why it is or is not retried automatically; null if it never failed, or was resumed manually since.
    pub retry_state: Option<RetryState>,
    /// The scheduled retry.
    pub retry: Option<Retry>,
    pub result: Option<Any<Value>>,
}

/// A short form of the summary, for lists.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(rename = "MatchingSummaryPreview")]
pub struct SummaryPreview {
    pub avg_score: Option<f64>,
    pub p90_score: Option<f64>,
    pub queue_depth: u64,
    pub eta_seconds: Option<u64>,
    /// Each as `code: sentence`.
    pub blockers: Vec<String>,
}

impl From<Counted> for Counters {
    fn from(counted: Counted) -> Self {
        Self {
            product_images: counted.product_images,
            video_frames: counted.video_frames,
            candidates_total: counted.candidates_total(),
            candidates_processed: counted.candidates_processed,
            vector_pass_total: counted.requested_candidates,
            vector_pass_done: counted.vector_pass_done,
            ransac_checked: counted.ransac_checked,
            match_requests: counted.requests,
            match_requests_completed: counted.requests_completed,
            match_requests_failed: counted.requests_failed,
            matches_found: counted.matches_found,
            matches_with_evidence: counted.matches_with_evidence,
        }
    }
}

impl From<ClassifiedError> for ClassifiedErrorDto {
    fn from(error: ClassifiedError) -> Self {
        Self {
            code: failure_code(error.code),
            category: error.category.into(),
            service: error.service.map(|service| service.into_str().to_owned()),
            message: error.message,
            user_message: error.user_message,
            suggested_actions: error.suggested_actions,
            retryable: error.retryable,
            retry_after_seconds: error.retry_after_seconds,
            support_reference: error.support_reference,
        }
    }
}

impl From<AttemptView> for Attempt {
    fn from(attempt: AttemptView) -> Self {
        Self {
            attempt: attempt.attempt,
            queued_at: ApiTimestamp(attempt.queued_at),
            due_at: attempt.due_at.map(ApiTimestamp),
            started_at: attempt.started_at.map(ApiTimestamp),
            ended_at: attempt.ended_at.map(ApiTimestamp),
            queue_seconds: attempt.queue_seconds,
            run_seconds: attempt.run_seconds,
            worker_ids: attempt.worker_ids.into_iter().map(TextId).collect(),
            error: attempt.error.map(Into::into),
        }
    }
}

impl From<RetryView> for Retry {
    fn from(retry: RetryView) -> Self {
        Self {
            attempt: retry.attempt,
            due_at: ApiTimestamp(retry.due_at),
            reason: retry.reason.map(Into::into),
        }
    }
}

impl Job {
    pub(super) fn new(job: JobView, matching: Option<SummaryPreview>) -> Self {
        Self {
            id: UuidParam(job.id),
            job_id: UuidParam(job.job_id),
            kind: job.kind.into(),
            name: job.name,
            metadata: Any(job.metadata),
            phase: job.phase.into(),
            status: job.status.into(),
            attempt: job.attempt,
            progress_percentage: job.progress_percentage,
            created_at: ApiTimestamp(job.created_at),
            started_at: job.started_at.map(ApiTimestamp),
            ended_at: job.ended_at.map(ApiTimestamp),
            last_event_at: ApiTimestamp(job.last_event_at),
            queue_seconds: job.queue_seconds,
            run_seconds: job.run_seconds,
            attempts: job.attempts.into_iter().map(Into::into).collect(),
            counters: job.counters.into(),
            matching,
            error: job.error.map(Into::into),
            retry_state: job.retry_state.map(Into::into),
            retry: job.retry.map(Into::into),
            result: job.result.map(Any),
        }
    }
}
