//! The fold of a job's own stream for readers: phases and attempts with their times, and the status.
//!
//! The views of a job ([`super::view`], [`super::timeline`]) and the matching summary are all derived from
//! this fold.

use event_schemas::envelope::Envelope;
use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{JobId, Position, Tenant, WorkerId};
use event_schemas::job::{
    JobCreated, JobEvent, JobKind, JobPhaseChanged, Phase, PhasePrior, RetryReason, RetryState,
};
use event_schemas::json_text::JsonText;
use event_schemas::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::extraction::ItemsProgress;
use super::pipeline;

/// The history of a job. Its times are those of the events themselves (`occurred_at`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History {
    pub created: JobCreated,
    pub tenant: Tenant,
    pub created_at: Timestamp,
    pub phase: Phase,
    /// The current attempt, from 1; a retry increments it.
    pub attempt: u32,
    /// In order; the last one is the current attempt, or the one that ended.
    pub attempts: Vec<Attempt>,
    /// In order, without end phases; the last one may be open.
    pub spans: Vec<Span>,
    /// The time at which matching last started.
    pub matching_since: Option<Timestamp>,
    /// The time at which matching ended, unless the job failed.
    pub matching_until: Option<Timestamp>,
    /// The current failure.
    pub failure: Option<Failure>,
    /// The progress of the current phase.
    pub progress: Option<Progress>,
    /// The progress over the items of the job, which a retry keeps.
    #[serde(default)]
    pub items: ItemsProgress,
    pub result: Option<JsonText>,
    /// The phase durations known at the latest phase change.
    pub eta_priors: Vec<PhasePrior>,
    /// The retry that started the current attempt, if it was automatic.
    pub retry: Option<Retry>,
}

/// A scheduled retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// The earliest time at which it may start.
    pub due_at: Timestamp,
    pub reason: Option<RetryReason>,
}

/// A period in a phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    pub phase: Phase,
    pub attempt: u32,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
}

/// An attempt to execute the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    pub number: u32,
    pub queued_at: Timestamp,
    /// The earliest time at which it could start, if it was scheduled.
    pub due_at: Option<Timestamp>,
    /// The time at which work started: the first claim, or the first phase after the queue.
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// The workers that held the job as a whole, in order; several if leases expired, which uses no attempt.
    pub holds: Vec<Hold>,
    /// The workers that claimed parts of the job, in the order of their first claims.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub part_workers: Vec<WorkerId>,
    pub error: Option<ClassifiedError>,
}

/// The period in which a worker held a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub worker_id: WorkerId,
    pub from: Timestamp,
    /// None while it lasts.
    pub until: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    pub error: ClassifiedError,
    /// Why it is or is not retried automatically.
    pub retry_state: Option<RetryState>,
    /// The time at which the log accepted it.
    pub recorded_at: Timestamp,
}

/// The progress of a phase as reported by its worker.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub stage: Phase,
    pub fraction: f64,
    pub items_done: Option<u64>,
    pub items_total: Option<u64>,
    pub at: Timestamp,
}

/// The status of a job, the same for all kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr)]
#[schemars(rename = "JobStatus")]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum Status {
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl Status {
    /// The status of a job of this kind in this phase. A matching job is running while it is matching; any
    /// other job between its queue and its end.
    pub fn of(kind: JobKind, phase: Phase) -> Self {
        match (kind, phase) {
            (_, Phase::Completed) => Self::Completed,
            (_, Phase::Failed) => Self::Failed,
            (_, Phase::Cancelled) => Self::Cancelled,
            (_, Phase::Queued) => Self::Pending,
            (_, Phase::Matching) => Self::Running,
            (JobKind::ProductVideoMatching, Phase::Evidence) => Self::Completed,
            (JobKind::ProductVideoMatching, _) => Self::Pending,
            _ => Self::Running,
        }
    }
}

impl Attempt {
    /// The working time up to `now`, in seconds: the time in which workers held it, or, if the job is claimed
    /// in parts, all the time since work started.
    pub fn run_seconds(&self, now: Timestamp) -> f64 {
        let until = self.ended_at.unwrap_or(now);
        if self.holds.is_empty() {
            return self.started_at.map_or(0.0, |started| until.since(started).as_secs_f64());
        }
        let held = self.holds.iter().map(|hold| hold.until.unwrap_or(until).since(hold.from).as_secs_f64());
        held.sum()
    }

