//! The decisions of commands to an existing job.

use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{LeaseId, WorkerId};
use event_schemas::job::{
    JobCancelled, JobClaimed, JobCompleted, JobEvent, JobFailed, JobLeaseExpired, JobPhaseChanged,
    JobProgressReported, JobQuarantined, JobRetryScheduled, Phase, PhasePrior, QuarantineReason, RetryReason,
    RetryState,
};
use event_schemas::json_text::JsonText;
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkerEnd;

use super::retry::{self, RetryDecision};
use super::{Action, CHECKPOINT_BYTES_MAX, Job, Refusal, extraction, failure, pipeline};

/// The events that carry out `action` at `at` on an existing job.
pub(super) fn decide(action: &Action, job: &Job, at: Timestamp) -> Result<Vec<JobEvent>, Refusal> {
    match action {
        Action::Create(_) => Err(Refusal::Exists),
        Action::ChangePhase { to, reason, eta_priors } => {
            change_phase(job, *to, reason.as_deref(), eta_priors)
        }
        Action::ReportProgress { report, eta_priors } => report_progress(job, report, eta_priors),
        Action::Claim { lease_id, worker_id, lease_until } => claim(job, *lease_id, worker_id, *lease_until),
        Action::ExpireLease { lease_id, end } => Ok(expire_lease(job, *lease_id, *end)),
        Action::Complete { lease_id, result } => complete(job, *lease_id, result.as_ref()),
        Action::Fail { lease_id, error, circuit_open_until } => {
            fail(job, *lease_id, error, at, *circuit_open_until)
        }
        Action::Retry { eta_priors } => match job.phase {
            Phase::Failed => Ok(vec![phase_changed(job, Phase::Queued, None, eta_priors)]),
            // A retry on request makes a scheduled retry due now.
            Phase::Queued if job.is_delayed(at) => {
                let (attempt, reason) = (job.attempt, Some(RetryReason::Asked));
                Ok(vec![JobRetryScheduled { attempt, due_at: at, reason }.into()])
            }
            // A repeated request for the same retry.
            Phase::Queued if job.attempt > 1 => Ok(Vec::new()),
            phase => Err(Refusal::NotFailed(phase)),
        },
        Action::Cancel { reason } => change_phase(job, Phase::Cancelled, reason.as_deref(), &[]),
    }
}

fn change_phase(
    job: &Job,
    to: Phase,
    reason: Option<&str>,
    eta_priors: &[PhasePrior],
) -> Result<Vec<JobEvent>, Refusal> {
    let from = job.phase;
    if from == to {
        return Ok(Vec::new());
    }
    if from == Phase::Failed && to == Phase::Queued {
        return Ok(vec![phase_changed(job, to, reason, eta_priors)]);
    }
    job.open()?;
    Ok(vec![match to {
        Phase::Completed => JobCompleted { from, lease_id: None, result: None }.into(),
        Phase::Cancelled => JobCancelled { from, reason: reason.map(str::to_owned) }.into(),
        Phase::Failed => {
            let message = reason.unwrap_or("no reason was given");
            let error = failure::classify(message, None, None, job.job_id(), job.attempt);
            let retry_state = Some(RetryState::NoPolicy);
            JobFailed { attempt: job.attempt, lease_id: None, error, retry_state }.into()
        }
        to if pipeline::rank(job.kind(), to) > pipeline::rank(job.kind(), from) => {
            phase_changed(job, to, reason, eta_priors)
        }
        to => return Err(Refusal::Backwards { kind: job.kind(), from, to }),
    }])
}

fn phase_changed(job: &Job, to: Phase, reason: Option<&str>, eta_priors: &[PhasePrior]) -> JobEvent {
    JobPhaseChanged {
        from: job.phase,
        to,
        reason: reason.map(str::to_owned),
        eta_priors: eta_priors.to_vec(),
    }
    .into()
}

fn report_progress(
    job: &Job,
    report: &JobProgressReported,
    eta_priors: &[PhasePrior],
) -> Result<Vec<JobEvent>, Refusal> {
    job.open()?;
    job.under(report.lease_id)?;
    let no_such_phase = Refusal::NoSuchPhase { kind: job.kind(), phase: report.stage };
    if report.stage == Phase::Queued || pipeline::is_end(report.stage) {
        return Err(no_such_phase);
    }
    let reported = pipeline::rank(job.kind(), report.stage).ok_or(no_such_phase)?;
    if !(0.0..=1.0).contains(&report.fraction) {
        return Err(Refusal::Fraction);
    }
    let failed = report.items.as_ref().map_or(0, |items| items.items_failed);
    let done = report.items_done.unwrap_or_default().saturating_add(failed);
    if let Some(total) = report.items_total.filter(|total| done > *total) {
        return Err(Refusal::TooManyItems { done, total });
    }
    if let Some(checkpoint) = &report.checkpoint
        && checkpoint.as_str().len() > CHECKPOINT_BYTES_MAX
    {
        return Err(Refusal::CheckpointTooLong(checkpoint.as_str().len()));
    }
    if report.items.as_ref().is_some_and(|items| extraction::is_large(items)) {
        return Err(Refusal::LargeItems);
    }
    let present = pipeline::rank(job.kind(), job.phase).unwrap_or(0);
    // A late report of an earlier stage, or of less progress than known, changes nothing.
    if reported < present {
        return Ok(Vec::new());
    }
    if reported == present {
        return Ok(if is_newer(job, report) { vec![report.clone().into()] } else { Vec::new() });
    }
    Ok(vec![phase_changed(job, report.stage, None, eta_priors), report.clone().into()])
}

