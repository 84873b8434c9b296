//! A job of any kind, from its creation to its end.
//!
//! Invariants: a job is created once; its phase moves forward along its kind's pipeline and never back, but for a failed
//! job that is tried again; it ends once an attempt; of the kinds that are claimed whole, at most one lease is in force,
//! and nothing is taken under another one.

pub mod analysis;
mod decide;
pub mod failure;
pub mod history;
pub mod pipeline;
pub mod retry;
pub mod service;
pub mod timeline;
pub mod view;

use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{JobId, LeaseId, WorkerId};
use event_schemas::job::{JobCreated, JobEvent, JobKind, JobProgressReported, Phase, PhasePrior};
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkerEnd;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};
use crate::lease::Lease;

/// What someone wants of a job, and when they say that it happened.
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
        /// What is known by now about how long phases take; kept with the event.
        eta_priors: Vec<PhasePrior>,
    },
    /// A stage beyond the job's phase moves it there.
    ReportProgress {
        report: JobProgressReported,
        eta_priors: Vec<PhasePrior>,
    },
    Claim {
        lease_id: LeaseId,
        worker_id: WorkerId,
        lease_until: Timestamp,
    },
    /// A lease ended without a report. The job is claimable again, unless it is one that kills its workers.
    ExpireLease {
        lease_id: LeaseId,
        /// What became of its worker.
        end: WorkerEnd,
    },
    /// By the worker under its lease; without a lease by whoever leads the job, while nobody holds one.
    Complete {
        lease_id: Option<LeaseId>,
        result: Option<serde_json::Value>,
    },
    /// Like [`Action::Complete`]. What fails under a lease is tried again by itself, as [`retry`] says.
    Fail {
        lease_id: Option<LeaseId>,
        error: ClassifiedError,
        /// When the service that failed is called again, if it is left alone at present.
        left_alone_until: Option<Timestamp>,
    },
    Retry {
        eta_priors: Vec<PhasePrior>,
    },
    Cancel {
        reason: Option<String>,
    },
}

/// Whether work on a job may go on: all that the streams beside the job's own need to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Standing {
    #[default]
    Missing,
    Open,
    /// In this phase, which is an end.
    Ended(Phase),
}

/// A job as its decisions need it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State(Option<Life>);

/// What is known of a job that was created.
#[derive(Clone, Debug, PartialEq)]
pub struct Life {
    pub created: JobCreated,
    pub phase: Phase,
    /// From 1; a retry raises it.
    pub attempt: u32,
    /// The lease in force on the job as a whole.
    pub lease: Option<Lease>,
    /// Before this instant a scheduled retry is not to be claimed.
    pub due_at: Option<Timestamp>,
    /// How often it was tried again by itself.
    pub tally: retry::Tally,
    /// Of the attempt in course.
    progress: Option<Progress>,
    /// The lease under which the job ended, so that the same report sent again is recognised.
    ended_under: Option<LeaseId>,
    /// The lease of the latest attempt that failed, which may long have been followed by others.
    failed_under: Option<LeaseId>,
    result: Option<serde_json::Value>,
}

/// How far the job's present phase is.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Progress {
    stage: Phase,
    fraction: f64,
    items_done: Option<u64>,
    items_total: Option<u64>,
}

/// Why a command to a job is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such job; create it first")]
    Missing,
    #[error("a job with this id exists and says something else; choose another id, or leave the id out")]
    Exists,
    #[error("the job has ended as {0} and takes nothing more{way_out}", way_out = way_out(*.0))]
    Ended(Phase),
    #[error("the job is {from} and cannot go to {to}; phases only move forward, so it can go to {ways}", ways = ways(*.kind, *.from))]
    Backwards { kind: JobKind, from: Phase, to: Phase },
    #[error("a job of kind {kind} has no phase {phase}")]
    NoSuchPhase { kind: JobKind, phase: Phase },
    #[error("the lease is not the one in force on this job; claim work again")]
    LeaseLost,
    #[error("a worker holds a lease on the job; only a report under that lease is taken")]
    Held,
    #[error("a job of kind {0} is claimed by its match requests, not as a whole")]
    ClaimedInParts(JobKind),
    #[error("only a failed job can be tried again; this one is {0}")]
    NotFailed(Phase),
    #[error("the fraction of a stage lies between 0 and 1")]
    Fraction,
    #[error("more items are reported as done ({done}) than there are ({total})")]
    TooManyItems { done: u64, total: u64 },
}

/// Where a job can go from a phase that is no end.
fn ways(kind: JobKind, from: Phase) -> String {
    let later = pipeline::stages(kind).iter().map(|stage| stage.phase);
    let later = later.filter(|phase| pipeline::rank(kind, *phase) > pipeline::rank(kind, from));
    let ways: Vec<&str> = later.chain([Phase::Failed]).map(Phase::as_str).collect();
    format!("{} or {}", ways.join(", "), Phase::Cancelled)
}

/// What is left to do with a job that has ended.
fn way_out(phase: Phase) -> &'static str {
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
            | Self::TooManyItems { .. } => RefusalKind::Invalid,
        }
    }
}

impl State {
    /// The job, once it was created.
    pub fn life(&self) -> Option<&Life> {
        self.0.as_ref()
    }

    pub fn standing(&self) -> Standing {
        match &self.0 {
            None => Standing::Missing,
            Some(life) if pipeline::is_end(life.phase) => Standing::Ended(life.phase),
            Some(_) => Standing::Open,
        }
    }
}