    /// The workers that claimed the job as a whole, or its parts.
    pub fn worker_ids(&self) -> impl Iterator<Item = &WorkerId> {
        self.holds.iter().map(|hold| &hold.worker_id).chain(&self.part_workers)
    }

    /// The time that it waited for a worker up to `now`, in seconds. The delay before a retry does not count.
    pub fn queue_seconds(&self, now: Timestamp) -> f64 {
        let until = self.ended_at.unwrap_or(now);
        let since = self.queued_at.max(self.due_at.unwrap_or(self.queued_at));
        (until.since(since).as_secs_f64() - self.run_seconds(now)).max(0.0)
    }
}

impl History {
    /// The pending retry: scheduled, and not started yet.
    pub fn pending_retry(&self) -> Option<Retry> {
        let begun = self.attempts.last().is_none_or(|attempt| attempt.started_at.is_some());
        self.retry.filter(|_| self.phase == Phase::Queued && !begun)
    }

    /// The memory of the texts of callers and workers.
    pub fn text_bytes(&self) -> usize {
        let errors = self.attempts.iter().filter_map(|attempt| attempt.error.as_ref());
        self.created.text_bytes()
            + self.result.as_ref().map_or(0, |result| result.as_str().len())
            + errors.map(|error| error.message.len()).sum::<usize>()
            + self.items.text_bytes()
    }

    /// Records that a worker claimed a part of the job.
    pub fn part_claimed(&mut self, worker_id: &WorkerId) {
        if let Some(attempt) = self.attempts.last_mut()
            && !attempt.part_workers.contains(worker_id)
        {
            attempt.part_workers.push(worker_id.clone());
        }
    }

    /// The history after a job's creation.
    pub fn new(created: &JobCreated, tenant: Tenant, at: Timestamp) -> Self {
        let mut history = Self {
            created: created.clone(),
            tenant,
            created_at: at,
            phase: Phase::Queued,
            attempt: 1,
            // Most jobs have one, and there are many jobs.
            attempts: vec![attempt(1, at)],
            spans: Vec::new(),
            matching_since: None,
            matching_until: None,
            failure: None,
            progress: None,
            items: ItemsProgress::default(),
            result: None,
            eta_priors: Vec::new(),
            retry: None,
        };
        history.enter(Phase::Queued, at);
        history
    }

    pub fn job_id(&self) -> JobId {
        self.created.job_id
    }

    pub fn kind(&self) -> JobKind {
        self.created.kind
    }

    pub fn status(&self) -> Status {
        Status::of(self.kind(), self.phase)
    }

    /// The time at which the job ended; none before that.
    pub fn ended_at(&self) -> Option<Timestamp> {
        if pipeline::is_end(self.phase) { self.attempts.last()?.ended_at } else { None }
    }