fn is_newer(job: &Job, report: &JobProgressReported) -> bool {
    let known = job.progress.as_ref().filter(|known| known.stage == report.stage);
    let has_moved = report.checkpoint.is_some() && report.checkpoint != job.checkpoint;
    has_moved
        || job.items.is_older_than(report)
        || known.is_none_or(|known| {
            report.fraction > known.fraction
                || report.items_done > known.items_done
                || report.items_total > known.items_total
        })
}

fn claim(
    job: &Job,
    lease_id: LeaseId,
    worker_id: &WorkerId,
    lease_until: Timestamp,
) -> Result<Vec<JobEvent>, Refusal> {
    if !pipeline::is_claimed_whole(job.kind()) {
        return Err(Refusal::ClaimedInParts(job.kind()));
    }
    job.open()?;
    match &job.lease {
        Some(lease) if lease.id == lease_id && lease.worker_id == *worker_id => Ok(Vec::new()),
        Some(_) => Err(Refusal::Held),
        None => Ok(vec![
            JobClaimed { lease_id, worker_id: worker_id.clone(), attempt: job.attempt, lease_until }.into(),
        ]),
    }
}

fn complete(
    job: &Job,
    lease_id: Option<LeaseId>,
    result: Option<&JsonText>,
) -> Result<Vec<JobEvent>, Refusal> {
    let same_result = result.is_none() || result == job.result.as_ref();
    if job.ended_by(Phase::Completed, lease_id) && same_result {
        return Ok(Vec::new());
    }
    job.open()?;
    job.may_report(lease_id)?;
    Ok(vec![JobCompleted { from: job.phase, lease_id, result: result.cloned() }.into()])
}

fn fail(
    job: &Job,
    lease_id: Option<LeaseId>,
    error: &ClassifiedError,
    at: Timestamp,
    circuit_open_until: Option<Timestamp>,
) -> Result<Vec<JobEvent>, Refusal> {
    if job.ended_by(Phase::Failed, lease_id) || job.retried_after(lease_id) {
        return Ok(Vec::new());
    }
    job.open()?;
    job.may_report(lease_id)?;
    let mut error = error.clone();
    error.retryable = retry::is_retryable(&job.retry_counts, &error);
    // Without a lease, the owner of the job decides whether it is retried.
    let decision = match lease_id {
        Some(_) => retry::decide_retry(job.job_id(), &job.retry_counts, &error, at, circuit_open_until),
        None => RetryDecision::Stop(RetryState::NoPolicy),
    };
    Ok(failed(job, lease_id, error, decision))
}

/// After a worker ended, the job can be claimed by the next one, but not by one after the other forever.
fn expire_lease(job: &Job, lease_id: LeaseId, end: WorkerEnd) -> Vec<JobEvent> {
    let Some(lease) = job.lease.as_ref().filter(|lease| lease.id == lease_id) else { return Vec::new() };
    let worker_id = lease.worker_id.clone();
    let mut events = vec![JobLeaseExpired { lease_id, worker_id, end: Some(end) }.into()];
    if job.retry_counts.is_crash_loop(end) {
        let (message, exit_code) = match end {
            WorkerEnd::OutOfMemory => ("the worker ran out of memory", Some(137)),
            WorkerEnd::Crashed => ("worker lost: it crashed", None),
            WorkerEnd::Lost | WorkerEnd::Stopped => ("worker lost: its lease ran out", None),
        };
        let error = failure::classify(message, exit_code, None, job.job_id(), job.attempt);
        events.extend(failed(job, None, error, RetryDecision::Stop(RetryState::CrashLoop)));
    }
    events
}

/// The end of an attempt and its consequence, in one append, so that no crash can separate them.
fn failed(
    job: &Job,
    lease_id: Option<LeaseId>,
    error: ClassifiedError,
    decision: RetryDecision,
) -> Vec<JobEvent> {
    let (retry_state, then) = match decision {
        RetryDecision::Retry { due_at, reason } => (
            RetryState::InProgress,
            Some(JobRetryScheduled { attempt: job.attempt + 1, due_at, reason: Some(reason) }.into()),
        ),
        RetryDecision::Stop(RetryState::CrashLoop) => {
            (RetryState::CrashLoop, Some(JobQuarantined { reason: QuarantineReason::CrashLoop }.into()))
        }
        RetryDecision::Stop(state) => (state, None),
    };
    let failed = JobFailed { attempt: job.attempt, lease_id, error, retry_state: Some(retry_state) };
    std::iter::once(failed.into()).chain(then).collect()
}
