//! A job of any kind, from its creation to its end.
//!
//! Invariants: a job is created once. Its phase moves forward along its kind's pipeline and never back,
//! except when a failed job is retried. Each attempt ends once. For kinds that are claimed as a whole at most
//! one lease is in force, and reports under other leases are refused.

pub mod analysis;
mod decide;
pub mod extraction;
pub mod failure;
pub mod history;
pub mod pipeline;
pub mod retry;
pub mod series;
pub mod service;
pub mod timeline;
pub mod view;

use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{JobId, LeaseId, WorkerId};
use event_schemas::job::{JobCreated, JobEvent, JobKind, JobProgressReported, Phase, PhasePrior};
use event_schemas::json_text::JsonText;
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkerEnd;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};
use crate::lease::Lease;
use extraction::{FAILURES_MAX, REASON_MAX};

/// The longest checkpoint of a job, in bytes of JSON.
pub const CHECKPOINT_BYTES_MAX: usize = 16_384;

/// A command to a job, and the time at which it happened as reported by the caller.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    pub at: Timestamp,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Create(JobCreated),
    ChangePhase {
        to: Phase,
        reason: Option<String>,
        /// The currently known phase durations; stored with the event.
        eta_priors: Vec<PhasePrior>,
    },
    /// A stage after the job's current phase changes the phase to that stage.
    ReportProgress {
        report: JobProgressReported,
        eta_priors: Vec<PhasePrior>,
    },
    Claim {
        lease_id: LeaseId,
        worker_id: WorkerId,
        lease_until: Timestamp,
    },
    /// A lease ended without a report. The job can be claimed again, unless it keeps crashing its workers.
    ExpireLease {
        lease_id: LeaseId,
        /// How the worker ended.
        end: WorkerEnd,
    },
    /// Sent by the worker under its lease; or, without a lease, by the owner of the job while no lease is in
    /// force.
    Complete {
        lease_id: Option<LeaseId>,
        result: Option<JsonText>,
    },
    /// Like [`Action::Complete`]. A failure under a lease is retried automatically, according to [`retry`].
    Fail {
        lease_id: Option<LeaseId>,
        error: ClassifiedError,
        /// The time until which the circuit breaker of the failed service is open, if it is.
        circuit_open_until: Option<Timestamp>,
    },
    Retry {
        eta_priors: Vec<PhasePrior>,
    },
    Cancel {
        reason: Option<String>,
    },
}

/// Whether work on a job may continue: all that the other streams of a job need to know about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum JobAvailability {
    #[default]
    Missing,
    Open,
    /// Ended in this phase.
    Ended(Phase),
}

/// The state of a job; empty before it is created.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State(Option<Job>);

/// A job that was created.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub created: JobCreated,
    pub phase: Phase,
    /// The current attempt, from 1; a retry increments it.
    pub attempt: u32,
    /// The lease in force on the job as a whole.
    pub lease: Option<Lease>,
    /// The earliest time at which a scheduled retry may be claimed.
    pub due_at: Option<Timestamp>,
    /// The number of automatic retries.
    pub retry_counts: retry::RetryCounts,
    /// The progress of the current attempt.
    progress: Option<Progress>,
    /// Where the next attempt continues, if the work has reported it.
    pub checkpoint: Option<JsonText>,
    /// The progress over its items, which a retry keeps.
    pub items: extraction::ItemsProgress,
    /// The lease under which the job ended, so that a repeated report is recognised.
    ended_under: Option<LeaseId>,
    /// The lease of the latest failed attempt, possibly followed by further attempts.
    failed_under: Option<LeaseId>,
    result: Option<JsonText>,
}

/// The progress of the job's current phase.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Progress {
    stage: Phase,
    fraction: f64,
    items_done: Option<u64>,
    items_total: Option<u64>,
}

/// The reason why a command to a job is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such job; create it first")]
    Missing,
    #[error("a job with this id exists with different content; choose another id, or omit the id")]
    Exists,
    #[error("the job has ended as {0} and accepts no more changes{remedy}", remedy = remedy(*.0))]
    Ended(Phase),
    #[error("the job is {from} and cannot go to {to}; phases only move forward, so it can go to {ways}", ways = ways(*.kind, *.from))]
    Backwards { kind: JobKind, from: Phase, to: Phase },
    #[error("a job of kind {kind} has no phase {phase}")]
    NoSuchPhase { kind: JobKind, phase: Phase },
    #[error("the lease is not in force on this job; claim work again")]
    LeaseLost,
    #[error("a worker holds a lease on the job; only reports under that lease are accepted")]
    Held,
    #[error("a job of kind {0} is claimed by its match requests, not as a whole")]
    ClaimedInParts(JobKind),
    #[error("only a failed job can be retried; this one is {0}")]
    NotFailed(Phase),
    #[error("the fraction of a stage must be between 0 and 1")]
    Fraction,
    #[error("the checkpoint has {0} bytes; at most {CHECKPOINT_BYTES_MAX} are kept")]
    CheckpointTooLong(usize),
    #[error("more items are reported as done or failed ({done}) than there are ({total})")]
    TooManyItems { done: u64, total: u64 },
    #[error(
        "a report has at most {FAILURES_MAX} failures, with reasons of at most {REASON_MAX} bytes; report more often"
    )]
    LargeItems,
}

