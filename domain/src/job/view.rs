//! A job as it is shown: how it stands, its attempts, its counts and its times.

use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{JobId, WorkerId};
use event_schemas::job::{JobKind, Phase, RetryReason, RetryState};
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::history::{Attempt, History, Status};
use super::pipeline;
use crate::matching::summary::JobFold;
use crate::matching::tally::Counters;

/// What `GET /jobs/{job_id}` tells.
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
    /// When work on the first attempt began.
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub last_event_at: Timestamp,
    /// How long its attempts have waited for somebody to begin, in seconds.
    pub queue_seconds: f64,
    /// How long its attempts have been worked on, in seconds.
    pub run_seconds: f64,
    pub attempts: Vec<AttemptView>,
    pub counters: Counters,
    /// The failure that the job stands in.
    pub error: Option<ClassifiedError>,
    /// Why it is, or is not, tried again by itself; none if it never failed, or was taken up by hand since.
    pub retry_state: Option<RetryState>,
    /// The retry that is waited for.
    pub retry: Option<RetryView>,
    pub result: Option<serde_json::Value>,
}

/// A retry that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryView {
    pub attempt: u32,
    pub due_at: Timestamp,
    pub reason: Option<RetryReason>,
}

/// One try to do the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptView {
    pub attempt: u32,
    pub queued_at: Timestamp,
    /// Nobody could begin before, where it was scheduled.
    pub due_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub queue_seconds: f64,
    pub run_seconds: f64,
    /// Who held the job as a whole, in order.
    pub worker_ids: Vec<WorkerId>,
    pub error: Option<ClassifiedError>,
}

/// The job at `now`, up to which open times run; none before its creation.
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
        progress_percentage: percentage(history, &fold.tally.counters),
        created_at: history.created_at,
        started_at: history.attempts.first().and_then(|attempt| attempt.started_at),
        ended_at: history.ended_at(),
        last_event_at: fold.latest.occurred_at,
        queue_seconds: attempts.iter().map(|attempt| attempt.queue_seconds).sum(),
        run_seconds: attempts.iter().map(|attempt| attempt.run_seconds).sum(),
        attempts,
        counters: fold.tally.counters,
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
    let waiting = history.waiting_retry()?;
    Some(RetryView { attempt: history.attempt, due_at: waiting.due_at, reason: waiting.reason })
}

/// Of the failure that the job stands in; of one that was tried again by itself, that it was.
pub(super) fn retry_state(history: &History) -> Option<RetryState> {
    match &history.failure {
        Some(failure) => failure.retry_state,
        None => history.retry.map(|_| RetryState::InProgress),
    }
}

/// How much of the whole is done. A job that has failed or was cancelled shows how far it had come.
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
