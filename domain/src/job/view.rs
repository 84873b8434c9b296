//! The public view of a job: status, attempts, counts and times.

use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{JobId, WorkerId};
use event_schemas::job::{JobKind, Phase, RetryReason, RetryState};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::history::{Attempt, History, Status};
use super::pipeline;
use crate::image_matching::counters::Counters;
use crate::image_matching::summary::JobFold;

/// The response of `GET /jobs/{job_id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    pub id: JobId,
    pub job_id: JobId,
    pub kind: JobKind,
    pub name: Option<String>,
    pub metadata: serde_json::Map<String, serde_json::Value>,
    pub phase: Phase,
    pub status: Status,
    pub attempt: u32,
    pub progress_percentage: f64,
    pub created_at: Timestamp,
    /// The time at which work on the first attempt started.
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub last_event_at: Timestamp,
    /// The total time that its attempts waited for a worker, in seconds.
    pub queue_seconds: f64,
    /// The total working time of its attempts, in seconds.
    pub run_seconds: f64,
    pub attempts: Vec<AttemptView>,
    pub counters: Counters,
    /// The current failure.
    pub error: Option<ClassifiedError>,
    /// Why it is or is not retried automatically; none if it never failed, or was retried manually since.
    pub retry_state: Option<RetryState>,
    /// The pending retry.
    pub retry: Option<RetryView>,
    pub result: Option<serde_json::Value>,
}

/// A pending retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryView {
    pub attempt: u32,
    pub due_at: Timestamp,
    pub reason: Option<RetryReason>,
}

/// An attempt to execute the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptView {
    pub attempt: u32,
    pub queued_at: Timestamp,
    /// The earliest time at which it could start, if it was scheduled.
    pub due_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub queue_seconds: f64,
    pub run_seconds: f64,
    /// The workers that held the job as a whole, in order.
    pub worker_ids: Vec<WorkerId>,
    pub error: Option<ClassifiedError>,
}

/// The view of the job at `now`, with open durations up to then; none before its creation.
pub fn view(fold: &JobFold, now: Timestamp) -> Option<JobView> {
    let history = fold.history.as_ref()?;
    let attempts: Vec<AttemptView> =
        history.attempts.iter().map(|attempt| attempt_view(attempt, now)).collect();
    Some(JobView {
        id: history.job_id(),
        job_id: history.job_id(),
        kind: history.kind(),
        name: history.created.name.clone(),
        metadata: history.created.metadata.clone(),
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
        counters: fold.matching.counters,
        error: history.failure.as_ref().map(|failure| failure.error.clone()),
        retry_state: retry_state(history),
        retry: retry(history),
        result: history.result.clone(),
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
        worker_ids: attempt.holds.iter().map(|hold| hold.worker_id.clone()).collect(),
        error: attempt.error.clone(),
    }
}

pub(super) fn retry(history: &History) -> Option<RetryView> {
    let waiting = history.pending_retry()?;
    Some(RetryView { attempt: history.attempt, due_at: waiting.due_at, reason: waiting.reason })
}

/// The retry state of the current failure; in progress for a failure that was retried automatically.
pub(super) fn retry_state(history: &History) -> Option<RetryState> {
    match &history.failure {
        Some(failure) => failure.retry_state,
        None => history.retry.map(|_| RetryState::InProgress),
    }
}

/// The overall progress. A failed or cancelled job keeps the progress that it had reached.
pub(super) fn percentage(history: &History, counters: &Counters) -> f64 {
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