/// The phases that can follow a phase that is not an end.
fn ways(kind: JobKind, from: Phase) -> String {
    let later = pipeline::stages(kind).iter().map(|stage| stage.phase);
    let later = later.filter(|phase| pipeline::rank(kind, *phase) > pipeline::rank(kind, from));
    let ways: Vec<&str> = later.chain([Phase::Failed]).map(Into::into).collect();
    format!("{} or {}", ways.join(", "), Phase::Cancelled)
}

/// The next step for a job that has ended.
fn remedy(phase: Phase) -> &'static str {
    match phase {
        Phase::Failed => "; retry it first",
        _ => "; create another job",
    }
}

impl Refused for Refusal {
    fn kind(&self) -> RefusalKind {
        match self {
            Self::Missing => RefusalKind::NotFound,
            Self::LeaseLost => RefusalKind::LeaseLost,
            Self::Exists | Self::Ended(_) | Self::Backwards { .. } | Self::Held | Self::NotFailed(_) => {
                RefusalKind::Conflict
            }
            Self::NoSuchPhase { .. }
            | Self::ClaimedInParts(_)
            | Self::Fraction
            | Self::CheckpointTooLong(_)
            | Self::LargeItems
            | Self::TooManyItems { .. } => RefusalKind::Invalid,
        }
    }
}

impl State {
    /// The job, if it was created.
    pub fn details(&self) -> Option<&Job> {
        self.0.as_ref()
    }

    pub fn availability(&self) -> JobAvailability {
        match &self.0 {
            None => JobAvailability::Missing,
            Some(job) if pipeline::is_end(job.phase) => JobAvailability::Ended(job.phase),
            Some(_) => JobAvailability::Open,
        }
    }
}

impl Job {
    pub fn job_id(&self) -> JobId {
        self.created.job_id
    }

    pub fn kind(&self) -> JobKind {
        self.created.kind
    }

    /// Its result, once it has completed, until the result expires.
    pub fn result(&self) -> Option<&JsonText> {
        self.result.as_ref()
    }

    /// The overall progress, in percent.
    pub fn progress_percentage(&self) -> f64 {
        let progress = self.progress.filter(|progress| progress.stage == self.phase);
        let fraction = progress.map_or(0.0, |progress| progress.fraction);
        pipeline::percentage(self.kind(), self.phase, fraction).unwrap_or(0.0)
    }

    /// Whether a worker may claim the job as a whole at `now`.
    pub fn is_claimable(&self, now: Timestamp) -> bool {
        pipeline::is_claimed_whole(self.kind())
            && !pipeline::is_end(self.phase)
            && self.lease.is_none()
            && self.due_at.is_none_or(|due| due <= now)
    }

    /// Whether a scheduled retry is not due yet.
    fn is_delayed(&self, now: Timestamp) -> bool {
        self.lease.is_none() && self.due_at.is_some_and(|due| due > now)
    }

    fn open(&self) -> Result<(), Refusal> {
        if pipeline::is_end(self.phase) { Err(Refusal::Ended(self.phase)) } else { Ok(()) }
    }

    fn under(&self, lease_id: LeaseId) -> Result<&Lease, Refusal> {
        self.lease.as_ref().filter(|lease| lease.id == lease_id).ok_or(Refusal::LeaseLost)
    }

    /// A report with a lease requires that lease to be in force; a report without one requires that no lease
    /// is.
    fn may_report(&self, lease_id: Option<LeaseId>) -> Result<(), Refusal> {
        match lease_id {
            Some(lease_id) => self.under(lease_id).map(|_| ()),
            None if self.lease.is_some() => Err(Refusal::Held),
            None => Ok(()),
        }
    }

    /// Whether a report of an end under `lease_id` may be the one that ended the job.
    fn ended_by(&self, phase: Phase, lease_id: Option<LeaseId>) -> bool {
        self.phase == phase && (lease_id.is_none() || lease_id == self.ended_under)
    }

    /// Whether a failure under `lease_id` is the one that was retried since.
    fn retried_after(&self, lease_id: Option<LeaseId>) -> bool {
        lease_id.is_some() && lease_id == self.failed_under
    }
}