    /// Applies the next event of the job's own stream, which happened at `at`.
    pub fn apply(&mut self, event: &JobEvent, at: Timestamp, recorded_at: Timestamp) {
        match event {
            JobEvent::JobCreated(_) | JobEvent::JobQuarantined(_) => {}
            JobEvent::JobLeaseExpired(_) => self.end_hold(at),
            JobEvent::JobPhaseChanged(changed) => self.change_phase(changed, at),
            JobEvent::JobRetryScheduled(retry) => {
                // A retry that is already scheduled may be made due earlier: the attempt stays the same, with
                // a shorter delay.
                let is_new = retry.attempt != self.attempt;
                if is_new {
                    self.start_attempt(retry.attempt, at);
                }
                self.retry = Some(Retry { due_at: retry.due_at, reason: retry.reason });
                if let Some(attempt) = self.attempts.last_mut() {
                    attempt.due_at = Some(retry.due_at);
                }
                if is_new {
                    self.enter(Phase::Queued, at);
                }
            }
            JobEvent::JobProgressReported(report) => {
                let known = self.progress.filter(|known| known.stage == report.stage);
                self.progress = Some(Progress {
                    stage: report.stage,
                    fraction: known.map_or(0.0, |known| known.fraction).max(report.fraction),
                    items_done: known.and_then(|known| known.items_done).max(report.items_done),
                    items_total: known.and_then(|known| known.items_total).max(report.items_total),
                    at: known.map_or(at, |known| known.at.max(at)),
                });
                self.items.apply(report);
            }
            JobEvent::JobClaimed(claimed) => {
                if let Some(attempt) = self.attempts.last_mut() {
                    attempt.started_at.get_or_insert(at);
                    attempt.holds.push(Hold { worker_id: claimed.worker_id.clone(), from: at, until: None });
                }
            }
            JobEvent::JobFailed(failed) => {
                let (error, retry_state) = (failed.error.clone(), failed.retry_state);
                self.failure = Some(Failure { error, retry_state, recorded_at });
                self.matching_until = None;
                self.end(Phase::Failed, at);
                if let Some(attempt) = self.attempts.last_mut() {
                    attempt.error = Some(failed.error.clone());
                }
            }
            JobEvent::JobCompleted(completed) => {
                self.result.clone_from(&completed.result);
                self.matching_until.get_or_insert(at);
                self.end(Phase::Completed, at);
            }
            JobEvent::JobCancelled(_) => {
                if self.phase == Phase::Matching {
                    self.matching_until = Some(at);
                }
                self.end(Phase::Cancelled, at);
            }
            JobEvent::JobResultExpired(_) => self.result = None,
        }
    }

    fn change_phase(&mut self, changed: &JobPhaseChanged, at: Timestamp) {
        if changed.from == Phase::Failed {
            self.start_attempt(self.attempt + 1, at);
        }
        if !changed.eta_priors.is_empty() {
            self.eta_priors.clone_from(&changed.eta_priors);
        }
        match changed.to {
            Phase::Matching => self.matching_since = Some(at),
            Phase::Evidence => self.matching_until = Some(at),
            _ => {}
        }
        if changed.to != Phase::Queued
            && let Some(attempt) = self.attempts.last_mut()
        {
            attempt.started_at.get_or_insert(at);
        }
        self.enter(changed.to, at);
    }

    fn start_attempt(&mut self, number: u32, at: Timestamp) {
        self.attempt = number;
        self.attempts.push(attempt(number, at));
        self.failure = None;
        self.progress = None;
        self.retry = None;
    }

    fn enter(&mut self, phase: Phase, at: Timestamp) {
        self.leave(at);
        self.phase = phase;
        self.spans.push(Span { phase, attempt: self.attempt, started_at: at, ended_at: None });
    }

    fn end(&mut self, phase: Phase, at: Timestamp) {
        self.leave(at);
        self.end_hold(at);
        self.phase = phase;
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.ended_at = Some(at);
        }
    }

    /// Ends the current hold of the job.
    fn end_hold(&mut self, at: Timestamp) {
        if let Some(hold) = self.attempts.last_mut().and_then(|attempt| attempt.holds.last_mut()) {
            hold.until.get_or_insert(at);
        }
    }

    fn leave(&mut self, at: Timestamp) {
        if let Some(span) = self.spans.last_mut() {
            span.ended_at.get_or_insert(at);
        }
    }
}

fn attempt(number: u32, queued_at: Timestamp) -> Attempt {
    Attempt {
        number,
        queued_at,
        due_at: None,
        started_at: None,
        ended_at: None,
        holds: Vec::new(),
        part_workers: Vec::new(),
        error: None,
    }
}

/// The time and position of a job's last activity, over all its streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastActivity {
    /// The maximum of the times at which its events happened.
    pub occurred_at: Timestamp,
    /// The time at which the log accepted the last event.
    pub recorded_at: Timestamp,
    pub position: Position,
}

impl LastActivity {
    pub fn observe(&mut self, envelope: &Envelope) {
        self.occurred_at = self.occurred_at.max(envelope.metadata.occurred_at);
        self.recorded_at = self.recorded_at.max(envelope.recorded_at);
        self.position = self.position.max(envelope.position);
    }
}

#[cfg(test)]
mod tests;
