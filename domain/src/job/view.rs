//! The public view of a job: status, attempts, counts and times.

use event_schemas::failure::{ClassifiedError, FailureCategory, FailureCode, Service};
use event_schemas::ids::{JobId, WorkerId};
use event_schemas::job::{JobKind, Phase, RetryReason, RetryState};
use event_schemas::json_text::JsonText;
use event_schemas::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::history::{Attempt, History, Status};
use super::pipeline;
use crate::image_matching::counters::Counters;
use crate::image_matching::summary::{JobFold, SummaryPreview};

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Job")]
pub struct JobView {
    pub id: JobId,
    pub job_id: JobId,
    pub kind: JobKind,
    pub name: Option<String>,
    /// The metadata that the caller passed; missing in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub metadata: Option<JsonText>,
    pub phase: Phase,
    pub status: Status,
    /// From 1; incremented by each retry.
    pub attempt: u32,
    /// The progress of the whole job over its stages, from 0 to 100.
    pub progress_percentage: f64,
    pub created_at: Timestamp,
    /// When work on the first attempt started.
    pub started_at: Option<Timestamp>,
    /// When it completed, failed or was cancelled.
    pub ended_at: Option<Timestamp>,
    /// The latest instant of any of its events.
    pub last_event_at: Timestamp,
    /// The time that its attempts have waited for a worker.
    pub queue_seconds: f64,
    /// The time that workers have spent on its attempts.
    pub run_seconds: f64,
    pub attempts: Vec<AttemptView>,
    pub counters: CountersView,
    /// For a matching job: its current summary in short. Null while the read model is being built.
    pub matching: Option<SummaryPreview>,
    /// The error of a failed job.
    pub error: Option<ErrorView>,
    /// Why it is or is not retried automatically; null if it never failed, was resumed manually since, or has completed or
    /// been cancelled.
    pub retry_state: Option<RetryState>,
    /// The scheduled retry.
    pub retry: Option<RetryView>,
    /// The result of the work, or null; missing in lists.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub result: Option<Option<JsonText>>,
}

/// A member that is there, which may be null.
fn present<'de, D: Deserializer<'de>>(member: D) -> Result<Option<Option<JsonText>>, D::Error> {
    Option::deserialize(member).map(Some)
}

/// The counters of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
// The stored `Counters` have other names, and no sums that follow from others.
#[schemars(rename = "JobCounters")]
pub struct CountersView {
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
// The stored `ClassifiedError` omits an absent member, and has a closed list of codes.
#[schemars(rename = "ClassifiedError")]
pub struct ErrorView {
    #[schemars(with = "String")]
    pub code: FailureCode,
    pub category: FailureCategory,
    /// The external service that the message names, as in `GET /internal/retries`: `speech_to_text`.
    #[schemars(with = "Option<String>")]
    pub service: Option<Service>,
    /// The reported message, verbatim; only for the roles `service` and `admin`, because it may name hosts, paths or data.
    pub message: Option<String>,
    /// A sentence for the user who requested the job.
    pub user_message: String,
    pub suggested_actions: Vec<String>,
    pub retryable: bool,
    pub retry_after_seconds: Option<u32>,
    /// The reference to quote in support requests.
    pub support_reference: String,
}

/// A scheduled retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "JobRetry")]
pub struct RetryView {
    /// The attempt that will start.
    pub attempt: u32,
    pub due_at: Timestamp,
    pub reason: Option<RetryReason>,
}

/// Work that does not start, because too many calls of an external service that it needs have failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Parked {
    /// The service, as in `GET /internal/retries`.
    pub service: String,
    /// A sentence.
    pub reason: String,
    /// When the service is tried again.
    pub until: Timestamp,
}

impl Parked {
    pub fn new(service: &str, until: Timestamp) -> Self {
        let reason = format!(
            "parked: too many calls of {service} failed, so it is not called until it is tried again"
        );
        Self { service: service.to_owned(), reason, until }
    }
}

/// One attempt of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "JobAttempt")]
pub struct AttemptView {
    pub attempt: u32,
    pub queued_at: Timestamp,
    /// The scheduled start of a retry.
    pub due_at: Option<Timestamp>,
    /// When work started; null while it waits.
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// The time that it has waited for a worker.
    pub queue_seconds: f64,
    /// The time that workers have spent on it.
    pub run_seconds: f64,
    /// The workers that claimed the job or, of a matching job, its requests, in order.
    pub worker_ids: Vec<WorkerId>,
    pub error: Option<ErrorView>,
}

impl From<&Counters> for CountersView {
    fn from(counters: &Counters) -> Self {
        Self {
            product_images: counters.product_images,
            video_frames: counters.video_frames,
            candidates_total: counters.candidates_total(),
            candidates_processed: counters.candidates_processed,
            vector_pass_total: counters.requested_candidates,
            vector_pass_done: counters.vector_pass_done,
            ransac_checked: counters.ransac_checked,
            match_requests: counters.requests,
            match_requests_completed: counters.requests_completed,
            match_requests_failed: counters.requests_failed,
            matches_found: counters.matches_found,
            matches_with_evidence: counters.matches_with_evidence,
        }
    }
}

