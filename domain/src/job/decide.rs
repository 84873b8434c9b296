//! What each command does to a job that was created.

use event_schemas::failure::ClassifiedError;
use event_schemas::ids::{LeaseId, WorkerId};
use event_schemas::job::{
    JobCancelled, JobClaimed, JobCompleted, JobEvent, JobFailed, JobLeaseExpired, JobPhaseChanged,
    JobProgressReported, JobQuarantined, JobRetryScheduled, Phase, PhasePrior, QuarantineReason, RetryReason,
    RetryState,
};
use event_schemas::time::Timestamp;
use event_schemas::worker::WorkerEnd;

use super::retry::{self, Verdict};
use super::{Action, Life, Progress, Refusal, failure, pipeline};

/// The events that carry out `action`, at `at`, on a job that was created.
pub(super) fn decide(action: &Action, life: &Life, at: Timestamp) -> Result<Vec<JobEvent>, Refusal> {
    match action {
        Action::Create(_) => Err(Refusal::Exists),
        Action::ChangePhase { to, reason, eta_priors } => {
            change_phase(life, *to, reason.as_deref(), eta_priors)
        }
        Action::ReportProgress { report, eta_priors } => report_progress(life, report, eta_priors),
        Action::Claim { lease_id, worker_id, lease_until } => claim(life, *lease_id, worker_id, *lease_until),
        Action::ExpireLease { lease_id, end } => Ok(expire_lease(life, *lease_id, *end)),
        Action::Complete { lease_id, result } => complete(life, *lease_id, result.as_ref()),
        Action::Fail { lease_id, error, left_alone_until } => {
            fail(life, *lease_id, error, at, *left_alone_until)
        }
        Action::Retry { eta_priors } => match life.phase {
            Phase::Failed => Ok(vec![phase_changed(life, Phase::Queued, None, eta_priors)]),
            // Whoever asks does not want to wait until a scheduled retry is due.
            Phase::Queued if life.waits_at(at) => {
                let (attempt, reason) = (life.attempt, Some(RetryReason::Asked));
                Ok(vec![JobRetryScheduled { attempt, due_at: at, reason }.into()])
            }
            // The same retry, arriving again.
            Phase::Queued if life.attempt > 1 => Ok(Vec::new()),
            phase => Err(Refusal::NotFailed(phase)),
        },
        Action::Cancel { reason } => change_phase(life, Phase::Cancelled, reason.as_deref(), &[]),
    }
}

fn change_phase(
    life: &Life,
    to: Phase,
    reason: Option<&str>,
    eta_priors: &[PhasePrior],
) -> Result<Vec<JobEvent>, Refusal> {
    let from = life.phase;
    if from == to {
        return Ok(Vec::new());
    }
    if from == Phase::Failed && to == Phase::Queued {
        return Ok(vec![phase_changed(life, to, reason, eta_priors)]);
    }
    life.open()?;
    Ok(vec![match to {
        Phase::Completed => JobCompleted { from, lease_id: None, result: None }.into(),
        Phase::Cancelled => JobCancelled { from, reason: reason.map(str::to_owned) }.into(),
        Phase::Failed => {
            let message = reason.unwrap_or("no reason was given");
            let error = failure::classify(message, None, None, life.job_id(), life.attempt);
            let retry_state = Some(RetryState::NoPolicy);
            JobFailed { attempt: life.attempt, lease_id: None, error, retry_state }.into()
        }
        to if pipeline::rank(life.kind(), to) > pipeline::rank(life.kind(), from) => {
            phase_changed(life, to, reason, eta_priors)
        }
        to => return Err(Refusal::Backwards { kind: life.kind(), from, to }),
    }])
}

fn phase_changed(life: &Life, to: Phase, reason: Option<&str>, eta_priors: &[PhasePrior]) -> JobEvent {
    JobPhaseChanged {
        from: life.phase,
        to,
        reason: reason.map(str::to_owned),
        eta_priors: eta_priors.to_vec(),
    }
    .into()
}

fn report_progress(
    life: &Life,
    report: &JobProgressReported,
    eta_priors: &[PhasePrior],
) -> Result<Vec<JobEvent>, Refusal> {
    life.open()?;
    life.under(report.lease_id)?;
    let no_such_phase = Refusal::NoSuchPhase { kind: life.kind(), phase: report.stage };
    if report.stage == Phase::Queued || pipeline::is_end(report.stage) {
        return Err(no_such_phase);
    }
    let reported = pipeline::rank(life.kind(), report.stage).ok_or(no_such_phase)?;
    if !(0.0..=1.0).contains(&report.fraction) {
        return Err(Refusal::Fraction);
    }
    if let (Some(done), Some(total)) = (report.items_done, report.items_total)
        && done > total
    {
        return Err(Refusal::TooManyItems { done, total });
    }
    let present = pipeline::rank(life.kind(), life.phase).unwrap_or(0);
    // A late report of a stage that is over, or of less than is known, says nothing new.
    if reported < present {
        return Ok(Vec::new());
    }
    if reported == present {
        return Ok(if says_more(life.progress.as_ref(), report) {
            vec![report.clone().into()]
        } else {
            Vec::new()
        });
    }
    Ok(vec![phase_changed(life, report.stage, None, eta_priors), report.clone().into()])
}