impl Life {
    pub fn job_id(&self) -> JobId {
        self.created.job_id
    }

    pub fn kind(&self) -> JobKind {
        self.created.kind
    }

    /// How much of the whole is done, in percent.
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

    /// Whether a retry is scheduled that is not due yet.
    fn waits_at(&self, now: Timestamp) -> bool {
        self.lease.is_none() && self.due_at.is_some_and(|due| due > now)
    }

    fn open(&self) -> Result<(), Refusal> {
        if pipeline::is_end(self.phase) { Err(Refusal::Ended(self.phase)) } else { Ok(()) }
    }

    fn under(&self, lease_id: LeaseId) -> Result<&Lease, Refusal> {
        self.lease.as_ref().filter(|lease| lease.id == lease_id).ok_or(Refusal::LeaseLost)
    }

    /// A report with a lease needs that lease to be in force; one without is taken while nobody holds a lease.
    fn may_report(&self, lease_id: Option<LeaseId>) -> Result<(), Refusal> {
        match lease_id {
            Some(lease_id) => self.under(lease_id).map(|_| ()),
            None if self.lease.is_some() => Err(Refusal::Held),
            None => Ok(()),
        }
    }

    /// Whether a report of an end that came under `lease_id` may be the one that ended the job.
    fn ended_by(&self, phase: Phase, lease_id: Option<LeaseId>) -> bool {
        self.phase == phase && (lease_id.is_none() || lease_id == self.ended_under)
    }

    /// Whether a failure that came under `lease_id` is the one after which the job was taken up again.
    fn retried_after(&self, lease_id: Option<LeaseId>) -> bool {
        lease_id.is_some() && lease_id == self.failed_under
    }
}

/// Decides for the streams `job-<uuid>`.
#[derive(Debug)]
pub enum Job {}

impl Decider for Job {
    type State = State;
    type Command = Command;
    type Event = JobEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, state: &State) -> Result<Vec<Occurred<JobEvent>>, Refusal> {
        let events = match (&command.action, &state.0) {
            (Action::Create(created), None) => vec![created.clone().into()],
            (Action::Create(created), Some(life)) if life.created == *created => Vec::new(),
            (Action::Create(_), Some(_)) => return Err(Refusal::Exists),
            (_, None) => return Err(Refusal::Missing),
            (action, Some(life)) => decide::decide(action, life, command.at)?,
        };
        Ok(events.into_iter().map(|event| Occurred { at: command.at, event }).collect())
    }

    fn evolve(state: State, event: &JobEvent, _occurred_at: Timestamp) -> State {
        match (state.0, event) {
            (None, JobEvent::JobCreated(created)) => State(Some(Life {
                created: created.clone(),
                phase: Phase::Queued,
                attempt: 1,
                lease: None,
                due_at: None,
                tally: retry::Tally::default(),
                progress: None,
                ended_under: None,
                failed_under: None,
                result: None,
            })),
            (None, _) => State(None),
            (Some(life), event) => State(Some(evolve_life(life, event))),
        }
    }
}

fn evolve_life(mut life: Life, event: &JobEvent) -> Life {
    match event {
        JobEvent::JobCreated(_) | JobEvent::JobQuarantined(_) => {}
        JobEvent::JobPhaseChanged(changed) => {
            if changed.from == Phase::Failed {
                start_attempt(&mut life, None);
                life.tally = retry::Tally::default();
            }
            life.phase = changed.to;
        }
        JobEvent::JobRetryScheduled(retry) => {
            start_attempt(&mut life, Some(retry.due_at));
            life.tally.scheduled(retry.reason);
            life.attempt = retry.attempt;
            life.phase = Phase::Queued;
        }
        JobEvent::JobProgressReported(report) => {
            let known = life.progress.filter(|known| known.stage == report.stage);
            life.progress = Some(Progress {
                stage: report.stage,
                fraction: known.map_or(0.0, |known| known.fraction).max(report.fraction),
                items_done: known.and_then(|known| known.items_done).max(report.items_done),
                items_total: known.and_then(|known| known.items_total).max(report.items_total),
            });
        }
        JobEvent::JobClaimed(claimed) => {
            life.lease = Some(Lease {
                id: claimed.lease_id,
                worker_id: claimed.worker_id.clone(),
                until: claimed.lease_until,
            });
        }
        JobEvent::JobLeaseExpired(expired) => {
            life.lease = None;
            life.tally.left(expired.end);
        }
        JobEvent::JobFailed(failed) => {
            life.tally.failed(&failed.error);
            life.failed_under = failed.lease_id;
            end(&mut life, Phase::Failed, failed.lease_id);
        }
        JobEvent::JobCompleted(completed) => {
            end(&mut life, Phase::Completed, completed.lease_id);
            life.result.clone_from(&completed.result);
        }
        JobEvent::JobCancelled(_) => end(&mut life, Phase::Cancelled, None),
        JobEvent::JobResultExpired(_) => life.result = None,
    }
    life
}

fn end(life: &mut Life, phase: Phase, lease_id: Option<LeaseId>) {
    life.phase = phase;
    life.lease = None;
    life.ended_under = lease_id;
}

fn start_attempt(life: &mut Life, due_at: Option<Timestamp>) {
    life.attempt += 1;
    life.lease = None;
    life.due_at = due_at;
    life.progress = None;
    life.ended_under = None;
}

#[cfg(test)]
mod tests;