impl From<ClassifiedError> for ErrorView {
    fn from(error: ClassifiedError) -> Self {
        Self {
            code: error.code,
            category: error.category,
            service: error.service,
            message: Some(error.message),
            user_message: error.user_message,
            suggested_actions: error.suggested_actions,
            retryable: error.retryable,
            retry_after_seconds: error.retry_after_seconds,
            support_reference: error.support_reference,
        }
    }
}

impl JobView {
    /// All errors that it contains.
    pub fn errors_mut(&mut self) -> impl Iterator<Item = &mut ErrorView> {
        self.error.iter_mut().chain(errors_of(&mut self.attempts))
    }
}

pub(super) fn errors_of(attempts: &mut [AttemptView]) -> impl Iterator<Item = &mut ErrorView> {
    attempts.iter_mut().filter_map(|attempt| attempt.error.as_mut())
}

/// The view of the job at `now`, with open durations up to then and without its summary; none before its creation.
pub fn view(fold: &JobFold, now: Timestamp) -> Option<JobView> {
    let history = fold.history.as_ref()?;
    let attempts: Vec<AttemptView> =
        history.attempts.iter().map(|attempt| attempt_view(attempt, now)).collect();
    Some(JobView {
        id: history.job_id(),
        job_id: history.job_id(),
        kind: history.kind(),
        name: history.created.name.clone(),
        metadata: Some(history.created.metadata.clone()),
        phase: history.phase,
        status: history.status(),
        attempt: history.attempt,
        progress_percentage: percentage(history, &fold.matching.counters),
        created_at: history.created_at,
        started_at: history.attempts.first().and_then(|attempt| attempt.started_at),
        ended_at: history.ended_at(),
        last_event_at: fold.latest.occurred_at,
        queue_seconds: attempts.iter().map(|attempt| attempt.queue_seconds).sum(),
        run_seconds: attempts.iter().map(|attempt| attempt.run_seconds).sum(),
        attempts,
        counters: (&fold.matching.counters).into(),
        matching: None,
        error: history.failure.as_ref().map(|failure| failure.error.clone().into()),
        retry_state: retry_state(history),
        retry: retry(history),
        result: Some(history.result.clone()),
    })
}

pub(crate) fn attempt_view(attempt: &Attempt, now: Timestamp) -> AttemptView {
    AttemptView {
        attempt: attempt.number,
        queued_at: attempt.queued_at,
        due_at: attempt.due_at,
        started_at: attempt.started_at,
        ended_at: attempt.ended_at,
        queue_seconds: attempt.queue_seconds(now),
        run_seconds: attempt.run_seconds(now),
        worker_ids: attempt.worker_ids().cloned().collect(),
        error: attempt.error.clone().map(Into::into),
    }
}

pub(super) fn retry(history: &History) -> Option<RetryView> {
    let waiting = history.pending_retry()?;
    Some(RetryView { attempt: history.attempt, due_at: waiting.due_at, reason: waiting.reason })
}

/// Why a retry that is due later waits, if a circuit breaker is the reason.
pub(super) fn parked(history: &History) -> Option<Parked> {
    let retry = history.pending_retry().filter(|retry| retry.reason == Some(RetryReason::Parked))?;
    let failed = history.attempts.iter().rev().nth(1)?;
    let failed_in = history.spans.iter().rev().find(|span| span.attempt == failed.number);
    let stage = failed_in.map_or(Phase::Queued, |span| span.phase);
    let service = super::service::blamed(stage, failed.error.as_ref()?)?.0;
    Some(Parked::new(service.into_str(), retry.due_at))
}

/// The retry state of the current failure; in progress for a failure that was retried automatically, until the job has
/// ended in another way.
pub(super) fn retry_state(history: &History) -> Option<RetryState> {
    match &history.failure {
        Some(failure) => failure.retry_state,
        None => history.retry.filter(|_| !pipeline::is_end(history.phase)).map(|_| RetryState::InProgress),
    }
}

/// The progress of the whole job over its stages. A failed or cancelled job keeps the progress that it had reached.
pub(crate) fn percentage(history: &History, counters: &Counters) -> f64 {
    let phase = match history.phase {
        Phase::Failed | Phase::Cancelled => history.spans.last().map_or(Phase::Queued, |span| span.phase),
        phase => phase,
    };
    let fraction = match phase {
        Phase::Matching => {
            let total = counters.candidates_total().max(counters.requested_candidates);
            if total == 0 { 0.0 } else { counters.candidates_processed as f64 / total as f64 }
        }
        phase => history.progress.filter(|known| known.stage == phase).map_or(0.0, |known| known.fraction),
    };
    pipeline::percentage(history.kind(), phase, fraction).unwrap_or(0.0)
}