fn says_more(known: Option<&Progress>, report: &JobProgressReported) -> bool {
    known.filter(|known| known.stage == report.stage).is_none_or(|known| {
        report.fraction > known.fraction
            || report.items_done > known.items_done
            || report.items_total > known.items_total
    })
}

fn claim(
    life: &Life,
    lease_id: LeaseId,
    worker_id: &WorkerId,
    lease_until: Timestamp,
) -> Result<Vec<JobEvent>, Refusal> {
    if !pipeline::is_claimed_whole(life.kind()) {
        return Err(Refusal::ClaimedInParts(life.kind()));
    }
    life.open()?;
    match &life.lease {
        Some(lease) if lease.id == lease_id && lease.worker_id == *worker_id => Ok(Vec::new()),
        Some(_) => Err(Refusal::Held),
        None => Ok(vec![
            JobClaimed { lease_id, worker_id: worker_id.clone(), attempt: life.attempt, lease_until }.into(),
        ]),
    }
}

fn complete(
    life: &Life,
    lease_id: Option<LeaseId>,
    result: Option<&serde_json::Value>,
) -> Result<Vec<JobEvent>, Refusal> {
    let same_result = result.is_none() || result == life.result.as_ref();
    if life.ended_by(Phase::Completed, lease_id) && same_result {
        return Ok(Vec::new());
    }
    life.open()?;
    life.may_report(lease_id)?;
    Ok(vec![JobCompleted { from: life.phase, lease_id, result: result.cloned() }.into()])
}

fn fail(
    life: &Life,
    lease_id: Option<LeaseId>,
    error: &ClassifiedError,
    at: Timestamp,
    left_alone_until: Option<Timestamp>,
) -> Result<Vec<JobEvent>, Refusal> {
    if life.ended_by(Phase::Failed, lease_id) || life.retried_after(lease_id) {
        return Ok(Vec::new());
    }
    life.open()?;
    life.may_report(lease_id)?;
    let mut error = error.clone();
    error.retryable = retry::is_retryable(&life.tally, &error);
    // Who leads a job without a lease decides whether it is tried again.
    let verdict = match lease_id {
        Some(_) => retry::judge(life.job_id(), &life.tally, &error, at, left_alone_until),
        None => Verdict::Stop(RetryState::NoPolicy),
    };
    Ok(failed(life, lease_id, error, verdict))
}

/// A worker that went away leaves the job to the next one, but not to one after the other for ever.
fn expire_lease(life: &Life, lease_id: LeaseId, end: WorkerEnd) -> Vec<JobEvent> {
    let Some(lease) = life.lease.as_ref().filter(|lease| lease.id == lease_id) else { return Vec::new() };
    let worker_id = lease.worker_id.clone();
    let mut events = vec![JobLeaseExpired { lease_id, worker_id, end: Some(end) }.into()];
    if life.tally.is_crash_loop(end) {
        let (message, exit_code) = match end {
            WorkerEnd::OutOfMemory => ("the worker ran out of memory", Some(137)),
            WorkerEnd::Crashed => ("worker lost: it crashed", None),
            WorkerEnd::Lost | WorkerEnd::Stopped => ("worker lost: its lease ran out", None),
        };
        let error = failure::classify(message, exit_code, None, life.job_id(), life.attempt);
        events.extend(failed(life, None, error, Verdict::Stop(RetryState::CrashLoop)));
    }
    events
}

/// The end of an attempt, and what comes of it, in one append: so that no crash falls in between.
fn failed(life: &Life, lease_id: Option<LeaseId>, error: ClassifiedError, verdict: Verdict) -> Vec<JobEvent> {
    let (retry_state, then) = match verdict {
        Verdict::Again { due_at, reason } => (
            RetryState::InProgress,
            Some(JobRetryScheduled { attempt: life.attempt + 1, due_at, reason: Some(reason) }.into()),
        ),
        Verdict::Stop(RetryState::CrashLoop) => {
            (RetryState::CrashLoop, Some(JobQuarantined { reason: QuarantineReason::CrashLoop }.into()))
        }
        Verdict::Stop(state) => (state, None),
    };
    let failed = JobFailed { attempt: life.attempt, lease_id, error, retry_state: Some(retry_state) };
    std::iter::once(failed.into()).chain(then).collect()
}