/// Decides for the streams `job-<uuid>`.
#[derive(Debug)]
pub enum JobDecider {}

impl Decider for JobDecider {
    type State = State;
    type Command = Command;
    type Event = JobEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, state: &State) -> Result<Vec<Occurred<JobEvent>>, Refusal> {
        let events = match (&command.action, &state.0) {
            (Action::Create(created), None) => vec![created.clone().into()],
            (Action::Create(created), Some(job)) if job.created == *created => Vec::new(),
            (Action::Create(_), Some(_)) => return Err(Refusal::Exists),
            (_, None) => return Err(Refusal::Missing),
            (action, Some(job)) => decide::decide(action, job, command.at)?,
        };
        Ok(events.into_iter().map(|event| Occurred { at: command.at, event }).collect())
    }

    fn evolve(state: State, event: &JobEvent, _occurred_at: Timestamp) -> State {
        match (state.0, event) {
            (None, JobEvent::JobCreated(created)) => State(Some(Job {
                created: created.clone(),
                phase: Phase::Queued,
                attempt: 1,
                lease: None,
                due_at: None,
                retry_counts: retry::RetryCounts::default(),
                progress: None,
                checkpoint: None,
                items: extraction::ItemsProgress::default(),
                ended_under: None,
                failed_under: None,
                result: None,
            })),
            (None, _) => State(None),
            (Some(job), event) => State(Some(evolve_job(job, event))),
        }
    }

    fn heap_bytes(state: &State, event_bytes: usize) -> usize {
        // Of the events of a job, only the caller's own data can be large.
        let texts = state.0.as_ref().map_or(0, |job| {
            let reported = text_bytes(job.checkpoint.as_ref()) + job.items.text_bytes();
            job.created.text_bytes() + text_bytes(job.result.as_ref()) + reported
        });
        event_bytes.min(2048) + texts
    }
}

fn text_bytes(text: Option<&JsonText>) -> usize {
    text.map_or(0, |text| text.as_str().len())
}

fn evolve_job(mut job: Job, event: &JobEvent) -> Job {
    match event {
        JobEvent::JobCreated(_) | JobEvent::JobQuarantined(_) => {}
        JobEvent::JobPhaseChanged(changed) => {
            if changed.from == Phase::Failed {
                start_attempt(&mut job, None);
                job.retry_counts = retry::RetryCounts::default();
            }
            job.phase = changed.to;
        }
        JobEvent::JobRetryScheduled(retry) => {
            start_attempt(&mut job, Some(retry.due_at));
            job.retry_counts.scheduled(retry.reason);
            job.attempt = retry.attempt;
            job.phase = Phase::Queued;
        }
        JobEvent::JobProgressReported(report) => {
            if report.checkpoint.is_some() && report.checkpoint != job.checkpoint {
                job.checkpoint.clone_from(&report.checkpoint);
                job.retry_counts.progressed();
            }
            let known = job.progress.filter(|known| known.stage == report.stage);
            job.progress = Some(Progress {
                stage: report.stage,
                fraction: known.map_or(0.0, |known| known.fraction).max(report.fraction),
                items_done: known.and_then(|known| known.items_done).max(report.items_done),
                items_total: known.and_then(|known| known.items_total).max(report.items_total),
            });
            job.items.apply(report);
        }
        JobEvent::JobClaimed(claimed) => {
            job.lease = Some(Lease {
                id: claimed.lease_id,
                worker_id: claimed.worker_id.clone(),
                until: claimed.lease_until,
            });
        }
        JobEvent::JobLeaseExpired(expired) => {
            job.lease = None;
            job.retry_counts.lease_ended(expired.end);
        }
        JobEvent::JobFailed(failed) => {
            job.retry_counts.failed(&failed.error);
            job.failed_under = failed.lease_id;
            end(&mut job, Phase::Failed, failed.lease_id);
        }
        JobEvent::JobCompleted(completed) => {
            end(&mut job, Phase::Completed, completed.lease_id);
            job.checkpoint = None;
            job.result.clone_from(&completed.result);
        }
        JobEvent::JobCancelled(_) => end(&mut job, Phase::Cancelled, None),
        JobEvent::JobResultExpired(_) => job.result = None,
    }
    job
}

fn end(job: &mut Job, phase: Phase, lease_id: Option<LeaseId>) {
    job.phase = phase;
    job.lease = None;
    job.ended_under = lease_id;
}

fn start_attempt(job: &mut Job, due_at: Option<Timestamp>) {
    job.attempt += 1;
    job.lease = None;
    job.due_at = due_at;
    job.progress = None;
    job.ended_under = None;
}

#[cfg(test)]
mod tests;
