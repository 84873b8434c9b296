//! The course of a job through its phases, in a form suited to charts.

use event_schemas::ids::{JobId, Position, RequestId};
use event_schemas::job::{JobKind, Phase};
use event_schemas::time::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::history::Status;
use super::view::{AttemptView, ErrorView, attempt_view, errors_of};
use crate::image_matching::summary::JobFold;

/// A job's timeline.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Timeline {
    pub job_id: JobId,
    pub kind: JobKind,
    pub phase: Phase,
    pub status: Status,
    pub attempt: u32,
    pub created_at: Timestamp,
    /// Null until the job ends.
    pub ended_at: Option<Timestamp>,
    /// Every stay in a phase, in order, without the final phases.
    pub phases: Vec<PhasePeriod>,
    pub attempts: Vec<AttemptView>,
    /// The errors in order: of whole attempts, and the latest of failed match requests.
    pub errors: Vec<TimelineError>,
    /// The log position that the response reflects.
    pub position: Position,
}

impl Timeline {
    /// All errors that it contains.
    pub fn errors_mut(&mut self) -> impl Iterator<Item = &mut ErrorView> {
        self.errors.iter_mut().map(|error| &mut error.error).chain(errors_of(&mut self.attempts))
    }
}

/// A stay in a phase.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "TimelinePhase")]
pub struct PhasePeriod {
    pub phase: Phase,
    pub attempt: u32,
    pub started_at: Timestamp,
    /// Null while the job is in it.
    pub ended_at: Option<Timestamp>,
    /// Until now, while the job is in it.
    pub duration_seconds: f64,
}

/// An error and its time.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct TimelineError {
    pub at: Timestamp,
    /// The attempt of the job, or of the request if there is one.
    pub attempt: u32,
    /// The match request that failed; null if the whole job did.
    pub request_id: Option<RequestId>,
    pub error: ErrorView,
}

/// The timeline of the job up to `now`; none before its creation.
pub fn timeline(fold: &JobFold, now: Timestamp) -> Option<Timeline> {
    let history = fold.history.as_ref()?;
    let phases = history.spans.iter().map(|span| PhasePeriod {
        phase: span.phase,
        attempt: span.attempt,
        started_at: span.started_at,
        ended_at: span.ended_at,
        duration_seconds: span.ended_at.unwrap_or(now).since(span.started_at).as_secs_f64(),
    });
    let of_attempts = history.attempts.iter().filter_map(|attempt| {
        Some(TimelineError {
            at: attempt.ended_at?,
            attempt: attempt.number,
            request_id: None,
            error: attempt.error.clone()?.into(),
        })
    });
    let of_requests = fold.matching.failures.iter().map(|failure| TimelineError {
        at: failure.at,
        attempt: failure.attempt,
        request_id: Some(failure.request_id.clone()),
        error: failure.error.clone().into(),
    });
    let mut errors: Vec<TimelineError> = of_attempts.chain(of_requests).collect();
    errors.sort_by_key(|error| error.at);
    Some(Timeline {
        job_id: history.job_id(),
        kind: history.kind(),
        phase: history.phase,
        status: history.status(),
        attempt: history.attempt,
        created_at: history.created_at,
        ended_at: history.ended_at(),
        phases: phases.collect(),
        attempts: history.attempts.iter().map(|attempt| attempt_view(attempt, now)).collect(),
        errors,
        position: fold.latest.position,
    })
}
