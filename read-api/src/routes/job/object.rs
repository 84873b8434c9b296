//! A job as it is answered.

use domain::job::history::Status as JobStatus;
use domain::job::view::{AttemptView, JobView, RetryView};
use domain::matching::tally::Counters as Counted;
use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{JobId, WorkerId};
use poem_openapi::types::Any;
use poem_openapi::{Enum, Object};
use serde_json::{Map, Value};
use web::value::{At, Text, Uid};
use web::vocabulary::{FailureCategory, JobKind, Phase, RetryReason, RetryState, failure_code};

/// Where a job stands, in the words that all kinds share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "JobStatus", rename_all = "snake_case", remote = "JobStatus")]
pub enum Status {
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
}

/// What has been counted of a job.
#[derive(Clone, Debug, Object)]
#[oai(rename = "JobCounters")]
pub struct Counters {
    pub product_images: u64,
    pub video_frames: u64,
    /// Product images × video frames.
    pub candidates_total: u64,
    /// Those that workers reported as processed.
    pub candidates_processed: u64,
    /// The sum of the match requests' candidates.
    pub vector_pass_total: u64,
    pub vector_pass_done: u64,
    pub ransac_checked: u64,
    pub match_requests: u64,
    pub match_requests_completed: u64,
    /// How often a worker said that it could not do a request.
    pub match_requests_failed: u64,
    pub matches_found: u64,
    pub matches_with_evidence: u64,
}

/// A recognised error.
#[derive(Clone, Debug, Object)]
#[oai(rename = "ClassifiedError")]
pub struct ErrorObject {
    pub code: String,
    pub category: FailureCategory,
    /// What was reported, word for word.
    pub message: String,
    /// A sentence for whoever asked for the work.
    pub user_message: String,
    pub suggested_actions: Vec<String>,
    pub retryable: bool,
    pub retry_after_seconds: Option<u32>,
    /// What to quote when asking for help.
    pub support_reference: String,
}

/// One try to do a job.
#[derive(Clone, Debug, Object)]
#[oai(rename = "JobAttempt")]
pub struct Attempt {
    pub attempt: u32,
    pub queued_at: At,
    /// Nobody could begin before, where it was scheduled.
    pub due_at: Option<At>,
    /// When work began; null while it waits.
    pub started_at: Option<At>,
    pub ended_at: Option<At>,
    /// How long it has waited for somebody to begin.
    pub queue_seconds: f64,
    /// How long it has been worked on.
    pub run_seconds: f64,
    /// Who held the job as a whole, in order.
    pub worker_ids: Vec<Text<WorkerId>>,
    pub error: Option<ErrorObject>,
}

/// A retry that is waited for.
#[derive(Clone, Debug, Object)]
#[oai(rename = "JobRetry")]
pub struct Retry {
    /// The attempt that will start.
    pub attempt: u32,
    pub due_at: At,
    pub reason: Option<RetryReason>,
}

/// A job.
#[derive(Clone, Debug, Object)]
pub struct Job {
    pub id: Uid<JobId>,
    pub job_id: Uid<JobId>,
    pub kind: JobKind,
    pub name: Option<String>,
    /// The caller's own notes on the job.
    pub metadata: Any<Map<String, Value>>,
    pub phase: Phase,
    pub status: Status,
    /// From 1; a retry raises it.
    pub attempt: u32,
    /// From 0 to 100.
    pub progress_percentage: f64,
    pub created_at: At,
    /// When work on the first attempt began.
    pub started_at: Option<At>,
    /// When it completed, failed or was cancelled.
    pub ended_at: Option<At>,
    /// The greatest instant that any of its events gives.
    pub last_event_at: At,
    /// How long its attempts have waited for somebody to begin.
    pub queue_seconds: f64,
    /// How long its attempts have been worked on.
    pub run_seconds: f64,
    pub attempts: Vec<Attempt>,
    pub counters: Counters,
    /// Of a matching job: what its summary says at this moment. Null while summaries are being built.
    pub matching: Option<Glance>,
    /// The failure that the job stands in.
    pub error: Option<ErrorObject>,
    /// Why it is, or is not, tried again by itself; null if it never failed, or was taken up by hand since.
    pub retry_state: Option<RetryState>,
    /// The retry that is waited for.
    pub retry: Option<Retry>,
    pub result: Option<Any<Value>>,
}

/// A summary at a glance, for lists.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(rename = "MatchingGlance")]
pub struct Glance {
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

impl From<ClassifiedError> for ErrorObject {
    fn from(error: ClassifiedError) -> Self {
        Self {
            code: failure_code(error.code),
            category: error.category.into(),
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
            queued_at: At(attempt.queued_at),
            due_at: attempt.due_at.map(At),
            started_at: attempt.started_at.map(At),
            ended_at: attempt.ended_at.map(At),
            queue_seconds: attempt.queue_seconds,
            run_seconds: attempt.run_seconds,
            worker_ids: attempt.worker_ids.into_iter().map(Text).collect(),
            error: attempt.error.map(Into::into),
        }
    }
}

impl From<RetryView> for Retry {
    fn from(retry: RetryView) -> Self {
        Self { attempt: retry.attempt, due_at: At(retry.due_at), reason: retry.reason.map(Into::into) }
    }
}

impl Job {
    pub(super) fn new(job: JobView, matching: Option<Glance>) -> Self {
        Self {
            id: Uid(job.id),
            job_id: Uid(job.job_id),
            kind: job.kind.into(),
            name: job.name,
            metadata: Any(job.metadata),
            phase: job.phase.into(),
            status: job.status.into(),
            attempt: job.attempt,
            progress_percentage: job.progress_percentage,
            created_at: At(job.created_at),
            started_at: job.started_at.map(At),
            ended_at: job.ended_at.map(At),
            last_event_at: At(job.last_event_at),
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
